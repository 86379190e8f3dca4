"""What a judge is told about a hit: the file's name, and what is said, shown and described around its best frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vidret.answers.prompt import format_clock
from vidret.store.records import StoredVideo
from vidret.text import file_name, sanitize
from vidret.types import Hit, TextSource, TimedText, VideoName

MAX_WORDS = 300  # of one candidate, as FIRST cuts passages
NEAR_S = 15.0  # words this far from the best segment belong to a candidate


class JudgedEngine(Protocol):
    """What a judge asks of an index: ``Engine`` and ``RemoteEngine`` have it."""

    def transcript(self, video: VideoName, sources: Sequence[TextSource] | None = None) -> list[TimedText]:
        """Return what is said and shown in a video."""

    def video(self, video: int) -> StoredVideo:
        """Return a video by its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A hit as text, and as frames for an endpoint that sees."""

    name: str
    text: str
    frames: tuple[bytes, ...] = ()


def describe_hit(engine: JudgedEngine, hit: Hit) -> Candidate:
    """Return a hit as text: what matches the query first, then what is near its best segment, by time."""
    matching = [(each.start, each.source, each.text) for each in hit.evidence if each.text]
    near = [
        (text.start, text.source, text.text)
        for text in engine.transcript(hit.video)
        if text.end > hit.segment.start - NEAR_S and text.start < hit.segment.end + NEAR_S
    ]
    lines = dict.fromkeys([*matching, *sorted(near)])
    words = " / ".join(f"{format_clock(start)} {source}: {text}" for start, source, text in lines)
    return Candidate(name=sanitize(file_name(hit.path)), text=cut_words(sanitize(" ".join(words.split())), MAX_WORDS))


def cut_words(text: str, count: int) -> str:
    """Return at most ``count`` words of a text, with an ellipsis if some are left out.

    >>> cut_words("a b c", 2)
    'a b …'
    """
    words = text.split(" ")
    return text if len(words) <= count else " ".join([*words[:count], "…"])


def write_passage(candidate: Candidate, count: int = MAX_WORDS) -> str:
    """Return a candidate as one line. Brackets become parentheses, so that nothing in it looks like a label."""
    line = cut_words(f"{candidate.name}: {candidate.text}", count)
    return line.translate(str.maketrans("[]<>", "()()"))
