"""Baselines of an index: the best scores of unrelated queries by ranker, which scores of a search are compared with."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vidret.search.ranking import Ranker
from vidret.store.store import Store

DRIFT = 1.25  # growth of the index above which the baseline is measured again


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The best scores of unrelated queries.

    Attributes:
        generation: Generation of the index for which they are valid.
        stored: What the index stored then; a calibration replaces it without a new generation.
        num_segments: Number of segments that they were measured on.
        best: The scores.
    """

    generation: int
    stored: str | bytes | None
    num_segments: int
    best: list[float]


class Baselines:
    """The baselines of an index. Indexing stores them; a reader measures again when the index has grown since."""

    def __init__(self, measure: Callable[[Ranker], list[float]]) -> None:
        """Set the function that measures the best score of each unrelated query; empty for an empty index."""
        self._measure = measure
        self._known: dict[str, Baseline] = {}

    def scores(self, store: Store, ranker: Ranker) -> list[float]:
        """Return the best scores of the unrelated queries, as stored or measured now."""
        generation, stored = store.generation, store.get_meta(_key(ranker))
        known = self._known.get(ranker.name)
        if known is None or (known.generation, known.stored) != (generation, stored):
            facts: dict[str, Any] = json.loads(stored) if stored else {"segments": 0, "best": []}
            num_segments, best = facts["segments"], facts["best"]
            if known is not None and known.stored == stored and known.num_segments > num_segments:
                num_segments, best = known.num_segments, known.best
            if len(store) > num_segments * DRIFT:
                num_segments, best = len(store), self._measure(ranker)
            known = Baseline(generation=generation, stored=stored, num_segments=num_segments, best=best)
            self._known[ranker.name] = known
        return known.best

    def save(self, store: Store, ranker: Ranker) -> None:
        """Measure and store a baseline, unless the stored one was measured on the index as it is."""
        stored = store.get_meta(_key(ranker))
        if stored is None or json.loads(stored).get("generation") != store.generation:
            store.set_metas(self.measure(store, ranker))

    def measure(self, store: Store, ranker: Ranker) -> dict[str, str]:
        """Measure now, and return the entries to store; none for an empty index."""
        self._known.pop(ranker.name, None)
        generation, best = store.generation, self._measure(ranker)
        facts = {"segments": len(store), "generation": generation, "best": best}
        return {_key(ranker): json.dumps(facts)} if best else {}


def _key(ranker: Ranker) -> str:
    return f"baseline.{ranker.name}"
