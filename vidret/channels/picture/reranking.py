"""Reranking: read what is stored of candidate segments, and score it with a ranker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.calibration import Calibrations
from vidret.channels.picture.ranking import Ids, Levels, Ranker
from vidret.store.records import StoredSegments
from vidret.store.store import Store
from vidret.types import Segment, TextEmbedding

SEGMENT_BATCH_SIZE = 256  # segments scored at a time when whole videos are scored
TOTAL = "total"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankedSegments:
    """The candidates of one query.

    Attributes:
        ids: Ids of the segments.
        segments: The segments.
        scores: Their scores.
        times: Times of their best frames in seconds.
        levels: What the scores are made of, by name.
    """

    ids: Ids
    segments: Sequence[Segment]
    scores: Float[np.ndarray, " segment"]
    times: Float[np.ndarray, " segment"]
    levels: Mapping[str, Float[np.ndarray, " segment"]]


class Reranker:
    """Score the segments of one index."""

    def __init__(self, store: Store, ranker: Ranker, calibrations: Calibrations) -> None:
        """Set the index, the ranker that it was made for, and its calibrations."""
        self._store, self._index_ranker, self._calibrations = store, ranker, calibrations
        self._last: tuple[tuple[object, ...], StoredSegments] | None = None

    def read_again(self, ranker: Ranker, ids: Sequence[int] | Ids) -> StoredSegments:
        """Read segments for a ranker; the last ones are kept, as of a video that many queries are asked of."""
        key = (ranker.name, self._store.generation, *map(int, ids))
        last = self._last
        if last is None or last[0] != key:
            self._last = last = key, self.read(ranker, ids)
        return last[1]

    def read(self, ranker: Ranker, ids: Sequence[int] | Ids) -> StoredSegments:
        """Read segments for a ranker; missing and damaged ones are left out."""
        # Tokens that another aligner packed cannot be used.
        is_own = ranker.fingerprint == self._index_ranker.fingerprint
        return self._store.features.read(ids, tokens=is_own and bool(ranker.fingerprint))

    def rerank(self, query: EncodedQuery, stored: StoredSegments, ranker: Ranker, *, typical: float) -> RankedSegments:
        """Return the scores of segments for a query.

        A negative term lowers a score by how much that term scores above ``typical``, the mean of unrelated queries.
        """
        levels = ranker.score([query.positive, *query.negatives], stored.tokens, stored.frames)
        if query.is_text:
            levels = self._calibrations.correct(ranker, stored, levels)
        positive, *negatives = sum_levels(levels.scores, ranker)
        penalties = np.sum([np.maximum(0, negative - typical) for negative in negatives], axis=0)
        scores = positive - penalties
        parts: dict[str, Float[np.ndarray, " segment"]] = {name: level[0] for name, level in levels.scores.items()}
        if negatives:
            parts["unwanted"] = -penalties
        times = np.array([times[best] for times, best in zip(stored.times, levels.best[0], strict=True)])
        return RankedSegments(ids=stored.ids, segments=stored.segments, scores=scores, times=times, levels=parts)

    def score(self, ranker: Ranker, texts: Sequence[TextEmbedding], ids: Ids) -> Levels:
        """Score texts against segments without correction; missing and damaged segments score -inf."""
        stored = self.read(ranker, ids)
        exists = np.isin(ids, stored.ids)
        scores = {name: np.full((len(texts), len(ids)), -np.inf, np.float32) for name in ranker.weights}
        best = np.zeros((len(texts), len(ids)), np.int64)
        if exists.any():
            levels = ranker.score(texts, stored.tokens, stored.frames)
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
        ids = [self._store.segments.ids_of_video(video_id) for video_id in video_ids]
        owners = np.repeat(np.arange(len(video_ids)), [len(own) for own in ids])
        flat = np.array([key for own in ids for key in own], dtype=np.int64)
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
) -> Float64[np.ndarray, "text segment"]:
    """Return the weighted sum of the levels of a ranker, in float64: some encoders score everything about the same."""
    total = np.zeros(next(iter(scores.values())).shape)
    for name, weight in ranker.weights.items():  # one after another, since scores of a benchmark take gigabytes
        total += np.multiply(scores[name], weight, dtype=np.float64)
    return total
