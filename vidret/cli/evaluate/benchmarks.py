"""The commands ``vidret eval ...``: measure a model on a benchmark or on your own videos."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from vidret.cli.app import add_group
from vidret.cli.commands.index import parse_words
from vidret.cli.evaluate.scores import compare_command, score_command
from vidret.cli.evaluate.steps import (
    DATA,
    OWN,
    QUERIES,
    EvalModelOption,
    EvalRerankOption,
    EvalRun,
    OutOption,
    ProtocolOption,
    RowsOption,
    default_out,
    finish,
    read_calibration,
)
from vidret.cli.language_model import FOLDER as JUDGED
from vidret.cli.language_model import JudgeSettings, make_judge
from vidret.cli.opening import choose_model
from vidret.cli.options import ADVANCED, MODEL, OUTPUT, HeadOption, Loading, argument, option, option_field, with_fields
from vidret.errors import VidretError
from vidret.present.progress import show_count, show_progress

group = add_group("eval")

HtmlOption = Annotated[
    bool,
    option(
        "Also write report.html; of retrieval and moments with curves and the worst queries.", OUTPUT, flag="--html"
    ),
]
# OpenAI's weights were trained with QuickGELU; under the plain name, open_clip uses another activation: worse results.
ZERO_SHOT = "ViT-B-32-quickgelu/openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRun(EvalRun):
    """The options of an evaluation of retrieval."""

    rerank: EvalRerankOption = "auto"
    calibrate: str | None = option_field(
        "Bank of queries (text or .jsonl), or a split such as train-9k; adds SK-norm and QB-norm of text to video.",
        MODEL,
        "FILE|SPLIT",
    )
    video_bank: Path | None = option_field(
        "Folder of other videos, such as those of the training split; adds SK-norm and QB-norm of video to text.",
        MODEL,
        "DIR",
    )
    segments: str = option_field(
        "whole: each video is one segment, as in papers; cut: as in vidret index; auto: as in the index, and "
        "for a new one whole for benchmarks and cut for your own videos.",
        MODEL,
        "auto|whole|cut",
        default="auto",
    )
    protocol: ProtocolOption = "classic"
    rows: RowsOption = None
    html: HtmlOption = False


@group.command("retrieval")
@with_fields()
def retrieval_command(run: SearchRun) -> None:
    """Evaluate retrieval: text to video, and video to text."""
    evaluate_search(run.named("retrieval"))


@group.command("msrvtt")
@with_fields(data="msrvtt-1k-a")
def msrvtt_command(run: SearchRun) -> None:
    """Evaluate retrieval on MSR-VTT 1k-A, the split that most papers report, by default of OpenAI's CLIP ViT-B/32.

    Scores are those of the trained aligner in or beside the model file, or else of the mean of all frames.
    """
    from vidret.channels.picture.ranker_loading import find_aligner
    from vidret.channels.picture.ranking import MEAN

    model = choose_model(run.model) or ZERO_SHOT
    rerank = str(find_aligner(model) or MEAN) if run.rerank == "auto" else run.rerank
    evaluate_search(replace(run, model=model, rerank=rerank))


def evaluate_search(run: SearchRun) -> None:
    """Evaluate retrieval, and write the report."""
    from vidret.channels.picture.ranker_loading import load_ranker
    from vidret.evaluate.gallery import Evaluation
    from vidret.evaluate.published import choose_rows, resolve_protocol
    from vidret.evaluate.retrieval import check_banks, evaluate_retrieval

    try:
        protocol = resolve_protocol(run.protocol, run.data)
    except VidretError as error:
        raise typer.BadParameter(str(error), param_hint="--protocol") from error
    split = run.read_split()
    if run.rows is not None:
        split = choose_rows(split, run.rows)
    bank = read_calibration(run.calibrate, run.data, run.source) if run.calibrate is not None else None
    whole = run.segments == "whole" or (run.segments == "auto" and run.data not in OWN)
    engine = run.open_index(split, whole=whole, rerank=run.rerank, protocol=protocol)
    if run.segments != "auto" and engine.encoder.sampling.whole != (run.segments == "whole"):
        found = "whole videos" if engine.encoder.sampling.whole else "cut segments"
        rule = f"segments must be {run.segments}, got an index of {found}; choose another --index"
        raise VidretError(f"{engine.path}: {rule}")
    ranker = load_ranker(run.rerank, engine.encoder)
    check_banks(ranker, split, run.videos, bank=bank, video_bank=run.video_bank)
    gallery, indexing_s = run.fill_index(engine, split)
    banks: dict[str, Any] = {"bank": bank}
    if run.video_bank is not None:
        banks["video_bank"], seconds = run.fill_bank(engine, run.video_bank)
        indexing_s += seconds
    with show_count("scoring", "segments") as on_count:
        evaluation = Evaluation(engine, split, gallery, on_count)
        report = evaluate_retrieval(evaluation, rerank=run.rerank, protocol=protocol, **banks)
    finish(report, run.target, indexing_s, html=run.html)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateRun(EvalRun):
    """The options of an evaluation of a grounding head, or of the curve without one."""

    head: HeadOption = "auto"
    html: HtmlOption = False


@group.command("moments")
@with_fields(data="moments")
def moments_command(
    run: LocateRun,
    corpus: bool = option(
        "Also locate every query among all videos (VCMR), and search for its video (PRVR, SumR).", DATA, default=False
    ),
) -> None:
    """Evaluate moment retrieval: locate each query in its own video."""
    evaluate_located(run.named("moments"), corpus=corpus)


def evaluate_located(run: LocateRun, *, corpus: bool) -> None:
    """Evaluate moment retrieval, and write the report."""
    from vidret.evaluate.moments import check_queries, evaluate_moments

    split = check_queries(run.read_split())
    run.evaluate(partial(evaluate_moments, corpus=corpus), "locating", split=split, head=run.head, html=run.html)


@group.command("rated")
@with_fields(data="tvr-ranking")
def rated_command(run: EvalRun) -> None:
    """Evaluate the ranking of moments of all videos by graded relevance (nDCG)."""
    from vidret.evaluate.moments import evaluate_rated

    run.named("rated").evaluate(evaluate_rated, "locating")


@group.command("composed")
@with_fields(data="webvid-covr")
def composed_command(run: EvalRun) -> None:
    """Evaluate composed retrieval: a frame of one video and a text that changes it find another video."""
    from vidret.evaluate.composed import evaluate_composed

    run.named("composed").evaluate(evaluate_composed, "searching")


@group.command("highlights")
@with_fields(data="qvhighlights-val")
def highlights_command(run: LocateRun) -> None:
    """Evaluate highlight detection: score every clip of a video against its query."""
    from vidret.evaluate.moments import check_queries, evaluate_highlights

    index = run.index or run.named("moments").target / "index"  # both commands index alike, which takes hours
    run = replace(run.named("highlights"), index=index)
    run.evaluate(evaluate_highlights, "scoring", split=check_queries(run.read_split()), head=run.head, html=run.html)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownItemRun(EvalRun):
    """The options of an evaluation of known-item search."""

    user_model: str = option_field(
        "Encoder by which the simulated user judges; it should differ from that of the search.",
        MODEL,
        "NAME|FILE",
        default="vidret.evaluate.known_item:PictureFeatures",
    )
    rounds: int = option_field("Rounds of feedback.", ADVANCED, "N", default=3, min=0, max=20)
    shown: int = option_field("Number of results that the user looks at in a round.", ADVANCED, "N", default=20, min=2)
    hints: int = option_field(
        "Number of steps in which the text is revealed; 1 reveals all of it at once.", ADVANCED, "N", default=3, min=1
    )
    tasks: int | None = option_field("Tasks to draw; default: all.", ADVANCED, "N", min=1)


@group.command("known-item")
@with_fields()
def known_item_command(run: KnownItemRun) -> None:
    """Evaluate known-item search, with the feedback of a simulated user, as at the Video Browser Showdown."""
    from vidret.engine import Engine
    from vidret.evaluate.gallery import Evaluation
    from vidret.evaluate.known_item import SimulatedUser, evaluate_known_items
    from vidret.evaluate.queries import read_queries_folder

    run = run.named("known-item")
    if run.data == QUERIES:
        split, videos = read_queries_folder(run.videos, run.annotations)
        run = replace(run, videos=videos)
        words = parse_words("auto", "auto", run.index or run.target / "index")
    else:
        split, words = run.read_split(), False
    engine = run.open_index(split)
    gallery, indexing_s = run.fill_index(engine, split, words)
    with (
        Engine.open(run.target / "user-index", encoder=run.user_model, rerank="none") as seeing,
        show_progress() as bar,
    ):
        paths = [video.paths[0] for video in engine.videos()]  # the index may hold videos of other folders
        seconds = seeing.index(paths, workers=run.workers, words=False, on_progress=bar).elapsed
        user = SimulatedUser(seeing)
    with show_count("searching", "tasks") as on_count:
        report = evaluate_known_items(
            Evaluation(engine, split, gallery, on_count),
            user,
            num_rounds=run.rounds,
            num_shown=run.shown,
            num_hints=run.hints,
            max_tasks=run.tasks,
        )
    finish(report, run.target, indexing_s + seconds)


@group.command("folder")
@with_fields(omit=("judge_frames",))
def folder_command(
    *,
    path: Path = argument(
        "Folder with captions.jsonl (videos in videos/), moments.jsonl, queries.jsonl, or several of them.", "DIR"
    ),
    words: str = option(
        "Words to read for queries.jsonl besides the pictures, as for vidret index.",
        DATA,
        "auto|on|off|LIST",
        default="auto",
        envvar="VIDRET_WORDS",
    ),
    judging: JudgeSettings,
    model: EvalModelOption = None,
    loading: Loading,
    out: OutOption = None,
    html: bool = option("Also write report.html for each.", OUTPUT, default=True),
) -> None:
    """Evaluate your own annotated videos: retrieval, moments, and queries by kind in the whole corpus."""
    target = out or default_out(f"folder-{path.absolute().name}", model)
    names = [name for name in (*OWN, QUERIES) if (path / f"{name}.jsonl").is_file()]
    if not names:
        raise VidretError(f"{path}: must contain captions.jsonl, moments.jsonl or queries.jsonl, got none of them")
    judging.check()
    if judging.judge is not None and QUERIES not in names:
        raise typer.BadParameter(f"needs {path / QUERIES}.jsonl, got no such file", param_hint="--judge")
    kinds: dict[str, Any] = {"captions": partial(SearchRun, html=html), "moments": partial(LocateRun, html=html)}
    runs = [
        kinds.get(name, EvalRun)(
            videos=path,
            annotations=path,
            data=name,
            out=target / name,
            model=model,
            device=loading.device,
            precision=loading.precision,
        )
        for name in names
    ]
    for run in runs:  # errors are reported before anything is indexed
        check_annotations(run, words)
    for position, run in enumerate(runs):
        if position:
            print()
        if run.data == "captions":
            evaluate_search(run)
        elif run.data == "moments":
            evaluate_located(run, corpus=True)
        else:
            answer_queries(run, words, judging, target / JUDGED, html=html)


def check_annotations(run: EvalRun, words: str) -> None:
    """Check the annotations of a folder and the option ``--words`` by reading them."""
    from vidret.evaluate.moments import check_queries
    from vidret.evaluate.queries import read_queries_folder

    if run.data == QUERIES:
        read_queries_folder(run.videos)
        parse_words(words, "auto", run.target / "index")
    elif run.data == "moments":
        check_queries(run.read_split())
    else:
        run.read_split()


def answer_queries(run: EvalRun, words: str, settings: JudgeSettings, cache: Path, *, html: bool) -> None:
    """Evaluate the queries.jsonl of a folder over all its videos, with their words as ``vidret index`` reads them."""
    from vidret.evaluate.queries import evaluate_queries, read_queries_folder
    from vidret.language.judging import DEFAULT_JUDGING

    split, videos = read_queries_folder(run.videos)
    judge, judging = (None, DEFAULT_JUDGING) if settings.judge is None else make_judge(settings, run.device, cache)
    read = parse_words(words, "auto", run.target / "index")
    measure = partial(evaluate_queries, judge=judge, judging=judging)
    replace(run, videos=videos).evaluate(measure, "answering", split=split, words=read, html=html)


group.command("score")(score_command)
group.command("compare")(compare_command)
