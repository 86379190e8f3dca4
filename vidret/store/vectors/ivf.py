"""Inverted file (IVF) indexes of FAISS on disk: lists of similar vectors, of which a search reads only the nearest."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int64

from vidret.devices import CPU
from vidret.store.snapshots.bitmap import Bits, Ids
from vidret.store.snapshots.snapshot import remember
from vidret.store.vectors.base import Queries, SearchResult
from vidret.store.vectors.flat import (
    LISTS,
    SAMPLES_PER_LIST,
    SEED,
    GpuCopies,
    IdFilter,
    Read,
    load_faiss,
    make_writer,
    map_index,
    merge_results,
    one_thread,
    search_index,
    split_batches,
)
from vidret.store.vectors.manifest import ManifestEntry, write_file

IVF = "ivf"
BITS = {"ivf-rabitq2": 2, "ivf-rabitq1": 1}  # per value; results of these shards must be refined
KINDS = (IVF, *BITS)  # kinds of shards, from fine to coarse
ID_BYTES = 8
# Lists to search, at least this number and this share of all: texts are far from all videos, and recall depends on the
# share. There are 4,000 lists per million vectors.
PROBES = 256
SHARE = 0.19
# Maximum difference in similarity, for a query of unit length, between a searched list and the nearest one. Texts are
# far from all videos, but near to some other texts, which are then found in a quarter to a third of the lists.
NEAR = 0.35
FAR = 4  # maximum factor of searched vectors, if those that match a filter are far from a query
MAX_COUNTED = 8  # bitmaps for which a shard caches the number of vectors in each list
ROUNDS = 10
QUERY_BITS = 4  # as precise as 8 after refinement, and a quarter faster
THREADS = min(4, os.cpu_count() or 1)  # of a query that runs alone

T = TypeVar("T")
R = TypeVar("R")


class Shard:
    """An immutable inverted file (IVF) index, memory-mapped from a file written by ``build_shard``.

    On Windows it is read into memory, since FAISS cannot map lists there.

    Kind ``ivf`` has exact values; scores of the other kinds are estimates to be refined.
    """

    def __init__(self, folder: Path, entry: ManifestEntry, dim: int, *, device: str = "cpu") -> None:
        """Map a file that was verified against its manifest entry.

        Raises:
            ValueError: The dimension or the number of vectors is wrong, or the lists are not those of the file.
            RuntimeError: FAISS cannot read the file.
        """
        self._faiss = f = load_faiss()
        self.entry, self.coarse = entry, entry.kind in BITS
        with (folder / entry.name).open("rb") as file:
            if hasattr(f, "OnDiskInvertedLists"):
                self._index = map_index(file, f.IO_FLAG_MMAP)
            else:
                self._index = f.read_index(f.PyCallbackIOReader(file.read))
        self._lists = f.downcast_index(self._index.index) if self.coarse else self._index
        shape = (self._index.d, self._index.ntotal)
        if shape != (dim, entry.total):
            raise ValueError(f"dimension and number of vectors must be {(dim, entry.total)}, got {shape}")
        self._check_lists()
        # FAISS would start 32 threads per query to read the lists ahead, which takes as long as the search.
        f.downcast_InvertedLists(self._lists.invlists).prefetch_nthread = 0
        self._gpu_copies = GpuCopies(f, CPU if self.coarse else device)
        self._counted: dict[int, tuple[Bits, Int64[np.ndarray, " list"]]] = {}  # by the bitmap's identity

    def _check_lists(self) -> None:
        """Check that all lists are in the file, with all vectors: FAISS does not check it."""
        f, index, total = self._faiss, self._lists, self.entry.total
        lists, row_bytes = f.downcast_InvertedLists(index.invlists), index.code_size + ID_BYTES
        is_mapped = hasattr(f, "OnDiskInvertedLists")
        is_own = not is_mapped or (isinstance(lists, f.OnDiskInvertedLists) and not lists.filename)
        if not is_own or not lists.nlist or (lists.nlist, lists.code_size) != (index.nlist, index.code_size):
            raise ValueError("lists must be those of the index")
        size = lists.compute_ntotal()
        end = lists.lists.at(0).offset + size * row_bytes if is_mapped else self.entry.num_bytes
        if (size, end, index.quantizer.ntotal) != (total, self.entry.num_bytes, index.nlist):
            raise ValueError(f"lists must hold {total} vectors and end the file, got {size} and byte {end}")

    @property
    def ids(self) -> Ids:
        """All ids, ascending."""
        return np.sort(self._listed[0])

    @cached_property
    def _listed(self) -> tuple[Ids, Int64[np.ndarray, " end"]]:
        """The concatenated ids of all lists, and the start of each list and the end of the last one."""
        lists, f = self._lists.invlists, self._faiss
        sizes = [lists.list_size(index) for index in range(self._lists.nlist)]
        ids = [f.rev_swig_ptr(lists.get_ids(index), size).copy() for index, size in enumerate(sizes) if size]
        return np.concatenate([np.empty(0, np.int64), *ids]), np.cumsum([0, *sizes], dtype=np.int64)

    def search(
        self, queries: Queries, k: int, id_filter: IdFilter | None = None, *, everywhere: bool = False
    ) -> SearchResult:
        """Return approximately the k best per query, from enough lists to find k, or from all if ``everywhere``."""
        num_lists = int(self._lists.nlist)
        is_narrow = id_filter is not None and id_filter.narrow and not everywhere
        rotated, num_results = self._rotate(queries), min(k, self.entry.total)
        num_probes, nearest = num_lists if everywhere else self._count_probes(k, id_filter), None
        if id_filter is not None and is_narrow:
            nearest = self._find_lists(rotated, num_lists)
            num_probes = self._count_probes_within(nearest.ids, num_probes, id_filter)
        options: dict[str, Any] = {"nprobe": num_probes}
        if id_filter is not None:
            options["sel"] = id_filter.selector()
        index = self._gpu_copies.choose(self._index, max(num_results, num_probes), filtered=id_filter is not None)
        if index is not self._index:
            return search_index(index, queries, k, num_results, self._make_params(**options))
        nearest = nearest or self._find_lists(rotated, num_probes)
        if self.coarse and not (is_narrow or everywhere):  # a copy on a GPU cannot do this, and must find the same
            is_far = nearest.scores < nearest.scores[:, :1] - NEAR * np.linalg.norm(rotated, axis=1, keepdims=True)
            is_far[:, : max(PROBES // 4, self._count_needed(k))] = False  # lists may be short
            nearest.ids[is_far] = -1  # FAISS leaves these out
        # Lists of compressed vectors are short: using another thread takes a third more CPU time. FAISS searches for
        # many queries on its own threads.
        parts = 1 if self.coarse or len(queries) > 1 else THREADS
        lists = SearchResult(nearest.scores[:, :num_probes], nearest.ids[:, :num_probes])
        return search_lists(self._lists, rotated, lists, k, num_results, self._make_params, options, parts)

    def _count_probes(self, k: int, id_filter: IdFilter | None) -> int:
        """Return the number of nearest lists to search for a query; a narrow filter is not taken into account."""
        num_lists, total = int(self._lists.nlist), self.entry.total
        num_probes = min(num_lists, max(PROBES + 1, int(SHARE * num_lists), self._count_needed(k)))
        if id_filter is None or id_filter.narrow:
            return num_probes
        return min(num_lists, int(num_probes / max(id_filter.fraction, 1 / total)) + 1)

    def _count_needed(self, k: int) -> int:
        """Return the number of lists that have four times k vectors on average."""
        return int(4 * k * int(self._lists.nlist) / self.entry.total) + 1

    def _count_probes_within(
        self, nearest: Int64[np.ndarray, "query list"], num_probes: int, id_filter: IdFilter
    ) -> int:
        """Return the number of lists, by nearness, to search with a filter, given the number without one.

        The matching vectors in these lists decrease with the square root of the share that matches, which keeps recall
        at least as high as without a filter. More are searched if few match in the nearest lists: matches are then far
        from the query, where lists predict their vectors less well.
        """
        num_lists, total = int(self._lists.nlist), self.entry.total
        matching = np.cumsum(self._count_matching(id_filter.bits)[nearest], axis=1)
        share = matching[:, -1] / total
        searched = num_probes * total / num_lists
        nearby = matching[:, num_probes - 1] / searched
        root = np.sqrt(share)
        wanted = searched * np.clip(root * share / np.maximum(nearby, 1 / total), root, FAR)
        return int(np.minimum((matching < wanted[:, None]).sum(axis=1) + 1, num_lists).max())

    def _find_lists(self, rotated: Queries, num_lists: int) -> SearchResult:
        """Return the lists nearest to rotated queries."""
        with one_thread(rotated):
            return SearchResult(*self._lists.quantizer.search(np.ascontiguousarray(rotated), num_lists))

    def _count_matching(self, bits: Bits) -> Int64[np.ndarray, " list"]:
        """Return the number of vectors of each list that are in a bitmap."""

        def count() -> tuple[Bits, Int64[np.ndarray, " list"]]:
            ids, ends = self._listed
            flags = np.zeros(int(ids.max(initial=0)) + 1, np.uint8)
            unpacked = np.unpackbits(bits, bitorder="little")[: len(flags)]
            flags[: len(unpacked)] = unpacked
            return bits, np.diff(np.concatenate([[0], np.cumsum(flags[ids], dtype=np.int64)])[ends])

        return remember(self._counted, id(bits), count, MAX_COUNTED)[1]  # no other bitmap has this id while cached

    def _rotate(self, queries: Queries) -> Float32[np.ndarray, "query dim"]:
        """Return queries with the rotation of the lists' vectors."""
        if not self.coarse:
            return queries
        chain = self._index.chain
        with one_thread(queries):
            for step in range(chain.size()):
                queries = chain.at(step).apply(np.ascontiguousarray(queries))
        return queries

    def _make_params(self, **options: Any) -> Any:
        if self.coarse:
            return self._faiss.IVFRaBitQSearchParameters(qb=QUERY_BITS, **options)
        return self._faiss.SearchParametersIVF(**options)


def build_shard(folder: Path, kind: str, dim: int, ids: Ids, read: Read) -> ManifestEntry | None:
    """Build a shard of the vectors of ids and write it; minutes per million vectors, so never part of a search.

    The whole shard is in memory at that time. Return None if no vector can be read.
    """
    f = load_faiss()
    num_lists = round(LISTS * len(ids) ** 0.5)
    num_samples = min(len(ids), num_lists * SAMPLES_PER_LIST)
    sampled = np.random.default_rng(SEED).choice(len(ids), num_samples, replace=False)
    sample = np.concatenate([read(batch)[1] for batch in split_batches(ids[np.sort(sampled)])]).astype(np.float32)
    num_lists = min(num_lists, len(sample))  # vectors may be damaged
    if not num_lists:
        return None
    quantizer, metric = f.IndexFlatIP(dim), f.METRIC_INNER_PRODUCT
    if kind == IVF:  # not by residuals, which would be rounded again
        index = lists = f.IndexIVFScalarQuantizer(quantizer, dim, num_lists, f.ScalarQuantizer.QT_fp16, metric, False)
    else:
        lists = f.IndexIVFRaBitQ(quantizer, dim, num_lists, metric, True, BITS[kind])
        # Quantisation needs equal variance in all directions: without the rotation a fifth to a half of recall is lost.
        rotation = f.RandomRotationMatrix(dim, dim)
        rotation.init(SEED)
        index = f.IndexPreTransform(rotation, lists)
    lists.cp.seed, lists.cp.min_points_per_centroid, lists.cp.niter = SEED, 1, ROUNDS
    lists.cp.spherical = True  # otherwise the largest list is ten times as long as most, and every search reads it
    index.train(sample)
    for batch in split_batches(ids):
        kept, vectors = read(batch)
        index.add_with_ids(vectors.astype(np.float32), kept)
    payload_bytes = index.ntotal * (lists.code_size + ID_BYTES)
    return write_file(folder, kind, index.ntotal, payload_bytes, make_writer(index))


def search_lists(
    lists: Any,
    queries: Queries,
    nearest: SearchResult,
    k: int,
    num_results: int,
    make_params: Callable[..., Any],
    options: Mapping[str, Any],
    num_parts: int,
) -> SearchResult:
    """Search the lists nearest to each query, divided into ``num_parts``, which may run at the same time."""
    f = load_faiss()
    queries, shape = np.ascontiguousarray(queries), (len(queries), num_results)

    def search_some(selected: slice) -> SearchResult:
        similarities, indices = (np.ascontiguousarray(part[:, selected]) for part in nearest)
        params = make_params(**{**options, "nprobe": indices.shape[1]})
        result = SearchResult(np.empty(shape, np.float32), np.empty(shape, np.int64))
        pointers = (f.swig_ptr(array) for array in (indices, similarities, *result))
        with one_thread(queries):  # search_preassigned, without the c, does not accept parameters
            lists.search_preassigned_c(len(queries), f.swig_ptr(queries), num_results, *pointers, False, params)
        result.scores[result.ids < 0] = -np.inf
        return result

    num_parts = min(num_parts, nearest.ids.shape[1])
    return merge_results(map_parts(search_some, [slice(first, None, num_parts) for first in range(num_parts)]), k)


_turn = threading.Lock()


def map_parts(search: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Call a function for each part of a query: in a few threads, unless another query uses them.

    Concurrent searches thus have one thread each, with which all of them together are fastest.
    """
    if len(parts) > 1 and _turn.acquire(blocking=False):
        try:
            return list(_threads().map(search, parts))
        finally:
            _turn.release()
    return [search(part) for part in parts]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="lists")


def vector_bytes(kind: str, dim: int) -> int:
    """Return the size of a vector and its id in a shard, in bytes."""
    f = load_faiss()
    return ID_BYTES + (2 * dim if kind == IVF else f.RaBitQuantizer(dim, f.METRIC_INNER_PRODUCT, BITS[kind]).code_size)
