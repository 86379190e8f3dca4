"""Hubness correction of an index: potentials of its segments, learned from a bank of queries and stored with it."""

import json
import logging
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from vidret.channels.picture.ranking import Ids, Levels, Ranker
from vidret.disk import remove_closed
from vidret.errors import StoreError, VidretError
from vidret.store.joined import STRIDE
from vidret.store.records import CALIBRATION, PROBABILITIES, StoredSegments
from vidret.store.snapshots.columns import read_columns, write_columns
from vidret.store.store import Store
from vidret.text import format_count, parse_json
from vidret.types import TextEmbedding

logger = logging.getLogger(__name__)

BATCH = 256  # segments read and scored at a time
MEMORY = 4 << 30  # bytes for the scores of the bank, with Sinkhorn's temporary arrays; beyond it, segments are sampled
COPIES = 4  # arrays of the size of one level that exist at once
SEED = 1234
POTENTIALS, IDS = "potentials", "ids"  # the folder of an index, and the column in its files besides the levels
_FILE = re.compile(r"[0-9a-f]{32}\.rows")
COLDEST = 1e-6  # minimum temperature; below, float32 scores lose their differences
EDITION = ".edition"  # suffix of the key of a value that changes with each change of a calibration
DAMAGE = "the calibration is damaged or of an earlier version, so scores are not corrected, run vidret calibrate"
STORED_AS_IS = ("bank", "texts", "num_queries", "temperature", "error", "num_measured", "is_automatic")

OnProgress = Callable[[int, int], None]  # called with the number of segments done and the total


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The hubness correction of an index for one ranker.

    Attributes:
        bank: Name of the query bank.
        num_queries: Number of queries in the bank.
        temperature: Temperature of Sinkhorn, in the unit of the levels.
        ids: Ids of the segments, ascending.
        potentials: Added to the score of each segment, by corrected level; the mean of a level is 0.
        error: Residual error of Sinkhorn, 0..2.
        queries: Potentials of the queries by level.
        offsets: Constant by level that completes potentials which follow from ``queries``.
        num_measured: Number of segments of the index when ``queries`` were balanced.
        is_automatic: Whether an indexing run made it; later runs then measure it again.
        texts: The queries of the bank.
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
    texts: Sequence[str] = field(default=(), repr=False)

    def correct(self, levels: Levels, ids: Ids) -> Levels:
        """Return corrected levels of some segments; those without potentials keep their scores."""
        if not len(self.ids):
            return levels
        indices, is_known = self._find(ids)
        scores = {
            name: level + np.where(is_known, self.potentials[name][indices], 0) if name in self.potentials else level
            for name, level in levels.scores.items()
        }
        return Levels(scores, levels.best)

    def find_unknown(self, ids: Ids) -> Ids:
        """Return the segments that were added after the calibration."""
        return ids[~self._find(ids)[1]] if len(self.ids) else ids

    def _find(self, ids: Ids) -> tuple[Ids, Bool[np.ndarray, " id"]]:
        """Return the nearest row of each segment, and whether it is that of the segment."""
        indices = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return indices, self.ids[indices] == ids

    def extended(self, ids: Ids, scores: Mapping[str, Float32[np.ndarray, "text id"]]) -> "Calibration":
        """Return the calibration with further segments, given their scores for the bank by level.

        The potentials of the queries stay fixed, so the cost per segment does not depend on the size of the index.
        """
        import torch

        from vidret.align.hubness import balance_columns

        potentials = {}
        for name in self.potentials:
            bank, queries = torch.from_numpy(scores[name]), torch.from_numpy(self.queries[name])
            level_potentials = balance_columns(bank, queries, temperature=self.temperature).numpy() + self.offsets[name]
            potentials[name] = level_potentials.astype(np.float32)
        return self.joined([replace(self, ids=ids, potentials=potentials)])

    def joined(self, others: Sequence["Calibration"]) -> "Calibration":
        """Return the calibration with the segments of others."""
        ids = np.concatenate([self.ids, *(other.ids for other in others)])
        order = np.argsort(ids)
        potentials = {
            name: np.concatenate([values, *(other.potentials[name] for other in others)])[order]
            for name, values in self.potentials.items()
        }
        return replace(self, ids=ids[order], potentials=potentials)

    def without_segments(self) -> "Calibration":
        """Return the calibration with its segments removed."""
        nothing = {name: values[:0] for name, values in self.potentials.items()}
        return replace(self, ids=self.ids[:0], potentials=nothing)


@dataclass(slots=True, eq=False)
class _Loaded:
    """The stored calibration of a ranker, that of segments added since, and the embeddings of its bank."""

    edition: str
    calibration: Calibration | None
    new: Calibration | None = None
    bank: Sequence[TextEmbedding] = ()


class Calibrations:
    """The stored calibrations of an open index, each read again only when it has changed.

    Segments added since are corrected too: their potentials are measured when they are first needed.
    """

    def __init__(self, store: Store, encode: Callable[[Sequence[str]], Sequence[TextEmbedding]]) -> None:
        self._store, self._encode = store, encode
        self._loaded: dict[str, _Loaded] = {}

    def correct(self, ranker: Ranker, segments: StoredSegments, levels: Levels) -> Levels:
        """Return the corrected levels of some segments; unchanged if the index has no calibration for the ranker."""
        edition, loaded = find_edition(self._store, ranker), self._loaded.get(ranker.name)
        if loaded is None or loaded.edition != edition:
            loaded = self._loaded[ranker.name] = _Loaded(edition, load_calibration(self._store, ranker))
        calibration = loaded.calibration
        if calibration is None:
            return levels
        new = loaded.new or calibration.without_segments()
        missing = new.find_unknown(calibration.find_unknown(segments.ids))
        if len(missing):
            loaded.bank = loaded.bank or self._encode(list(calibration.texts))
            rows = np.flatnonzero(np.isin(segments.ids, missing)).tolist()
            packed, frames = [segments.tokens[row] for row in rows], [segments.frames[row] for row in rows]
            scores = ranker.score(loaded.bank, packed, frames).scores
            level_scores = {name: scores[name].astype(np.float32) for name in calibration.potentials}
            loaded.new = new = new.extended(segments.ids[rows], level_scores)
        return new.correct(calibration.correct(levels, segments.ids), segments.ids)

    @contextmanager
    def override(self, ranker: Ranker, calibration: Calibration | None) -> Iterator[None]:
        """Use a calibration that is not stored yet, or none, inside the context."""
        self._loaded[ranker.name] = _Loaded(find_edition(self._store, ranker), calibration)
        try:
            yield
        finally:
            self._loaded.pop(ranker.name, None)


def check_calibration(store: Store, ranker: Ranker, temperature: float | None) -> tuple[float, Ids]:
    """Return the temperature and the segments of a calibration, before a bank is encoded for it.

    Raises:
        VidretError: The index is empty, or the temperature is invalid.
    """
    temperature = ranker.temperature if temperature is None else temperature
    if not COLDEST <= temperature < math.inf:
        raise VidretError(f"temperature must be at least {COLDEST:g} and finite, got {temperature:g}")
    ids = store.searchable()
    if not len(ids):
        raise VidretError(f"{store.path}: there must be a segment to calibrate, got an empty index")
    return temperature, ids


def measure_calibration(
    store: Store,
    ranker: Ranker,
    texts: Sequence[TextEmbedding],
    *,
    bank: str,
    read: Callable[[Ids], Levels],
    temperature: float | None = None,
    on_progress: OnProgress | None = None,
) -> Calibration:
    """Score every segment of an index with a bank of queries, and balance each level with SK-norm.

    If the scores do not fit into memory, a sample is balanced, and the potentials of the others follow from those of
    the queries.

    ``texts`` are the bank; ``read`` returns its levels for segments by id. The temperature of Sinkhorn has the unit of
    the levels; None is that of the ranker.

    Raises:
        VidretError: As in ``check_calibration``.
    """
    import torch

    from vidret.align.hubness import balance_columns, sk_norm

    temperature, ids = check_calibration(store, ranker, temperature)
    max_segments = max(1, MEMORY // (4 * (len(ranker.weights) + COPIES) * len(texts)))
    measured = ids
    if len(ids) > max_segments:
        measured = np.sort(np.random.default_rng(SEED).choice(ids, max_segments, replace=False))
    batches = list(_read_batches(measured, read, on_progress))
    measured = np.concatenate([batch_ids for batch_ids, _ in batches])  # without damaged ones
    scores = {name: np.concatenate([levels[name] for _, levels in batches], axis=1) for name in batches[0][1]}
    potentials, queries, offsets, errors = {}, {}, {}, []
    for name in ranker.weights:
        scores_of_level = torch.from_numpy(scores.pop(name))
        correction = sk_norm(scores_of_level, temperature=temperature)
        centred = correction.potentials - correction.potentials.mean()
        potentials[name] = centred.numpy().astype(np.float32)
        errors.append(correction.error)
        assert correction.query_potentials is not None
        queries[name] = correction.query_potentials.numpy()
        balanced = balance_columns(scores_of_level, correction.query_potentials, temperature=temperature)
        offsets[name] = float((centred - balanced).mean())
    calibration = Calibration(
        bank=bank,
        num_queries=len(texts),
        temperature=temperature,
        ids=measured,
        potentials=potentials,
        error=max(errors),
        queries=queries,
        offsets=offsets,
        num_measured=len(ids),
    )
    if len(ids) <= max_segments:
        return calibration
    return extend_calibration(calibration, calibration.find_unknown(ids), read, on_progress)


def extend_calibration(
    calibration: Calibration, ids: Ids, read: Callable[[Ids], Levels], on_progress: OnProgress | None = None
) -> Calibration:
    """Return a calibration with further segments, scored batch by batch; damaged ones are left out."""
    new = calibration.without_segments()
    return calibration.joined([new.extended(*batch) for batch in _read_batches(ids, read, on_progress)])


def _read_batches(
    ids: Ids, read: Callable[[Ids], Levels], on_progress: OnProgress | None
) -> Iterator[tuple[Ids, dict[str, Float32[np.ndarray, "text id"]]]]:
    """Yield segments with their scores by level, except damaged ones, which have no scores."""
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        scores = read(batch).scores
        readable = np.isfinite(next(iter(scores.values()))[0])
        yield batch[readable], {name: level[:, readable].astype(np.float32) for name, level in scores.items()}
        if on_progress is not None:
            on_progress(min(start + BATCH, len(ids)), len(ids))


def save_calibration(
    store: Store, ranker: Ranker, calibration: Calibration, scale: Mapping[str, str] | None = None
) -> None:
    """Store a calibration in its index, in one transaction with the scale that was measured with it."""
    path = store.path / POTENTIALS / f"{uuid.uuid4().hex}.rows"
    columns = write_columns(path, {IDS: calibration.ids, **calibration.potentials})
    header = {name: getattr(calibration, name) for name in STORED_AS_IS} | {
        "offsets": dict(calibration.offsets),
        "fingerprint": ranker.fingerprint,
        "file": path.name,
        "columns": columns,
        "queries": {name: values.tolist() for name, values in calibration.queries.items()},
    }
    metas = {_key(ranker): json.dumps(header), f"{_key(ranker)}{EDITION}": uuid.uuid4().hex}
    store.metadata.set_many({**metas, **(scale or {})}, durable=True)  # before the file of the old one is deleted
    _remove_others(store)


def find_edition(store: Store, ranker: Ranker) -> str:
    """Return the edition of a stored calibration, new with each ``save_calibration``; empty if there is none."""
    editions = (str(index.metadata.get(f"{_key(ranker)}{EDITION}") or "") for index in store.parts.values())
    return " ".join(editions).strip()


def load_calibration(store: Store, ranker: Ranker) -> Calibration | None:
    """Load the calibration of an index for a ranker; None if there is none, or with a warning if it is damaged.

    The calibration of joined indexes has the potentials of all; there is none unless all are calibrated.
    """
    if len(store.parts) == 1:
        return _load_own(store, ranker)
    loaded = {index_number: _load_own(index, ranker) for index_number, index in store.parts.items() if len(index)}
    moved = [
        replace(calibration, ids=calibration.ids + index_number * STRIDE)
        for index_number, calibration in loaded.items()
        if calibration is not None
    ]
    if not moved:
        return None
    first, *others = moved
    if len(moved) < len(loaded) or any(other.potentials.keys() != first.potentials.keys() for other in others):
        logger.warning("scores are not corrected: not all of the indexes are calibrated for the same levels")
        return None
    return first.joined(others)


def _load_own(store: Store, ranker: Ranker) -> Calibration | None:
    for _ in range(2):
        stored = store.metadata.get(_key(ranker))
        if not stored:
            return None
        if (found := _read(store, stored)) is not None:
            fingerprint, calibration = found
            return calibration if fingerprint == ranker.fingerprint else None
        store.metadata.forget_held()  # a writer may have just replaced it
    logger.warning("%s: %s", _find_file(store, stored) or store.path, DAMAGE)
    return None


def _read(store: Store, stored: str | bytes) -> tuple[str, Calibration] | None:
    """Return a stored calibration, after the fingerprint of its ranker; None if it is damaged."""
    path = _find_file(store, stored)
    if path is None:
        return None
    try:
        header: dict[str, Any] = parse_json(stored)
        fingerprint, listed = str(header["fingerprint"]), header["columns"]
        potentials = read_columns(path, listed, {**dict.fromkeys(listed, np.float32), IDS: np.int64})
        if potentials is None:
            return None
        queries = {name: np.array(values, np.float32) for name, values in header["queries"].items()}
        fields = {name: header[name] for name in (*STORED_AS_IS, "offsets")}
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return fingerprint, Calibration(**fields, ids=potentials.pop(IDS), potentials=potentials, queries=queries)


def _list_stored(store: Store) -> dict[str, str | bytes]:
    """Return the calibrations of an index by key; one that was removed is stored as empty."""
    keys = [key for key in store.metadata.keys(f"{CALIBRATION}.") if not key.endswith(EDITION)]
    return {key: stored for key in keys if (stored := store.metadata.get(key))}


def list_calibrations(store: Store) -> list[str]:
    """Return a line for each calibration of an index: the scores of a ranker by a bank, and probabilities."""
    entries = {key: _read(store, stored) for key, stored in _list_stored(store).items()}
    return [
        f"by {format_count(entry[1].num_queries, 'query')} of {entry[1].bank} (SK-norm, rerank {key.split('.', 1)[1]})"
        for key, entry in entries.items()
        if entry is not None
    ] + ["probabilities by known answers"] * bool(store.metadata.get(PROBABILITIES))


def find_damaged_calibrations(store: Store, *, repair: bool) -> list[str]:
    """Verify the calibrations of an index; return descriptions of the damage. ``repair`` removes damaged ones."""
    bad = {key: stored for key, stored in _list_stored(store).items() if _read(store, stored) is None}
    damaged = {key: f"{_find_file(store, stored) or store.path}: {DAMAGE}" for key, stored in bad.items()}
    if damaged and repair:
        store.metadata.set_many({name: "" for key in damaged for name in (key, f"{key}{EDITION}")}, durable=True)
        _remove_others(store)
    return list(damaged.values())


def forget_calibration(store: Store, ranker: Ranker, facts: Mapping[str, str]) -> None:
    """Remove the calibration of an index for a ranker, and store other facts, in one transaction."""
    store.metadata.set_many({_key(ranker): "", f"{_key(ranker)}{EDITION}": "", **facts}, durable=True)
    _remove_others(store)


def _remove_others(store: Store) -> None:
    """Delete files of potentials that no calibration lists, including leftovers of killed runs and earlier versions."""
    store.metadata.forget_held()
    with suppress(StoreError):  # a damaged calibration may list any of them
        listed = [_find_file(store, store.metadata.get(key)) for key in store.metadata.keys(f"{CALIBRATION}.")]
        for path in (store.path / POTENTIALS).glob("*"):
            if _FILE.match(path.name) and path not in listed and path.is_file():
                remove_closed(path)


def is_calibrated_by_user(store: Store) -> bool:
    """Return whether an index has a calibration that an indexing run would not make by itself."""
    try:
        return not all(parse_json(stored)["is_automatic"] for stored in _list_stored(store).values())
    except (ValueError, LookupError, TypeError):  # no valid one
        return True


def _key(ranker: Ranker) -> str:
    return f"{CALIBRATION}.{ranker.name}"


def _find_file(store: Store, stored: str | bytes | None) -> Path | None:
    """Return the file that a stored calibration lists, whether it exists or not; None if there is nothing valid."""
    with suppress(ValueError, LookupError, TypeError):
        name: str = parse_json(stored or "{}")["file"]
        if _FILE.fullmatch(name):  # other names could lead out of the folder
            return store.path / POTENTIALS / name
    return None
