"""Ranks of the correct answers, computed tile by tile so that the full score matrix need not be in memory.

Both directions are computed at once. Text to video: every text is a query, and its own video the correct answer. Video
to text: every video with a caption is a query, and its best caption the correct answer, compared with the best caption
of each other video. Ranks count from 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vidret.errors import VidretError

ScoreTile: TypeAlias = Callable[[slice, slice], Shaped[np.ndarray, "text video"]]
Read: TypeAlias = Callable[[slice, slice], Any]
TILE_SIZE = (1024, 2048)  # texts, videos: 8 MB of float32


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The number of wrong answers that score higher than, or equal to, the correct one, for each query.

    Attributes:
        queries: Index of the text or video that each query is.
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
        """Return the ranks if ties are resolved in favour of the correct answer."""
        ranks: Float[np.ndarray, " query"] = self.higher + 1.0
        return ranks

    @property
    def mean(self) -> Float[np.ndarray, " query"]:
        """Return the mean ranks of ties: 1.5 if two answers share the first place."""
        ranks: Float[np.ndarray, " query"] = (self.optimistic + self.pessimistic) / 2
        return ranks

    @property
    def pessimistic(self) -> Float[np.ndarray, " query"]:
        """Return the ranks if ties are resolved against the correct answer."""
        ranks: Float[np.ndarray, " query"] = self.higher + self.equal + 1.0
        return ranks

    @property
    def num_ties(self) -> int:
        """Return the number of queries whose correct answer is tied."""
        return int(np.count_nonzero(self.equal))


class BidirectionalRanks(NamedTuple):
    """The ranks of text-to-video queries, in the order of the texts, and of video-to-text queries, of the videos."""

    t2v: Ranks
    v2t: Ranks


def rank_matrix(
    scores: Shaped[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    text_mask: Bool[np.ndarray, " text"] | None = None,
    all_captions: bool = False,
) -> BidirectionalRanks:
    """Compute ranks from a matrix in memory; exactly equal to ``rank_tiles`` with tiles of the same matrix.

    Args:
        scores: Scores of texts for videos, higher is better.
        truth: Video index of each text, in any order; defaults to video i for text i.
        text_mask: True where a text is real. Padding is neither query nor answer, and may contain any values.
        all_captions: See ``rank_tiles``.

    Raises:
        VidretError: A score is not finite, or no text is real.
        ValueError: A shape or dtype is wrong.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be a matrix of real numbers, got {scores.dtype} {scores.shape}")
    if truth is None and scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be square where truth is not given, got {scores.shape}")
    truth = np.arange(len(scores)) if truth is None else np.asarray(truth)
    if truth.shape != scores.shape[:1]:
        raise ValueError(f"truth must have one video for each of {len(scores)} texts, got shape {truth.shape}")
    texts = np.arange(len(scores))
    if text_mask is not None:
        if text_mask.shape != truth.shape or text_mask.dtype != bool:
            raise ValueError(f"text_mask must be {len(scores)} bools, got {text_mask.dtype} {text_mask.shape}")
        texts = np.flatnonzero(text_mask)
    texts = texts[np.argsort(truth[texts], kind="stable")]
    if not np.array_equal(texts, np.arange(len(scores))):
        scores, truth = scores[texts], truth[texts]
    check_scores(scores, texts)
    ranks = _count(lambda rows, columns: scores[rows, columns], truth, scores.shape[1], all_captions, TILE_SIZE)
    order = np.argsort(texts)
    t2v = replace(ranks.t2v, queries=texts[order], higher=ranks.t2v.higher[order], equal=ranks.t2v.equal[order])
    return BidirectionalRanks(t2v, ranks.v2t)


def rank_tiles(
    score_tile: ScoreTile,
    truth: Int[np.ndarray, " text"],
    num_videos: int,
    *,
    all_captions: bool = False,
    tile_size: tuple[int, int] = TILE_SIZE,
) -> BidirectionalRanks:
    """Compute ranks from scores that are computed tile by tile.

    Tiles that contain a correct answer are computed twice: first for the scores of correct answers, then to count the
    others. A matrix product may differ in the last bit between tiles, so equal vectors may not be counted as ties.

    Args:
        score_tile: Returns the scores of a slice of texts for a slice of videos; must be deterministic.
        truth: Video index of each text; the captions of a video must be consecutive.
        num_videos: Number of videos. A video without a text is no query, but a wrong answer to every text.
        all_captions: Whether video to text counts all wrong captions, not only the best one of each video: a harder
            protocol, whose results differ where videos have several captions.
        tile_size: Number of texts and videos per tile; more texts where a tile would split a video's captions.

    Raises:
        VidretError: A score is not finite, or there is no text.
        ValueError: A shape or dtype is wrong, or ``score_tile`` is not deterministic.
    """
    if min(tile_size) < 1:
        raise ValueError(f"tile_size must be at least 1 and 1, got {tile_size}")

    def read(rows: slice, columns: slice) -> Any:
        tile = np.asarray(score_tile(rows, columns))
        if tile.shape != (rows.stop - rows.start, columns.stop - columns.start) or tile.dtype.kind not in "fiu":
            raise ValueError(f"tile {rows}, {columns} must be a matrix of that shape, got {tile.dtype} {tile.shape}")
        check_scores(tile, range(rows.start, rows.stop), columns.start)
        return tile

    return _count(read, np.asarray(truth), num_videos, all_captions, tile_size)


def check_scores(scores: Any, texts: Any, first_video: int = 0) -> None:
    """Check for NaN and infinities: a query with a score of NaN would silently be omitted from the mean.

    Raises:
        VidretError: A score is not finite; the message gives its text and video.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise VidretError(
            f"scores must be finite, got {scores[row, column]} for text {texts[row]} and video {first_video + column}"
        )


def _count(
    read: Read, truth: Int[np.ndarray, " text"], num_videos: int, all_captions: bool, tile_size: tuple[int, int]
) -> BidirectionalRanks:
    starts = _find_starts(truth, num_videos)
    owners, num_texts = truth[starts], len(truth)
    ends = np.append(starts, num_texts)
    edges = np.unique(np.append(ends[np.searchsorted(ends, np.arange(0, num_texts, tile_size[0]))], num_texts))
    blocks = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    columns = [slice(first, min(first + tile_size[1], num_videos)) for first in range(0, num_videos, tile_size[1])]
    correct = _read_correct(read, truth, blocks, columns)
    best_correct = np.zeros(num_videos, dtype=correct.dtype)  # each video's score with its best caption
    best_correct[owners] = np.maximum.reduceat(correct, starts)

    text_counts = np.zeros((2, num_texts), dtype=np.int64)  # higher, equal
    video_counts = np.zeros((2, num_videos), dtype=np.int64)
    for rows in blocks:
        first_captions = starts[(starts >= rows.start) & (starts < rows.stop)] - rows.start
        for videos in columns:
            tile = read(rows, videos)
            text_counts[:, rows] += _compare(tile, correct[rows, None], axis=1)
            keep_all = all_captions or len(first_captions) == len(tile)
            best = tile if keep_all else np.maximum.reduceat(tile, first_captions, axis=0)
            video_counts[:, videos] += _compare(best, best_correct[videos], axis=0)

    # Equal scores include the correct answers themselves, and all captions of a video that share its best score.
    num_own = np.add.reduceat(correct == best_correct[truth], starts, dtype=np.int64) if all_captions else 1
    text_counts[1] -= 1
    video_counts = video_counts[:, owners]
    video_counts[1] -= num_own
    if min(text_counts.min(), video_counts.min()) < 0:
        raise ValueError("score_tile must be deterministic, got different scores for the same tile")
    order = np.argsort(owners)
    gallery_size = num_texts if all_captions else len(owners)
    return BidirectionalRanks(
        Ranks(np.arange(num_texts), text_counts[0], text_counts[1], num_videos),
        Ranks(owners[order], video_counts[0, order], video_counts[1, order], gallery_size),
    )


def _find_starts(truth: Int[np.ndarray, " text"], num_videos: int) -> Int[np.ndarray, " owner"]:
    """Return the index of the first caption of each video."""
    if truth.ndim != 1 or truth.dtype.kind not in "iu":
        raise ValueError(f"truth must be a vector of integers, got {truth.dtype} {truth.shape}")
    if len(truth) == 0:
        raise VidretError("texts must be at least 1, got 0")
    if truth.min() < 0 or truth.max() >= num_videos:
        raise ValueError(f"truth must be in 0..{num_videos - 1}, got {truth.min()}..{truth.max()}")
    starts = np.flatnonzero(np.append(True, truth[1:] != truth[:-1]))
    videos, counts = np.unique(truth[starts], return_counts=True)
    if len(videos) < len(starts):
        video = videos[counts > 1][0]
        raise ValueError(f"captions of a video must be consecutive in truth, got separate ones of video {video}")
    return starts


def _read_correct(read: Read, truth: Int[np.ndarray, " text"], blocks: list[slice], columns: list[slice]) -> Any:
    """Return each text's score with its own video."""
    indices, values = [], []
    for rows in blocks:
        for videos in columns:
            texts = rows.start + np.flatnonzero((truth[rows] >= videos.start) & (truth[rows] < videos.stop))
            if len(texts):
                indices.append(texts)
                values.append(read(rows, videos)[texts - rows.start, truth[texts] - videos.start])
    return np.concatenate(values)[np.argsort(np.concatenate(indices))]


def _compare(scores: Any, correct: Any, axis: int) -> tuple[Any, Any]:
    """Return the number of scores that are higher than the correct ones, and of those that are equal."""
    return np.count_nonzero(scores > correct, axis=axis), np.count_nonzero(scores == correct, axis=axis)
