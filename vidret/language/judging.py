"""Reranking the best hits with a language model, in windows that slide from the last candidate to the first.

Sources: FIRST (arXiv 2406.15657) and RankGPT for windows; permutation self-consistency (arXiv 2310.07712).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from vidret.errors import VidretError
from vidret.language.answers import format_clock
from vidret.store.records import StoredVideo
from vidret.text import file_name, sanitize
from vidret.types import Hit, TimedText, VideoName
from vidret.video.files import FileStat, choose_existing, stat_file
from vidret.video.workers.image_pool import ImagePool

MAX_WORDS = 300  # of one candidate, as FIRST cuts passages
SEED = 0  # of the shuffles
NEAR_S = 15.0  # words this far from the best segment belong to a candidate
DrawHit = Callable[[Hit], tuple[bytes, ...]]


class JudgedEngine(Protocol):
    """The part of an engine that judging needs; ``Engine`` and ``RemoteEngine`` have it."""

    def transcript(self, video: VideoName) -> list[TimedText]:
        """Return what is said and shown in a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A hit as text, and as frames for an endpoint that sees."""

    name: str
    text: str
    frames: tuple[bytes, ...] = ()


def describe_hit(engine: JudgedEngine, hit: Hit) -> Candidate:
    """Return a hit as text: the texts that match the query, then those near its best segment, by time."""
    matching = [(evidence.start, evidence.source, evidence.text) for evidence in hit.evidence if evidence.text]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's order of candidates.

    Attributes:
        order: Indices of all candidates, best first.
        reasons: Why, by index; not all candidates need one.
    """

    order: tuple[int, ...]
    reasons: dict[int, str]


class Judge(Protocol):
    """Orders candidates by how well they match a query."""

    @property
    def name(self) -> str:
        """The name of the judge in messages."""

    def judge(self, query: str, candidates: Sequence[Candidate]) -> Verdict:
        """Order candidates.

        Raises:
            VidretError: It cannot.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """Options for judging candidates.

    Attributes:
        top: Number of best hits that are judged; the others stay behind them.
        window: Candidates that the judge sees at a time.
        step: Number of candidates by which each window is before the previous one.
        permutations: Number of shuffled orders in which each window is judged; the mean ranks decide.
    """

    top: int = 20
    window: int = 10
    step: int = 5
    permutations: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.top <= 100 or not 2 <= self.window <= 100:
            raise VidretError(f"top must be in 1 to 100 and window in 2 to 100, got {self.top} and {self.window}")
        if not 1 <= self.step < self.window:
            raise VidretError(f"step must be at least 1 and less than window, got {self.step} and {self.window}")
        if not 1 <= self.permutations <= 20:
            raise VidretError(f"permutations must be in 1 to 20, got {self.permutations}")


DEFAULT_JUDGING = JudgeOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedHit:
    """A hit, its rank before it was judged, from 1 on, and the reason for its rank, if the judge gave one."""

    hit: Hit
    old_rank: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedHits:
    """Hits in the order of a judge, or in their own with a note about the failure."""

    hits: tuple[JudgedHit, ...]
    note: str = ""


def judge_hits(
    engine: JudgedEngine,
    query: str,
    hits: Sequence[Hit],
    judge: Judge,
    options: JudgeOptions = DEFAULT_JUDGING,
    *,
    draw: DrawHit | None = None,
) -> JudgedHits:
    """Return hits in the order of a judge. If anything fails, their order stays, and a note says why.

    ``draw`` returns the frames of a hit, for a judge that sees.
    """
    try:
        candidates = [describe_hit(engine, hit) for hit in hits[: options.top]]
        if draw is not None:
            candidates = [
                replace(candidate, frames=draw(hit)) for candidate, hit in zip(candidates, hits, strict=False)
            ]
        verdict = judge_in_windows(query, candidates, judge, options)
    except VidretError as error:
        note = f"{judge.name} judged nothing, so results keep the order of the search: {error}"
        return JudgedHits(hits=keep_order(hits), note=note)
    order = [*verdict.order, *range(len(candidates), len(hits))]
    judged = [JudgedHit(hit=hits[at], old_rank=at + 1, reason=verdict.reasons.get(at, "")) for at in order]
    return JudgedHits(hits=tuple(judged))


def keep_order(hits: Sequence[Hit]) -> tuple[JudgedHit, ...]:
    """Return hits in their own order."""
    return tuple(JudgedHit(hit=hit, old_rank=at) for at, hit in enumerate(hits, start=1))


def judge_in_windows(query: str, candidates: Sequence[Candidate], judge: Judge, options: JudgeOptions) -> Verdict:
    """Order candidates in windows: the last ones first, so that a good one can rise from window to window."""
    order, reasons = list(range(len(candidates))), dict[int, str]()
    for start, end in slide_windows(len(candidates), options.window, options.step):
        shown = order[start:end]
        verdict = judge_shuffled(query, [candidates[at] for at in shown], judge, options.permutations)
        order[start:end] = [shown[at] for at in verdict.order]
        reasons |= {shown[at]: reason for at, reason in verdict.reasons.items()}
    return Verdict(order=tuple(order), reasons=reasons)


def slide_windows(count: int, window: int, step: int) -> list[tuple[int, int]]:
    """Return the start and end of each window, from the last to the first; none for fewer than two candidates.

    >>> slide_windows(20, 10, 5)
    [(10, 20), (5, 15), (0, 10)]
    """
    if count < 2:
        return []
    windows = []
    for start in range(count - window, -step, -step):
        windows.append((max(0, start), max(0, start) + min(window, count)))
        if start <= 0:
            break
    return windows or [(0, count)]


def judge_shuffled(query: str, candidates: Sequence[Candidate], judge: Judge, permutations: int) -> Verdict:
    """Judge candidates in their order and in further, shuffled ones, and order them by their mean ranks."""
    rng, orders, reasons = random.Random(SEED), list[list[int]](), dict[int, str]()
    for permutation_index in range(permutations):
        shown = list(range(len(candidates)))
        if permutation_index:
            rng.shuffle(shown)
        verdict = judge.judge(query, [candidates[at] for at in shown])
        if sorted(verdict.order) != list(range(len(candidates))):
            raise VidretError(f"{judge.name}: must order {len(candidates)} candidates, got {verdict.order}")
        orders.append([shown[at] for at in verdict.order])
        reasons = {shown[at]: reason for at, reason in verdict.reasons.items()} | reasons
    return Verdict(order=tuple(merge_orders(orders)), reasons=reasons)


def merge_orders(orders: Sequence[Sequence[int]]) -> list[int]:
    """Return the items of several orders by their mean rank (Borda); equal ones by number.

    >>> merge_orders([[0, 1, 2], [2, 0, 1], [0, 2, 1]])
    [0, 2, 1]
    """
    ranks = dict.fromkeys(range(len(orders[0])), 0)
    for order in orders:
        for rank, item in enumerate(order):
            ranks[item] += rank
    return sorted(ranks, key=lambda item: (ranks[item], item))


def _choose_file(video: StoredVideo) -> tuple[str, FileStat | None]:
    return choose_existing(video.paths), None


class FileFrames:
    """Draws frames of files. A context manager, whose decoding process starts with the first frame.

    ``choose`` returns the file of a video: its path, and its status if that is known.
    """

    def __init__(self, choose: Callable[[StoredVideo], tuple[str, FileStat | None]] = _choose_file) -> None:
        self._pool, self._choose = ImagePool(1), choose

    def draw(self, video: StoredVideo, time_s: float, width: int) -> bytes:
        """Return a JPEG of the frame nearest to a time, at most ``width`` pixels wide.

        Raises:
            DecodeError: The frame cannot be decoded.
        """
        path, status = self._choose(video)
        return self._pool.draw_frame(path, status or stat_file(path), min(time_s, video.duration), width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()
