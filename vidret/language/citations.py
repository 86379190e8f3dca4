"""Answers whose citations are checked: only moments that were retrieved may be cited."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vidret.language.endpoint import ChatEndpoint
from vidret.language.prompt import NOT_SHOWN, format_span, write_messages
from vidret.language.retrieval import ContextMoment, QuestionContext

NOTHING = "The videos do not show it."
MAX_ANSWER = 8_000  # characters
# [1], [1, 2], [1-3], [moment 1] and what looks like it
_CITATION = re.compile(r"\s?\[\s*(?:moments?\s*)?(\d+(?:\s*[,;\u2013-]\s*\d+)*)\s*\]", re.I)
STEPS = 200  # of a text that grows: it is checked again once it is this much longer than it was
MAX_OPEN = 60  # characters of a citation that is not complete
_UNSAFE = re.compile(r"[^\S\n]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CitedAnswer:
    """The answer to a question.

    Attributes:
        text: What a model answered, without wrong citations; or that the videos do not show it.
        is_shown: Whether the videos show it, by the model's account.
        cited: The moments that the text cites, by number.
        context: What the model was given.
        notes: What was removed or is missing.
    """

    text: str
    is_shown: bool
    cited: tuple[ContextMoment, ...]
    context: QuestionContext
    notes: tuple[str, ...] = ()


def answer_question(context: QuestionContext, endpoint: ChatEndpoint) -> CitedAnswer:
    """Ask a model about what was retrieved, and check what it cites. Without moments no model is asked.

    Raises:
        EndpointError: The endpoint does not answer.
    """
    if not context.moments:
        return CitedAnswer(text=NOTHING, is_shown=False, cited=(), context=context, notes=context.notes)
    return check_citations(context, endpoint.complete(write_messages(context)))


def stream_answer(context: QuestionContext, endpoint: ChatEndpoint) -> Iterator[str | CitedAnswer]:
    """Ask a model as ``answer_question`` does, and yield the text as it grows, then the answer.

    A text that grows has no wrong citation, and ends before one that is not complete.

    Raises:
        EndpointError: As in ``answer_question``.
    """
    if not context.moments:
        yield answer_question(context, endpoint)
        return
    reply, shown, checked = "", "", 0
    for piece in endpoint.stream(write_messages(context)):
        reply += piece
        if len(reply) > MAX_ANSWER or len(reply) - checked < len(reply) // STEPS:
            continue
        checked = len(reply)
        text = _drop_open_citation(reply)
        if not NOT_SHOWN.startswith(text.strip(" \n*.").upper()):
            grown = check_citations(context, text).text
            if grown != shown:
                shown = grown
                yield shown
    yield check_citations(context, reply)


def check_citations(context: QuestionContext, reply: str) -> CitedAnswer:
    """Return a model's reply without the citations of moments that it was not given."""
    text = reply.strip()
    notes = list(context.notes)
    if len(text) > MAX_ANSWER:
        notes.append(f"the answer was cut after {MAX_ANSWER} characters")
    text = _UNSAFE.sub(" ", text[:MAX_ANSWER]).strip()
    if re.fullmatch(rf"\W*{NOT_SHOWN}\W*", text, re.I):
        return CitedAnswer(text=NOTHING, is_shown=False, cited=(), context=context, notes=tuple(notes))
    known = {moment.number: moment for moment in context.moments}
    cited: set[int] = set()
    wrong: list[int] = []

    def check(match: re.Match[str]) -> str:
        numbers = _list_numbers(match[1])
        right = [number for number in numbers if number in known]
        cited.update(right)
        wrong.extend(number for number in numbers if number not in known)
        space = match[0][: len(match[0]) - len(match[0].lstrip())]
        return space + "".join(f"[{number}]" for number in right) if right else ""

    text = _CITATION.sub(check, text).strip()
    if wrong:
        listed = ", ".join(str(number) for number in sorted(set(wrong))[:10])
        notes.append(f"removed citations of moments that were not retrieved: {listed}")
    if not cited:
        notes.append("the answer cites no moment that was retrieved, so nothing supports it")
    moments = tuple(known[number] for number in sorted(cited))
    return CitedAnswer(text=text, is_shown=True, cited=moments, context=context, notes=tuple(notes))


def describe_citation(moment: ContextMoment) -> str:
    """Return a line such as ``[1] door.mp4 00:42-00:51``."""
    return f"[{moment.number}] {moment.name} {format_span(moment.start, moment.end)}"


def _drop_open_citation(text: str) -> str:
    """Return a text that grows without a citation at its end that is not complete.

    >>> _drop_open_citation("It opens [1] [mom"), _drop_open_citation("It opens [1] ")
    ('It opens [1]', 'It opens [1]')
    """
    start = text.rfind("[", -MAX_OPEN - 1)
    return (text if start < 0 or "]" in text[start:] else text[:start]).rstrip()


def _list_numbers(text: str) -> list[int]:
    """Return the numbers of a citation; a range stands for its ends and what is between, up to a hundred.

    >>> _list_numbers("1, 3-5")
    [1, 3, 4, 5]
    """
    numbers: list[int] = []
    for piece in re.split("[,;]", text):
        ends = [int(each.strip()[:9]) for each in re.split("[\u2013-]", piece)]
        numbers += range(ends[0], ends[-1] + 1) if 0 <= ends[-1] - ends[0] <= 100 else ends
    return numbers
