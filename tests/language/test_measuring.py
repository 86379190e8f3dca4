"""Tests of ``tools/measure_films.py``: its questions have their answers in one film, and its hits cover them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tool_loading import load_tool
from vidret.language.retrieval import ContextMoment, QuestionContext

TOOL = Path(__file__).parents[2] / "tools" / "measure_films.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("measure_films")


def make_event(kind: str, name: str, text: str) -> dict[str, Any]:
    return {"type": kind, "id": name, "text": text, "window": [4.0, 10.0], "visible": [[4.0, 10.0]]}


def test_questions_are_about_events_of_one_film(tool: Any) -> None:
    shared = make_event("text", "t1", "Mind the gap between train and platform")
    unshared = make_event("text", "t2", "Closed on Mondays and public holidays")
    picture = make_event("picture", "p1", "a cat on a roof")
    hidden = {**make_event("picture", "p2", "a dog in the snow"), "visible": []}
    films = [{"file": "a.mp4", "events": [shared, unshared]}, {"file": "b.mp4", "events": [shared, picture, hidden]}]
    asked = tool.make_questions(films, 60, 0)
    assert [(question.kind, question.file) for question in asked] == [("text", "a.mp4"), ("picture", "b.mp4")]
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
    assert tool.is_found(context, tool.Asked("who", "text", "a.mp4", (4.0, 10.0))) is is_found


def test_long_window_needs_half_of_the_longest_moment(tool: Any) -> None:
    moment = ContextMoment(number=1, video=1, path="/a.mp4", start=0.0, end=6.0)
    context = QuestionContext(question="who", queries=(), moments=(moment,))
    assert tool.is_found(context, tool.Asked("who", "text", "a.mp4", (0.0, 60.0)))


def test_written_questions_are_as_many_of_each_type(tool: Any) -> None:
    asked = tool.read_questions(TOOL.with_name("ask_questions.jsonl"))
    assert Counter(question.kind for question in asked) == dict.fromkeys(tool.TEMPLATES, 20)
    assert len({question.question for question in asked}) == len(asked)
    assert all(0 <= question.window[0] < question.window[1] for question in asked)
