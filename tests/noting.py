"""Notes the calls of a function, which goes on as ever."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def note_calls(patch: pytest.MonkeyPatch, owner: object, name: str, note: Callable[..., T]) -> list[T]:
    """Return a list to which each call of an attribute adds what ``note`` makes of the arguments."""
    notes, run = list[T](), getattr(owner, name)

    def run_noted(*arguments: Any, **options: Any) -> Any:
        notes.append(note(*arguments, **options))
        return run(*arguments, **options)

    patch.setattr(owner, name, run_noted)
    return notes
