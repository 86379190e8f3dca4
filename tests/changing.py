"""JSON that is not as it should be."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any


def change_each(value: Any, values: Sequence[Any]) -> Iterator[Any]:
    """Yield copies of a JSON value with each part of it replaced by each of some values, or left out, one at a time."""
    yield from values
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(parts):
        for changed in change_each(part, values):
            other = copy.copy(value)
            other[key] = changed
            yield other
        other = copy.copy(value)
        del other[key]
        yield other
