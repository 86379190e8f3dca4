"""What the scores of an index are worth: the best scores of queries that have nothing to do with it, per ranker."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vidret.search.ranking import Ranker
from vidret.store.store import Store

DRIFT = 1.25  # an index that has grown by more is measured again


@dataclass(frozen=True, slots=True)
class Baseline:
    """The best scores of unrelated queries, as measured over ``segments`` and still held good at ``generation``.

    ``stored`` is what the index held then: a calibration replaces that without another generation.
    """

    generation: int
    stored: str | bytes | None
    segments: int
    best: list[float]


class Baselines:
    """The baselines of an index, stored in it by whoever indexes; a reader of a grown one measures for itself."""

    def __init__(self, measure: Callable[[Ranker], list[float]]) -> None:
        """Take what gives the best score of each unrelated query by a ranker, empty for an empty index."""
        self._measure = measure
        self._known: dict[str, Baseline] = {}

    def scores(self, store: Store, ranker: Ranker) -> list[float]:
        """Give the unrelated queries' best scores: as stored, or measured now when the index has grown since."""
        generation, stored = store.generation, store.get_meta(_key(ranker))
        known = self._known.get(ranker.name)
        if known is None or (known.generation, known.stored) != (generation, stored):
            size = len(store)
            facts: dict[str, Any] = json.loads(stored) if stored else {"segments": 0, "best": []}
            if known is not None and known.stored == stored and known.segments > facts["segments"]:
                facts = {"segments": known.segments, "best": known.best}
            if size > facts["segments"] * DRIFT:
                facts = {"segments": size, "best": self._measure(ranker)}
            known = self._known[ranker.name] = Baseline(generation, stored, facts["segments"], facts["best"])
        return known.best

    def save(self, store: Store, ranker: Ranker) -> None:
        """Measure and store a baseline, unless it was measured on the index as it is."""
        stored = store.get_meta(_key(ranker))
        if stored is None or json.loads(stored).get("generation") != store.generation:
            store.set_metas(self.measure(store, ranker))

    def measure(self, store: Store, ranker: Ranker) -> dict[str, str]:
        """Measure now, and return what to store, by key; nothing for an empty index."""
        self._known.pop(ranker.name, None)
        generation, best = store.generation, self._measure(ranker)
        facts = {"segments": len(store), "generation": generation, "best": best}
        return {_key(ranker): json.dumps(facts)} if best else {}


def _key(ranker: Ranker) -> str:
    return f"baseline.{ranker.name}"
