"""Replies of language models that are made to keep a process busy: they are read in time linear in their length."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.chatting import run_chat, stream
from tests.growth import assert_linear
from vidret.corpus.prompt_alignment import write_questions
from vidret.endpoints.transport import EndpointError
from vidret.language.answers import MAX_ANSWER, CitedAnswer, check_citations, stream_answer
from vidret.language.describing import read_description
from vidret.language.endpoint import MAX_REPLY, ChatEndpoint, drop_thoughts
from vidret.language.judges import read_verdict
from vidret.language.questions import read_written_queries, split_questions, strip_interrogatives
from vidret.language.retrieval import ContextMoment, QuestionContext

MOMENT = ContextMoment(number=1, video=1, path="/films/a.mp4", start=0.0, end=3.0)
CONTEXT = QuestionContext(question="who is it?", queries=(), moments=(MOMENT,))


class Speaker(ChatEndpoint):
    """An endpoint that says one thing."""

    def complete(self, messages: object, **_options: object) -> str:
        return str(self.model)

    def stream(self, messages: object, **_options: object) -> object:  # type: ignore[override]
        yield from (self.model[at : at + 400] for at in range(0, len(self.model), 400))


class Letters(Speaker):
    """An endpoint that says one letter at a time."""

    def stream(self, messages: object, **_options: object) -> object:  # type: ignore[override]
        yield from self.model


def say(text: str) -> Speaker:
    return Speaker(url="http://127.0.0.1/v1", model=text)


def answer(text: str) -> None:
    with suppress(EndpointError):  # of thoughts only
        list(stream_answer(CONTEXT, say(text)))


def write(text: str) -> None:
    with pytest.raises(EndpointError):
        write_questions(say(text), "a car")


def plan(text: str) -> None:
    for question in split_questions(text):
        strip_interrogatives(question)


READERS: dict[str, Callable[[str], object]] = {
    "answer": lambda text: check_citations(CONTEXT, text),
    "stream": answer,
    "verdict": lambda text: read_verdict(text, 3),
    "queries": read_written_queries,
    "description": read_description,
    "questions": write,
    "plan": plan,
}
HOSTILE: dict[str, Callable[[int], str]] = {
    "spaces": lambda length: "x" + " " * length + "x",
    "newlines": lambda length: "\n" * length + "x [7]",
    "thoughts": lambda length: "<think>" * (length // 7),
    "ends of thoughts": lambda length: "</think" * (length // 7),
    "brackets": lambda length: "[" * length,
    "open citations": lambda length: "[1" * (length // 2),
    "wide citation": lambda length: "[1" + " " * length + "-2",
    "fields": lambda length: "entity |" + " x" * (length // 2),
    "wide field": lambda length: "entity |" + " " * length + "x",
    "commas": lambda length: ", " * (length // 2) + "x",
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_time_is_linear_in_the_length(reader: str, text: str) -> None:
    assert_linear(READERS[reader], HOSTILE[text])


def test_long_answer_grows_until_it_is_cut() -> None:
    pieces = [f"{index:04} " for index in range(2 * MAX_ANSWER // 5)]
    with run_chat(lambda _: stream(*pieces)) as chat:
        *grown, last = stream_answer(CONTEXT, ChatEndpoint(url=chat.url, model="m"))
    assert isinstance(last, CitedAnswer)
    assert len(last.text) <= MAX_ANSWER
    assert 0.99 * len(last.text) < max(len(str(text)) for text in grown) <= len(last.text)
    assert last.notes[0] == f"the answer was cut after {MAX_ANSWER} characters"


def test_answer_of_single_letters_is_checked_in_few_steps() -> None:
    steps = list(stream_answer(CONTEXT, Letters(url="http://127.0.0.1/v1", model="a" * MAX_ANSWER)))
    assert len(steps) < MAX_ANSWER / 5
    assert [len(str(text)) for text in steps[:100]] == list(range(1, 101))


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("<think>a</think>b<THINK>c</THINK>d", "bd"),
        ("begun in the prompt</think> b", "b"),
        ("b <think>cut off", "b"),
        ("<think>a<think>b</think>c", "c"),
        ("<think>" + "a" * 900_000 + "</think> b", "b"),
        ("a" * 900_000, "a" * MAX_REPLY),
    ],
)
def test_thoughts_are_dropped(reply: str, kept: str) -> None:
    assert drop_thoughts(reply) == kept


def test_reason_is_on_the_line_of_its_label() -> None:
    verdict = read_verdict("[2]\n[1] a dog\n\n[3]:\n", 3)
    assert verdict is not None
    assert (verdict.order, verdict.reasons) == ((1, 0, 2), {0: "a dog"})
