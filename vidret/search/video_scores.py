"""How well one video matches the clauses of a query over time, by channel."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64

from vidret.channels.base import Match
from vidret.ground.spans import Span
from vidret.types import Segment, Source

TOLERANCE_S = 0.6  # between a frame and a text that hold together; half the distance of two frames
ABSENT = -1000.0  # the score of what is not there, below that of anything which is


@dataclass(slots=True, eq=False)
class VideoScores:
    """How well one video matches each clause over time.

    Attributes:
        video_id: Id of the video.
        times: Points in time, in seconds, rising.
        pictures: Evidence of the pictures by clause and point.
        texts: The matching texts of each clause, best first.
        segments: The segments of the frames that were compared.
        score: The score of the video.
        time_s: Where it matches best, by clause.
        picture_spans: What a grounding head found for each clause; None without a head.
        cuts: Times in seconds at which new shots begin, if they were read.
        levels: What the score of the best segment is made of, by name, for one clause.
        line: As in ``VideoPictures``.
        typical: Evidence that unrelated queries reach in few segments; None if nothing tells.
    """

    video_id: int
    times: Float64[np.ndarray, " point"]
    pictures: Float[np.ndarray, "clause point"]
    texts: Sequence[Sequence[Match]]
    segments: Sequence[Segment]
    score: float = ABSENT
    time_s: tuple[float, ...] = ()
    picture_spans: list[list[Span]] | None = None
    cuts: tuple[float, ...] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    line: tuple[float, float] | None = None
    typical: float | None = None

    def source_scores(self, clause: int) -> dict[Source, float]:
        """Return the best evidence of each source for a clause."""
        return find_best(float(self.pictures[clause].max(initial=ABSENT)), self.texts[clause])

    def curve(self, clause: int) -> Float[np.ndarray, " point"]:
        """Return the score of a clause at each point, all sources together."""
        by_source = {match.source: np.full(len(self.times), ABSENT) for match in self.texts[clause]}
        for match in self.texts[clause]:
            first = np.searchsorted(self.times, match.start - TOLERANCE_S)
            last = np.searchsorted(self.times, match.end + TOLERANCE_S, side="right")
            scores = by_source[match.source][first:last]
            np.maximum(scores, match.evidence, out=scores)
        total: Float[np.ndarray, " point"] = np.logaddexp.reduce([self.pictures[clause], *by_source.values()], axis=0)
        return total


def make_video_scores(
    video_id: int,
    times: Float64[np.ndarray, " frame"],
    pictures: Float[np.ndarray, "clause frame"],
    texts: Sequence[Sequence[Match]],
    segments: Sequence[Segment],
) -> VideoScores:
    """Return the scores of a video at the times of its frames, and in the middle of texts without frames.

    There must be a frame or a text.
    """
    extra = [
        (match.start + match.end) / 2
        for clause in texts
        for match in clause
        if not _has_point(times, match.start, match.end)
    ]
    points = np.concatenate([times, extra])
    order = np.argsort(points, kind="stable")
    padded = np.concatenate([pictures, np.full((len(pictures), len(extra)), ABSENT)], axis=1)
    return VideoScores(video_id, points[order], padded[:, order], texts, segments)


def find_best(picture: float, matches: Sequence[Match]) -> dict[Source, float]:
    """Return the best evidence of each source."""
    best: dict[Source, float] = {"picture": picture}
    for match in matches:
        best[match.source] = max(best.get(match.source, ABSENT), match.evidence)
    return best


def sum_sources(best: Mapping[Source, float]) -> float:
    """Return the log-sum-exp of the best score of each source."""
    top = max(best.values())
    return top + math.log(sum(math.exp(score - top) for score in best.values()))


def _has_point(times: Float64[np.ndarray, " frame"], start_s: float, end_s: float) -> bool:
    first = int(np.searchsorted(times, start_s - TOLERANCE_S))
    return first < len(times) and bool(times[first] <= end_s + TOLERANCE_S)
