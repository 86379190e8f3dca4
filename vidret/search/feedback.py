"""Relevance feedback: evidence for every segment from the results that were liked and those that were not.

A user looks for a scene, and likes the result that resembles it most. If a segment were the scene, the probability of
that choice would follow from how much more the segment resembles the liked result than the others shown. The log ratio
of that probability and that of a random choice is evidence, in nats, which is added to that of the query. A segment
that was shown is hardly the scene, or the search would have ended, so other segments of its video come first.

Reference: Cox et al. 2000, "The Bayesian image retrieval system, PicHunter"; several likes and the temperature as in
Kratochvíl et al. 2020, "SOMHunter".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.channels.base import ChannelQuery, TimeSpan
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.ranking import FrameRanker
from vidret.errors import StoreError, VidretError
from vidret.store.lookup import find_middles, look_up_video, spread_evenly
from vidret.store.store import Store
from vidret.text import format_count
from vidret.types import TimePoint

TEMPERATURE, MEDIAN_DISTANCE = 0.1, 0.7  # of a choice, at this median distance of two segments
MAX_NATS = 4.0  # that one choice adds or subtracts: one wrong click must not ruin a search
SEEN_NATS = 8.0  # that a seen segment loses: likes near it must not bring it back
MAX_LOGIT = 50.0  # more changes nothing within ``MAX_NATS``
NUM_RATED = 6000  # segments near the query and the likes that are rated; the best are reranked
MAX_OTHERS = 64  # shown segments that a like is compared with; more are sampled
SAMPLE = 256  # segments from which the median distance is estimated
ROUGH_S = 1.0  # that a time may be after the end, since containers round their duration
KIND = 0.5  # share of the median distance within which segments show one kind of thing
SEED = 1234

Ids = Int64[np.ndarray, " _id"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Feedback:
    """The vectors of judged segments, and the model of a user's choice.

    Attributes:
        liked: Vectors of liked segments.
        unliked: Vectors of segments marked as different from the scene.
        seen: Vectors of the other segments that were shown.
        typical: Median similarity of two segments.
        ruled_out: Ids of the segments that the user has seen, and would have recognised as the scene.
    """

    liked: Float32[np.ndarray, "like dim"]
    unliked: Float32[np.ndarray, "unlike dim"]
    seen: Float32[np.ndarray, "seen dim"]
    typical: float
    ruled_out: Ids

    @property
    def temperature(self) -> float:
        """The temperature of a choice, in units of similarity."""
        return TEMPERATURE * max(1 - self.typical, 1e-3) / MEDIAN_DISTANCE

    @property
    def direction(self) -> Float[np.ndarray, " dim"]:
        """The gradient of the evidence at a segment that resembles everything shown equally."""
        others = np.concatenate([self.unliked, self.seen])
        away = others.mean(axis=0) if len(others) else np.zeros(self.liked.shape[1], np.float32)
        total: Float[np.ndarray, " dim"] = (self.liked - away).sum(axis=0) / self.temperature
        return total

    def rate(self, vectors: Float32[np.ndarray, "segment dim"]) -> Float[np.ndarray, " segment"]:
        """Return the evidence of all choices for segments, in nats, given their unit vectors.

        Each like competes with everything shown and not liked. Without a like, each segment marked as different
        competes with a segment of typical similarity.
        """
        if not len(self.liked):
            unliked = vectors @ self.unliked.T
            reference = np.full(len(vectors), self.typical, np.float32)
            choices = [rate_choice(reference, other[:, None], self.temperature) for other in unliked.T]
        else:
            others = vectors @ np.concatenate([self.unliked, self.seen]).T
            choices = [rate_choice(vectors @ liked, others, self.temperature) for liked in self.liked]
        total: Float[np.ndarray, " segment"] = np.sum(choices, axis=0)
        return total

    def weigh(self, ids: Ids, vectors: Float32[np.ndarray, "segment dim"]) -> Float[np.ndarray, " segment"]:
        """Return the evidence of all choices for segments, in nats, less ``SEEN_NATS`` for those already seen."""
        total: Float[np.ndarray, " segment"] = self.rate(vectors) - SEEN_NATS * np.isin(ids, self.ruled_out)
        return total


def rate_choice(
    chosen: Float[np.ndarray, " segment"], others: Float[np.ndarray, "segment other"], temperature: float
) -> Float[np.ndarray, " segment"]:
    """Return the evidence of one choice for each segment, in nats, within plus and minus ``MAX_NATS``.

    ``chosen`` and ``others`` are similarities with what was chosen and what was not. The higher the temperature, in
    units of similarity, the less a choice says.
    """
    ahead = np.minimum((others - chosen[:, None]) / temperature, MAX_LOGIT)
    evidence = math.log(1 + ahead.shape[1]) - np.log1p(np.exp(ahead).sum(axis=1))
    clipped: Float[np.ndarray, " segment"] = np.clip(evidence, -MAX_NATS, MAX_NATS)
    return clipped


class SegmentSpace:
    """The vectors of the segments of an index, by id, time or video."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._typical: tuple[int, float] = -1, 0.0

    def read_feedback(
        self,
        like: Sequence[TimePoint],
        unlike: Sequence[TimePoint],
        seen: Sequence[TimePoint] = (),
        supposed: Sequence[tuple[int, float]] = (),
    ) -> Feedback:
        """Return the feedback on times of videos.

        Segments at ``seen`` times are ruled out. Those at ``supposed`` ones, given by video id, only compete with
        likes: they were probably shown.

        Raises:
            VidretError: A video is not in the index, or a time is not in a video. Ids of ``seen`` videos that were
                removed are ignored.
        """
        liked, unliked = self._find(like, "like"), self._find(unlike, "unlike")
        ruled_out = self._find(seen, "seen")
        segment_ids = [self.find_at(video_id, time_s) for video_id, time_s in supposed]
        supposed_ids = np.array([key for key in segment_ids if key is not None], np.int64)
        shown = np.setdiff1d(np.concatenate([ruled_out, supposed_ids]), [*liked, *unliked])
        if both := set(liked.tolist()) & set(unliked.tolist()):
            raise VidretError(f"like and unlike must differ, got {format_count(len(both), 'segment')} for both")
        room = max(MAX_OTHERS - len(unliked), 0)
        if len(shown) > room:
            shown = np.random.default_rng(SEED).choice(shown, room, replace=False)
        vectors = [self.read(ids)[1] for ids in (liked, unliked, shown)]
        typical = self.typical_similarity()
        return Feedback(liked=vectors[0], unliked=vectors[1], seen=vectors[2], typical=typical, ruled_out=ruled_out)

    def read(self, ids: Ids) -> tuple[Ids, Float32[np.ndarray, "segment dim"]]:
        """Return the ids of the segments that can be read, rising, and their unit vectors."""
        kept, vectors = self._store.features.intact_vectors(np.asarray(ids, np.int64))
        return kept, vectors.astype(np.float32)

    def weigh(self, feedback: Feedback, ids: Ids) -> Float[np.ndarray, " segment"]:
        """Return the evidence of feedback for segments, in the order of ``ids``; 0 for those that cannot be read."""
        kept, vectors = self.read(ids)
        weights = dict(zip(kept.tolist(), feedback.weigh(kept, vectors).tolist(), strict=True))
        return np.array([weights.get(key, 0.0) for key in ids.tolist()])

    def find_candidates(self, pictures: PictureChannel, query: ChannelQuery, feedback: Feedback) -> list[TimeSpan]:
        """Return the middles of the segments that a query and feedback together rate best, ``depth`` of them.

        At most about ``NUM_RATED`` segments are rated: those nearest to the query, to each like, and to the gradient of
        the evidence.
        """
        free = [encoded for clause, encoded in zip(query.clauses, query.encoded, strict=True) if not clause.phrases]
        if not free or "picture" not in query.sources:
            return []
        scale = pictures.find_scale(FrameRanker())
        texts = np.stack([clause.positive.sentence for clause in free])
        asked = np.concatenate([texts, scale.slope * texts + feedback.direction, feedback.liked]).astype(np.float32)
        num_nearest = min(max(NUM_RATED // len(asked), query.depth), self._store.max_k or len(self._store))
        _, nearest = self._store.search(asked, max(num_nearest, 1), query.within)
        ids, vectors = self.read(nearest[nearest >= 0])
        clause_evidence = [scale.rate(vectors @ clause.positive.sentence + clause.positive.offset) for clause in free]
        evidence = np.max(clause_evidence, axis=0) + feedback.weigh(ids, vectors)
        best = ids[np.argsort(-evidence, kind="stable")[: query.depth]]
        return [(video_id, time_s, time_s) for video_id, time_s in find_middles(self._store, best).values()]

    def find_at(self, video_id: int, time_s: float) -> int | None:
        """Return the id of the segment at a time of a video, or of the nearest one; None if it has none."""
        held = self._store.overlapping_segments([(video_id, time_s, time_s)])
        if len(held):
            return int(held[-1])
        segments = self._store.read_segments(self._store.segments.ids_of_video(video_id))
        return min(
            segments, key=lambda key: max(segments[key].start - time_s, time_s - segments[key].end), default=None
        )

    def read_at(self, points: Sequence[tuple[int, float]]) -> list[Float32[np.ndarray, " dim"] | None]:
        """Return the unit vector of the segment at each of some times of videos, or of the nearest; None without."""
        keys = [self.find_at(video_id, time_s) for video_id, time_s in points]
        ids, vectors = self.read(np.array([key for key in keys if key is not None], np.int64))
        vectors_by_id = dict(zip(ids.tolist(), vectors, strict=True))
        return [None if key is None else vectors_by_id.get(key) for key in keys]

    def typical_similarity(self) -> float:
        """Return the median similarity of two segments, estimated from a sample."""
        generation = self._store.generation
        if self._typical[0] != generation:
            ids = self._store.searchable()
            sample = ids[spread_evenly(len(ids), SAMPLE)]
            _, vectors = self.read(sample)
            rows, columns = np.triu_indices(len(vectors), 1)
            similarities = (vectors @ vectors.T)[rows, columns]
            self._typical = generation, float(np.median(similarities)) if len(similarities) else 0.0
        return self._typical[1]

    def pick_kinds(self, points: Sequence[tuple[int, float]], limit: int) -> list[int]:
        """Return the indices of the first point of each kind, in order: those unlike all before them."""
        radius = 1 - KIND * (1 - self.typical_similarity())
        picked: list[int] = []
        leaders: list[Float32[np.ndarray, " dim"]] = []
        for index, vector in enumerate(self.read_at(points)):
            if vector is not None and leaders and float((np.stack(leaders) @ vector).max()) > radius:
                continue
            picked.append(index)
            leaders += [] if vector is None else [vector]
            if len(picked) == limit:
                break
        return picked

    def _find(self, points: Sequence[TimePoint], name: str) -> Ids:
        """Return the ids of the segments at some times, rising, each once."""
        segment_ids = set()
        for video, time_s in points:
            try:
                video_id = look_up_video(self._store, video)
                is_held = len(self._store.overlapping_segments([(video_id, time_s, time_s)])) > 0
                record = None if is_held else self._store.videos.get(video_id)
            except StoreError as error:
                if name == "seen" and isinstance(video, int | np.integer):  # removed since it was shown
                    continue
                raise VidretError(f"{name} must name a video of the index: {error}") from error
            if record is not None and not 0 <= time_s <= record.duration + ROUGH_S:
                rule = f"{name} must have a time from 0 to {record.duration:g} s, where its video ends"
                raise VidretError(f"{rule}, got {time_s:g}")
            key = self.find_at(video_id, time_s)
            if key is None:
                raise VidretError(f"{name} must name a video with a segment, got {video}")
            segment_ids.add(key)
        return np.array(sorted(segment_ids), np.int64)
