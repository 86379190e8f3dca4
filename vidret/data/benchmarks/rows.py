"""One record of an annotation file, with its location and checked access to its values."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
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
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
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
        if not set(map(type, flat)) <= {int, float} or not math.isfinite(sum(flat)):
            for index, score in enumerate(flat):
                self.check_number(f"{name}[{index // len(value[0])}]", score)
        return tuple(tuple(map(float, scores)) for scores in value)

    def check_unique(self, kind: str, name: str, locations: dict[str, str]) -> str:
        """Return ``name`` if no earlier record has it, and add this record to ``locations``."""
        if name in locations:
            raise self.error(f"{kind} {name} must be unique, but is already at {locations[name]}")
        locations[name] = self.location
        return name


def annotation_rows(location: str, values: list[Any]) -> Iterator[AnnotationRow]:
    """Yield a row for each JSON object of a list.

    Raises:
        VidretError: An item is not an object.
    """
    for index, value in enumerate(values):
        yield annotation_row(f"{location}[{index}]", value)


def annotation_row(location: str, value: object) -> AnnotationRow:
    """Return a row for a JSON object.

    Raises:
        VidretError: The value is not an object.
    """
    if not isinstance(value, dict):
        raise VidretError(f"{location}: must be a JSON object, got {short_repr(value)}")
    return AnnotationRow(location, value)


def short_repr(value: object, length: int = 60) -> str:
    """Return the ``repr`` of a value, truncated for use in an error message."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
