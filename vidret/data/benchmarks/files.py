"""Readers of annotation files: CSV, TSV, lists of names, JSON and JSON Lines, each row with its location.

Files are UTF-8. A byte order mark, Windows line endings and blank lines are accepted.
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
    """Return the content of a text file.

    Raises:
        VidretError: The file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VidretError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line_number = content.count(b"\n", 0, error.start) + 1
        raise VidretError(f"{path}:{line_number}: must be UTF-8, got byte 0x{content[error.start]:02x}") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the location and the text of each line that is not blank."""
    lines = read_text(path).split("\n")  # splitlines() would also split inside JSON strings
    for line_number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{line_number}", line.removesuffix("\r")


def read_names(path: Path) -> tuple[str, ...]:
    """Return a list of unique names, one per line. A first line ``video_id`` is skipped as a header.

    Raises:
        VidretError: The file cannot be read, repeats a name, or has none.
    """
    locations: dict[str, str] = {}
    for location, line in read_lines(path):
        AnnotationRow(location, {}).check_unique("name", line.strip(), locations)
    if next(iter(locations), None) == "video_id":
        del locations["video_id"]
    if not locations:
        raise VidretError(f"{path}: must list at least one video, got none")
    return tuple(locations)


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[AnnotationRow]:
    """Yield the rows of a CSV file with a header.

    Raises:
        VidretError: The file cannot be parsed, or the header lacks one of ``columns``.
    """
    table = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(table, [])
        if missing := [column for column in columns if column not in header]:
            raise VidretError(
                f"{path}:1: header must have the columns {', '.join(columns)}, but lacks {', '.join(missing)}"
            )
        for cells in table:
            if cells:
                yield _table_row(f"{path}:{table.line_num}", header, cells)
    except csv.Error as error:
        raise VidretError(f"{path}:{table.line_num}: cannot be read as CSV: {error}") from error


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[AnnotationRow]:
    """Yield the rows of a tab-separated file without a header. Quotes have no special meaning."""
    for location, line in read_lines(path):
        yield _table_row(location, columns, line.split("\t"))


def _table_row(location: str, columns: Sequence[str], cells: Sequence[str]) -> AnnotationRow:
    if len(cells) != len(columns):
        raise VidretError(f"{location}: must have {len(columns)} columns, got {len(cells)}")
    return AnnotationRow(location, dict(zip(columns, cells, strict=True)))


def read_jsonl(path: Path) -> Iterator[AnnotationRow]:
    """Yield the object on each line of a JSON Lines file."""
    for location, line in read_lines(path):
        yield annotation_row(location, _parse_json(line, location))


def read_object(path: Path) -> AnnotationRow:
    """Return the content of a JSON file that holds one object."""
    return annotation_row(str(path), _read_json(path))


def read_objects(path: Path) -> Iterator[AnnotationRow]:
    """Yield the objects of a JSON file that holds a list of objects."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise VidretError(f"{path}: must be a list of objects, got {type(value).__name__}")
    return annotation_rows(str(path), value)


def read_named_objects(path: Path) -> Iterator[tuple[str, AnnotationRow]]:
    """Yield the key and the object of each item of a JSON file that holds an object of objects."""
    for name, value in read_object(path).values.items():
        yield name, annotation_row(f"{path}[{name}]", value)


def _read_json(path: Path) -> Any:
    return _parse_json(read_text(path), str(path))


def _parse_json(text: str, location: str) -> Any:
    """Parse JSON. Duplicate keys are refused, since one of the two values would be lost.

    Raises:
        VidretError: The text is not valid JSON, or an object repeats a key.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        where = f"{location}:{error.lineno}" if text.count("\n") else location
        raise VidretError(f"{where}: must be valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise VidretError(f"{location}: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)} in an object")
    return values
