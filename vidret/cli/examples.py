"""Examples of concepts on the command line: images, videos, folders of them, and lists of moments."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidret.cli.inputs import read_image_file
from vidret.errors import DecodeError, VidretError
from vidret.text import absolute_path, is_url
from vidret.types import ConceptExample

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"))
MOMENT_SUFFIXES = frozenset((".json", ".jsonl"))
MAX_LIST_BYTES = 64 << 20


def read_example_paths(paths: Sequence[str]) -> list[ConceptExample]:
    """Return the examples that paths name, with the pixels of images.

    A folder means its images and videos, at any depth and sorted by name. A .json or .jsonl file lists moments: objects
    with "path", and "start" and "end" in seconds or "relevant_windows", as vidret locate --json prints them. Anything
    else is a video of the index.

    Raises:
        VidretError: A folder holds no example, or an image or a list cannot be read.
    """
    return [example for path in paths for example in _read_path(path)]


def _read_path(path: str) -> Iterator[ConceptExample]:
    if is_url(path):
        yield ConceptExample(path=path)
        return
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if file.is_dir():
        yield from _read_folder(file)
    elif suffix in IMAGE_SUFFIXES:
        yield ConceptExample(path=absolute_path(file), image=read_image_file(file))
    elif suffix in MOMENT_SUFFIXES:
        yield from _read_moments(file)
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


def _read_moments(file: Path) -> Iterator[ConceptExample]:
    from vidret.video.files import read_content

    try:
        text = read_content(str(file), MAX_LIST_BYTES).decode("utf-8-sig")
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if file.suffix.lower() == ".jsonl"
            else None
        )
        rows = json.loads(text) if rows is None else rows
        for row in rows if isinstance(rows, list) else [rows]:
            yield from _read_row(row, file.parent)
    except (DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.reason if isinstance(error, DecodeError) else error
        if isinstance(error, KeyError | TypeError | AttributeError):
            reason = "each must be an object with path, start and end"
        raise VidretError(f"{file}: cannot be read as a list of moments: {reason}") from error


def _read_row(row: dict[str, Any], folder: Path) -> Iterator[ConceptExample]:
    name = row["path"] if "path" in row else row["file"]
    path = name if is_url(name) else absolute_path(folder / name)
    where = row.get("segment", row)  # of a hit
    windows = row["relevant_windows"] if "relevant_windows" in row else [(where["start"], where["end"])]
    for start, end in windows:
        yield ConceptExample(path=path, start=float(start), end=float(end))
