"""The pictures of one index: its rankers, their scales, and its segments as they are ranked."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float

from vidret.align.baseline import UNRELATED
from vidret.channels.base import EncodedQuery
from vidret.channels.picture.calibration import Calibrations
from vidret.channels.picture.ranking import AUTO, NONE, FrameRanker, Ranker, load_ranker
from vidret.channels.picture.reranking import Ids, RankedSegments, Reranker, SegmentFeatures, sum_levels
from vidret.channels.picture.scales import SAMPLE, PictureScale, PictureScales, find_typical_score
from vidret.encode.encoder import Encoder
from vidret.store.store import Store
from vidret.types import TextEmbedding

TYPICAL_SHARE = 0.01  # of unrelated queries, that reach the typical score of a curve in a segment


class Searcher:
    """An index open for reading, with its encoder and the ranker that it was made for."""

    def __init__(self, store: Store, encoder: Encoder, ranker: Ranker, *, tokens: str) -> None:
        """Set the parts; ``tokens`` is the format in which the index stores the tokens of UCoFiA."""
        self.store, self.encoder, self.ranker = store, encoder, ranker
        self.scales = PictureScales(self._score_unrelated)
        self.calibrations = Calibrations(store, encoder.encode_text)
        self.reranker = Reranker(store, ranker, self.calibrations)
        self._tokens = tokens
        self._rankers = {ranker.name: ranker}

    def get_ranker(self, rerank: str | None) -> Ranker:
        """Return a ranker by name, loaded once; ``auto`` is the index's own, None that of the best frames."""
        name = NONE if rerank is None else self.ranker.name if rerank == AUTO else rerank
        if name not in self._rankers:
            self._rankers[name] = load_ranker(name, self.encoder, tokens=self._tokens)
        return self._rankers[name]

    def find_scale(self, ranker: Ranker) -> PictureScale:
        """Return what unrelated queries score by a ranker."""
        return self.scales.find(self.store, ranker)

    def rank(
        self, queries: Sequence[EncodedQuery], stored: SegmentFeatures, rerank: str | None
    ) -> tuple[list[RankedSegments], list[Float[np.ndarray, " segment"]]]:
        """Return segments as each query ranks them, and their evidence.

        Images, vectors and taught concepts are ranked by the best frames, whatever ``rerank`` is.
        """
        ranked: list[RankedSegments] = []
        evidence: list[Float[np.ndarray, " segment"]] = []
        for query in queries:
            ranker = self.get_ranker(rerank if query.is_text else None)
            scale = self.find_scale(ranker)
            ranked.append(self.reranker.rerank(query, stored, ranker, typical=scale.mean))
            evidence.append(scale.rate(ranked[-1].scores + query.positive.offset))
        return ranked, evidence

    # Unrelated queries

    def typical_score(self, share: float = TYPICAL_SHARE) -> float | None:
        """Return the best-frame score that this share of unrelated queries reaches in a segment; None without any."""
        return find_typical_score(self.find_scale(FrameRanker()), share) if len(self.store) else None

    def _score_unrelated(self, ranker: Ranker) -> Float[np.ndarray, " score"]:
        """Return what a ranker scores the unrelated queries in a sample of the segments; empty for an empty index."""
        self._rankers.setdefault(ranker.name, ranker)
        ids: Ids = self.store.searchable()
        sample = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), SAMPLE)).astype(np.int64))]
        stored = self.reranker.read(ranker, sample)
        if not len(stored.ids):
            return np.empty(0)
        levels = ranker.score(self._unrelated, stored.packed, stored.frames)
        calibration = self.calibrations.find(ranker, stored)
        if calibration is not None:
            levels = calibration.correct(levels, stored.ids)
        return sum_levels(levels.scores, ranker).ravel()

    @cached_property
    def _unrelated(self) -> list[TextEmbedding]:
        return self.encoder.encode_text(UNRELATED)
