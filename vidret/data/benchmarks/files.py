"""Reading of annotation files into records that know their location and check their values."""

import csv
import io
import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vidret.data.records import Times
from vidret.errors import VidretError


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """A record and its location: ``file:line``, or ``file[key][index]`` inside a JSON file.

    The accessors raise ``VidretError`` with the location when a value is missing or invalid.
    """

    location: str
    values: Mapping[str, Any]

    def error(self, reason: str) -> VidretError:
        """Return an error that starts with the location of this record."""
        return VidretError(f"{self.location}: {reason}")

    def value(self, name: str) -> Any:
        """Return a required value."""
        if name not in self.values:
            raise self.error(f"{name} is missing")
        return self.values[name]

    def text(self, name: str) -> str:
        """Return a non-blank string, unchanged."""
        return self.check_text(name, self.value(name))

    def name(self, name: str) -> str:
        """Return an id: a string without surrounding blanks, or an integer as a string."""
        value = self.value(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.check_text(name, value).strip()

    def number(self, name: str) -> float:
        """Return a finite number."""
        return self.check_number(name, self.value(name))

    def positive(self, name: str) -> float:
        """Return a finite number above 0."""
        value = self.number(name)
        if value <= 0:
            raise self.error(f"{name} must be positive, got {value:g}")
        return value

    def items(self, name: str) -> list[Any]:
        """Return a list."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.error(f"{name} must be a list, got {short_repr(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a non-empty list of non-blank strings."""
        values = self.items(name)
        if not values:
            raise self.error(f"{name} must contain at least one string, got none")
        return [self.check_text(f"{name}[{index}]", value) for index, value in enumerate(values)]

    def rows(self, name: str) -> Iterator["AnnotationRow"]:
        """Yield the records of a list of objects."""
        return annotation_rows(f"{self.location}[{name}]", self.items(name))

    def check_text(self, name: str, value: object) -> str:
        """Return ``value`` if it is a non-blank string."""
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{name} must be a non-empty string, got {short_repr(value)}")
        return value

    def check_number(self, name: str, value: object) -> float:
        """Return ``value`` as a float if it is a finite number."""
        if not _are_finite([value]):
            raise self.error(f"{name} must be a finite number, got {short_repr(value)}")
        return float(value)  # type: ignore[arg-type]

    def check_span(self, name: str, value: object, *, may_be_empty: bool = False) -> Times:
        """Return (start, end) if ``value`` is a list of the two with 0 <= start < end, or <= with ``may_be_empty``."""
        if not isinstance(value, list) or len(value) != 2:
            raise self.error(f"{name} must be [start, end], got {short_repr(value)}")
        start, end = (self.check_number(name, time) for time in value)
        if start < 0 or start > end or (start == end and not may_be_empty):
            rule = "<=" if may_be_empty else "<"
            raise self.error(f"{name} must satisfy 0 <= start {rule} end, got {start:g} to {end:g}")
        return start, end

    def check_saliency(self, name: str, value: object, num_clips: int) -> tuple[tuple[float, ...], ...]:
        """Return a (num_clips, num_annotators) table of finite scores as tuples."""
        if not isinstance(value, list) or len(value) != num_clips:
            length = len(value) if isinstance(value, list) else 0
            raise self.error(f"{name} must have one list for each of {num_clips} clips, got {length}")
        for clip, scores in enumerate(value):
            if not isinstance(scores, list) or not scores or len(scores) != len(value[0]):
                raise self.error(f"{name}[{clip}] must have one number per annotator, got {short_repr(scores)}")
        flat = list(chain.from_iterable(value))
        # One sum is faster than checking each score, so scores are checked one by one only to name the invalid one.
        if not _are_finite(flat):
            for index, score in enumerate(flat):
                self.check_number(f"{name}[{index // len(value[0])}]", score)
        return tuple(tuple(map(float, scores)) for scores in value)

    def check_unique(self, kind: str, name: str, locations: dict[str, str]) -> str:
        """Return ``name`` if no earlier record has it, and add this record to ``locations``."""
        if name in locations:
            raise self.error(f"{kind} {name} must be unique, but is already at {locations[name]}")
        locations[name] = self.location
        return name


def _are_finite(values: list[Any]) -> bool:
    """Return whether values are numbers with a finite sum; an integer may be too large for a float."""
    try:
        return set(map(type, values)) <= {int, float} and math.isfinite(sum(map(float, values)))
    except OverflowError:
        return False


def annotation_rows(location: str, values: list[Any]) -> Iterator[AnnotationRow]:
    """Yield a row for each JSON object of a list."""
    for index, value in enumerate(values):
        yield annotation_row(f"{location}[{index}]", value)


def annotation_row(location: str, value: object) -> AnnotationRow:
    """Return a row for a JSON object."""
    if not isinstance(value, dict):
        raise VidretError(f"{location}: must be a JSON object, got {short_repr(value)}")
    return AnnotationRow(location, value)


def note_counts(counts: Mapping[str, int]) -> list[str]:
    """Return a note for each count that is not 0."""
    return [f"{what}: {count}" for what, count in counts.items() if count]


def short_repr(value: object) -> str:
    """Return the ``repr`` of a value, truncated for use in an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        VidretError: The file cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VidretError(f"{path}: cannot be read: {error.strerror}") from error
    if content.startswith(b"\x1f\x8b"):
        raise VidretError(f"{path}: must be text, got a file that gzip compressed")
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
            rule = f"header must have the columns {', '.join(columns)}, but lacks {', '.join(missing)}"
            raise VidretError(f"{path}:1: {rule}, got {short_repr(','.join(header))}")
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
    return _list_objects(path, _read_json(path))


def read_object_or_objects(path: Path) -> AnnotationRow | Iterator[AnnotationRow]:
    """Return the object in a JSON file, or the objects of its list."""
    value = _read_json(path)
    return annotation_row(str(path), value) if isinstance(value, dict) else _list_objects(path, value)


def _list_objects(path: Path, value: object) -> Iterator[AnnotationRow]:
    if not isinstance(value, list):
        raise VidretError(f"{path}: must be a list of objects, got {type(value).__name__}")
    return annotation_rows(str(path), value)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of plain values only. It refuses any class or function, so that a file cannot run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it needs {module_name}.{global_name}, and may hold plain values only")


def read_pickled_texts(path: Path) -> AnnotationRow:
    """Return a pickled dict from names to texts, which may be lists of words.

    Raises:
        VidretError: The file cannot be read, or holds other than plain values.
    """
    try:
        with path.open("rb") as file:
            values: Any = _PlainUnpickler(file, encoding="utf-8").load()
    except Exception as error:  # damaged files can raise anything
        raise VidretError(f"{path}: cannot be read as a pickle: {error}") from error
    if not isinstance(values, dict):
        raise VidretError(f"{path}: must hold a dict of texts by name, got {type(values).__name__}")
    row = AnnotationRow(str(path), values)
    return AnnotationRow(row.location, {name: [_join_words(text) for text in row.items(name)] for name in row.values})


def _join_words(text: object) -> object:
    is_words = isinstance(text, list) and all(isinstance(word, str) for word in text)
    return " ".join(text) if is_words else text  # type: ignore[arg-type]


def read_named_objects(path: Path) -> Iterator[tuple[str, AnnotationRow]]:
    """Yield the key and the object of each item of a JSON file that holds an object of objects."""
    for name, value in read_object(path).values.items():
        yield name, annotation_row(f"{path}[{name}]", value)


def _read_json(path: Path) -> Any:
    return _parse_json(read_text(path), str(path))


def _parse_json(text: str, location: str) -> Any:
    """Parse JSON. Duplicate keys are refused, since one of the two values would be lost."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        where = f"{location}:{error.lineno}" if text.count("\n") else location
        raise VidretError(f"{where}: must be valid JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise VidretError(f"{location}: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)} in an object")
    return values
