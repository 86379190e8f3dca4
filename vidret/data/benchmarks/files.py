"""Annotation files -> records: CSV, columns between tabs, lists of names, JSON and JSONL, each with its places.

All are UTF-8; a byte order mark, line ends of Windows and blank lines are fine.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidret.data.benchmarks.rows import AnnotationRow, annotation_row, annotation_rows
from vidret.errors import VidretError


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        VidretError: It cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VidretError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise VidretError(f"{path}:{line}: must be UTF-8, got the byte 0x{content[error.start]:02x}") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Give the place and the text of each line that is not blank."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines would also cut inside JSON texts
        if line.strip():
            yield f"{path}:{number}", line.removesuffix("\r")


def read_names(path: Path) -> tuple[str, ...]:
    """Read a list of names, one a line, each once; a first line ``video_id`` is a heading."""
    seen: dict[str, str] = {}
    for place, line in read_lines(path):
        AnnotationRow(place, {}).once("the name", line.strip(), seen)
    if next(iter(seen), None) == "video_id":
        del seen["video_id"]
    if not seen:
        raise VidretError(f"{path}: must name a video in each line, got none")
    return tuple(seen)


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[AnnotationRow]:
    """Read a table whose first line names its columns; those asked for must be there."""
    table = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        heading = next(table, [])
        if missing := [column for column in columns if column not in heading]:
            raise VidretError(f"{path}:1: must name the columns {', '.join(columns)}: {', '.join(missing)} is missing")
        for cells in table:
            if cells:
                yield _table_row(f"{path}:{table.line_num}", heading, cells)
    except csv.Error as error:
        raise VidretError(f"{path}:{table.line_num}: cannot be read as CSV: {error}") from error


def read_tabs(path: Path, columns: Sequence[str]) -> Iterator[AnnotationRow]:
    """Read a table with tabs between its columns and no heading; quotes are letters like others."""
    for place, line in read_lines(path):
        yield _table_row(place, columns, line.split("\t"))


def _table_row(place: str, columns: Sequence[str], cells: Sequence[str]) -> AnnotationRow:
    if len(cells) != len(columns):
        raise VidretError(f"{place}: must have {len(columns)} columns, got {len(cells)}")
    return AnnotationRow(place, dict(zip(columns, cells, strict=True)))


def read_jsonl(path: Path) -> Iterator[AnnotationRow]:
    """Read one JSON object a line."""
    for place, line in read_lines(path):
        yield annotation_row(place, parse(line, place))


def read_object(path: Path) -> AnnotationRow:
    """Read a JSON file that is one object."""
    return annotation_row(str(path), _read_json(path))


def read_objects(path: Path) -> Iterator[AnnotationRow]:
    """Read a JSON file that is a list of objects."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise VidretError(f"{path}: must be a list of objects, got {type(value).__name__}")
    return annotation_rows(str(path), value)


def read_named(path: Path) -> Iterator[tuple[str, AnnotationRow]]:
    """Read a JSON file that is one object of objects: the name and the record of each."""
    for name, value in read_object(path).values.items():
        yield name, annotation_row(f"{path}[{name}]", value)


def _read_json(path: Path) -> Any:
    return parse(read_text(path), str(path))


def parse(text: str, place: str) -> Any:
    """Parse JSON; a key that an object has twice is refused, since one of the two values would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}" if text.count("\n") else place
        raise VidretError(f"{where}: is broken JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise VidretError(f"{place}: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)} occurs twice in an object")
    return values
