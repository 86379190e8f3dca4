"""The commands ``vidret eval generated`` and ``vidret eval probe``, which rate generated videos and encoders."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidret.cli.evaluate.benchmarks import group
from vidret.cli.evaluate.steps import DATA, VideosOption
from vidret.cli.language_model import LANGUAGE_MODEL, LlmModelOption, LlmTimeoutOption, make_endpoint
from vidret.cli.opening import choose_model
from vidret.cli.options import OUTPUT, JsonOption, Loading, ProbedModelOption, argument, option, with_fields
from vidret.cli.values import parse_names
from vidret.present.progress import show_count, show_progress
from vidret.present.show import print_result, show_table
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.channels.texts.options import WordsOptions
    from vidret.corpus.probe import ProbeReport
    from vidret.encode.encoder import Encoder

NUM_SHOWN = 10  # prompts in the table, worst first


@group.command("generated")
@with_fields()
def generated_command(
    *,
    prompts: Path = option('JSON lines with "prompt" and "video", a file in DIR.', DATA, "FILE"),
    videos: VideosOption,
    real: Path | None = option("Folder of real videos; adds STREAM, which compares both.", DATA, "DIR", default=None),
    words: str = option(
        "Also compare prompts with what is said and shown in the videos, as a search does: speech, screen (text in the "
        "picture), subtitles, or several of them separated by commas; on is all. Each video is indexed for it.",
        DATA,
        "off|on|LIST",
        default="off",
    ),
    model: ProbedModelOption = None,
    loading: Loading,
    llm: str | None = option(
        "Chat endpoint of a model that sees images, in OpenAI's style; adds alignment by questions (ETVA, "
        "T2VScore). Prompts and frames are sent to it. A key is read from VIDRET_LLM_KEY.",
        LANGUAGE_MODEL,
        "URL",
        default=None,
    ),
    llm_model: LlmModelOption = None,
    llm_timeout: LlmTimeoutOption = 120.0,
    html: Path | None = option("Also write a page with frames of the worst prompts.", OUTPUT, "FILE", default=None),
    as_json: JsonOption = False,
) -> None:
    """Evaluate videos that a model generated from prompts: alignment, consistency, diversity and STREAM."""
    from vidret.corpus.generated import evaluate_generated, read_prompts
    from vidret.corpus.prompt_alignment import check_prompts, score_by_questions, score_with_words
    from vidret.video.scan import list_videos

    endpoint = None if llm is None else make_endpoint(llm, llm_model, llm_timeout)
    compared = choose_compared_words(words)
    by_path, topics = read_prompts(prompts, videos)
    if compared is not None:
        compared.check_installed()
        check_prompts(list(by_path.values()))
    originals = [] if real is None else list_videos([str(real)]).files
    encoder = load_chosen(model, loading)
    with show_count("encoding", "videos") as on_count:
        report = evaluate_generated(encoder, by_path, originals, topics=topics, on_progress=on_count)
    if compared is not None:
        with show_progress() as on_progress:
            report["words"] = score_with_words(encoder, by_path, compared, on_progress=on_progress)
    if endpoint is not None:
        with show_count("asking", "videos") as on_count:
            report["questions"] = score_by_questions(endpoint, by_path, on_progress=on_count)
    print_result(report, show_generated, as_json=as_json)
    if html is not None:
        from vidret.corpus.generated_page import write_generated_page

        write_generated_page(report, html)
        print_message(f"page: {html}")


def choose_compared_words(text: str) -> "WordsOptions | None":
    """Return which words to read, given ``--words``; None to read none."""
    from vidret.channels.registry import READ_KINDS
    from vidret.channels.texts.options import WordsOptions

    if text == "off":
        return None
    if text == "on":
        return WordsOptions()
    return WordsOptions(sources=parse_names(text, READ_KINDS, option="--words", rule="must be off, on or some of"))


def show_generated(report: dict[str, Any]) -> None:
    """Print the scores, and those of the prompts with the worst alignment."""
    from vidret.corpus.generated_page import list_scores, tabulate_prompts, tabulate_topics

    show_table(("", ""), list(list_scores(report)))
    if report["topics"]:
        print("\nTopics, the worst first (below: standard errors below the mean):")
        show_table(*tabulate_topics(report))
    print("\nPrompts, the worst first:")
    show_table(*tabulate_prompts(report, NUM_SHOWN))


def load_chosen(model: str | None, loading: Loading) -> "Encoder":
    """Return the encoder of ``model``, or the starter if it is None."""
    from vidret.encode.families.registry import load_encoder
    from vidret.encode.names import STARTER

    return load_encoder(choose_model(model) or STARTER, device=loading.device, precision=loading.precision)


SYNTHETIC = "synthetic"


@group.command("probe")
@with_fields()
def probe_command(
    *,
    world: str = argument(
        "Folder with videos and their captions.jsonl, or synthetic for rendered videos.", "FOLDER|synthetic"
    ),
    model: ProbedModelOption = None,
    seed: int = option("Seed of the videos that are drawn.", DATA, "N", default=0, min=0),
    loading: Loading,
    html: Path | None = option("Also write a page that says where to trust it.", OUTPUT, "FILE", default=None),
    as_json: JsonOption = False,
) -> None:
    """Find out where an encoder can be trusted: minimal pairs, corruptions, and 'nothing matches well'."""
    from vidret.corpus.probe import probe_encoder
    from vidret.corpus.probe_page import write_probe_page
    from vidret.corpus.probe_world import draw_probe_world, read_probe_world

    encoder = load_chosen(model, loading)
    if world == SYNTHETIC:
        videos = draw_probe_world(encoder.resize.crop, seed=seed)
    else:
        with show_count("reading", "videos") as on_count:
            videos = read_probe_world(Path(world), encoder.resize, seed=seed, on_progress=on_count)
    with show_count("encoding", "videos") as on_count:
        report = probe_encoder(encoder, videos, seed=seed, on_progress=on_count)
    for note in report.notes:
        print_message(f"note: {note}")
    print_result(report, show_probe, as_json=as_json)
    if html is not None:
        write_probe_page(report, html)
        print_message(f"page: {html}")


def show_probe(report: "ProbeReport") -> None:
    """Print a summary of the results, and their tables."""
    from vidret.corpus.probe_page import explain_report, tabulate_corruptions, tabulate_pairs

    for line in explain_report(report):
        print(line)
    for title, table in (
        ("Minimal pairs, percent right (50 is chance)", tabulate_pairs(report)),
        ("By rule", tabulate_pairs(report, by_rule=True)),
        ("Corrupted videos, percent recognised by their originals and by their captions", tabulate_corruptions(report)),
    ):
        print(f"\n{title}")
        show_table(*table)
