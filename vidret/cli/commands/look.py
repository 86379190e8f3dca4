"""The commands that look into videos: ``vidret transcript``, ``shots``, ``duplicates`` and ``describe``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vidret.cli.app import app
from vidret.cli.opening import ask_store_or_client, open_engine, open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    SCOPE,
    IndexedVideoArgument,
    IndexOption,
    JsonOption,
    Loading,
    Place,
    argument,
    option,
    with_fields,
)
from vidret.cli.search_options import draw_results
from vidret.cli.values import parse_names, read_texts
from vidret.errors import VidretError
from vidret.present.contents import (
    SHOT_FORMATS,
    TRANSCRIPT_FORMATS,
    format_shots,
    show_copies,
    show_shots,
    to_transcript,
)
from vidret.present.progress import show_count
from vidret.present.show import print_json, print_result, show_table
from vidret.present.terminal import print_message, show_status, write_stdout
from vidret.text import absolute_path, display_path, format_count, format_time, show_path
from vidret.types import TEXT_SOURCES, TextSource, to_row

if TYPE_CHECKING:
    from vidret.corpus.describing import FolderDescription, RankedPhrase
    from vidret.corpus.overview import FolderOverview


@app.command("transcript")
@with_fields()
def transcript_command(
    *,
    video: IndexedVideoArgument,
    place: Place,
    source: str | None = option(
        "Only what is said, what is written in the picture, the subtitles, what a model generated, or the sounds; "
        "default: all but sounds.",
        SCOPE,
        ",".join(TEXT_SOURCES),
        default=None,
    ),
    form: str = option("Format of stdout.", OUTPUT, "|".join(TRANSCRIPT_FORMATS), default="txt", flag="--format"),
    speakers: bool = option("Also label speakers without a name, as person-7.", OUTPUT, default=False),
) -> None:
    """Print the words of a video with their times: what is said and shown in it."""
    from vidret.store.lookup import look_up_video
    from vidret.store.texts.upkeep import read_transcript

    sources = None if source is None else parse_names(source, TEXT_SOURCES, option="--source")
    texts = ask_store_or_client(
        place,
        lambda store: read_transcript(store, look_up_video(store, video), sources, unnamed=speakers),
        lambda client: client.transcript(video, sources, unnamed=speakers),
    )
    if not texts:
        raise VidretError(explain_no_words(place, video, sources))
    write_stdout(to_transcript(texts, form))


def explain_no_words(place: Place, video: str, sources: Sequence[TextSource] | None) -> str:
    """Return that a video has no words, and the option that reads them, or what was read without finding any."""
    from vidret.store.lookup import look_up_video
    from vidret.store.texts.upkeep import WORDS, list_read_sources

    of_sources = f" from {', '.join(sources)}" if sources else ""
    rule = f"{video}: the index has no words of this video{of_sources}"
    tracks: Sequence[TextSource] = ask_store_or_client(
        place, lambda store: list_read_sources(store, look_up_video(store, video)), lambda _client: ()
    )
    if read := [source for source in sources or WORDS if source in tracks]:
        return f"{rule}; none were found in its {', '.join(read)}"
    first = (sources or WORDS)[0]
    options = {"sound": "--sounds on", "generated": "--describe URL"}
    return f"{rule}; vidret index PATH {options.get(first, '--words on')} reads them"


@app.command("shots")
@with_fields()
def shots_command(
    *,
    video: IndexedVideoArgument,
    place: Place,
    form: str = option("Format of stdout.", OUTPUT, "|".join(SHOT_FORMATS), default="table", flag="--format"),
    sheet: Path | None = option(
        "Write a storyboard: the frame in the middle of each shot (.jpg or .png).", OUTPUT, "FILE", default=None
    ),
) -> None:
    """Print the shots of a video, and how each begins; draw a storyboard of them."""
    from vidret.store.lookup import find_below, look_up_video, read_shots

    shots = ask_store_or_client(
        place, lambda store: read_shots(store, look_up_video(store, video)), lambda client: client.shots(video)
    )
    if not shots:
        again = "to find them, index it again in a new index"
        raise VidretError(f"{video}: the index has no shots of this video, which it cut at fixed lengths; {again}")
    if form == "table":
        show_shots(shots)
    else:
        write_stdout(format_shots(shots, form))
    if sheet is not None:
        from vidret.present.sheet import write_storyboard
        from vidret.store.store import Store
        from vidret.video.files import choose_existing

        with Store.open(place.index) as store:  # a server would have refused the option
            stored_video, *_ = find_below(store.videos.find, video)
        write_storyboard(choose_existing(stored_video.paths), shots, sheet)


@app.command("duplicates")
@with_fields()
def duplicates_command(
    *,
    paths: list[str] | None = argument(
        "Indexed files or folders to find copies of; default: all.", "PATH", default=None
    ),
    place: Place,
    as_json: JsonOption = False,
    sheet: Path | None = option(
        "Write a contact sheet: the same moment of each file (.jpg or .png).", OUTPUT, "FILE", default=None
    ),
) -> None:
    """Find files that show the same footage, and the best file of each group; nothing is deleted."""
    engine = open_engine_or_client(place, Loading(device="cpu"))
    with show_count("comparing", "pairs") as on_count:
        groups = engine.duplicates(paths or (), on_progress=on_count)
    files = [group.files for group in groups]
    print_result(files, lambda _: show_copies(groups), as_json=as_json, digits=4)
    draw_results(groups, f"{format_count(len(groups), 'group')} of copies", sheet)


COLUMNS = ("AUROC", "p", "source", "what", "video")
FIRST_PHRASES = "Still encoding phrases, whose vectors this machine keeps for the next time."


@app.command("describe")
def describe_command(
    folder: str = argument("Indexed folder to describe.", "FOLDER"),
    against: str | None = option(
        "Indexed folder to compare with; default: an overview, and all other videos of the index.",
        SCOPE,
        "FOLDER",
        default=None,
    ),
    phrases: Path | None = option(
        "Phrases about what is seen, one per line; default: names of things, actions and scenes, and the "
        "words that the index has read.",
        SCOPE,
        "FILE",
        default=None,
    ),
    index: IndexOption = DEFAULT_INDEX,
    k: int = option("Maximum number of phrases each.", OUTPUT, "N", default=10, flag="-k", min=1),
    clusters: int | None = option(
        "Maximum number of clusters; default: what suits the number of segments, up to 12.",
        OUTPUT,
        "N",
        default=None,
        min=1,
    ),
    html: Path | None = option("Also write a page with frames and a map.", OUTPUT, "FILE", default=None),
    as_json: JsonOption = False,
) -> None:
    """Describe the videos of a folder: what is in it, and what sets it apart from others, with example frames."""
    from vidret.corpus.describing import NoComparisonError, describe_folder
    from vidret.corpus.overview import make_overview
    from vidret.corpus.vectors import KeptSentences
    from vidret.store.store import Store

    if against is not None and clusters is not None:
        raise typer.BadParameter("needs a folder by itself, got --against", param_hint="--clusters")
    bank = None if phrases is None else read_texts(phrases)
    path, other = absolute_path(folder), None if against is None else absolute_path(against)
    overview = differences = None
    with open_engine(index) as engine, Store.open(index) as store, show_status("comparing phrases", slow=FIRST_PHRASES):
        texts = KeptSentences(engine.encoder)
        if other is None:
            overview = make_overview(store, texts, path, phrases=bank, num_clusters=clusters)
        try:
            differences = describe_folder(store, texts, path, against=other, phrases=bank, k=k)
        except NoComparisonError as error:
            if overview is None:
                raise
            print_message(f"not compared with the rest of the index: {error}")
    if html is not None:
        from vidret.corpus.describe_page import write_description_page

        with show_count("reading frames", "frames") as on_count:
            write_description_page(
                path, html, overview=overview, differences=differences, against=other, on_progress=on_count
            )
        print_message(f"page: {html}")
    if as_json:
        print_json(
            differences if overview is None else {**to_row(overview, "json", show_path), "differences": differences}
        )
        return
    if overview is not None:
        show_overview(overview)
    if differences is not None:
        show_description(differences)


def show_overview(found: "FolderOverview") -> None:
    """Print the overview of a folder."""
    from vidret.corpus.describe_page import format_hours, list_facts

    show_table(("", ""), list(list_facts(found)))
    print("\nClusters:")
    rows = []
    for cluster in found.clusters:
        share = f"{100 * cluster.num_segments / found.num_segments:.0f} %"
        name = ", ".join(cluster.phrases) or "all segments"
        example = f"{display_path(cluster.examples[0].path)} {format_time(cluster.examples[0].time)}"
        rows.append((share, str(cluster.num_videos), format_hours(cluster.hours), name, example))
    show_table(("segments", "videos", "length", "what", "video"), rows)
    if found.look_alikes:
        print("\nLook-alikes, by their vectors (vidret duplicates compares frames):")
        paths = [[f"{alike.cosine:.3f}", *map(display_path, alike.paths)] for alike in found.look_alikes]
        show_table(("cosine", "video", "and"), paths)
    if found.outliers:
        print("\nUnlike all others:")
        far = [(f"{outlier.deviation:.1f}", display_path(outlier.path)) for outlier in found.outliers]
        show_table(("deviations", "video"), far)
    print()


def show_description(found: "FolderDescription") -> None:
    """Print the significant phrases in each direction, or that there are none."""
    videos, compared = format_count(found.num_videos, "video"), format_count(found.num_phrases, "phrase")
    print_message(f"{videos} against {found.num_others}, {compared}", style="dim")
    for title, phrases in (("More of", found.more), ("Less of", found.less)):
        significant = [phrase for phrase in phrases if phrase.significant]
        if not significant:
            best = min((phrase.adjusted_p for phrase in phrases), default=1.0)
            print_message(f"{title}: no phrase beyond chance (lowest corrected p: {best:.2g})")
            continue
        print(f"{title}:")
        show_table(COLUMNS, list_phrase_rows(significant))


def list_phrase_rows(phrases: Sequence["RankedPhrase"]) -> list[tuple[str, ...]]:
    """Return the rows of a table of phrases."""
    rows: list[tuple[str, ...]] = []
    for phrase in phrases:
        examples = [f"{display_path(frame.path)} {format_time(frame.time)}" for frame in phrase.examples]
        facts = f"{phrase.auroc:.3f}", f"{phrase.adjusted_p:.2g}", phrase.kind
        rows.append((*facts, phrase.phrase, examples[0] if examples else ""))
        rows += [("", "", "", "", example) for example in examples[1:]]
    return rows
