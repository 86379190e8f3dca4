"""Events in order as an object: what is accepted, and what is refused in one sentence."""

from typing import Any

import pytest

from vidret import Sequence, VidretError
from vidret.search.query.grammar import interpret
from vidret.types import MAX_EVENTS


def test_lists_are_kept_as_tuples() -> None:
    sequence = Sequence(["a", ["b", "c"]], gap=2)
    assert sequence.events == ("a", ("b", "c"))
    assert sequence == Sequence(("a", ("b", "c")), gap=2)
    assert hash(sequence) == hash(Sequence(("a", ("b", "c")), gap=2))


@pytest.mark.parametrize(
    ("events", "gap", "rule"),
    [
        ([], None, "events must be texts"),
        (["a", ""], None, "events must be texts"),
        (["a", []], None, "events must be texts"),
        (["a"] * (MAX_EVENTS + 1), None, "at most 8 events, got 9"),
        (["a", ["b"] * MAX_EVENTS], None, "at most 8 events, got 9"),
        (["a", "b"], -1, "gap must be at least 0"),
        (["a", "b"], float("nan"), "gap must be at least 0"),
        (["a", 7], None, "events must be texts"),
        ([5], None, "events must be texts"),
        ([["a", ["b"]]], None, "events must be texts"),
        ("dog", None, "events must be texts with a word each, got 'dog'"),
        (None, None, "events must be texts"),
    ],
)
def test_wrong_events_are_refused(events: Any, gap: float | None, rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        interpret(Sequence(events, gap))
