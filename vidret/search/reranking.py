"""Reranking: read what is stored of candidate segments, score it with a ranker, and order the segments by score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vidret.search.calibration import Calibrations
from vidret.search.queries import EncodedQuery
from vidret.search.ranking import FrameRanker, Levels, Ranker
from vidret.store.store import Store
from vidret.types import Segment, TextEmbedding

BATCH_SIZE = 16  # queries whose candidates are read together, about 60 MB
MAX_OVERHEAD = 1.5  # how much larger a matrix of queries by all their candidates may be than their own rows together
SEGMENT_BATCH_SIZE = 256  # segments scored at a time when whole videos are scored
TOTAL = "total"

Ids = Int64[np.ndarray, " _id"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankedSegments:
    """The candidates of one query, best first.

    Attributes:
        segments: The segments.
        scores: Their scores.
        positive_scores: Their scores for the positive part of the query alone.
        times: Times of their best frames in seconds.
        levels: What the scores are made of, by name.
    """

    segments: Sequence[Segment]
    scores: Float[np.ndarray, " segment"]
    positive_scores: Float[np.ndarray, " segment"]
    times: Float[np.ndarray, " segment"]
    levels: Mapping[str, Float[np.ndarray, " segment"]]


NO_SEGMENTS = RankedSegments(segments=(), scores=np.empty(0), positive_scores=np.empty(0), times=np.empty(0), levels={})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SegmentFeatures:
    """What is stored of some segments.

    Attributes:
        ids: Ids, ascending.
        segments: The segments.
        packed: What the ranker packed.
        frames: Frame vectors.
        times: Times of the frames in seconds.
    """

    ids: Ids
    segments: Sequence[Segment]
    packed: Sequence[bytes | memoryview]
    frames: Sequence[Float32[np.ndarray, "_frame dim"]]
    times: Sequence[Float64[np.ndarray, " _frame"]]

    def take(self, indices: Int64[np.ndarray, " index"]) -> "SegmentFeatures":
        """Return the segments at some indices."""
        return SegmentFeatures(
            ids=self.ids[indices],
            segments=[self.segments[index] for index in indices],
            packed=[self.packed[index] for index in indices],
            frames=[self.frames[index] for index in indices],
            times=[self.times[index] for index in indices],
        )


class Reranker:
    """Score and order the segments of one index."""

    def __init__(self, store: Store, ranker: Ranker, calibrations: Calibrations) -> None:
        """Set the index, the ranker that it was made for, and its calibrations."""
        self._store, self._index_ranker, self._calibrations = store, ranker, calibrations
        self._last: tuple[tuple[int, ...], SegmentFeatures] | None = None

    def read_again(self, ids: Sequence[int] | Ids) -> SegmentFeatures:
        """Read the frames of segments; the last ones are kept, as of a video that many queries are asked of."""
        key = (self._store.generation, *map(int, ids))
        if self._last is None or self._last[0] != key:
            self._last = key, self.read(FrameRanker(), ids)
        return self._last[1]

    def read(self, ranker: Ranker, ids: Sequence[int] | Ids) -> SegmentFeatures:
        """Read segments for a ranker; missing and damaged ones are left out."""
        # Tokens that another aligner packed cannot be used.
        is_own = ranker.fingerprint == self._index_ranker.fingerprint
        stored = self._store.read(ids, tokens=is_own and bool(ranker.fingerprint))
        return SegmentFeatures(
            ids=stored.ids,
            segments=stored.segments,
            packed=stored.tokens,
            frames=widen(stored.frames),
            times=stored.times,
        )

    def rerank(
        self, queries: Sequence[EncodedQuery], candidates: Sequence[Ids], ranker: Ranker
    ) -> list[RankedSegments]:
        """Return the candidates of each query, ordered by a ranker."""
        ranked = []
        for first in range(0, len(queries), BATCH_SIZE):
            batch = slice(first, first + BATCH_SIZE)
            ranked += self._rerank_batch(queries[batch], candidates[batch], ranker)
        return ranked

    def _rerank_batch(
        self, queries: Sequence[EncodedQuery], candidates: Sequence[Ids], ranker: Ranker
    ) -> list[RankedSegments]:
        """Read the candidates of all queries once, and order those of each."""
        stored = self.read(ranker, np.unique(np.concatenate(candidates)))
        if not len(stored.ids):
            return [NO_SEGMENTS] * len(queries)
        indices = [np.searchsorted(stored.ids, ids[np.isin(ids, stored.ids)]) for ids in candidates]
        # Where queries have nearly the same candidates, as in a small index, one matrix is faster than many rows.
        matrix = None
        if len(queries) > 1 and len(stored.ids) * len(queries) <= MAX_OVERHEAD * sum(map(len, indices)):
            matrix = ranker.score([text for query in queries for text in query.texts], stored.packed, stored.frames)
        ends = np.cumsum([len(query.texts) for query in queries])
        ranked = []
        for query, end, own in zip(queries, ends, indices, strict=True):
            if not len(own):
                ranked.append(NO_SEGMENTS)
                continue
            segments = stored.take(own)
            if matrix is None:
                levels = ranker.score(query.texts, segments.packed, segments.frames)
            else:
                rows = slice(end - len(query.texts), end)
                scores = {name: level[rows, own] for name, level in matrix.scores.items()}
                levels = Levels(scores, matrix.best[rows, own])
            ranked.append(self._order(query, segments, levels, ranker))
        return ranked

    def _order(self, query: EncodedQuery, stored: SegmentFeatures, levels: Levels, ranker: Ranker) -> RankedSegments:
        """Order segments by score.

        A negative term lowers the score of a segment by how much it scores above the candidates' mean for that term.
        """
        calibration = self._calibrations.find(ranker, stored) if query.is_text else None
        if calibration is not None:
            levels = calibration.correct(levels, stored.ids)
        positive_scores, *negatives = sum_levels(levels.scores, ranker)
        penalties = np.sum([np.maximum(0, each - each.mean()) for each in negatives], axis=0)
        scores = positive_scores - penalties
        parts: dict[str, Float[np.ndarray, " segment"]] = {name: level[0] for name, level in levels.scores.items()}
        if negatives:
            parts["unwanted"] = -penalties
        times = np.array([times[best] for times, best in zip(stored.times, levels.best[0], strict=True)])
        order = np.argsort(-scores, kind="stable")
        return RankedSegments(
            segments=[stored.segments[index] for index in order],
            scores=scores[order],
            positive_scores=positive_scores[order],
            times=times[order],
            levels={name: part[order] for name, part in parts.items()},
        )

    def score(self, ranker: Ranker, texts: Sequence[TextEmbedding], ids: Ids) -> Levels:
        """Score texts against segments without correction; missing and damaged segments score -inf."""
        stored = self.read(ranker, ids)
        exists = np.isin(ids, stored.ids)
        scores = {name: np.full((len(texts), len(ids)), -np.inf, np.float32) for name in ranker.weights}
        best = np.zeros((len(texts), len(ids)), np.int64)
        if exists.any():
            levels = ranker.score(texts, stored.packed, stored.frames)
            best[:, exists] = levels.best
            for name, level in levels.scores.items():
                scores[name][:, exists] = level
        return Levels(scores, best)

    def score_videos(
        self,
        texts: Sequence[TextEmbedding],
        video_ids: Sequence[int],
        ranker: Ranker,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Float32[np.ndarray, "text video"]]:
        """Score texts against whole videos without correction, by level and as the weighted sum ``TOTAL``.

        The score of a video is that of its best segment, at each level separately. All segments are scored: there is no
        coarse search.
        """
        ids = [self._store.video_segments(video_id) for video_id in video_ids]
        owners = np.repeat(np.arange(len(video_ids)), [len(each) for each in ids])
        flat = np.array([key for each in ids for key in each], dtype=np.int64)
        names = [TOTAL, *ranker.weights]
        scores = {name: np.full((len(texts), len(video_ids)), -np.inf, np.float32) for name in names}
        for start in range(0, len(flat), SEGMENT_BATCH_SIZE):
            batch = slice(start, start + SEGMENT_BATCH_SIZE)
            levels = self.score(ranker, texts, flat[batch]).scores
            levels[TOTAL] = sum_levels(levels, ranker)
            for name, matrix in scores.items():
                for column, owner in enumerate(owners[batch]):
                    np.maximum(matrix[:, owner], levels[name][:, column], out=matrix[:, owner])
            if on_progress is not None:
                on_progress(min(start + SEGMENT_BATCH_SIZE, len(flat)), len(flat))
        return scores


def sum_levels(
    scores: Mapping[str, Float[np.ndarray, "text segment"]], ranker: Ranker
) -> Float[np.ndarray, "text segment"]:
    """Return the weighted sum of the levels of a ranker."""
    parts = [weight * scores[name] for name, weight in ranker.weights.items()]
    total: Float[np.ndarray, "text segment"] = np.sum(parts, axis=0)
    return total


def widen(rows: Sequence[Float16[np.ndarray, "_row dim"]]) -> list[Float32[np.ndarray, "_row dim"]]:
    """Convert stored vectors to float32, in one call of torch, which is ten times faster than numpy."""
    if not rows:
        return []
    whole = torch.from_numpy(np.concatenate(rows)).float().numpy()
    bounds = pairwise(np.cumsum([0, *map(len, rows)]).tolist())
    return [whole[start:end] for start, end in bounds]
