"""Text-video retrieval metrics: recalls and ranks in both directions, as rows of a table, and recall by gallery size.

    t2v, v2t = evaluate(scores)                       # text i describes video i
    t2v, v2t = evaluate(scores, truth)                # several captions per video: text i describes video truth[i]
    print(t2v.summary["R@1"], json.dumps(t2v.to_dict()))

In every matrix rows are texts and columns are videos, in both directions. Scores with hubness correction use
extra data, so every row names its query bank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from vidret.align.hubness import HubnessCorrection, dual_softmax
from vidret.errors import VidretError
from vidret.metrics.ranks import BidirectionalRanks, Ranks, check_scores, rank_matrix

Direction: TypeAlias = Literal["t2v", "v2t"]
CUTS = (1, 5, 10, 50)
PLAIN = "plain"
CONFIDENCE = 0.95  # level of the interval of recall in galleries of one size
MIN_GALLERY = 2  # videos
TIES = (
    "Ties by mean rank: equal scores share their mean rank. R@K: percentage of ranks of at most K, for each K, so that "
    "two answers that share the places K and K + 1 are misses. R-Sum: R@1 + R@5 + R@10. nDCG@10: mean of 100 / log2(1 "
    "+ rank) of the ranks up to 10, with one correct answer. For an even number of ranks, MdR is the mean of the "
    "middle two and MdR_lower the lower one. Ranks count from 1."
)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a table of results.

    Attributes:
        label: Name of the scores.
        direction: Text to video, or video to text.
        protocol: Description of the queries, the gallery, and the treatment of ties.
        ranks: Ranks of all queries.
        bank: Bank of queries used for hubness correction; None for plain scores.
    """

    label: str
    direction: Direction
    protocol: str
    ranks: Ranks
    bank: str | None = None

    @property
    def summary(self) -> dict[str, float]:
        """Return the result, with mean ranks for ties."""
        return summarise(self.ranks.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return the content for a report, with the optimistic and the pessimistic results if ties make them differ."""
        report: dict[str, Any] = {
            "label": self.label,
            "direction": self.direction,
            "bank": self.bank,
            "protocol": self.protocol,
            "num_queries": len(self.ranks.queries),
            "gallery_size": self.ranks.gallery_size,
            "num_ties": self.ranks.num_ties,
            **self.summary,
        }
        optimistic, pessimistic = summarise(self.ranks.optimistic), summarise(self.ranks.pessimistic)
        if optimistic != pessimistic:
            report |= {"optimistic": optimistic, "pessimistic": pessimistic}
        return report


def discount(ranks: Float[np.ndarray, "*query"]) -> Float[np.ndarray, "*query"]:
    """Return the nDCG@10 of queries with one correct answer, in 0..1."""
    return np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0)


def summarise(ranks: Float[np.ndarray, " query"], cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """Return statistics of ranks that count from 1, by the names used in papers.

    R@K for each of ``cuts`` and nDCG@10, the main score of MTEB, are in percent. R-Sum and the geometric mean are over
    R@1, R@5 and R@10. ``TIES`` explains the medians; published multi-caption code reports the lower one.
    """
    recalls = {k: 100 * float((ranks <= k).mean()) for k in {*cuts, 1, 5, 10}}
    return {
        **{f"R@{k}": recalls[k] for k in cuts},
        "MdR": float(np.median(ranks)),
        "MdR_lower": float(np.sort(ranks)[(len(ranks) - 1) // 2]),
        "MnR": float(ranks.mean()),
        "geometric_mean": float(np.cbrt(recalls[1] * recalls[5] * recalls[10])),
        "R-Sum": recalls[1] + recalls[5] + recalls[10],
        "nDCG@10": 100 * float(discount(ranks).mean()),
    }


def evaluate(
    scores: Shaped[np.ndarray, "text video"], truth: Int[np.ndarray, " text"] | None = None
) -> tuple[Row, Row]:
    """Evaluate plain scores, from text to video and from video to text.

    If videos have several captions, each of them is a text-to-video query. From video to text, a video's best caption
    is ranked among the best captions of all videos.

    Args:
        scores: Scores of texts for videos, finite, higher is better.
        truth: Video index of each text; defaults to video i for text i.

    Returns:
        The text-to-video row and the video-to-text row.

    Raises:
        VidretError: A score is not finite, there is no text, or a text has no video in the matrix.
    """
    ranks = rank_matrix(scores, truth)
    return make_row(PLAIN, "t2v", ranks), make_row(PLAIN, "v2t", ranks)


def make_row(label: str, direction: Direction, both: BidirectionalRanks, bank: str | None = None) -> Row:
    """Return the row of one direction."""
    ranks = both.t2v if direction == "t2v" else both.v2t
    return Row(label, direction, f"{_describe(both, direction)} {TIES}", ranks, bank)


def _describe(both: BidirectionalRanks, direction: Direction) -> str:
    """Return a sentence about queries and gallery."""
    num_texts, num_videos = len(both.t2v.queries), len(both.v2t.queries)
    if direction == "t2v":
        return f"Text to video: {num_texts} texts, each to find its video among {both.t2v.gallery_size}."
    if num_texts == num_videos:
        return f"Video to text: {num_videos} videos, each to find its text among {num_texts}."
    return f"Video to text: {num_videos} videos, each to find its best caption among the best of each video."


def calibrate_scores(
    direction: Direction,
    scores: Float[np.ndarray, "text video"],
    bank_scores: Float[np.ndarray, "bank_text bank_video"],
    calibrate: Callable[[torch.Tensor], HubnessCorrection],
) -> Float[np.ndarray, "text video"]:
    """Return scores of one direction with a hubness correction.

    Args:
        direction: "t2v" corrects videos with a bank of texts, "v2t" corrects texts with a bank of videos.
        scores: Scores of texts for videos.
        bank_scores: (bank text, video) for t2v, (text, bank video) for v2t.
        calibrate: ``sk_norm`` or ``qb_norm``, or a partial of one of them.

    Raises:
        VidretError: A score or a bank score is not finite.
    """
    correction = calibrate(_to_tensor(bank_scores, direction))
    corrected: Float[np.ndarray, "text video"]
    corrected = _turn(correction.correct(_to_tensor(scores, direction)), direction).numpy()
    return corrected


def evaluate_dual_softmax(
    direction: Direction, scores: Float[np.ndarray, "text video"], truth: Int[np.ndarray, " text"] | None = None
) -> Row:
    """Evaluate logits with a dual softmax, which uses all queries of the test set at once.

    Raises:
        VidretError: A score is not finite.
    """
    logits = _to_tensor(scores, direction)
    weighted = _turn(dual_softmax(logits), direction).numpy()
    bank = f"all {len(logits)} {'texts' if direction == 't2v' else 'videos'} of the test set at once"
    return make_row("dual softmax", direction, rank_matrix(weighted, truth), bank)


def _to_tensor(scores: Float[np.ndarray, "text video"], direction: Direction) -> torch.Tensor:
    """Return a copy of the scores as a tensor whose rows are queries."""
    check_scores(scores, range(len(scores)))
    return _turn(torch.tensor(scores), direction)


def _turn(scores: torch.Tensor, direction: Direction) -> torch.Tensor:
    return scores if direction == "t2v" else scores.T


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRecall:
    """Recall at one cut in random galleries of one size.

    Attributes:
        size: Number of videos in the gallery.
        k: The K of R@K.
        mean: Mean recall over the galleries, in percent.
        low: The 2.5th percentile of recall over the galleries.
        high: The 97.5th percentile of recall over the galleries.
    """

    size: int
    k: int
    mean: float
    low: float
    high: float


def measure_by_size(
    scores: Float[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"],
    sizes: Sequence[int],
    *,
    num_draws: int = 200,
) -> list[SizeRecall]:
    """Return text-to-video recall in random subsets of the gallery, by size and cut.

    A subset is drawn without replacement, and searched with the texts of its videos only. The interval holds 95 % of
    the subsets: the range to expect of one gallery of this size. It is empty at the full size, with its one subset.

    Args:
        scores: Scores of texts for videos, higher is better.
        truth: Video index of each text.
        sizes: Sizes of the subsets.
        num_draws: Number of subsets of each size.

    Raises:
        VidretError: A size is below 2 or above that of the gallery, a score is not finite, there is no text, or no
            subset of a size has one.
    """
    num_texts, num_videos = scores.shape
    check_scores(scores, range(num_texts))
    if not num_texts:
        raise VidretError("scores must be of at least one text, got none")
    if wrong := [size for size in sizes if not MIN_GALLERY <= size <= num_videos]:
        raise VidretError(f"sizes must be between {MIN_GALLERY} and the {num_videos} videos, got {wrong[0]}")
    true_scores = scores[np.arange(num_texts), truth][:, None]
    better = (scores > true_scores) + np.float32(0.5) * (scores == true_scores)  # a tie gets the mean rank
    better[np.arange(num_texts), truth] = 0
    random = np.random.default_rng(0)
    size_recalls = []
    for size in sizes:
        recalls = _draw(better, truth, size, num_draws, random)
        if any(not len(values) for values in recalls.values()):
            rule = f"galleries of {size} of {num_videos} videos must hold one with a text"
            raise VidretError(f"{rule}, got none in {num_draws} draws")
        for k, values in recalls.items():
            low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            size_recalls.append(SizeRecall(size=size, k=k, mean=float(values.mean()), low=float(low), high=float(high)))
    return size_recalls


def choose_sizes(num_videos: int) -> list[int]:
    """Return round gallery sizes below ``num_videos``, and ``num_videos`` itself as the last.

    >>> choose_sizes(1000)
    [10, 20, 50, 100, 200, 500, 1000]
    """
    sizes = (factor * 10**power for power in range(1, len(str(num_videos))) for factor in (1, 2, 5))
    return [size for size in sizes if size < num_videos] + [num_videos]


def _draw(
    better: np.ndarray, truth: np.ndarray, size: int, num_draws: int, random: np.random.Generator
) -> dict[int, Float[np.ndarray, " draw"]]:
    """Return the recalls of each draw in percent, by cut; draws whose videos have no text are left out."""
    num_videos = better.shape[1]
    members = np.zeros((num_videos, num_draws), np.float32)
    for draw in range(num_draws):
        members[random.choice(num_videos, size, replace=False), draw] = 1
    ranks = 1 + better @ members
    asked = members[truth] > 0
    ranks, asked = ranks[:, asked.any(axis=0)], asked[:, asked.any(axis=0)]
    return {k: 100 * ((ranks <= k) & asked).sum(axis=0) / asked.sum(axis=0) for k in (1, 5, 10)}
