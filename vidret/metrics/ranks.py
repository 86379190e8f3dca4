"""Ranks of the correct answers among all answers, from a matrix of scores.

Both directions are computed at once. Text to video: every text is a query, and its own video the correct answer. Video
to text: every video with a caption is a query, and its best caption the correct answer, ranked against the best caption
of each other video. Ranks count from 1.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from vidret.errors import VidretError

BLOCK = 1024  # texts compared at once


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The number of wrong answers that score higher than, or equal to, the correct one, for each query.

    Attributes:
        queries: Index of each query among the texts or videos.
        higher: Number of wrong answers with a higher score.
        equal: Number of wrong answers with the same score (ties).
        gallery_size: Number of possible answers to a query.
    """

    queries: Int[np.ndarray, " query"]
    higher: Int[np.ndarray, " query"]
    equal: Int[np.ndarray, " query"]
    gallery_size: int

    @property
    def optimistic(self) -> Float[np.ndarray, " query"]:
        """Return the ranks with ties resolved in favour of the correct answer."""
        return self.higher + 1.0

    @property
    def mean(self) -> Float[np.ndarray, " query"]:
        """Return the ranks with ties averaged: 1.5 if two answers share the first place."""
        ranks: Float[np.ndarray, " query"] = (self.optimistic + self.pessimistic) / 2
        return ranks

    @property
    def pessimistic(self) -> Float[np.ndarray, " query"]:
        """Return the ranks with ties resolved against the correct answer."""
        ranks: Float[np.ndarray, " query"] = self.higher + self.equal + 1.0
        return ranks

    @property
    def num_ties(self) -> int:
        """Return the number of queries whose correct answer is tied."""
        return int(np.count_nonzero(self.equal))


class BidirectionalRanks(NamedTuple):
    """Ranks of text-to-video queries in the order of the texts, and of video-to-text queries in that of the videos."""

    t2v: Ranks
    v2t: Ranks


def rank_matrix(
    scores: Shaped[np.ndarray, "text video"], truth: Int[np.ndarray, " text"] | None = None
) -> BidirectionalRanks:
    """Compute the ranks of texts and of videos with a text. A video without one is a wrong answer to every text.

    Args:
        scores: Scores of texts for videos, higher is better.
        truth: Video index of each text, in any order; defaults to video i for text i.

    Raises:
        VidretError: A score is not finite, there is no text, or a text has no video in the matrix.
    """
    num_texts, num_videos = scores.shape
    if not num_texts:
        raise VidretError("texts must be at least 1, got 0")
    truth = np.arange(num_texts) if truth is None else truth
    if len(truth) != num_texts or truth.min() < 0 or truth.max() >= num_videos:
        got = f"{len(truth)} from {truth.min()} to {truth.max()}"
        raise VidretError(f"truth must be one of the {num_videos} videos for each of the {num_texts} texts, got {got}")
    texts = np.argsort(truth, kind="stable")
    if not np.array_equal(texts, np.arange(len(scores))):
        scores, truth = scores[texts], truth[texts]
    check_scores(scores, texts)
    ranks = _count(scores, truth)
    order = np.argsort(texts)
    t2v = replace(ranks.t2v, higher=ranks.t2v.higher[order], equal=ranks.t2v.equal[order])
    return BidirectionalRanks(t2v, ranks.v2t)


def check_scores(scores: Any, texts: Any) -> None:
    """Check for NaN and infinities: the mean would silently omit a query with a NaN score.

    Raises:
        VidretError: A score is not finite; the message gives its text and video.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise VidretError(f"scores must be finite, got {scores[row, column]} for text {texts[row]} and video {column}")


def _count(scores: Shaped[np.ndarray, "text video"], truth: Int[np.ndarray, " text"]) -> BidirectionalRanks:
    """Return the ranks, given texts sorted by their video."""
    num_texts, num_videos = scores.shape
    starts = np.flatnonzero(np.append(True, truth[1:] != truth[:-1]))  # the first caption of each video
    owners = truth[starts]
    correct = scores[np.arange(num_texts), truth]
    best_correct = np.zeros(num_videos, dtype=correct.dtype)  # each video's score with its best caption
    best_correct[owners] = np.maximum.reduceat(correct, starts)

    text_counts = np.zeros((2, num_texts), dtype=np.int64)  # higher, equal
    video_counts = np.zeros((2, num_videos), dtype=np.int64)
    ends = np.append(starts, num_texts)
    edges = np.unique(np.append(ends[np.searchsorted(ends, np.arange(0, num_texts, BLOCK))], num_texts))
    for first, end in pairwise(edges.tolist()):  # captions of a video are in one block
        block = scores[first:end]
        first_captions = starts[(starts >= first) & (starts < end)] - first
        text_counts[:, first:end] = _compare(block, correct[first:end, None], axis=1)
        is_single = len(first_captions) == len(block)
        best = block if is_single else np.maximum.reduceat(block, first_captions, axis=0)
        video_counts += _compare(best, best_correct, axis=0)

    text_counts[1] -= 1  # equal scores include the correct answers themselves
    video_counts = video_counts[:, owners]
    video_counts[1] -= 1
    return BidirectionalRanks(
        Ranks(np.arange(num_texts), text_counts[0], text_counts[1], num_videos),
        Ranks(owners, video_counts[0], video_counts[1], len(owners)),
    )


def _compare(scores: Any, correct: Any, axis: int) -> tuple[Any, Any]:
    """Return the number of scores that are higher than the correct ones, and of those that are equal."""
    return np.count_nonzero(scores > correct, axis=axis), np.count_nonzero(scores == correct, axis=axis)
