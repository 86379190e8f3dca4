"""The vectors of an index in shards on disk and flat indexes in memory for newer ones, searched together.

Ids are never reused and the vector of an id never changes, so comparing the sets of ids shows whether vectors are up to
date. Shards and flat indexes never change either, so searches continue while others are built.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidret.store.snapshots.bitmap import Bits, Ids, add_ids, are_ids, count_ids, list_ids, make_bitmap, subtract
from vidret.store.snapshots.snapshot import Selection
from vidret.store.vectors.base import Queries, SearchResult
from vidret.store.vectors.flat import FLAT, Flat, IdFilter, Read, merge_results, score_exactly, split_batches
from vidret.store.vectors.ivf import KINDS, Shard, build_shard, map_parts, vector_bytes
from vidret.store.vectors.manifest import Manifest, ManifestEntry, find_mismatch

logger = logging.getLogger(__name__)

IVF_FROM = 200_000  # below, an exact flat search takes tens of milliseconds
MAX_SHARD_SIZE = 2_000_000  # vectors; a shard is in memory while it is built
GROWTH = 2  # a shard is rebuilt together with at least half as many vectors, so that a vector moves only a few times
MAX_DEAD_FRACTION = 0.3
FASTEST = "ivf-rabitq2"  # reads a seventh of the bytes of float16
REFINED = {"ivf-rabitq2": (4, 200), "ivf-rabitq1": (10, 1000)}  # candidates to score exactly: per k, and minimum
MAX_SCANNED, SCANNED_SHARE = 2048, 500  # narrow selections up to this size or share are scored exactly
MERGED = 2  # a flat index of new vectors absorbs older ones up to this many times its size
QUERY_BATCH = 16  # queries whose candidates are read together


@dataclass(frozen=True, slots=True)
class ShardSize:
    """The kind of a shard, and its numbers of all and of live vectors."""

    kind: str
    total: int
    live: int


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The immutable shards and flat indexes of an index, and the ids of all their vectors.

    ``flat_entry`` is the file of the only flat index, if it is saved.
    """

    shards: tuple[Shard, ...]
    flats: tuple[Flat, ...]
    flat_entry: ManifestEntry | None
    bits: Bits

    @property
    def num_flat(self) -> int:
        """The number of vectors in flat indexes."""
        return sum(len(flat.ids) for flat in self.flats)

    def __len__(self) -> int:
        return sum(shard.entry.total for shard in self.shards) + self.num_flat


class Shards:
    """A searchable set of vectors by id. Any number of threads may search while one changes it."""

    def __init__(self, dim: int, read: Read, *, device: str = "cpu", ivf_from: int = IVF_FROM) -> None:
        """Start empty; ``read`` returns vectors by id.

        Raises:
            StoreError: FAISS does not see the GPU ``device``.
        """
        self._dim, self._read, self._device, self._ivf_from = dim, read, device, ivf_from
        Flat(dim, device=device)  # raises if the GPU is missing
        self._held = Held((), (), None, np.zeros(0, np.uint8))

    @property
    def bits(self) -> Bits:
        """The ids of all vectors."""
        return self._held.bits

    # Updating

    def load(self, folder: Path, manifest: Manifest, bits: Bits | None) -> None:
        """Load the saved files that are intact; ``bits`` are their ids, None to read them from the files.

        Open files are kept, since files never change.
        """
        open_shards = {shard.entry: shard for shard in self._held.shards}
        opened = map_parts(lambda entry: open_shards.get(entry) or self._open(folder, entry), manifest.shards)
        shards = tuple(shard for shard in opened if shard is not None)
        flat, flat_entry = Flat(self._dim, device=self._device), None
        if manifest.flat is not None and not (reason := find_mismatch(folder, manifest.flat, whole=False)):
            try:
                flat.load(folder / manifest.flat.name, manifest.flat.total)
                flat_entry = manifest.flat
            except (OSError, RuntimeError, ValueError, MemoryError) as error:
                reason = str(error) or "out of memory"
        if manifest.flat is not None and flat_entry is None:
            logger.info("%s: rebuilding (%s)", folder / manifest.flat.name, reason)
        if bits is None or len(shards) != len(manifest.shards) or flat_entry != manifest.flat:
            shards = tuple(shard for shard in shards if are_ids(shard.ids))
            bits = _join_bits(shards, [flat])
        self._held = Held(shards, (flat,) if flat_entry else (), flat_entry, bits)

    def find_missing(self, wanted: Bits) -> Ids:
        """Return the wanted ids without a vector."""
        return list_ids(subtract(wanted, self._held.bits))

    def add(self, new_ids: Ids) -> None:
        """Read the vectors of new ids into few flat indexes that grow fast, so that a vector moves only a few times."""
        if not len(new_ids):
            return
        flats, ids = list(self._held.flats), [new_ids]
        while flats and len(flats[-1].ids) <= MERGED * sum(map(len, ids)):
            ids.append(flats.pop().ids)
        flat = self._read_flat(np.sort(np.concatenate(ids)))
        self._held = Held(self._held.shards, (*flats, flat), None, add_ids(self._held.bits, flat.ids))

    def _read_flat(self, ids: Ids) -> Flat:
        flat = Flat(self._dim, device=self._device)
        for batch in split_batches(ids):
            flat.add(*self._read(batch))
        return flat

    def rebuild(self, folder: Path, kind: str, wanted: Bits) -> None:
        """Load the wanted ids, and build shards of a kind if there are enough; slow, so never part of a search.

        Shards may keep other ids.

        Raises:
            StoreError: The disk is full or fails; nothing changes then.
        """
        held, new_ids = self._held, self.find_missing(wanted)
        dead = list_ids(subtract(held.bits, wanted))
        sizes = [ShardSize(shard.entry.kind, shard.entry.total, _count_live(shard, dead)) for shard in held.shards]
        in_flats = np.concatenate([np.empty(0, np.int64), *(flat.ids for flat in held.flats)])
        loose = np.union1d(np.setdiff1d(in_flats, dead), new_ids)
        rebuilt = choose_rebuilt(sizes, len(loose), kind, self._ivf_from)
        freed = [np.setdiff1d(held.shards[index].ids, dead, assume_unique=True) for index in rebuilt]
        pool = np.sort(np.concatenate([loose, *freed]))
        shards = tuple(shard for index, shard in enumerate(held.shards) if index not in rebuilt)
        flats, flat_entry = held.flats, held.flat_entry
        if len(pool) >= self._ivf_from:
            shards += tuple(self._build(folder, kind, pool))
            flats, flat_entry = (), None
        elif len(flats) > 1 or not np.array_equal(pool, in_flats):
            flats, flat_entry = ((self._read_flat(pool),) if len(pool) else ()), None
        is_same = (shards, flats) == (held.shards, held.flats)
        self._held = held if is_same else Held(shards, flats, flat_entry, _join_bits(shards, flats))

    def _build(self, folder: Path, kind: str, pool: Ids) -> Iterator[Shard]:
        for ids in np.array_split(pool, -(-len(pool) // MAX_SHARD_SIZE)):
            logger.info("building a shard of %d vectors, %s", len(ids), kind)
            entry = build_shard(folder, kind, self._dim, ids, self._read)
            if entry is not None:
                yield Shard(folder, entry, self._dim, device=self._device)

    def save(self, folder: Path) -> Manifest:
        """Write the flat index if it is not on disk yet, after ``rebuild``; return the manifest of all files."""
        held = self._held
        if held.flat_entry is None and held.num_flat:
            (flat,) = held.flats
            held = replace(held, flat_entry=flat.save(folder))
            self._held = held
        return Manifest(dim=self._dim, shards=tuple(shard.entry for shard in held.shards), flat=held.flat_entry)

    # Searching

    def search(self, queries: Queries, k: int, within: Selection) -> SearchResult:
        """Return the k best per query within a selection; ties in the order of their ids."""
        held = self._held
        if held.shards and within.narrow and within.num_segments <= max(MAX_SCANNED, len(held) // SCANNED_SHARE):
            ids, vectors = self._read(within.ids())
            scores = score_exactly(queries, vectors) if len(ids) else np.empty((len(queries), 0), np.float32)
            return merge_results([SearchResult(scores, np.broadcast_to(ids, scores.shape))], k)
        id_filter = None
        if within.narrow or subtract(held.bits, within.bits).any():
            id_filter = IdFilter(within.bits, min(1.0, within.num_segments / max(1, len(held))), within.narrow)
        result = self._search_all(held, queries, k, id_filter, everywhere=False)
        # Matching vectors may be far from the query, in lists that were not searched.
        num_results = min(k, within.num_segments)
        if held.shards and num_results and (result.ids[:, num_results - 1] < 0).any():
            num_results = min(k, count_ids(within.bits) - count_ids(subtract(within.bits, held.bits)))
            if num_results and (result.ids[:, num_results - 1] < 0).any():
                result = self._search_all(held, queries, k, id_filter, everywhere=True)
        return result

    def _search_all(
        self, held: Held, queries: Queries, k: int, id_filter: IdFilter | None, *, everywhere: bool
    ) -> SearchResult:
        """Search the flat indexes and all shards."""

        def search(shard: Shard) -> SearchResult:
            factor, minimum = REFINED.get(shard.entry.kind, (1, 0))
            return shard.search(queries, max(factor * k, minimum), id_filter, everywhere=everywhere)

        in_turn = len(queries) > 1  # FAISS searches for many queries on its own threads
        searched = list(map(search, held.shards)) if in_turn else map_parts(search, held.shards)
        results = [flat.search(queries, k, id_filter) for flat in held.flats]
        results += [result for shard, result in zip(held.shards, searched, strict=True) if not shard.coarse]
        coarse = [result for shard, result in zip(held.shards, searched, strict=True) if shard.coarse]
        if coarse:
            depth = max(result.ids.shape[1] for result in coarse)
            results.append(self._refine(queries, merge_results(coarse, depth) if len(coarse) > 1 else coarse[0]))
        nothing = SearchResult(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        return merge_results(results or [nothing], k)

    def _refine(self, queries: Queries, coarse: SearchResult) -> SearchResult:
        """Return each query's candidates with exact scores, in no order."""
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
        return SearchResult(scores, result_ids)

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


def _join_bits(shards: Sequence[Shard], flats: Sequence[Flat]) -> Bits:
    """Return the ids of all vectors."""
    ids = np.concatenate([np.empty(0, np.int64), *(shard.ids for shard in shards), *(flat.ids for flat in flats)])
    return make_bitmap(np.sort(ids))


def _count_live(shard: Shard, dead: Ids) -> int:
    if not len(dead):
        return shard.entry.total
    return shard.entry.total - len(np.intersect1d(shard.ids, dead, assume_unique=True))


def choose_rebuilt(shards: Sequence[ShardSize], num_loose: int, kind: str, ivf_from: int) -> list[int]:
    """Return the indices of the shards to rebuild, with the loose vectors, into new shards or the flat index.

    These are shards of another kind or with too many dead vectors. If that yields enough vectors for a shard, smaller
    shards are added, to limit their number; full shards are not.
    """
    rebuilt = [
        index
        for index, size in enumerate(shards)
        if size.kind != kind or size.live < (1 - MAX_DEAD_FRACTION) * size.total
    ]
    pool = num_loose + sum(shards[index].live for index in rebuilt)
    if pool >= ivf_from:
        for index in sorted(range(len(shards)), key=lambda index: shards[index].live):
            if index not in rebuilt and shards[index].live <= min(GROWTH * pool, MAX_SHARD_SIZE // 2):
                rebuilt.append(index)
                pool += shards[index].live
    return sorted(rebuilt)


def choose_kind(num_vectors: int, dim: int, memory: int | None) -> str:
    """Return the finest kind of shard that fits in ``memory`` bytes; if none does, the coarsest, with a warning.

    Without a limit, return the fastest kind, which finds the same segments after exact refinement.
    """
    if memory is None:
        return FASTEST
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


def describe_kinds(manifest: Manifest | None) -> str:
    """Return the kinds of saved files, such as ``ivf-rabitq2, flat``; ``none`` if nothing was saved."""
    if manifest is None:
        return "none"
    kinds = [kind for kind in KINDS if any(entry.kind == kind for entry in manifest.shards)]
    return ", ".join([*kinds, *([FLAT] if manifest.flat is not None or not kinds else [])])
