"""The vectors of an index in shards on disk and a flat index in memory for newer ones, searched together.

Ids are never reused and the vector of an id never changes, so that comparing the sets of ids is enough to find out
whether vectors are up to date.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vidret.errors import StoreError
from vidret.store.ivf import KINDS, Shard, build_shard, vector_bytes
from vidret.store.manifest import Manifest, ManifestEntry, find_mismatch
from vidret.store.vectors import (
    FLAT,
    MAX_ID,
    Flat,
    IdFilter,
    Ids,
    Read,
    SearchResult,
    are_ids,
    merge_results,
    score_exactly,
    split_batches,
)

logger = logging.getLogger(__name__)

IVF_FROM = 200_000  # below, an exact flat search takes tens of milliseconds
MAX_SHARD_SIZE = 2_000_000  # vectors; a shard is in memory while it is built
GROWTH = 2  # a shard is rebuilt together with at least half as many vectors, so that a vector moves only a few times
MAX_DEAD_FRACTION = 0.3
REFINED = {"ivf-rabitq2": (4, 200), "ivf-rabitq1": (4, 400)}  # candidates to score exactly: per k, and minimum
MAX_SCANNED = 2048  # a search within at most this many ids scores all of them
QUERY_BATCH = 16  # queries whose candidates are read together


@dataclass(frozen=True, slots=True)
class ShardSize:
    """The kind of a shard, and its numbers of all and of live vectors."""

    kind: str
    total: int
    live: int


class Shards:
    """A searchable set of vectors by id."""

    def __init__(self, dim: int, read: Read, *, device: str = "cpu", ivf_from: int = IVF_FROM) -> None:
        """Start empty; ``read`` returns vectors by id.

        Raises:
            StoreError: FAISS does not see the GPU ``device``.
        """
        self._dim, self._read, self._device, self._ivf_from = dim, read, device, ivf_from
        self._shards: list[Shard] = []
        self._flat = Flat(dim, device=device)
        self._flat_entry: ManifestEntry | None = None  # if the flat index is saved
        self._dead: Ids = np.empty(0, np.int64)  # in shards, but masked
        self._live_filter: IdFilter | None = None
        self._num_wanted = 0

    def __len__(self) -> int:
        """Return the number of searchable vectors."""
        return sum(shard.entry.total for shard in self._shards) - len(self._dead) + len(self._flat.ids)

    @property
    def complete(self) -> bool:
        """Whether no wanted vector is missing because it is damaged."""
        return len(self) == self._num_wanted

    @property
    def dead(self) -> Ids:
        """The masked ids in shards, ascending."""
        return self._dead

    # Updating

    def load(self, folder: Path, manifest: Manifest, dead: Ids) -> bool:
        """Load the saved files that are intact; return whether all are.

        Open files are kept, since files never change.
        """
        known = {shard.entry: shard for shard in self._shards}
        self._shards = [each for entry in manifest.shards if (each := known.get(entry) or self._open(folder, entry))]
        self._flat, self._flat_entry = Flat(self._dim, device=self._device), None
        if manifest.flat is not None and not (reason := find_mismatch(folder, manifest.flat, whole=True)):
            try:
                self._flat.load(folder / manifest.flat.name, manifest.flat.total)
                self._flat_entry = manifest.flat
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                reason = str(error) or "out of memory"
        if manifest.flat is not None and self._flat_entry is None:
            logger.info("%s: rebuilding (%s)", folder / manifest.flat.name, reason)
        intact = len(self._shards) == len(manifest.shards) and self._flat_entry == manifest.flat
        intact = intact and are_ids(dead)
        self._set_dead(dead if intact else np.empty(0, np.int64))
        self._num_wanted = len(self)
        return intact

    def retain(self, wanted: Ids) -> Ids:
        """Remove all but the wanted ids; return the wanted ids that are missing."""
        self._shards = [shard for shard in self._shards if are_ids(shard.ids)]
        held = np.sort(np.concatenate([np.empty(0, np.int64), *(shard.ids for shard in self._shards)]))
        self._set_dead(np.setdiff1d(held, wanted, assume_unique=True))
        removed = np.setdiff1d(self._flat.ids, wanted, assume_unique=True)
        self._flat.remove(removed)
        self._flat_entry = None if len(removed) else self._flat_entry
        self._num_wanted = len(wanted)
        return np.setdiff1d(wanted, np.union1d(held, self._flat.ids), assume_unique=True)

    def add(self, new_ids: Ids) -> None:
        """Read the vectors of new ids into the flat index."""
        for batch in split_batches(new_ids):
            self._flat.add(*self._read(batch))
            self._flat_entry = None

    def rebuild(self, folder: Path, kind: str, new_ids: Ids) -> None:
        """Add new ids, and build shards of a kind if there are enough vectors; slow, so never part of a search.

        Raises:
            StoreError: The disk is full or fails; nothing changes then.
        """
        sizes = [ShardSize(each.entry.kind, each.entry.total, self._count_live(each)) for each in self._shards]
        rebuilt = choose_rebuilt(sizes, len(self._flat.ids) + len(new_ids), kind, self._ivf_from)
        freed = [np.setdiff1d(self._shards[index].ids, self._dead, assume_unique=True) for index in rebuilt]
        loose = np.sort(np.concatenate([new_ids, *freed]))
        pool = np.union1d(self._flat.ids, loose)
        fresh: list[Shard] = []
        if len(pool) >= self._ivf_from:
            for ids in np.array_split(pool, -(-len(pool) // MAX_SHARD_SIZE)):
                logger.info("building a shard of %d vectors, %s", len(ids), kind)
                entry = build_shard(folder, kind, self._dim, ids, self._read)
                if entry is not None:
                    fresh.append(Shard(folder, entry, self._dim, device=self._device))
            self._flat, self._flat_entry = Flat(self._dim, device=self._device), None
        else:
            self.add(loose)
        if rebuilt or fresh:
            kept = [shard for index, shard in enumerate(self._shards) if index not in rebuilt]
            self._shards = kept + fresh
            still_dead = (
                [np.intersect1d(shard.ids, self._dead, assume_unique=True) for shard in kept] if rebuilt else []
            )
            self._set_dead(np.sort(np.concatenate([np.empty(0, np.int64), *still_dead])) if rebuilt else self._dead)

    def save(self, folder: Path, generation: int) -> Manifest:
        """Write what is not on disk yet; return the manifest of all files."""
        if self._flat_entry is None and len(self._flat.ids):
            self._flat_entry = self._flat.save(folder)
        return Manifest(
            dim=self._dim,
            generation=generation if self.complete else -1,
            shards=tuple(shard.entry for shard in self._shards),
            flat=self._flat_entry,
        )

    # Searching

    def search(self, queries: Float32[np.ndarray, "query dim"], k: int, within: Ids | None = None) -> SearchResult:
        """Return the k best per query, among all or ``within``; ties in the order of their ids."""
        if self._shards and within is not None and len(within) <= MAX_SCANNED:
            return self._score_all(queries, k, within)
        id_filter = self._live_filter
        if within is not None:
            fraction = min(1.0, len(within) / max(1, len(self)))
            id_filter = IdFilter(make_bitmap(within), inside=True, fraction=fraction)
        result = self._search_all(queries, k, id_filter, everywhere=False)
        num_results = min(k, len(self) if within is None else len(within))
        # Matching vectors may be far from the query, in lists that were not searched.
        if self._shards and num_results and (result.ids[:, num_results - 1] < 0).any():
            result = self._search_all(queries, k, id_filter, everywhere=True)
        return result

    def _search_all(
        self, queries: Float32[np.ndarray, "query dim"], k: int, id_filter: IdFilter | None, *, everywhere: bool
    ) -> SearchResult:
        """Search the flat index and all shards."""
        exact = [self._flat.search(queries, k, id_filter if id_filter is not None and id_filter.inside else None)]
        coarse, depth = [], 0
        for shard in self._shards:
            if shard.coarse:
                factor, minimum = REFINED[shard.entry.kind]
                depth = max(factor * k, minimum)
                coarse.append(shard.search(queries, depth, id_filter, everywhere=everywhere))
            else:
                exact.append(shard.search(queries, k, id_filter, everywhere=everywhere))
        if coarse:
            exact.append(self._refine(queries, k, merge_results(coarse, depth)))
        return merge_results(exact, k)

    def _refine(self, queries: Float32[np.ndarray, "query dim"], k: int, coarse: SearchResult) -> SearchResult:
        """Return the k best of each query's candidates by exact scores."""
        scores, result_ids = np.full_like(coarse.scores, -np.inf), np.full_like(coarse.ids, -1)
        for first in range(0, len(queries), QUERY_BATCH):
            batch = slice(first, first + QUERY_BATCH)
            candidates = coarse.ids[batch]
            ids, vectors = self._read(np.unique(candidates[candidates >= 0]))
            if len(ids):
                columns = np.searchsorted(ids, candidates).clip(max=len(ids) - 1)
                readable = ids[columns] == candidates
                exact = np.take_along_axis(score_exactly(queries[batch], vectors), columns, axis=1)
                scores[batch][readable], result_ids[batch][readable] = exact[readable], ids[columns][readable]
        return merge_results([SearchResult(scores, result_ids)], k)

    def _score_all(self, queries: Float32[np.ndarray, "query dim"], k: int, within: Ids) -> SearchResult:
        """Return the k best among a few ids, whose vectors are all read."""
        ids, vectors = self._read(within)
        scores = score_exactly(queries, vectors) if len(ids) else np.empty((len(queries), 0), np.float32)
        return merge_results([SearchResult(scores, np.broadcast_to(ids, scores.shape))], k)

    # Shards and masks

    def _open(self, folder: Path, entry: ManifestEntry) -> Shard | None:
        """Open a saved shard; None if its file is damaged."""
        reason = find_mismatch(folder, entry, whole=False)
        if not reason:
            try:
                return Shard(folder, entry, self._dim, device=self._device)
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                reason = str(error) or "out of memory"
        logger.info("%s: rebuilding (%s)", folder / entry.name, reason)
        return None

    def _set_dead(self, dead: Ids) -> None:
        self._dead = dead
        fraction = 1 - len(dead) / max(1, sum(shard.entry.total for shard in self._shards))
        self._live_filter = IdFilter(make_bitmap(dead), inside=False, fraction=fraction) if len(dead) else None

    def _count_live(self, shard: Shard) -> int:
        if not len(self._dead):
            return shard.entry.total
        return shard.entry.total - len(np.intersect1d(shard.ids, self._dead, assume_unique=True))


def choose_rebuilt(shards: Sequence[ShardSize], num_loose: int, kind: str, ivf_from: int) -> list[int]:
    """Return the indices of the shards to rebuild, with the loose vectors, into new shards or the flat index.

    These are shards of another kind or with too many dead vectors. If that yields enough vectors for a shard, smaller
    shards are added, so that there are few shards; full shards are not.
    """
    rebuilt = [
        index
        for index, each in enumerate(shards)
        if each.kind != kind or each.live < (1 - MAX_DEAD_FRACTION) * each.total
    ]
    pool = num_loose + sum(shards[index].live for index in rebuilt)
    if pool >= ivf_from:
        for index in sorted(range(len(shards)), key=lambda index: shards[index].live):
            if index not in rebuilt and shards[index].live <= min(GROWTH * pool, MAX_SHARD_SIZE // 2):
                rebuilt.append(index)
                pool += shards[index].live
    return sorted(rebuilt)


def choose_kind(num_vectors: int, dim: int, memory: int | None) -> str:
    """Return the finest kind of shard that fits in ``memory`` bytes; if none fits, the coarsest, with a warning."""
    if memory is None:
        return KINDS[0]
    for kind in KINDS:
        num_bytes = num_vectors * vector_bytes(kind, dim)
        if num_bytes <= memory:
            return kind
    logger.warning(
        "memory must be at least %.3g GB for %d vectors as %s, got %.3g GB",
        num_bytes / 1e9,
        num_vectors,
        kind,
        memory / 1e9,
    )
    return kind


def make_bitmap(ids: Ids) -> np.ndarray:
    """Return ascending ids as a bitmap, least significant bit first.

    Raises:
        StoreError: They are no ids of segments, which would take all memory.
    """
    if not are_ids(ids):
        raise StoreError(f"ids of segments must ascend from 0 to {MAX_ID}, got {ids[0]} to {ids[-1]}")
    flags = np.zeros(int(ids[-1]) + 1 if len(ids) else 0, bool)
    flags[ids] = True
    return np.packbits(flags, bitorder="little")


def describe_kinds(manifest: Manifest | None) -> str:
    """Return the kinds of saved files, such as ``ivf-rabitq2, flat``; ``none`` if nothing was saved."""
    if manifest is None:
        return "none"
    kinds = [kind for kind in KINDS if any(entry.kind == kind for entry in manifest.shards)]
    return ", ".join([*kinds, *([FLAT] if manifest.flat is not None or not kinds else [])])
