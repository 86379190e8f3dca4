"""Calibrating an index: what a bank of queries says about each segment, stored as one number a level and segment."""

import io
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from vidret.align.calibration import sk_norm
from vidret.errors import VidretError
from vidret.search.ranking import Levels, Ranker
from vidret.store.records import CALIBRATION
from vidret.store.store import Store
from vidret.types import TextEmbedding

BATCH = 256  # segments read and scored at a time
MEMORY = 4 << 30  # bytes that the bank's scores may take with what Sinkhorn makes of them
COPIES = 4  # arrays of the size of one level that live at once
COLDEST = 1e-6  # a temperature below drowns the differences of float32 scores

Ids = Int64[np.ndarray, " id"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Potentials of the segments of one index for one ranker, each level's mean 0; ``error`` is Sinkhorn's, 0..2."""

    bank: str
    num_queries: int
    temperature: float
    ids: Ids = field(repr=False)
    potentials: Mapping[str, Float32[np.ndarray, " id"]] = field(repr=False)
    error: float = 0.0

    def correct(self, levels: Levels, ids: Ids) -> Levels:
        """Add to each segment's scores what the bank said about it; one that came later stays as it is."""
        places = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
        known = self.ids[places] == ids if len(self.ids) else np.zeros(len(ids), bool)
        scores = {
            name: level + np.where(known, self.potentials[name][places], 0) if len(self.ids) else level
            for name, level in levels.scores.items()
        }
        return Levels(scores, levels.best)

    def count_unknown(self, ids: Ids) -> int:
        """Count the segments that the bank has not met."""
        return len(np.setdiff1d(ids, self.ids, assume_unique=True))


def measure_calibration(
    store: Store,
    ranker: Ranker,
    texts: Sequence[TextEmbedding],
    *,
    bank: str,
    read: Callable[[Ids], Levels],
    temperature: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Score a bank of queries against every segment of an index, and balance the scores of each level (SK-norm).

    Args:
        store: The index.
        ranker: What scores.
        texts: The bank.
        bank: Its name, for reports.
        read: Gives the bank's levels for segments by id.
        temperature: Of Sinkhorn, in the unit of the levels; the ranker's own unless given.
        on_progress: Called with the number of segments done and of all.

    Raises:
        VidretError: The index is empty, bank times index is beyond what fits into memory, or the temperature is no use.
    """
    temperature = ranker.temperature if temperature is None else temperature
    if not COLDEST <= temperature < math.inf:
        raise VidretError(f"temperature must be at least {COLDEST:g} and finite, got {temperature:g}")
    ids = store.searchable()
    if not len(ids):
        raise VidretError(f"{store.path}: there must be a segment to calibrate, got an empty index")
    most = MEMORY // (4 * (len(ranker.weights) + COPIES) * len(ids))
    if len(texts) > most:
        raise VidretError(f"bank must hold at most {most} queries for {len(ids)} segments, got {len(texts)}")
    scores = {name: np.empty((len(texts), len(ids)), np.float32) for name in ranker.weights}
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        for name, level in read(ids[part]).scores.items():
            scores[name][:, part] = level
        if on_progress is not None:
            on_progress(min(start + BATCH, len(ids)), len(ids))
    there = np.isfinite(next(iter(scores.values()))[0])  # damaged segments have no scores
    ids, scores = ids[there], {name: level[:, there] for name, level in scores.items()}
    potentials, errors = {}, []
    for name in ranker.weights:
        found = sk_norm(torch.from_numpy(scores.pop(name)), temperature=temperature)
        centred: Float[np.ndarray, " id"] = (found.potentials - found.potentials.mean()).numpy()
        potentials[name] = centred.astype(np.float32)
        errors.append(found.error)
    return Calibration(bank, len(texts), temperature, ids, potentials, max(errors))


def save_calibration(
    store: Store, ranker: Ranker, calibration: Calibration, baseline: Mapping[str, str] | None = None
) -> None:
    """Store a calibration in its index, in one transaction with the baseline that was measured under it."""
    facts = {
        "bank": calibration.bank,
        "num_queries": calibration.num_queries,
        "temperature": calibration.temperature,
        "error": calibration.error,
        "fingerprint": ranker.fingerprint,
    }
    file = io.BytesIO()
    np.savez(file, facts=np.array(json.dumps(facts)), ids=calibration.ids, **_prefixed(calibration.potentials))
    own: dict[str, str | bytes] = {_key(ranker): file.getvalue(), f"{_key(ranker)}.edition": uuid.uuid4().hex}
    store.set_metas({**own, **(baseline or {})})


def find_edition(store: Store, ranker: Ranker) -> str:
    """Tell calibrations of an index apart without reading them: each that is saved has another edition."""
    return str(store.get_meta(f"{_key(ranker)}.edition") or "")


def load_calibration(store: Store, ranker: Ranker) -> Calibration | None:
    """Read the calibration that an index has for a ranker; None if there is none."""
    stored = store.get_meta(_key(ranker))
    if not isinstance(stored, bytes):
        return None
    with np.load(io.BytesIO(stored)) as file:
        facts: dict[str, Any] = json.loads(str(file["facts"]))
        if facts.pop("fingerprint") != ranker.fingerprint:
            return None
        potentials = {name: file[f"level.{name}"] for name in ranker.weights}
        return Calibration(ids=file["ids"], potentials=potentials, **facts)


def forget_calibration(store: Store, ranker: Ranker) -> None:
    """Search without correction again."""
    store.set_metas({_key(ranker): "", f"{_key(ranker)}.edition": ""})


def _prefixed(potentials: Mapping[str, Float32[np.ndarray, " id"]]) -> dict[str, Any]:
    return {f"level.{name}": values for name, values in potentials.items()}


def _key(ranker: Ranker) -> str:
    return f"{CALIBRATION}.{ranker.name}"
