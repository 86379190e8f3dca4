"""The commands that learn from examples: ``vidret teach``, ``concepts``, ``forget`` and ``classify``."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vidret.cli.app import app
from vidret.cli.opening import ask_store_or_client, open_engine, open_engine_or_client
from vidret.cli.options import DEFAULT_INDEX, IndexOption, JsonOption, Loading, Place, argument, option, with_fields
from vidret.cli.search_options import parse_time_point
from vidret.cli.values import read_image_file
from vidret.errors import DecodeError, VidretError
from vidret.present.contents import describe_concept, show_concepts
from vidret.present.show import print_result, show_table
from vidret.present.terminal import print_message
from vidret.search.query.marks import check_concept_name
from vidret.text import absolute_path, display_path, format_count, is_url, parse_json
from vidret.types import ConceptExample, TaggedVideo

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine

CONCEPT = "Concept"


@app.command("teach")
@with_fields()
def teach_command(
    *,
    name: str = argument("Name of the concept; @NAME stands for it in queries.", "NAME"),
    yes: list[str] | None = option(
        "Examples: an image, an indexed video, a folder of them, or a .json or .jsonl file of moments, as vidret "
        "locate --json prints them. Repeatable.",
        CONCEPT,
        "PATH",
        default=None,
    ),
    no: list[str] | None = option(
        "Examples of what it is not, preferably similar-looking ones. As --yes.", CONCEPT, "PATH", default=None
    ),
    sound: list[str] | None = option(
        "Examples of a sound, in place of pictures: a file with sound, or a moment of an indexed video as "
        "FILE@TIME. Repeatable.",
        CONCEPT,
        "FILE|FILE@TIME",
        default=None,
    ),
    text: str | None = option("The concept in plain words; default: its name.", CONCEPT, "TEXT", default=None),
    replace: bool = option("Replace a concept of that name.", CONCEPT, default=False),
    add: bool = option("Add the examples to an existing concept of that name.", CONCEPT, default=False),
    place: Place,
    as_json: JsonOption = False,
    loading: Loading,
) -> None:
    """Teach a concept by examples: @NAME then stands for it in queries. Works from one example."""
    if sound:
        if yes or no or text is not None or place.server is not None:
            raise typer.BadParameter("must be by itself, got --yes, --no, --text or --server too", param_hint="--sound")
        local = open_engine(place.index, loading)
        if add:
            check_taught(local, name)
        taught = local.teach_sound(name, [read_sound_path(path) for path in sound], replace=replace, add=add)
        examples = format_count(len(taught.yes), "sound")
        done = f"@{taught.name} is taught from {examples}. Search for it: vidret search '@{taught.name}'"
        print_result(taught, lambda _: print_message(done), as_json=as_json)
        return
    if not (yes or (no and add)):
        raise typer.BadParameter("must name an example, got none", param_hint="--yes")
    shown, hidden = read_example_paths(yes or []), read_example_paths(no or [])
    engine = open_engine_or_client(place, loading)
    if add:
        check_taught(engine, name)
    concept = engine.teach(name, shown, hidden, text=text, replace=replace, add=add)
    print_result(concept, lambda taught: print_message(describe_concept(taught)), as_json=as_json)


def check_taught(engine: "Engine | RemoteEngine", name: str) -> None:
    """Check that there is a concept of a name, before ``teach`` makes one of a mistyped name."""
    taught, name = [concept.name for concept in engine.concepts()], check_concept_name(name)
    if name not in taught:
        known = ", ".join(f"@{other}" for other in taught) or "none"
        raise VidretError(f"@{name}: must be the name of a taught concept ({known})")


@app.command("concepts")
@with_fields()
def concepts_command(*, place: Place, as_json: JsonOption = False) -> None:
    """List the taught concepts with their examples."""
    from vidret.search.concepts.storage import list_concepts

    concepts = ask_store_or_client(place, list_concepts, lambda client: client.concepts())
    print_result(concepts, show_concepts, as_json=as_json)


@app.command("forget")
@with_fields()
def forget_command(*, name: str = argument("Name of the concept.", "NAME"), place: Place) -> None:
    """Forget a taught concept."""
    from vidret.search.concepts.storage import forget_concept

    ask_store_or_client(
        place, lambda store: forget_concept(store, name), lambda client: client.forget(name), write=True
    )
    print_message(f"@{name.removeprefix('@')} is forgotten.")


def read_sound_path(text: str) -> ConceptExample:
    """Return the example that FILE or FILE@TIME names."""
    if Path(text).expanduser().exists() or "@" not in text:
        return ConceptExample(path=absolute_path(Path(text).expanduser()))
    file, time_s = parse_time_point(text, option="--sound")
    return ConceptExample(path=absolute_path(Path(str(file)).expanduser()), start=time_s, end=time_s)


IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"))
MOMENT_SUFFIXES = frozenset((".json", ".jsonl"))
MAX_LIST_BYTES = 64 << 20


def read_example_paths(paths: Sequence[str]) -> list[ConceptExample]:
    """Return the examples that paths name, with the pixels of images.

    A folder means its images and videos, at any depth and sorted by name. A .json or .jsonl file lists moments: objects
    with "path", and "start" and "end" in seconds or "relevant_windows", as vidret locate --json prints them. Anything
    else is a video of the index.
    """
    return [example for path in paths for example in _read_path(path)]


def _read_path(path: str) -> Iterator[ConceptExample]:
    if is_url(path):
        yield ConceptExample(path=path)
        return
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if os.path.isdir(file):  # noqa: PTH112  a name may be too long, where Path.is_dir raises
        yield from _read_folder(file)
    elif suffix in IMAGE_SUFFIXES:
        yield ConceptExample(path=absolute_path(file), image=read_image_file(file))
    elif suffix in MOMENT_SUFFIXES:
        yield from (example for _, example in read_moments(file))
    else:
        yield ConceptExample(path=absolute_path(file))


def _read_folder(folder: Path) -> Iterator[ConceptExample]:
    from vidret.video.scan import VIDEO_SUFFIXES

    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES - {".gif"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not files:
        raise VidretError(f"{folder}: must hold an image or a video, got none")
    for file in files:
        yield from _read_path(str(file))


def read_moments(file: Path, *, or_whole: bool = False) -> Iterator[tuple[dict[str, Any], ConceptExample]]:
    """Yield the objects of a list of moments with their examples; ``or_whole`` also accepts files without times."""
    from vidret.video.files import read_content

    try:
        text = read_content(str(file), MAX_LIST_BYTES).decode("utf-8-sig")
        has_lines = file.suffix.lower() == ".jsonl"
        rows = [parse_json(line) for line in text.split("\n") if line.strip()] if has_lines else parse_json(text)
        for row in rows if isinstance(rows, list) else [rows]:
            yield from ((row, example) for example in _read_row(row, file.parent, or_whole))
    except (DecodeError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        reason = error.reason if isinstance(error, DecodeError) else error
        if isinstance(error, KeyError | TypeError | AttributeError):
            times = ", and start and end or neither" if or_whole else ", start and end"
            reason = f"each must be an object with path{times}"
        raise VidretError(f"{file}: cannot be read as a list of moments: {reason!s:.200}") from error


def _read_row(row: dict[str, Any], folder: Path, or_whole: bool) -> Iterator[ConceptExample]:
    name = row["path"] if "path" in row else row["file"]
    path = name if is_url(name) else absolute_path(folder / name)
    if or_whole and not {"start", "segment", "relevant_windows"} & row.keys():
        yield from _read_path(path)
        return
    where = row.get("segment", row)  # of a hit
    windows = row["relevant_windows"] if "relevant_windows" in row else [(where["start"], where["end"])]
    for start, end in windows:
        yield ConceptExample(path=path, start=float(start), end=float(end))


CLASSES = "Classes"


@app.command("classify")
@with_fields()
def classify_command(
    *,
    folders: list[Path] | None = argument(
        "Folders of examples, one per class and named after it: images or indexed videos.", "FOLDER", default=None
    ),
    examples: list[Path] | None = option(
        'Lines of {"class": "sport", "path": "a.mp4"}, with "start" and "end" in seconds for a span. Repeatable.',
        CLASSES,
        "FILE.jsonl",
        default=None,
    ),
    save: str | None = option(
        "Keep each class in the index as a concept: @NAME-CLASS stands for it in queries.",
        CLASSES,
        "NAME",
        default=None,
    ),
    index: IndexOption = DEFAULT_INDEX,
    as_json: JsonOption = False,
    loading: Loading,
) -> None:
    """Tag all videos of an index with one of some classes, from a few examples of each."""
    if not folders and not examples:
        raise typer.BadParameter("must be given, or --examples, got neither", param_hint="FOLDER")
    classes = read_classes(folders or [], examples or [])
    engine = open_engine(index, loading)
    tagged = engine.classify(classes, save=save)
    print_result(tagged, show_tagged, as_json=as_json)
    if save is not None:
        from vidret.search.concepts.classifying import name_concepts

        kept = " ".join(f"@{name}" for name in name_concepts(save, list(classes)))
        print_message(f"The classes are kept as {kept}")


def read_classes(folders: Sequence[Path], files: Sequence[Path]) -> dict[str, list[ConceptExample]]:
    """Return the examples of each class: from a folder per class, and from lines of files that name their class."""
    classes: dict[str, list[ConceptExample]] = {}
    for folder in folders:
        path = folder.expanduser().absolute()
        if not path.is_dir():
            raise VidretError(f"{folder}: must be a folder with the examples of a class")
        classes.setdefault(path.name, []).extend(read_example_paths([str(path)]))
    for file in files:
        for row, example in read_moments(file.expanduser().absolute(), or_whole=True):
            name = row.get("class")
            if not isinstance(name, str) or not name.strip():
                raise VidretError(f"{file}: class must be the name of a class, got {name!r}")
            classes.setdefault(name.strip(), []).append(example)
    return classes


def show_tagged(tagged: Sequence[TaggedVideo]) -> None:
    """Print the tag of each video, and the number of videos with each tag."""
    rows = [(video.tag, f"{100 * video.probability:.0f} %", display_path(video.path)) for video in tagged]
    show_table(("tag", "probability", "video"), rows, "The index holds no video.")
    counts = Counter(video.tag for video in tagged)
    print_message(", ".join(f"{count} {name}" for name, count in counts.items()))
