"""The pictures of one index as a channel: candidate segments, their evidence, and all frames of some videos.

The coarse search chooses the segments that are reranked by the inner product of query and segment vectors.
"""

import logging
import math
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float, Float32

from vidret.channels.base import ChannelQuery, EncodedQuery
from vidret.channels.picture.calibration import Calibrations
from vidret.channels.picture.evidence import (
    SAMPLE,
    PictureScale,
    PictureScales,
    VideoPictures,
    adjust_points,
    collect_frames,
    collect_segments,
    find_typical_score,
    merge_segments,
    weigh_pictures,
    weigh_points,
)
from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.picture.ranker_loading import load_ranker
from vidret.channels.picture.ranking import AUTO, NONE, FrameRanker, Ids, Levels, Ranker
from vidret.channels.picture.reranking import TOTAL, RankedSegments, refine_ranking, sum_levels
from vidret.encode.encoder import Encoder
from vidret.encode.text_cache import encode_once
from vidret.store.lookup import spread_evenly
from vidret.store.records import StoredSegments
from vidret.store.store import Store
from vidret.types import TextEmbedding
from vidret.types.arrays import widen_rows

logger = logging.getLogger(__name__)

SEGMENT_BATCH_SIZE = 256  # segments scored at a time when whole videos are scored
DEPTH_FACTOR = 4  # by which a search is deepened if the nearest segments belong to too few videos
SEGMENTS_PER_VIDEO = 8  # reranked for each video that is found beyond the first candidates
# Segments of a video that set its score. In 672 rankings of films of 90 segments, the best one was outside them once,
# and 0.02 nats better.
NEAREST_SEGMENTS = 16
TYPICAL_SHARE = 0.01  # of unrelated queries, which reach the typical score of a curve in a segment


class PictureChannel:
    """The pictures of an index open for reading, with its encoder and the ranker that it was made for."""

    def __init__(self, store: Store, encoder: Encoder, ranker: Ranker, *, tokens: str) -> None:
        """Set the parts; ``tokens`` is the format in which the index stores the tokens of UCoFiA."""
        self.store, self.encoder, self.ranker = store, encoder, ranker
        # By a proxy: without a cycle, an index that was replaced is closed with the last call that uses it.
        self.scales = PictureScales(partial(PictureChannel._score_unrelated, weakref.proxy(self)))
        self.calibrations = Calibrations(store, partial(encode_once, encoder))
        self._last: tuple[tuple[object, ...], StoredSegments] | None = None
        self._tokens = tokens
        self._rankers = {ranker.name: ranker}

    def get_ranker(self, rerank: str | None) -> Ranker:
        """Return a ranker by name, loaded once; ``auto`` is the index's own, None that of the best frames."""
        name = NONE if rerank is None else self.ranker.name if rerank == AUTO else rerank
        if name not in self._rankers:
            self._rankers[name] = load_ranker(name, self.encoder, tokens=self._tokens)
        return self._rankers[name]

    def find_scale(self, ranker: Ranker) -> PictureScale:
        """Return the scale of a ranker: the scores of unrelated queries."""
        return self.scales.find(self.store, ranker)

    def find(self, query: ChannelQuery) -> dict[int, VideoPictures]:
        """Return the best segments by video, with their evidence for each clause.

        A clause with phrases has none: only texts contain phrases.
        """
        if "picture" not in query.sources:
            return {}
        pairs = zip(query.clauses, query.encoded, strict=True)
        free = [encoded for clause, encoded in pairs if not (clause.phrases or clause.is_bare)]
        covered_ids = self.store.overlapping_segments(query.covered)
        ids = np.unique(np.concatenate([covered_ids, *self._find_candidates(query, free)]))
        return self._rate(query, ids, refine=query.options.refine)

    def _find_candidates(self, query: ChannelQuery, clauses: Sequence[EncodedQuery]) -> list[Ids]:
        """Return the ids of the segments to rerank for each of some clauses, nearest first.

        Of the ``depth`` nearest, the first ``candidates`` are all returned; of the rest, the best
        ``SEGMENTS_PER_VIDEO`` of each further video.
        """
        if not clauses:
            return []
        sentences = np.stack([clause.positive.sentence for clause in clauses])
        _, nearest = self.store.search(sentences, query.depth, query.within)
        return [_limit_per_video(self.store, ids[ids >= 0], query.options.candidates) for ids in nearest]

    def find_in_videos(
        self, query: ChannelQuery, video_ids: Sequence[int], known: Mapping[int, VideoPictures]
    ) -> dict[int, VideoPictures]:
        """Return the result of ``find`` for given videos and a query of one clause, independent of other candidates.

        All their segments are compared; of a long video, those nearest to the clause and the covered ones. ``known``
        are the results of ``find``, whose segments are not read again.
        """
        chosen = set(video_ids)
        covered_ids = self.store.overlapping_segments(span for span in query.covered if span[0] in chosen)
        ids = np.union1d(choose_segments(self.store, query.encoded[0], video_ids), covered_ids).tolist()
        kept = set(ids)
        parts = {key: [known[key]] for key in video_ids if key in known and known[key].best_id in kept}
        read = {key for (part,) in parts.values() for key in part.ids.tolist()}
        if new := [key for key in ids if key not in read]:
            for video_id, part in self._rate(query, np.array(new, np.int64)).items():
                parts.setdefault(video_id, []).append(part)
        return {video_id: merge_segments(video_parts, kept) for video_id, video_parts in parts.items()}

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> dict[int, VideoPictures]:
        """Return the evidence of all frames of some videos for each clause."""
        return self._rate(query, list_segments(self.store, video_ids), whole=True) if "picture" in query.sources else {}

    def deepen(self, query: ChannelQuery, num_videos: int) -> int | None:
        """Return the depth of the next search, given how many videos the last one found; None if none can find more."""
        if any(clause.phrases for clause in query.clauses):  # only texts contain phrases
            return None
        store, within, depth = self.store, query.within, query.depth
        if depth >= within.num_segments or num_videos >= within.num_videos:
            return None
        max_depth = store.max_k
        if max_depth is not None and depth >= max_depth:
            logger.warning(
                "only %d videos are among the %d nearest segments, and %s cannot return more, got k = %d",
                num_videos,
                depth,
                store.home,
                query.options.k,
            )
            return None
        return min(DEPTH_FACTOR * depth, max_depth or within.num_segments)

    def _rate(
        self, query: ChannelQuery, ids: Ids, *, refine: bool = False, whole: bool = False
    ) -> dict[int, VideoPictures]:
        """Return segments by video, or all frames of ``whole`` videos, with their evidence for each clause."""
        # Images, vectors and taught concepts are ranked by the best frames, which need no tokens.
        is_text = any(encoded.is_text for encoded in query.encoded)
        reader = self.get_ranker(query.options.rerank if is_text else None)
        stored = (self.read_again if whole else self.read)(reader, ids)
        if not len(stored.ids):
            return {}
        ranked: list[RankedSegments] = []
        evidence: list[Float[np.ndarray, " segment"]] = []
        for encoded in query.encoded:
            ranker = self.get_ranker(query.options.rerank if encoded.is_text else None)
            scale = self.find_scale(ranker)
            ranked.append(self.rerank(encoded, stored, ranker, typical=scale.mean))
            evidence.append(scale.rate(ranked[-1].scores + encoded.positive.offset))
        is_refined = refine and len(ranked) == 1
        if is_refined and (refined := refine_ranking(self.store, query.encoded[0], ranked[0])) is not None:
            rated = dict(zip(ranked[0].segments, evidence[0].tolist(), strict=True))
            best = sorted((rated[segment] for segment in refined.segments), reverse=True)
            ranked, evidence = [refined], [np.array(best)]  # another order of the same evidence
        if len(query.sources) > 1:
            added = [weigh_pictures(clause, query.sources) for clause in query.clauses]
            evidence = [clause_evidence + nats for clause_evidence, nats in zip(evidence, added, strict=True)]
        videos = collect_segments(ranked, evidence)
        if whole:
            videos = collect_frames(stored, videos, query.encoded, self.find_scale(FrameRanker()).slope)
        if query.weigh is not None:
            videos = weigh_points(videos, stored, query.weigh(stored.ids))
        return videos if query.adjust is None else adjust_points(videos, query.adjust, frames=whole)

    # Segments

    def read_again(self, ranker: Ranker, ids: Sequence[int] | Ids) -> StoredSegments:
        """Read segments for a ranker; the last ones are cached, since many queries may ask for the same video."""
        key = (ranker.name, self.store.generation, *map(int, ids))
        last = self._last
        if last is None or last[0] != key:
            self._last = last = key, self.read(ranker, ids)
        return last[1]

    def read(self, ranker: Ranker, ids: Sequence[int] | Ids) -> StoredSegments:
        """Read segments for a ranker; missing and damaged ones are left out."""
        # Tokens that another aligner packed cannot be used.
        is_own = ranker.fingerprint == self.ranker.fingerprint
        return self.store.features.read(ids, tokens=is_own and bool(ranker.fingerprint))

    def rerank(self, query: EncodedQuery, stored: StoredSegments, ranker: Ranker, *, typical: float) -> RankedSegments:
        """Return the scores of segments for a query.

        A negative term lowers a score by its own score above ``typical``, the mean of unrelated queries.
        """
        levels = ranker.score([query.positive, *query.negatives], stored.tokens, stored.frames)
        if query.is_text:
            levels = self.calibrations.correct(ranker, stored, levels)
        positive, *negatives = sum_levels(levels.scores, ranker)
        penalties = np.sum([np.maximum(0, negative - typical) for negative in negatives], axis=0)
        scores = positive - penalties
        parts: dict[str, Float[np.ndarray, " segment"]] = {name: level[0] for name, level in levels.scores.items()}
        if negatives:
            parts["unwanted"] = -penalties
        times = np.array([times[best] for times, best in zip(stored.times, levels.best[0], strict=True)])
        return RankedSegments(ids=stored.ids, segments=stored.segments, scores=scores, times=times, levels=parts)

    def score_segments(self, ranker: Ranker, texts: Sequence[TextEmbedding], ids: Ids) -> Levels:
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
        coarse search. A video that is given twice is scored once, so that rounding cannot make the two differ.
        """
        columns = {video_id: column for column, video_id in enumerate(dict.fromkeys(video_ids))}
        ids = [self.store.segments.ids_of_video(video_id) for video_id in columns]
        owners = [column for column, segment_ids in enumerate(ids) for _ in segment_ids]
        flat = np.array([key for segment_ids in ids for key in segment_ids], dtype=np.int64)
        names = [TOTAL, *ranker.weights]
        scores = {name: np.full((len(texts), len(ids)), -np.inf, np.float32) for name in names}
        for start in range(0, len(flat), SEGMENT_BATCH_SIZE):
            batch = slice(start, start + SEGMENT_BATCH_SIZE)
            levels = self.score_segments(ranker, texts, flat[batch]).scores
            levels[TOTAL] = sum_levels(levels, ranker)
            for name, matrix in scores.items():
                for row, owner in enumerate(owners[batch]):
                    np.maximum(matrix[:, owner], levels[name][:, row], out=matrix[:, owner])
            if on_progress is not None:
                on_progress(min(start + SEGMENT_BATCH_SIZE, len(flat)), len(flat))
        wanted = np.array([columns[video_id] for video_id in video_ids], dtype=np.int64)
        return {name: matrix.take(wanted, axis=1) for name, matrix in scores.items()}

    # Unrelated queries

    def typical_score(self) -> float | None:
        """Return the best-frame score that few unrelated queries reach in a segment; None without any."""
        return find_typical_score(self.find_scale(FrameRanker()), TYPICAL_SHARE) if len(self.store) else None

    def _score_unrelated(self, ranker: Ranker) -> Float[np.ndarray, " score"]:
        """Return a ranker's scores of the unrelated queries in a sample of the segments; empty for an empty index."""
        self._rankers.setdefault(ranker.name, ranker)
        ids: Ids = self.store.searchable()
        sample = ids[spread_evenly(len(ids), SAMPLE)]
        stored = self.read(ranker, sample)
        if not len(stored.ids):
            return np.empty(0)
        levels = ranker.score(self._unrelated, stored.tokens, stored.frames)
        return sum_levels(self.calibrations.correct(ranker, stored, levels).scores, ranker).ravel()

    @cached_property
    def _unrelated(self) -> list[TextEmbedding]:
        return encode_once(self.encoder, UNRELATED)


def list_segments(store: Store, video_ids: Sequence[int]) -> Ids:
    """Return the ids of all segments of some videos, rising."""
    return store.overlapping_segments([(video_id, -math.inf, math.inf) for video_id in video_ids])


def choose_segments(store: Store, query: EncodedQuery, video_ids: Sequence[int]) -> Ids:
    """Return the ids of the segments of some videos that are nearest to a query, ``NEAREST_SEGMENTS`` of each, rising.

    A video with fewer segments has all of them.
    """
    ids = list_segments(store, video_ids)
    if np.unique(store.owners(ids), return_counts=True)[1].max(initial=0) <= NEAREST_SEGMENTS:
        return ids
    ids, vectors = store.features.intact_vectors(ids)
    by_video = store.owners(ids)
    similarities = widen_rows(vectors) @ query.positive.sentence
    order = np.lexsort((-similarities, by_video))
    starts = np.flatnonzero(np.diff(by_video[order], prepend=-2))
    ranks = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
    return np.sort(ids[order[ranks < NEAREST_SEGMENTS]])


def _limit_per_video(store: Store, ids: Ids, num_first: int) -> Ids:
    """Keep the first segments, and the best few of each video that comes only later."""
    if len(ids) <= num_first:
        return ids
    owners = store.owners(ids)
    ids, video_ids = ids[owners >= 0], owners[owners >= 0].tolist()  # another process may have just pruned some
    counts = Counter(dict.fromkeys(video_ids[:num_first], SEGMENTS_PER_VIDEO))
    kept = list(range(min(num_first, len(ids))))
    for index, video_id in enumerate(video_ids[num_first:], start=num_first):
        if counts[video_id] < SEGMENTS_PER_VIDEO:
            counts[video_id] += 1
            kept.append(index)
    return ids[kept]
