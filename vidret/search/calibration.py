"""Hubness correction of an index: potentials of its segments, learned from a bank of queries and stored with it."""

import io
import json
import logging
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from vidret.align.calibration import balance_columns, sk_norm
from vidret.errors import VidretError
from vidret.search.ranking import Levels, Ranker
from vidret.store.records import CALIBRATION
from vidret.store.store import Store
from vidret.types import TextEmbedding

logger = logging.getLogger(__name__)

BATCH = 256  # segments read and scored at a time
MEMORY = 4 << 30  # bytes that the scores of the bank may take, with Sinkhorn's temporary arrays
COPIES = 4  # arrays of the size of one level that exist at once
COLDEST = 1e-6  # minimum temperature; below, float32 scores lose their differences

Ids = Int64[np.ndarray, " _id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The hubness correction of an index for one ranker.

    Attributes:
        bank: Name of the query bank.
        num_queries: Number of queries in the bank.
        temperature: Temperature of Sinkhorn, in the unit of the levels.
        ids: Ids of the segments, ascending.
        potentials: What to add to the score of each segment, by corrected level; the mean of a level is 0.
        error: Residual error of Sinkhorn, 0..2.
        queries: Potentials of the queries by level; empty for calibrations made before they were kept.
        offsets: Constant by level that completes potentials which follow from ``queries``.
        num_measured: Number of segments that ``queries`` were balanced with.
        is_automatic: Whether an indexing run made it, which also extends it.
    """

    bank: str
    num_queries: int
    temperature: float
    ids: Ids = field(repr=False)
    potentials: Mapping[str, Float32[np.ndarray, " id"]] = field(repr=False)
    error: float = 0.0
    queries: Mapping[str, Float32[np.ndarray, " query"]] = field(default_factory=dict, repr=False)
    offsets: Mapping[str, float] = field(default_factory=dict, repr=False)
    num_measured: int = 0
    is_automatic: bool = False

    def correct(self, levels: Levels, ids: Ids) -> Levels:
        """Return corrected levels of some segments; those added after the calibration keep their scores."""
        if not len(self.ids):
            return levels
        indices = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        known = self.ids[indices] == ids
        scores = {
            name: level + np.where(known, self.potentials[name][indices], 0) if name in self.potentials else level
            for name, level in levels.scores.items()
        }
        return Levels(scores, levels.best)

    def find_unknown(self, ids: Ids) -> Ids:
        """Return the segments that were added after the calibration."""
        return np.setdiff1d(ids, self.ids, assume_unique=True)

    def count_unknown(self, ids: Ids) -> int:
        """Return the number of segments that were added after the calibration."""
        return len(self.find_unknown(ids))

    def extended(self, ids: Ids, scores: Mapping[str, Float32[np.ndarray, "text id"]]) -> "Calibration":
        """Return the calibration with further segments, given their scores for the bank by level.

        The potentials of the queries stay, so that each segment costs the same in an index of any size.
        """
        all_ids = np.concatenate([self.ids, ids])
        order, potentials = np.argsort(all_ids), {}
        for name, values in self.potentials.items():
            bank, queries = torch.from_numpy(scores[name]), torch.from_numpy(self.queries[name])
            own = balance_columns(bank, queries, temperature=self.temperature).numpy() + self.offsets[name]
            potentials[name] = np.concatenate([values, own.astype(np.float32)])[order]
        return replace(self, ids=all_ids[order], potentials=potentials)


class Calibrations:
    """The stored calibrations of an open index, each read again only when the index or the calibration has changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: dict[str, tuple[tuple[int, str], Calibration | None]] = {}

    def find(self, ranker: Ranker) -> Calibration | None:
        """Return the calibration for a ranker; None if there is none. Warn if segments were added since."""
        version = self._find_version(ranker)
        loaded = self._loaded.get(ranker.name)
        if loaded is None or loaded[0] != version:
            calibration = load_calibration(self._store, ranker)
            if calibration is not None and (num_unknown := calibration.count_unknown(self._store.searchable())):
                logger.log(
                    logging.INFO if calibration.is_automatic else logging.WARNING,
                    "%d of %d segments came after the calibration and are not corrected: run vidret %s",
                    num_unknown,
                    len(self._store),
                    "index to its end" if calibration.is_automatic else "calibrate again",
                )
            loaded = self._loaded[ranker.name] = (version, calibration)
        return loaded[1]

    @contextmanager
    def override(self, ranker: Ranker, calibration: Calibration) -> Iterator[None]:
        """Use a calibration that is not stored yet inside the context."""
        self._loaded[ranker.name] = self._find_version(ranker), calibration
        try:
            yield
        finally:
            self._loaded.pop(ranker.name, None)

    def _find_version(self, ranker: Ranker) -> tuple[int, str]:
        return self._store.generation, find_edition(self._store, ranker)


def measure_calibration(
    store: Store,
    ranker: Ranker,
    texts: Sequence[TextEmbedding],
    *,
    bank: str,
    read: Callable[[Ids], Levels],
    temperature: float | None = None,
    levels: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Score every segment of an index with a bank of queries, and balance each level with SK-norm.

    Args:
        store: The index.
        ranker: The ranker.
        texts: The bank.
        bank: Name of the bank, for reports.
        read: Returns the levels of the bank for segments by id.
        temperature: Temperature of Sinkhorn, in the unit of the levels; defaults to the ranker's own.
        levels: Levels to correct; defaults to all.
        on_progress: Called with the number of segments done and the total.

    Raises:
        VidretError: The index is empty, the scores do not fit into memory, or the temperature is invalid.
    """
    temperature = ranker.temperature if temperature is None else temperature
    if not COLDEST <= temperature < math.inf:
        raise VidretError(f"temperature must be at least {COLDEST:g} and finite, got {temperature:g}")
    ids = store.searchable()
    if not len(ids):
        raise VidretError(f"{store.path}: there must be a segment to calibrate, got an empty index")
    max_queries = MEMORY // (4 * (len(ranker.weights) + COPIES) * len(ids))
    if len(texts) > max_queries:
        raise VidretError(f"bank must have at most {max_queries} queries for {len(ids)} segments, got {len(texts)}")
    scores = score_segments(ranker, len(texts), ids, read, on_progress)
    readable = np.isfinite(next(iter(scores.values()))[0])  # damaged segments have no scores
    ids, scores = ids[readable], {name: level[:, readable] for name, level in scores.items()}
    potentials, queries, offsets, errors = {}, {}, {}, []
    for name in ranker.weights if levels is None else levels:
        scores_of_level = torch.from_numpy(scores.pop(name))
        correction = sk_norm(scores_of_level, temperature=temperature)
        centred = correction.potentials - correction.potentials.mean()
        potentials[name] = centred.numpy().astype(np.float32)
        errors.append(correction.error)
        assert correction.query_potentials is not None
        queries[name] = correction.query_potentials.numpy()
        balanced = balance_columns(scores_of_level, correction.query_potentials, temperature=temperature)
        offsets[name] = float((centred - balanced).mean())
    return Calibration(
        bank=bank,
        num_queries=len(texts),
        temperature=temperature,
        ids=ids,
        potentials=potentials,
        error=max(errors),
        queries=queries,
        offsets=offsets,
        num_measured=len(ids),
    )


def score_segments(
    ranker: Ranker,
    num_texts: int,
    ids: Ids,
    read: Callable[[Ids], Levels],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Float32[np.ndarray, "text id"]]:
    """Return the levels of all segments, read in batches."""
    scores = {name: np.empty((num_texts, len(ids)), np.float32) for name in ranker.weights}
    for start in range(0, len(ids), BATCH):
        batch = slice(start, start + BATCH)
        for name, level in read(ids[batch]).scores.items():
            scores[name][:, batch] = level
        if on_progress is not None:
            on_progress(min(start + BATCH, len(ids)), len(ids))
    return scores


def save_calibration(
    store: Store, ranker: Ranker, calibration: Calibration, baseline: Mapping[str, str] | None = None
) -> None:
    """Store a calibration in its index, in one transaction with the baseline that was measured with it."""
    header = {
        "bank": calibration.bank,
        "num_queries": calibration.num_queries,
        "temperature": calibration.temperature,
        "error": calibration.error,
        "fingerprint": ranker.fingerprint,
        "offsets": dict(calibration.offsets),
        "num_measured": calibration.num_measured,
        "is_automatic": calibration.is_automatic,
    }
    arrays: dict[str, Any] = {f"level.{name}": values for name, values in calibration.potentials.items()}
    arrays |= {f"queries.{name}": values for name, values in calibration.queries.items()}
    file = io.BytesIO()
    np.savez(file, facts=np.array(json.dumps(header)), ids=calibration.ids, **arrays)
    metas: dict[str, str | bytes] = {_key(ranker): file.getvalue(), f"{_key(ranker)}.edition": uuid.uuid4().hex}
    store.set_metas({**metas, **(baseline or {})})


def find_edition(store: Store, ranker: Ranker) -> str:
    """Return the edition of a stored calibration, which each ``save_calibration`` changes; empty if there is none."""
    return str(store.get_meta(f"{_key(ranker)}.edition") or "")


def load_calibration(store: Store, ranker: Ranker) -> Calibration | None:
    """Load the calibration of an index for a ranker; None if there is none."""
    stored = store.get_meta(_key(ranker))
    if not isinstance(stored, bytes):
        return None
    with np.load(io.BytesIO(stored)) as file:
        header: dict[str, Any] = json.loads(str(file["facts"]))
        if header.pop("fingerprint") != ranker.fingerprint:
            return None
        potentials = {name: file[f"level.{name}"] for name in ranker.weights if f"level.{name}" in file}
        queries = {name: file[f"queries.{name}"] for name in ranker.weights if f"queries.{name}" in file}
        return Calibration(ids=file["ids"], potentials=potentials, queries=queries, **header)


def forget_calibration(store: Store, ranker: Ranker) -> None:
    """Remove the calibration of an index for a ranker."""
    store.set_metas({_key(ranker): "", f"{_key(ranker)}.edition": ""})


def _key(ranker: Ranker) -> str:
    return f"{CALIBRATION}.{ranker.name}"
