"""How good a search of videos by text is: recalls and ranks in both directions, as rows of a table.

    t2v, v2t = evaluate(scores)                       # text i is of video i
    t2v, v2t = evaluate(scores, truth)                # several captions a video: truth[i] is the video of text i
    print(t2v.metrics.summary.recalls[1], json.dumps(t2v.to_dict()))

In every matrix rows are texts and columns are videos, whichever way it is searched. Corrected scores are rows of their
own: see ``vidret.metrics.corrected``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vidret.metrics.ranks import TILE_SIZE, BothWays, Ranks, ScoreTile, rank_matrix, rank_tiles

Direction: TypeAlias = Literal["t2v", "v2t"]
CUTS = (1, 5, 10, 50)
PLAIN = "plain"
TIES = (
    "Equal scores share their mean rank. R@K: per cent of ranks below K + 1; R@1: of ranks that are 1, so that a tie "
    "for the first place is no hit. MdR averages the two middle ranks of an even number, MdR_lower takes the lower. "
    "Ranks count from 1."
)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of ranks comes to.

    Attributes:
        recalls: For each K the share of queries with a hit among the first K, in per cent.
        median_rank: The median; of an even number of ranks the mean of the two in the middle.
        lower_median_rank: The lower of these two, which published multi-caption code reports.
        mean_rank: The mean.
        geometric_mean: The cube root of R@1 * R@5 * R@10.
    """

    recalls: dict[int, float]
    median_rank: float
    lower_median_rank: float
    mean_rank: float
    geometric_mean: float

    def to_dict(self) -> dict[str, float]:
        """Give the numbers by the names that papers use."""
        return {
            **{f"R@{k}": value for k, value in self.recalls.items()},
            "MdR": self.median_rank,
            "MdR_lower": self.lower_median_rank,
            "MnR": self.mean_rank,
            "geometric_mean": self.geometric_mean,
        }


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalMetrics:
    """The summary of one direction, by which rules, and the ranks behind it.

    Attributes:
        protocol: In words: what asks, what answers, and how ties count.
        ranks: The counts of each query.
        summary: Of the mean ranks of ties: the result.
        optimistic: What it would be if every tie were won.
        pessimistic: What it would be if every tie were lost.
    """

    protocol: str
    ranks: Ranks
    summary: Summary
    optimistic: Summary
    pessimistic: Summary

    def to_dict(self) -> dict[str, Any]:
        """Give what goes into a report; the bounds only where ties make them differ."""
        report: dict[str, Any] = {
            "protocol": self.protocol,
            "num_queries": len(self.ranks.queries),
            "gallery_size": self.ranks.gallery_size,
            "num_ties": self.ranks.num_ties,
            **self.summary.to_dict(),
        }
        if self.optimistic != self.pessimistic:
            report |= {"optimistic": self.optimistic.to_dict(), "pessimistic": self.pessimistic.to_dict()}
        return {**report, "queries": self.ranks.queries.tolist(), "ranks": self.ranks.mean.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a table of results: whose scores, which way, how good, and corrected with which bank."""

    label: str
    direction: Direction
    metrics: RetrievalMetrics
    bank: str | None = None

    def __post_init__(self) -> None:
        """Refuse a corrected row that does not say with what, and a plain one that does."""
        if not self.label or (self.label == PLAIN) != (self.bank is None) or self.bank == "":
            raise ValueError(
                f"a row must be {PLAIN} without a bank or corrected with a named one, got {self.label!r}, {self.bank!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Give what goes into a report."""
        return {"label": self.label, "direction": self.direction, "bank": self.bank, **self.metrics.to_dict()}


def hits(ranks: Float[np.ndarray, " query"], k: int) -> Bool[np.ndarray, " query"]:
    """Say which queries have their answer among the first k; a tie for the first place is no hit at 1."""
    found: Bool[np.ndarray, " query"] = ranks < k + 1 if k > 1 else ranks == 1
    return found


def summarise(ranks: Float[np.ndarray, " query"], cuts: Sequence[int] = CUTS) -> Summary:
    """Summarise ranks, counted from 1."""
    if not all(k >= 1 for k in cuts):
        raise ValueError(f"cuts must be at least 1, got {list(cuts)}")
    recalls = {k: 100 * float(hits(ranks, k).mean()) for k in {*cuts, 1, 5, 10}}
    ordered = np.sort(ranks)
    return Summary(
        recalls={k: recalls[k] for k in cuts},
        median_rank=float(np.median(ranks)),
        lower_median_rank=float(ordered[(len(ranks) - 1) // 2]),
        mean_rank=float(ranks.mean()),
        geometric_mean=float(np.cbrt(recalls[1] * recalls[5] * recalls[10])),
    )


def evaluate(
    scores: Shaped[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    text_mask: Bool[np.ndarray, " text"] | None = None,
    all_captions: bool = False,
    cuts: Sequence[int] = CUTS,
) -> tuple[Row, Row]:
    """Measure plain scores, from text to video and from video to text.

    Where videos have several captions, each is a query; from video to text a video asks for its best caption, among
    the best captions of all videos, or with ``all_captions`` among all captions of other videos.

    Args:
        scores: Of texts with videos, finite, higher is better.
        truth: Which video each text is of; text i is of video i unless given.
        text_mask: True where a text is real. The others neither ask nor answer; what they hold does not matter.
        all_captions: See above: two protocols, two different numbers.
        cuts: The K of R@K.

    Raises:
        VidretError: A score is not finite, or no text is real.
        ValueError: Shapes or types do not fit.
    """
    both = rank_matrix(scores, truth, text_mask=text_mask, all_captions=all_captions)
    return make_row(PLAIN, "t2v", both, cuts), make_row(PLAIN, "v2t", both, cuts)


def evaluate_tiles(
    score_tile: ScoreTile,
    truth: Int[np.ndarray, " text"],
    num_videos: int,
    *,
    all_captions: bool = False,
    cuts: Sequence[int] = CUTS,
    tile_size: tuple[int, int] = TILE_SIZE,
) -> tuple[Row, Row]:
    """Measure plain scores that are computed tile by tile, as ``evaluate`` does; see ``rank_tiles`` for the rest."""
    both = rank_tiles(score_tile, truth, num_videos, all_captions=all_captions, tile_size=tile_size)
    return make_row(PLAIN, "t2v", both, cuts), make_row(PLAIN, "v2t", both, cuts)


def make_row(label: str, direction: Direction, both: BothWays, cuts: Sequence[int], bank: str | None = None) -> Row:
    """Make a row of one of two directions."""
    ranks = both.t2v if direction == "t2v" else both.v2t
    metrics = RetrievalMetrics(
        protocol=f"{_describe(both, direction)} {TIES}",
        ranks=ranks,
        summary=summarise(ranks.mean, cuts),
        optimistic=summarise(ranks.optimistic, cuts),
        pessimistic=summarise(ranks.pessimistic, cuts),
    )
    return Row(label, direction, metrics, bank)


def _describe(both: BothWays, direction: Direction) -> str:
    """Say in words what asks and what answers."""
    texts, videos = len(both.t2v.queries), len(both.v2t.queries)
    if direction == "t2v":
        return f"Text to video: each of {texts} texts asks for its video among {both.t2v.gallery_size}."
    if texts == videos:
        return f"Video to text: each of {videos} videos asks for its text among {texts}."
    if both.v2t.gallery_size == texts:
        return f"Video to text: each of {videos} videos asks for its best caption among all {texts}."
    return f"Video to text: each of {videos} videos asks for its best caption among the best captions of {videos}."
