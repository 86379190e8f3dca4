"""Where the right answer stands: counted tile by tile, so that the whole matrix of scores need never be in memory.

Both directions are counted at once. From text to video every text is a query, its own video the right answer. From
video to text every video with a caption is a query, its best caption the right answer, against the best caption of each
other video. Ranks count from 1.
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
    """How many wrong answers stand above the right one, and how many beside it, for each query.

    Attributes:
        queries: Which text, or which video, each query is.
        higher: How many wrong answers have a higher score.
        equal: How many wrong answers have the same score: their order says nothing.
        gallery_size: How many answers a query chooses from.
    """

    queries: Int[np.ndarray, " query"]
    higher: Int[np.ndarray, " query"]
    equal: Int[np.ndarray, " query"]
    gallery_size: int

    @property
    def optimistic(self) -> Float[np.ndarray, " query"]:
        """Give the ranks if the right answer is the first of its equals."""
        ranks: Float[np.ndarray, " query"] = self.higher + 1.0
        return ranks

    @property
    def mean(self) -> Float[np.ndarray, " query"]:
        """Give the mean of the ranks that its equals share: 1.5 for two that are first together."""
        ranks: Float[np.ndarray, " query"] = (self.optimistic + self.pessimistic) / 2
        return ranks

    @property
    def pessimistic(self) -> Float[np.ndarray, " query"]:
        """Give the ranks if the right answer is the last of its equals."""
        ranks: Float[np.ndarray, " query"] = self.higher + self.equal + 1.0
        return ranks

    @property
    def num_ties(self) -> int:
        """Count the queries whose right answer has equals."""
        return int(np.count_nonzero(self.equal))


class BothWays(NamedTuple):
    """The ranks of texts among videos, in the order of the texts, and of videos among texts, in that of the videos."""

    t2v: Ranks
    v2t: Ranks


def rank_matrix(
    scores: Shaped[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    text_mask: Bool[np.ndarray, " text"] | None = None,
    all_captions: bool = False,
) -> BothWays:
    """Rank with a matrix that is in memory; equal, number by number, to ``rank_tiles`` over the same matrix.

    Args:
        scores: Of texts with videos, higher is better.
        truth: Which video each text is of, in any order; text i is of video i unless given.
        text_mask: True where a text is real. The others neither ask nor answer; what they hold does not matter.
        all_captions: As in ``rank_tiles``.

    Raises:
        VidretError: A score is not finite, or no text is real.
        ValueError: Shapes or types do not fit.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be a matrix of real numbers, got {scores.dtype} {scores.shape}")
    if truth is None and scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be square where truth is not given, got {scores.shape}")
    truth = np.arange(len(scores)) if truth is None else np.asarray(truth)
    if truth.shape != scores.shape[:1]:
        raise ValueError(f"truth must be {len(scores)} videos, one for each text, got {truth.shape}")
    texts = np.arange(len(scores))
    if text_mask is not None:
        if text_mask.shape != truth.shape or text_mask.dtype != bool:
            raise ValueError(f"text_mask must be {len(scores)} bools, got {text_mask.dtype} {text_mask.shape}")
        texts = np.flatnonzero(text_mask)
    texts = texts[np.argsort(truth[texts], kind="stable")]
    if not np.array_equal(texts, np.arange(len(scores))):
        scores, truth = scores[texts], truth[texts]
    check_scores(scores, texts)
    found = _count(lambda rows, columns: scores[rows, columns], truth, scores.shape[1], all_captions, TILE_SIZE)
    back = np.argsort(texts)
    t2v = replace(found.t2v, queries=texts[back], higher=found.t2v.higher[back], equal=found.t2v.equal[back])
    return BothWays(t2v, found.v2t)


def rank_tiles(
    score_tile: ScoreTile,
    truth: Int[np.ndarray, " text"],
    num_videos: int,
    *,
    all_captions: bool = False,
    tile_size: tuple[int, int] = TILE_SIZE,
) -> BothWays:
    """Rank with scores that are computed a tile at a time, where they are asked for.

    Tiles that hold a right answer are asked for twice: first for the right answers' scores, then to count the others.
    A matrix product may give the same vectors another last bit in another tile: such ties pass for none.

    Args:
        score_tile: Gives the scores of a slice of texts with a slice of videos; the same numbers each time.
        truth: Which video each text is of; the captions of a video must stand together.
        num_videos: How many videos there are. One without a text is no query, but a wrong answer to every text.
        all_captions: From video to text count all wrong captions, not just the best one of each video: a harder
            protocol, which gives other numbers where videos have several captions.
        tile_size: How many texts and videos a tile has; more texts where a video's captions would be cut.

    Raises:
        VidretError: A score is not finite, or there is no text.
        ValueError: Shapes or types do not fit, or ``score_tile`` changes its mind.
    """
    if min(tile_size) < 1:
        raise ValueError(f"tile_size must be at least 1 and 1, got {tile_size}")

    def read(rows: slice, columns: slice) -> Any:
        tile = np.asarray(score_tile(rows, columns))
        if tile.shape != (rows.stop - rows.start, columns.stop - columns.start) or tile.dtype.kind not in "fiu":
            raise ValueError(f"tile {rows}, {columns} must be a matrix of that size, got {tile.dtype} {tile.shape}")
        check_scores(tile, range(rows.start, rows.stop), columns.start)
        return tile

    return _count(read, np.asarray(truth), num_videos, all_captions, tile_size)


def check_scores(scores: Any, texts: Any, first_video: int = 0) -> None:
    """Refuse NaN and infinities: a query whose score is NaN would silently drop out of the mean."""
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise VidretError(
            f"scores must be finite, got {scores[row, column]} for text {texts[row]} and video {first_video + column}"
        )


def _count(
    read: Read, truth: Int[np.ndarray, " text"], num_videos: int, all_captions: bool, tile_size: tuple[int, int]
) -> BothWays:
    starts = _find_starts(truth, num_videos)
    owners, num_texts = truth[starts], len(truth)
    ends = np.append(starts, num_texts)
    edges = np.unique(np.append(ends[np.searchsorted(ends, np.arange(0, num_texts, tile_size[0]))], num_texts))
    blocks = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    columns = [slice(first, min(first + tile_size[1], num_videos)) for first in range(0, num_videos, tile_size[1])]
    right = _read_right(read, truth, blocks, columns)
    goal = np.zeros(num_videos, dtype=right.dtype)  # a video's score with its best caption
    goal[owners] = np.maximum.reduceat(right, starts)

    text_counts = np.zeros((2, num_texts), dtype=np.int64)  # higher, equal
    video_counts = np.zeros((2, num_videos), dtype=np.int64)
    for rows in blocks:
        inside = starts[(starts >= rows.start) & (starts < rows.stop)] - rows.start
        for part in columns:
            tile = read(rows, part)
            text_counts[:, rows] += _compare(tile, right[rows, None], axis=1)
            whole = all_captions or len(inside) == len(tile)
            best = tile if whole else np.maximum.reduceat(tile, inside, axis=0)
            video_counts[:, part] += _compare(best, goal[part], axis=0)

    # The right answers were counted among the equals, all captions of a video that share its best score included.
    own = np.add.reduceat(right == goal[truth], starts, dtype=np.int64) if all_captions else 1
    text_counts[1] -= 1
    video_counts = video_counts[:, owners]
    video_counts[1] -= own
    if min(text_counts.min(), video_counts.min()) < 0:
        raise ValueError("score_tile must give the same numbers when it is asked again, got others")
    order = np.argsort(owners)
    gallery = num_texts if all_captions else len(owners)
    return BothWays(
        Ranks(np.arange(num_texts), text_counts[0], text_counts[1], num_videos),
        Ranks(owners[order], video_counts[0, order], video_counts[1, order], gallery),
    )


def _find_starts(truth: Int[np.ndarray, " text"], num_videos: int) -> Int[np.ndarray, " owner"]:
    """Find where the captions of each video begin."""
    if truth.ndim != 1 or truth.dtype.kind not in "iu":
        raise ValueError(f"truth must be a list of whole numbers, got {truth.dtype} {truth.shape}")
    if len(truth) == 0:
        raise VidretError("texts must be at least 1, got 0")
    if truth.min() < 0 or truth.max() >= num_videos:
        raise ValueError(f"truth must be in 0..{num_videos - 1}, got {truth.min()}..{truth.max()}")
    starts = np.flatnonzero(np.append(True, truth[1:] != truth[:-1]))
    videos, counts = np.unique(truth[starts], return_counts=True)
    if len(videos) < len(starts):
        raise ValueError(
            f"truth must keep captions of a video together, got video {videos[counts > 1][0]} in two places"
        )
    return starts


def _read_right(read: Read, truth: Int[np.ndarray, " text"], blocks: list[slice], columns: list[slice]) -> Any:
    """Read each text's score with its own video."""
    places, values = [], []
    for rows in blocks:
        for part in columns:
            texts = rows.start + np.flatnonzero((truth[rows] >= part.start) & (truth[rows] < part.stop))
            if len(texts):
                places.append(texts)
                values.append(read(rows, part)[texts - rows.start, truth[texts] - part.start])
    return np.concatenate(values)[np.argsort(np.concatenate(places))]


def _compare(scores: Any, right: Any, axis: int) -> tuple[Any, Any]:
    """Count the scores that are higher than the right ones, and those that are equal."""
    return np.count_nonzero(scores > right, axis=axis), np.count_nonzero(scores == right, axis=axis)
