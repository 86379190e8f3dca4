"""All vectors of an index: shards on disk, and a flat set in memory of what came since, searched as one.

Ids are never reused and a vector never changes under its id, so holding the right *set of ids* is holding the right
vectors: that one comparison covers every way of being out of date.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from vidret.store.manifest import FileSeal, Seal, doubt
from vidret.store.vectors import (
    FLAT,
    KINDS,
    Flat,
    Found,
    Ids,
    Only,
    Read,
    Shard,
    batches,
    build_shard,
    score_exactly,
    vector_bytes,
)

logger = logging.getLogger(__name__)

IVF_FROM = 200_000  # below, a flat scan answers in tens of milliseconds and misses nothing
FULL = 2_000_000  # in a shard; while it is built, all of it is in memory
GROWTH = 2  # a shard is built anew together with what is at least half of it, so a vector moves a few times only
DEAD_SHARE = 0.3
REFINED = {"ivf-rabitq2": (4, 200), "ivf-rabitq1": (4, 400)}  # candidates: times k, and at least
SCANNED = 2048  # ids up to which a search within them reads their vectors themselves
TOGETHER = 16  # queries whose candidates are read at once


class Size(NamedTuple):
    """A shard, as its fate is decided: its kind, what it holds, and what of it is still searched."""

    kind: str
    total: int
    live: int


class Shards:
    """A searchable set of vectors by id."""

    def __init__(self, dim: int, read: Read, *, device: str = "cpu", ivf_from: int = IVF_FROM) -> None:
        """Start empty; ``read`` gives vectors by id.

        Raises:
            StoreError: FAISS does not see the GPU that is asked for.
        """
        self._dim, self._read, self._device, self._ivf_from = dim, read, device, ivf_from
        self._shards: list[Shard] = []
        self._flat = Flat(dim, device=device)
        self._flat_seal: FileSeal | None = None  # of just this flat set
        self._dead: Ids = np.empty(0, np.int64)  # in shards, but not to be found
        self._living: Only | None = None
        self._num_wanted = 0

    def __len__(self) -> int:
        """Count what a search may find."""
        return sum(shard.seal.total for shard in self._shards) - len(self._dead) + len(self._flat.ids)

    @property
    def whole(self) -> bool:
        """Say whether all that was wanted is held: damaged vectors are left out."""
        return len(self) == self._num_wanted

    @property
    def dead(self) -> Ids:
        """The ids that shards hold and no search may find, rising."""
        return self._dead

    # Being the right set

    def load(self, folder: Path, seal: Seal, dead: Ids) -> bool:
        """Take over what was saved, as far as its files are believed; return whether all of them are.

        Files that are open already stay open: they cannot have changed.
        """
        known = {shard.seal: shard for shard in self._shards}
        self._shards = [each for file in seal.shards if (each := known.get(file) or self._open(folder, file))]
        self._flat, self._flat_seal = Flat(self._dim, device=self._device), None
        if seal.flat is not None and not (reason := doubt(folder, seal.flat, whole=True)):
            try:
                self._flat.load(folder / seal.flat.name, seal.flat.total)
                self._flat_seal = seal.flat
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error)
        if seal.flat is not None and self._flat_seal is None:
            logger.info("%s: building it anew (%s)", folder / seal.flat.name, reason)
        whole = len(self._shards) == len(seal.shards) and self._flat_seal == seal.flat
        self._bury(dead if whole else np.empty(0, np.int64))
        self._num_wanted = len(self)
        return whole

    def follow(self, wanted: Ids) -> Ids:
        """Let go of all but the wanted ids; return those that are wanted and not held."""
        held = np.sort(np.concatenate([np.empty(0, np.int64), *(shard.ids for shard in self._shards)]))
        self._bury(np.setdiff1d(held, wanted, assume_unique=True))
        gone = np.setdiff1d(self._flat.ids, wanted, assume_unique=True)
        self._flat.remove(gone)
        self._flat_seal = None if len(gone) else self._flat_seal
        self._num_wanted = len(wanted)
        return np.setdiff1d(wanted, np.union1d(held, self._flat.ids), assume_unique=True)

    def fill(self, new: Ids) -> None:
        """Read new ids' vectors into the flat set."""
        for part in batches(new):
            self._flat.add(*self._read(part))
            self._flat_seal = None

    def arrange(self, folder: Path, kind: str, new: Ids) -> None:
        """Take in new ids, and make shards of this kind where there is enough for one; long, so never in a search.

        Raises:
            StoreError: The disk refuses; then everything stays as it was.
        """
        sizes = [Size(each.seal.kind, each.seal.total, self._count_live(each)) for each in self._shards]
        molten = choose_molten(sizes, len(self._flat.ids) + len(new), kind, self._ivf_from)
        freed = [np.setdiff1d(self._shards[number].ids, self._dead, assume_unique=True) for number in molten]
        loose = np.sort(np.concatenate([new, *freed]))
        pool = np.union1d(self._flat.ids, loose)
        fresh: list[Shard] = []
        if len(pool) >= self._ivf_from:
            for part in np.array_split(pool, -(-len(pool) // FULL)):
                logger.info("building a shard of %d vectors, %s", len(part), kind)
                seal = build_shard(folder, kind, self._dim, part, self._read)
                if seal is not None:
                    fresh.append(Shard(folder, seal, self._dim, device=self._device))
            self._flat, self._flat_seal = Flat(self._dim, device=self._device), None
        else:
            self.fill(loose)
        if molten or fresh:
            kept = [shard for number, shard in enumerate(self._shards) if number not in molten]
            self._shards = kept + fresh
            stays = [np.intersect1d(shard.ids, self._dead, assume_unique=True) for shard in kept] if molten else []
            self._bury(np.sort(np.concatenate([np.empty(0, np.int64), *stays])) if molten else self._dead)

    def save(self, folder: Path, generation: int) -> Seal:
        """Write what is not on disk yet; return the seal of everything."""
        if self._flat_seal is None and len(self._flat.ids):
            self._flat_seal = self._flat.save(folder)
        shards = tuple(shard.seal for shard in self._shards)
        return Seal(self._dim, generation if self.whole else -1, shards, self._flat_seal)

    # Searching

    def search(self, queries: Float32[np.ndarray, "query dim"], k: int, within: Ids | None = None) -> Found:
        """Find the k best per query, among all or ``within``: equal scores in the order of their ids."""
        if self._shards and within is not None and len(within) <= SCANNED:
            return self._scan(queries, k, within)
        only = self._living
        if within is not None:
            only = Only(as_bits(within), inside=True, share=min(1.0, len(within) / max(1, len(self))))
        found = self._look(queries, k, only, everywhere=False)
        num_may = min(k, len(self) if within is None else len(within))
        # What matches may lie far from the query, in lists that were not looked into.
        if self._shards and num_may and (found.ids[:, num_may - 1] < 0).any():
            found = self._look(queries, k, only, everywhere=True)
        return found

    def _look(self, queries: Float32[np.ndarray, "query dim"], k: int, only: Only | None, *, everywhere: bool) -> Found:
        exact = [self._flat.search(queries, k, only if only is not None and only.inside else None)]
        rough, depth = [], 0
        for shard in self._shards:
            if shard.coarse:
                times, least = REFINED[shard.seal.kind]
                depth = max(times * k, least)
                rough.append(shard.search(queries, depth, only, everywhere=everywhere))
            else:
                exact.append(shard.search(queries, k, only, everywhere=everywhere))
        if rough:
            exact.append(self._refine(queries, k, merge_results(rough, depth)))
        return merge_results(exact, k)

    def _refine(self, queries: Float32[np.ndarray, "query dim"], k: int, rough: Found) -> Found:
        """Order each query's candidates by their exact scores."""
        scores, found = np.full_like(rough.scores, -np.inf), np.full_like(rough.ids, -1)
        for first in range(0, len(queries), TOGETHER):
            part = slice(first, first + TOGETHER)
            ids, vectors = self._read(np.unique(rough.ids[part][rough.ids[part] >= 0]))
            if len(ids):
                places = np.searchsorted(ids, rough.ids[part]).clip(max=len(ids) - 1)
                known = ids[places] == rough.ids[part]
                own = np.take_along_axis(score_exactly(queries[part], vectors), places, axis=1)
                scores[part][known], found[part][known] = own[known], ids[places][known]
        return merge_results([Found(scores, found)], k)

    def _scan(self, queries: Float32[np.ndarray, "query dim"], k: int, within: Ids) -> Found:
        """Look at all of a few vectors."""
        ids, vectors = self._read(within)
        scores = score_exactly(queries, vectors) if len(ids) else np.empty((len(queries), 0), np.float32)
        return merge_results([Found(scores, np.broadcast_to(ids, scores.shape))], k)

    # Parts

    def _open(self, folder: Path, seal: FileSeal) -> Shard | None:
        reason = doubt(folder, seal, whole=False)
        if not reason:
            try:
                return Shard(folder, seal, self._dim, device=self._device)
            except (OSError, RuntimeError, ValueError) as error:
                reason = str(error)
        logger.info("%s: building it anew (%s)", folder / seal.name, reason)
        return None

    def _bury(self, dead: Ids) -> None:
        self._dead = dead
        share = 1 - len(dead) / max(1, sum(shard.seal.total for shard in self._shards))
        self._living = Only(as_bits(dead), inside=False, share=share) if len(dead) else None

    def _count_live(self, shard: Shard) -> int:
        if not len(self._dead):
            return shard.seal.total
        return shard.seal.total - len(np.intersect1d(shard.ids, self._dead, assume_unique=True))


def choose_molten(shards: Sequence[Size], num_loose: int, kind: str, ivf_from: int) -> list[int]:
    """Choose the shards that are given up: their vectors go, with the loose ones, into new shards or the flat set.

    Those of another kind, or with too many dead; and where enough is loose for a shard, the smaller ones with it, so
    that shards stay few. A full one is never built anew for that.
    """
    molten = [
        number for number, each in enumerate(shards) if each.kind != kind or each.live < (1 - DEAD_SHARE) * each.total
    ]
    pool = num_loose + sum(shards[number].live for number in molten)
    if pool >= ivf_from:
        for number in sorted(range(len(shards)), key=lambda number: shards[number].live):
            if number not in molten and shards[number].live <= min(GROWTH * pool, FULL // 2):
                molten.append(number)
                pool += shards[number].live
    return sorted(molten)


def choose_kind(num: int, dim: int, memory: int | None) -> str:
    """Choose the finest kind of shard whose vectors fit a memory; the coarsest, with a warning, where none does."""
    if memory is None:
        return KINDS[0]
    for kind in KINDS:
        num_bytes = num * vector_bytes(kind, dim)
        if num_bytes <= memory:
            return kind
    logger.warning(
        "%d vectors take %.3g GB even as %s, more than the memory of %.3g GB", num, num_bytes / 1e9, kind, memory / 1e9
    )
    return kind


def merge_results(parts: Sequence[Found], k: int) -> Found:
    """Give the k best of several searches; equal scores in the order of their ids."""
    scores, ids = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    if (missing := k - scores.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return Found(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))


def as_bits(ids: Ids) -> np.ndarray:
    """Write rising ids as a map of bits."""
    flags = np.zeros(int(ids[-1]) + 1 if len(ids) else 0, bool)
    flags[ids] = True
    return np.packbits(flags, bitorder="little")


def name_kinds(seal: Seal | None) -> str:
    """Say how a search goes, such as ``ivf`` or ``ivf-rabitq2, flat``; ``none`` where nothing was saved."""
    if seal is None:
        return "none"
    kinds = [kind for kind in KINDS if any(shard.kind == kind for shard in seal.shards)]
    return ", ".join([*kinds, *([FLAT] if seal.flat is not None or not kinds else [])])
