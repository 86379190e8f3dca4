"""The command ``vidret classify``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from vidret.cli.app import app
from vidret.cli.commands.teach import read_example_paths, read_moments
from vidret.cli.opening import open_engine
from vidret.cli.options import DEFAULT_INDEX, IndexOption, JsonOption, Loading, argument, option, with_fields
from vidret.errors import VidretError
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message
from vidret.text import display_path
from vidret.types import ConceptExample, TaggedVideo

CLASSES = "Classes"
FoldersArgument = Annotated[
    list[Path] | None,
    argument("Folders of examples, one per class and named after it: images or indexed videos.", "FOLDER"),
]
ExamplesOption = Annotated[
    list[Path] | None,
    option(
        'Lines of {"class": "sport", "path": "a.mp4"}, with "start" and "end" in seconds for a stretch. Repeatable.',
        CLASSES,
        "FILE.jsonl",
    ),
]
SaveOption = Annotated[
    str | None,
    option("Keep each class in the index as a concept: @NAME-CLASS stands for it in queries.", CLASSES, "NAME"),
]


@app.command("classify")
@with_fields()
def classify_command(
    *,
    folders: FoldersArgument = None,
    examples: ExamplesOption = None,
    save: SaveOption = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    as_json: JsonOption = False,
    loading: Loading,
) -> None:
    """Tag all videos of an index with one of some classes, from a few examples of each."""
    classes = read_classes(folders or [], examples or [])
    engine = open_engine(index, loading)
    tagged = engine.classify(classes, save=save)
    if as_json:
        print_json(tagged)
    else:
        show_tagged(tagged)
    if save is not None:
        from vidret.search.concepts.classifying import name_concepts

        kept = " ".join(f"@{name}" for name in name_concepts(save, list(classes)))
        print_message(f"The classes are kept as {kept}")


def read_classes(folders: Sequence[Path], files: Sequence[Path]) -> dict[str, list[ConceptExample]]:
    """Return the examples of each class: a folder for each, and lines of files that name one.

    Raises:
        VidretError: A folder is none, or a line is not an example.
    """
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
    """Print the tag of each video, and how many there are of each."""
    rows = [(video.tag, f"{100 * video.probability:.0f} %", display_path(video.path)) for video in tagged]
    show_table(("tag", "probability", "video"), rows, "The index holds no video.")
    counts = Counter(video.tag for video in tagged)
    print_message(", ".join(f"{count} {name}" for name, count in counts.items()))
