"""One record of an annotation file, and where it stands: values are asked for by name, and checked when they are."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from vidret.data.records import Times
from vidret.errors import VidretError


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """A record: ``place`` is where it stands, ``file:line`` or inside a JSON file ``file[key][number]``."""

    place: str
    values: Mapping[str, Any]

    def refuse(self, reason: str) -> VidretError:
        """Say what is wrong with this record."""
        return VidretError(f"{self.place}: {reason}")

    def take(self, name: str) -> Any:
        """Give a value that must be there."""
        if name not in self.values:
            raise self.refuse(f"{name} is missing")
        return self.values[name]

    def text(self, name: str) -> str:
        """Give a text that says something, as it is written."""
        return self.check_text(name, self.take(name))

    def name(self, name: str) -> str:
        """Give what names something: a text without blanks around it, or a whole number as text."""
        value = self.take(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.check_text(name, value).strip()

    def number(self, name: str) -> float:
        """Give a number that is finite."""
        return self.check_number(name, self.take(name))

    def items(self, name: str) -> list[Any]:
        """Give a list."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.refuse(f"{name} must be a list, got {short_repr(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        """Give a list of texts; there must be one."""
        values = self.items(name)
        if not values:
            raise self.refuse(f"{name} must hold a text, got none")
        return [self.check_text(f"{name}[{number}]", value) for number, value in enumerate(values)]

    def rows(self, name: str) -> Iterator["AnnotationRow"]:
        """Give the records of a list."""
        return annotation_rows(f"{self.place}[{name}]", self.items(name))

    def check_text(self, name: str, value: object) -> str:
        """Refuse what is no text, or an empty one."""
        if not isinstance(value, str) or not value.strip():
            raise self.refuse(f"{name} must be a text that is not empty, got {short_repr(value)}")
        return value

    def check_number(self, name: str, value: object) -> float:
        """Refuse what is no number, NaN and infinities."""
        if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
            raise self.refuse(f"{name} must be a finite number, got {short_repr(value)}")
        return float(value)  # type: ignore[arg-type]

    def check_times(self, name: str, value: object, *, may_be_empty: bool = False) -> Times:
        """Refuse what is no start and end in order, from 0 on."""
        if not isinstance(value, list) or len(value) != 2:
            raise self.refuse(f"{name} must be a start and an end, got {short_repr(value)}")
        start, end = (self.check_number(name, time) for time in value)
        if start < 0 or start > end or (start == end and not may_be_empty):
            raise self.refuse(f"{name} must start at 0 or later and end after its start, got {start:g} to {end:g}")
        return start, end

    def check_marks(self, name: str, value: object, number: int) -> tuple[tuple[float, ...], ...]:
        """Refuse what is no table of ``number`` rows, one for each clip, with one finite number for each annotator."""
        if not isinstance(value, list) or len(value) != number:
            length = len(value) if isinstance(value, list) else 0
            raise self.refuse(f"{name} must hold a list for each of {number} clips, got {length}")
        for clip, marks in enumerate(value):
            if not isinstance(marks, list) or not marks or len(marks) != len(value[0]):
                raise self.refuse(f"{name}[{clip}] must hold a number for each annotator, got {short_repr(marks)}")
        flat = list(chain.from_iterable(value))
        if not set(map(type, flat)) <= {int, float} or not math.isfinite(
            sum(flat)
        ):  # one sum is quicker than each test
            for number, mark in enumerate(flat):
                self.check_number(f"{name}[{number // len(value[0])}]", mark)
        return tuple(tuple(map(float, marks)) for marks in value)

    def once(self, what: str, name: str, seen: dict[str, str]) -> str:
        """Refuse a name that an earlier record has, and remember it."""
        if name in seen:
            raise self.refuse(f"{what} {name} is at {seen[name]} already")
        seen[name] = self.place
        return name


def annotation_rows(place: str, values: list[Any]) -> Iterator[AnnotationRow]:
    """Make records of a list's objects."""
    for number, value in enumerate(values):
        yield annotation_row(f"{place}[{number}]", value)


def annotation_row(place: str, value: object) -> AnnotationRow:
    """Make a record of an object."""
    if not isinstance(value, dict):
        raise VidretError(f"{place}: must be an object with named values, got {short_repr(value)}")
    return AnnotationRow(place, value)


def short_repr(value: object, length: int = 60) -> str:
    """Write a value so that it fits into a sentence."""
    written = repr(value)
    return written if len(written) <= length else f"{written[:length]}..."
