"""Tests of ``tools/measure_ask.py``: its questions have their answers in one film, and its hits cover them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tool_loading import load_tool
from vidret.language.retrieval import ContextMoment, QuestionContext

TOOL = Path(__file__).parents[2] / "tools" / "measure_ask.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("measure_ask")


def make_event(kind: str, name: str, text: str) -> dict[str, Any]:
    return {"type": kind, "id": name, "text": text, "window": [4.0, 10.0], "visible": [[4.0, 10.0]]}


def test_questions_are_about_events_of_one_film(tool: Any) -> None:
    shared = make_event("text", "t1", "Mind the gap between train and platform")
    own = make_event("text", "t2", "Closed on Mondays and public holidays")
    picture = make_event("picture", "p1", "a cat on a roof")
    hidden = {**make_event("picture", "p2", "a dog in the snow"), "visible": []}
    films = [{"file": "a.mp4", "events": [shared, own]}, {"file": "b.mp4", "events": [shared, picture, hidden]}]
    asked = tool.make_questions(films, 60, 0)
    assert [(each.kind, each.file) for each in asked] == [("text", "a.mp4"), ("picture", "b.mp4")]
    assert "closed mondays public holidays" in asked[0].question
    assert "a cat on a roof" in asked[1].question
    assert tool.make_questions(films, 60, 0) == asked


@pytest.mark.parametrize(
    ("file", "start", "end", "is_found"),
    [("a.mp4", 7.0, 19.0, True), ("a.mp4", 7.1, 19.0, False), ("b.mp4", 4.0, 10.0, False), ("a.mp4", 3.0, 8.0, True)],
)
def test_half_of_the_window_must_be_covered(tool: Any, file: str, start: float, end: float, is_found: bool) -> None:
    moment = ContextMoment(number=1, video=1, path=f"/films/{file}", start=start, end=end)
    context = QuestionContext(question="who", queries=(), moments=(moment,))
    assert tool.is_found(context, tool.Asked("who", "text", "a.mp4", (4.0, 10.0)), 12.0) is is_found


def test_long_window_needs_half_of_the_longest_moment(tool: Any) -> None:
    moment = ContextMoment(number=1, video=1, path="/a.mp4", start=0.0, end=6.0)
    context = QuestionContext(question="who", queries=(), moments=(moment,))
    assert tool.is_found(context, tool.Asked("who", "text", "a.mp4", (0.0, 60.0)), 12.0)


def test_budget_holds_the_moments_that_fit(tool: Any) -> None:
    def gather(size: int) -> QuestionContext:
        moments = [
            ContextMoment(number=at + 1, video=1, path="/a.mp4", start=20.0 * at, end=20.0 * at + 9)
            for at in range(min(size, 8))
        ]
        return QuestionContext(question="who", queries=(), moments=tuple(moments))

    one, two = (tool.count_tokens(gather(size), 0) for size in (1, 2))
    assert one == -(-len('[1] file "a.mp4" 00:00-00:09\n') // tool.CHARACTERS)
    assert tool.count_tokens(gather(1), 2) == one + 2 * tool.IMAGE
    assert len(tool.fill_budget(gather, two, 0).moments) == 2
    assert len(tool.fill_budget(gather, two - 1, 0).moments) == 1
    assert tool.fill_budget(gather, one - 1, 0) is None
    assert len(tool.fill_budget(gather, 10_000, 2).moments) == 8


def test_written_questions_are_as_many_of_each_type(tool: Any) -> None:
    asked = tool.read_questions(TOOL.with_name("ask_questions.jsonl"))
    assert Counter(each.kind for each in asked) == dict.fromkeys(tool.TEMPLATES, 20)
    assert len({each.question for each in asked}) == len(asked)
    assert all(0 <= each.window[0] < each.window[1] for each in asked)
