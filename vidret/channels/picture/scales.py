"""The picture scales of an index: what unrelated queries score in its segments, by ranker."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from vidret.channels.base import Clause
from vidret.channels.picture.ranking import Ranker
from vidret.store.store import Store

DRIFT = 1.25  # growth of the index above which a scale is measured again
SAMPLE = 256  # segments that it is measured on

# Pictures: nats for each standard deviation of the scores of unrelated queries, and for a score at their mean.
PICTURE_SLOPE, PICTURE_OFFSET = 1.9, -0.5
MIN_DEVIATION = 1e-4  # of the scores of unrelated queries: stored vectors, of float16, tell no smaller ones apart
# What a hint at words takes from pictures, and what "someone says that ..." takes besides.
HINTED, REPORTED = 1.1, 2.4

Measure = Callable[[Ranker], Float[np.ndarray, " score"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScale:
    """Mean and standard deviation of what a ranker scores unrelated queries in the segments of an index."""

    mean: float
    deviation: float

    def rate(self, scores: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """Return scores as evidence."""
        rated: Float[np.ndarray, "*any"] = self.slope * (scores - self.mean) + PICTURE_OFFSET
        return rated

    @property
    def slope(self) -> float:
        """Nats for each unit of the scores."""
        return PICTURE_SLOPE / max(self.deviation, MIN_DEVIATION)


def lower_hinted(clause: Clause) -> float:
    """Return what a clause takes from pictures where they are compared with words too."""
    return -(clause.source not in (None, "sound")) * HINTED - clause.is_report * REPORTED


UNKNOWN = PictureScale(mean=0.0, deviation=0.1)  # of an empty index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A scale, and the index for which it holds."""

    generation: int
    stored: str | bytes | None
    num_segments: int
    scale: PictureScale


class PictureScales:
    """The scales of an index. Indexing stores them; a reader measures again when the index has grown since."""

    def __init__(self, measure: Measure) -> None:
        """Set the function that scores unrelated queries in a sample of the index."""
        self._measure = measure
        self._known: dict[str, _Known] = {}

    def find(self, store: Store, ranker: Ranker) -> PictureScale:
        """Return the scale of a ranker, as stored or measured now."""
        generation, stored = store.generation, store.metadata.get(_key(ranker))
        known = self._known.get(ranker.name)
        if known is None or (known.generation, known.stored) != (generation, stored):
            num_segments, scale = _read(stored)
            if known is not None and known.stored == stored and known.num_segments > num_segments:
                num_segments, scale = known.num_segments, known.scale
            if len(store) > num_segments * DRIFT:
                num_segments, scale = len(store), self._measure_scale(ranker)
            known = _Known(generation=generation, stored=stored, num_segments=num_segments, scale=scale)
            self._known[ranker.name] = known
        return known.scale

    def save(self, store: Store, ranker: Ranker) -> None:
        """Measure and store a scale, unless the stored one was measured on the index as it is."""
        stored = store.metadata.get(_key(ranker))
        if not stored or json.loads(stored).get("generation") != store.generation:
            store.metadata.set_many(self.measure(store, ranker))

    def measure(self, store: Store, ranker: Ranker) -> dict[str, str]:
        """Measure now, and return the entries to store; none for an empty index."""
        self._known.pop(ranker.name, None)
        generation, scale = store.generation, self._measure_scale(ranker)
        facts = {"segments": len(store), "generation": generation, "scale": [scale.mean, scale.deviation]}
        return {_key(ranker): json.dumps(facts)} if scale is not UNKNOWN else {}

    def _measure_scale(self, ranker: Ranker) -> PictureScale:
        scores = self._measure(ranker)
        if not len(scores):
            return UNKNOWN
        return PictureScale(mean=float(scores.mean()), deviation=float(scores.std()))


def find_typical_score(scale: PictureScale, share: float) -> float:
    """Return the score that this share of unrelated queries reaches in a segment."""
    return scale.mean + NormalDist().inv_cdf(1 - share) * scale.deviation


def _read(stored: str | bytes | None) -> tuple[int, PictureScale]:
    if not stored:
        return 0, UNKNOWN
    facts: dict[str, Any] = json.loads(stored)
    mean, deviation = facts["scale"]
    return facts["segments"], PictureScale(mean=mean, deviation=deviation)


def _key(ranker: Ranker) -> str:
    return f"scale.{ranker.name}"
