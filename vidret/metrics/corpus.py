"""Moments searched for in a whole index: is the video right, is the span right, are both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.grounding import take_truths
from vidret.metrics.matching import find_overlaps

CORPUS_THRESHOLDS = (0.5, 0.7)
CORPUS_RANKS = (1, 5, 10, 100)


class FoundMoment(NamedTuple):
    """A stretch of one video of an index, in seconds; ``video`` is named as in the labelled queries."""

    video: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class CorpusReport:
    """At which place (1 is the first) of each query's list the first right answer stands; 0 where none is right.

    Attributes:
        ids: The queries.
        moments: Video corpus moment retrieval (VCMR): the video is right and the span reaches the threshold.
        spans: Single video moment retrieval (SVMR): the same, places counted among the right video's moments only.
        videos: Video retrieval (VR): the video is right, places counted over different videos as they first appear.
    """

    ids: tuple[str, ...]
    moments: Int[np.ndarray, "query threshold"]
    spans: Int[np.ndarray, "query threshold"]
    videos: Int[np.ndarray, " query"]

    def to_dict(self) -> dict[str, object]:
        """Give recall as percentages, and each query's own places."""
        at = dict(zip(map(str, CORPUS_THRESHOLDS), range(len(CORPUS_THRESHOLDS)), strict=True))
        return {
            "num_queries": len(self.ids),
            "VCMR": {threshold: _recalls(self.moments[:, column]) for threshold, column in at.items()},
            "SVMR": {threshold: _recalls(self.spans[:, column]) for threshold, column in at.items()},
            "VR": _recalls(self.videos),
            "per_query": {
                "id": list(self.ids),
                "moments": self.moments.tolist(),
                "spans": self.spans.tolist(),
                "videos": self.videos.tolist(),
            },
        }


def recall_at(places: Int[np.ndarray, " query"], rank: int) -> float:
    """Give the share of queries whose first right answer stands at this place or before, as a percentage."""
    return 100 * float(np.mean((places > 0) & (places <= rank)))


def _recalls(places: Int[np.ndarray, " query"]) -> dict[str, float]:
    return {f"R{rank}": recall_at(places, rank) for rank in CORPUS_RANKS}


def score_corpus(queries: Sequence[LabelledQuery], found: Mapping[str, Sequence[FoundMoment]]) -> CorpusReport:
    """Score the moments that a search of a whole index gave, at overlaps of 0.5 and 0.7 and places up to 100.

    A span is right if it shares enough with any of the query's true spans. All three numbers are of the one list: if
    that holds no moment of the right video, or a few only, SVMR misses for it. For SVMR as a search inside the right
    video scores by itself, hand over lists made there.

    Args:
        queries: With their video and true spans.
        found: For each query's id what was found, best first; an empty list is an answer.

    Raises:
        VidretError: A query has no list or no true span, its id occurs twice, or a span found is not one.

    Reference:
        Lei et al., TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval (2020), section 5.1.
    """
    if not queries or len({query.id for query in queries}) != len(queries):
        raise VidretError(f"queries must have an id each and be at least one, got {len(queries)}")
    rows = [_place(query, found) for query in queries]
    moments, spans, videos = (np.array(column) for column in zip(*rows, strict=True))
    return CorpusReport(tuple(query.id for query in queries), moments, spans, videos)


def _place(query: LabelledQuery, found: Mapping[str, Sequence[FoundMoment]]) -> tuple[list[int], list[int], int]:
    """Give the places of the first right moment, span and video of one query."""
    truths = take_truths(query)
    if query.id not in found:
        raise VidretError(f"found must have a list for every query, got none for {query.id}")
    listed = found[query.id]
    times = np.array([(each.start, each.end) for each in listed], dtype=np.float64).reshape(-1, 2)
    wrong = ~(times[:, 0] <= times[:, 1]) | ~np.isfinite(times).all(axis=1)
    if wrong.any():
        raise VidretError(f"moments of query {query.id} must start before they end, got {times[wrong][0].tolist()}")
    same = np.array([each.video == query.video for each in listed], dtype=bool)
    overlaps: Float[np.ndarray, " moment"] = find_overlaps(times[None], truths[None])[0].max(axis=1)
    right = [same & (overlaps >= threshold) for threshold in CORPUS_THRESHOLDS]
    first_seen = list(dict.fromkeys(each.video for each in listed))
    video = first_seen.index(query.video) + 1 if query.video in first_seen else 0
    return [_find_first(each) for each in right], [_find_first(each[same]) for each in right], video


def _find_first(right: Bool[np.ndarray, " moment"]) -> int:
    return int(right.argmax()) + 1 if right.any() else 0
