"""The command ``vidret describe``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import read_texts
from vidret.cli.opening import open_engine, remember_phrases
from vidret.cli.options import DEFAULT_INDEX, OUTPUT, SCOPE, IndexOption, JsonOption, argument, option
from vidret.present.progress import show_count
from vidret.present.show import show_table
from vidret.present.terminal import print_message
from vidret.text import absolute_path, display_path, format_time, show_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidret.corpus.describing import FolderDescription, RankedPhrase
    from vidret.corpus.overview import FolderOverview

ClustersOption = Annotated[
    int | None,
    option("Maximum number of clusters; default: what suits the number of segments, up to 12.", OUTPUT, "N", min=1),
]
PageOption = Annotated[Path | None, option("Also write a page with frames and a map.", OUTPUT, "FILE")]
COLUMNS = ("AUROC", "p", "source", "what", "video")


@app.command("describe")
def describe_command(
    folder: Annotated[str, argument("Indexed folder to describe.", "FOLDER", panel=SCOPE)],
    against: Annotated[
        str | None,
        option(
            "Indexed folder to compare with; default: an overview, and all other videos of the index.", SCOPE, "FOLDER"
        ),
    ] = None,
    phrases: Annotated[
        Path | None,
        option(
            "Phrases about what is seen, one per line; default: names of things, actions and scenes, and the "
            "words that the index has read.",
            SCOPE,
            "FILE",
        ),
    ] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[int, option("Maximum number of phrases each.", OUTPUT, "N", flag="-k", min=1)] = 10,
    clusters: ClustersOption = None,
    html: PageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe the videos of a folder: what is in it, and what sets it apart from others, with example frames."""
    from vidret.corpus.describing import NoComparisonError, describe_folder
    from vidret.corpus.overview import make_overview, overview_to_dict
    from vidret.store.store import Store

    if against is not None and clusters is not None:
        raise typer.BadParameter("needs a folder by itself, got --against", param_hint="--clusters")
    bank = None if phrases is None else read_texts(phrases)
    path, other = absolute_path(folder), None if against is None else absolute_path(against)
    overview = differences = None
    with open_engine(index, None, "auto", "auto", must_exist=True) as engine, Store.open(index) as store:
        texts = remember_phrases(engine.encoder, index)
        if other is None:
            overview = make_overview(store, texts, path, phrases=bank, num_clusters=clusters)
        try:
            differences = describe_folder(store, texts, path, against=other, phrases=bank, k=k)
        except NoComparisonError as error:
            if overview is None:
                raise
            print_message(f"not compared with the rest of the index: {error}")
    if html is not None:
        write_page_of(html, path, other, overview, differences)
    if as_json:
        content = None if differences is None else description_to_dict(differences)
        whole = content if overview is None else {**overview_to_dict(overview), "differences": content}
        print(json.dumps(whole, indent=2))
        return
    if overview is not None:
        show_overview(overview)
    if differences is not None:
        show_description(differences)


def write_page_of(
    html: Path,
    folder: str,
    against: str | None,
    overview: "FolderOverview | None",
    differences: "FolderDescription | None",
) -> None:
    """Write the page, and print its path to stderr."""
    from vidret.corpus.describe_page import write_description_page

    with show_count("reading frames", "frames") as on_count:
        write_description_page(
            folder, html, overview=overview, differences=differences, against=against, on_progress=on_count
        )
    print_message(f"page: {html}")


def show_overview(found: "FolderOverview") -> None:
    """Print what is in a folder."""
    from vidret.corpus.describe_page import format_hours, list_facts

    show_table(("", ""), list(list_facts(found)))
    print("\nClusters:")
    rows = []
    for each in found.clusters:
        share = f"{100 * each.num_segments / found.num_segments:.0f} %"
        name = ", ".join(each.phrases) or "all segments"
        example = f"{display_path(each.examples[0].path)} {format_time(each.examples[0].time)}"
        rows.append((share, str(each.num_videos), format_hours(each.hours), name, example))
    show_table(("segments", "videos", "length", "what", "video"), rows)
    if found.look_alikes:
        print("\nLook-alikes, by their vectors (vidret duplicates compares frames):")
        paths = [[f"{each.cosine:.3f}", *map(display_path, each.paths)] for each in found.look_alikes]
        show_table(("cosine", "video", "and"), paths)
    if found.outliers:
        print("\nUnlike all others:")
        far = [(f"{each.deviation:.1f}", display_path(each.path)) for each in found.outliers]
        show_table(("deviations", "video"), far)
    print()


def description_to_dict(found: "FolderDescription") -> dict[str, object]:
    """Return a description as a dict that JSON can represent."""
    rows = {name: [each.to_dict() for each in getattr(found, name)] for name in ("more", "less")}
    for row in (*rows["more"], *rows["less"]):
        row["examples"] = [{**each, "path": show_path(each["path"])} for each in row["examples"]]
    counts = {name: getattr(found, name) for name in ("num_videos", "num_others", "num_phrases")}
    return {**counts, **rows}


def show_description(found: "FolderDescription") -> None:
    """Print the phrases that are significant in each direction, and say where there are none."""
    print_message(f"{found.num_videos} videos against {found.num_others}, {found.num_phrases} phrases", style="dim")
    for title, phrases in (("More of", found.more), ("Less of", found.less)):
        significant = [each for each in phrases if each.is_significant]
        if not significant:
            best = min((each.difference.adjusted_p for each in phrases), default=1.0)
            print_message(f"{title}: no phrase beyond chance (lowest corrected p: {best:.2g})")
            continue
        print(f"{title}:")
        show_table(COLUMNS, list_phrase_rows(significant))


def list_phrase_rows(phrases: "Sequence[RankedPhrase]") -> list[tuple[str, ...]]:
    """Return the rows of a table of phrases."""
    rows: list[tuple[str, ...]] = []
    for each in phrases:
        examples = [f"{display_path(frame.path)} {format_time(frame.time)}" for frame in each.examples]
        facts = f"{each.difference.auroc:.3f}", f"{each.difference.adjusted_p:.2g}", each.phrase.kind
        rows.append((*facts, each.phrase.text, examples[0] if examples else ""))
        rows += [("", "", "", "", example) for example in examples[1:]]
    return rows
