"""The pictures of one index as a channel: candidate segments, their evidence, and all frames of some videos."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from vidret.align.baseline import UNRELATED
from vidret.channels.base import EncodedQuery
from vidret.channels.picture.calibration import Calibrations
from vidret.channels.picture.candidates import choose_segments, find_candidates
from vidret.channels.picture.evidence import VideoPictures, collect_frames, collect_segments
from vidret.channels.picture.ranking import AUTO, NONE, FrameRanker, Ranker, load_ranker
from vidret.channels.picture.refining import refine_ranking
from vidret.channels.picture.reranking import Ids, RankedSegments, Reranker, SegmentFeatures, sum_levels
from vidret.channels.picture.scales import SAMPLE, PictureScale, PictureScales, find_typical_score
from vidret.encode.encoder import Encoder
from vidret.store.store import Store
from vidret.types import SearchOptions, TextEmbedding

TYPICAL_SHARE = 0.01  # of unrelated queries, that reach the typical score of a curve in a segment


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PictureQuery:
    """What pictures are compared with.

    Attributes:
        clauses: The clauses of a query.
        rerank: Name of the ranker, as in ``SearchOptions``; images and vectors are ranked by the best frames.
        hints: What each clause adds to the evidence, in nats: one that hints at words takes some from pictures.
        is_free: Whether each clause finds candidates; one with phrases is found by texts only.
    """

    clauses: Sequence[EncodedQuery]
    rerank: str | None
    hints: Sequence[float]
    is_free: Sequence[bool]

    @property
    def ranker_name(self) -> str | None:
        """The ranker whose tokens are read."""
        return self.rerank if any(clause.is_text for clause in self.clauses) else None


class PictureChannel:
    """The pictures of an index open for reading, with its encoder and the ranker that it was made for."""

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

    def __len__(self) -> int:
        """Return the number of segments that a query is compared with."""
        return len(self.store)

    def find(
        self, query: PictureQuery, options: SearchOptions, depth: int, *, excluded: Set[int], also: Ids
    ) -> dict[int, VideoPictures]:
        """Return the best segments by video, with their evidence for each clause.

        Args:
            query: The query.
            options: The options of the search.
            depth: See ``find_candidates``.
            excluded: Videos to leave out.
            also: Segments to read besides, as those seen while a text is said.
        """
        free = [clause for clause, is_free in zip(query.clauses, query.is_free, strict=True) if is_free]
        ids = [also, *find_candidates(self.store, free, options, depth, excluded)]
        return self._rate(query, np.unique(np.concatenate(ids)), refine=options.refine)

    def find_in_videos(self, query: PictureQuery, video_ids: Sequence[int], *, also: Ids) -> dict[int, VideoPictures]:
        """Return what ``find`` does of some videos, whatever finds them, for a query of one clause.

        All of their segments are compared, or of a long video those nearest to the clause, and ``also`` some more.
        """
        ids = choose_segments(self.store, query.clauses[0], video_ids)
        return self._rate(query, np.union1d(ids, also))

    def _rate(self, query: PictureQuery, ids: Ids, *, refine: bool = False) -> dict[int, VideoPictures]:
        """Return segments by video, with their evidence for each clause."""
        stored = self.reranker.read(self.get_ranker(query.ranker_name), ids)
        if not len(stored.ids):
            return {}
        ranked, evidence = self.rank(query.clauses, stored, query.rerank)
        if refine and len(ranked) == 1:
            refined = refine_ranking(self.store, query.clauses[0], ranked[0])
            rated = dict(zip(ranked[0].segments, evidence[0].tolist(), strict=True))
            best = sorted((rated[segment] for segment in refined.segments), reverse=True)
            ranked, evidence = [refined], [np.array(best)]  # another order of the same evidence
        return collect_segments(ranked, [own + hint for own, hint in zip(evidence, query.hints, strict=True)])

    def score(self, query: PictureQuery, ids: Sequence[int]) -> dict[int, VideoPictures]:
        """Return the evidence of all frames of some videos for each clause, given all of their segments."""
        stored = self.reranker.read_again(self.get_ranker(query.ranker_name), ids)
        if not len(stored.ids):
            return {}
        ranked, evidence = self.rank(query.clauses, stored, query.rerank)
        videos = collect_segments(ranked, [own + hint for own, hint in zip(evidence, query.hints, strict=True)])
        slope = self.find_scale(FrameRanker()).slope
        return collect_frames(stored, videos, query.clauses, slope)

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
