"""Inner products over (id, float16 vector): a flat set in memory, and shards on disk. Nothing else knows FAISS.

Every index is derived: it can be built again from the feature files at any time, so a damaged or outdated file costs
seconds, never an answer.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64, UInt8

from vidret.devices import CPU
from vidret.errors import MissingExtraError, StoreError
from vidret.store.gpu import Copies, choose_faiss_device
from vidret.store.manifest import FileSeal, write_file

Ids = Int64[np.ndarray, " _id"]
Rows = Float16[np.ndarray, "id dim"]
Read = Callable[[Ids], tuple[Ids, Rows]]  # gives the vectors of these ids that can be read, in id order

FLAT, IVF = "flat", "ivf"
BITS = {"ivf-rabitq2": 2, "ivf-rabitq1": 1}  # per value, of shards that must be refined
KINDS = (IVF, *BITS)  # of shards, from fine to coarse
ID_BYTES = 8
LISTS = 4  # times the root of the number of vectors
PROBES = 256  # lists that are looked into, of 4,000 at a million: texts lie farther from all videos than these apart
FILTERED = 4  # times as many where a filter chooses, since what matches it may lie far from the query
SAMPLES_PER_LIST = 32
ROUNDS = 10
QUERY_BITS = 8
SEED = 1234
BATCH = 16_384
THREADS = min(4, os.cpu_count() or 1)  # that share one query's lists: reading them is what takes time


class Found(NamedTuple):
    """The best per query: best first, id -1 and score -inf where there are fewer."""

    scores: Float32[np.ndarray, "query k"]
    ids: Int64[np.ndarray, "query k"]


class Only(NamedTuple):
    """Which ids a search may find: those of a map of bits, or all but those; ``share`` is about how many these are."""

    bits: UInt8[np.ndarray, " byte"]
    inside: bool
    share: float

    def selector(self) -> Any:
        """Say it to FAISS."""
        f = load_faiss()
        chosen = f.IDSelectorBitmap(self.bits)
        return chosen if self.inside else f.IDSelectorNot(chosen)


def load_faiss() -> Any:
    """Import FAISS on first use.

    Raises:
        MissingExtraError: it is not installed.
    """
    with warnings.catch_warnings():
        # SWIG's own types, on Python 3.12 and later; nothing a caller could change.
        warnings.filterwarnings("ignore", message="builtin type .* has no __module__", category=DeprecationWarning)
        try:
            import faiss
        except ImportError as error:
            raise MissingExtraError("searching an index", "cpu") from error
    return faiss


class Flat:
    """Vectors in memory, all of which are looked at: exact, and quick to fill."""

    def __init__(self, dim: int, *, device: str = "cpu") -> None:
        """Start empty.

        With the device ``cuda:N`` a copy on that GPU is searched where it can; see ``Copies``.

        Raises:
            StoreError: FAISS does not see the GPU that is asked for.
        """
        self._faiss = f = load_faiss()
        if choose_faiss_device(f, device) != device:  # copying an index there would only fail later and worse
            raise StoreError(f"device must be cpu or one of the {f.get_num_gpus()} GPUs that FAISS sees, got {device}")
        self.dim = dim
        self.ids: Ids = np.empty(0, np.int64)  # rising
        self._index = f.IndexIDMap(f.IndexScalarQuantizer(dim, f.ScalarQuantizer.QT_fp16, f.METRIC_INNER_PRODUCT))
        self._copies = Copies(f, device)

    def add(self, ids: Ids, vectors: Float[np.ndarray, "id dim"]) -> None:
        """Add vectors under new ids; float16 values are kept without loss."""
        if len(ids):
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids)
            self.ids = np.union1d(self.ids, ids)
            self._copies.forget()

    def remove(self, ids: Ids) -> None:
        """Forget ids."""
        if len(ids):
            self._index.remove_ids(np.ascontiguousarray(ids))
            self.ids = np.setdiff1d(self.ids, ids, assume_unique=True)
            self._copies.forget()

    def search(self, queries: Float32[np.ndarray, "query dim"], k: int, only: Only | None = None) -> Found:
        """Find the k best per query."""
        params = None if only is None else self._faiss.SearchParameters(sel=only.selector())
        num_found = min(k, len(self.ids))
        index = self._copies.choose(self._index, num_found, filtered=only is not None)
        return search_index(index, queries, k, num_found, params)

    def save(self, folder: Path) -> FileSeal:
        """Write all of it."""
        total = len(self.ids)
        return write_file(folder, FLAT, total, total * 2 * self.dim, _writing(self._index))

    def load(self, path: Path, total: int) -> None:
        """Take over a saved set.

        Raises:
            ValueError: It is not what it should be.
        """
        with path.open("rb") as file:
            index = self._faiss.read_index(self._faiss.PyCallbackIOReader(file.read))
        ids = np.unique(np.asarray(self._faiss.vector_to_array(index.id_map), np.int64))
        if (index.d, index.ntotal, len(ids)) != (self.dim, total, total):
            raise ValueError("it does not hold what was saved")
        self._index, self.ids = index, ids
        self._copies.forget()


class Shard:
    """Vectors in lists of near ones, in one file that is mapped, not read: immutable.

    Made by ``build_shard``. Kind ``ivf`` has exact values; of the others a search gives estimates to be refined.
    """

    def __init__(self, folder: Path, seal: FileSeal, dim: int, *, device: str = "cpu") -> None:
        """Map a file that was found to be what was sealed.

        Raises:
            ValueError: It is not what it should be.
            RuntimeError: FAISS cannot read it.
        """
        self._faiss = f = load_faiss()
        self.seal, self.coarse = seal, seal.kind in BITS
        self._index = f.read_index(str(folder / seal.name), f.IO_FLAG_MMAP)
        self._lists = f.downcast_index(self._index.index) if self.coarse else self._index
        if (self._index.d, self._index.ntotal) != (dim, seal.total):
            raise ValueError("it does not hold what was saved")
        self._copies = Copies(f, CPU if self.coarse else device)

    @cached_property
    def ids(self) -> Ids:
        """The ids held, rising."""
        lists, f = self._lists.invlists, self._faiss
        sizes = [(number, lists.list_size(number)) for number in range(self._lists.nlist)]
        parts = [f.rev_swig_ptr(lists.get_ids(number), size).copy() for number, size in sizes if size]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, only: Only | None = None, *, everywhere: bool = False
    ) -> Found:
        """Find about the k best per query, in lists enough to find so many, or ``everywhere``."""
        f, num_lists = self._faiss, self._lists.nlist
        share = 1.0 if only is None else max(only.share, 1 / self.seal.total)
        usual = PROBES if only is None or not only.inside else FILTERED * PROBES
        num_probes = max(usual, 4 * k * num_lists / self.seal.total) / share
        how: dict[str, Any] = {"nprobe": num_lists if everywhere else min(num_lists, int(num_probes) + 1)}
        if only is not None:
            how["sel"] = only.selector()
        num_found = min(k, self.seal.total)
        index = self._copies.choose(self._index, max(num_found, how["nprobe"]), filtered=only is not None)
        if len(queries) == 1 and index is self._index and not self.coarse:
            return search_lists(self._lists, queries, k, num_found, how)
        if self.coarse:
            inner = f.IVFRaBitQSearchParameters(qb=QUERY_BITS, **how)
            params = f.SearchParametersPreTransform(index_params=inner)
        else:
            params = f.SearchParametersIVF(**how)
        return search_index(index, queries, k, num_found, params)


def build_shard(folder: Path, kind: str, dim: int, ids: Ids, read: Read) -> FileSeal | None:
    """Put the vectors of these ids into lists and write them: minutes for a million, so never a part of a search.

    All of the shard is in memory meanwhile; vectors pass through in batches. None where none can be read.

    Raises:
        StoreError: The disk refuses.
    """
    f = load_faiss()
    num_lists = round(LISTS * len(ids) ** 0.5)
    num_samples = min(len(ids), num_lists * SAMPLES_PER_LIST)
    chosen = np.random.default_rng(SEED).choice(len(ids), num_samples, replace=False)
    sample = np.concatenate([read(part)[1] for part in batches(ids[np.sort(chosen)])]).astype(np.float32)
    num_lists = min(num_lists, len(sample))  # most may be damaged
    if not num_lists:
        return None
    quantizer, metric = f.IndexFlatIP(dim), f.METRIC_INNER_PRODUCT
    if kind == IVF:  # residuals would be rounded once more; without them the float16 values stay what they are
        index = lists = f.IndexIVFScalarQuantizer(quantizer, dim, num_lists, f.ScalarQuantizer.QT_fp16, metric, False)
    else:
        lists = f.IndexIVFRaBitQ(quantizer, dim, num_lists, metric, True, BITS[kind])
        # Bits are worth the same only where all directions vary alike: unturned, a fifth to a half of recall is lost.
        turn = f.RandomRotationMatrix(dim, dim)
        turn.init(SEED)
        index = f.IndexPreTransform(turn, lists)
    lists.cp.seed, lists.cp.min_points_per_centroid, lists.cp.niter = SEED, 1, ROUNDS
    lists.cp.spherical = True  # else the largest list is ten times as long as most, and all searches look into it
    index.train(sample)
    for part in batches(ids):
        kept, vectors = read(part)
        index.add_with_ids(vectors.astype(np.float32), kept)
    payload_bytes = index.ntotal * (lists.code_size + ID_BYTES)
    return write_file(folder, kind, index.ntotal, payload_bytes, _writing(index))


def search_index(index: Any, queries: Float32[np.ndarray, "query dim"], k: int, num_found: int, params: Any) -> Found:
    """Have FAISS find ``num_found``, and fill up to k."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    if num_found and len(queries):
        f = load_faiss()
        threads = f.omp_get_max_threads()
        # FAISS's threads spin on after their work and slow torch's down: a lone query is 3 times faster on one.
        f.omp_set_num_threads(1 if len(queries) == 1 else threads)
        try:
            found = index.search(np.ascontiguousarray(queries), num_found, params=params)
        finally:
            f.omp_set_num_threads(threads)
        scores[:, :num_found], ids[:, :num_found] = found
        scores[ids < 0] = -np.inf
    return Found(scores, ids)


def search_lists(
    lists: Any, query: Float32[np.ndarray, "1 dim"], k: int, num_found: int, how: Mapping[str, Any]
) -> Found:
    """Have FAISS look for one query into its lists, a part of them in each of a few threads.

    They are ours, since FAISS's own would spin on after their work.
    """
    f = load_faiss()
    query = np.ascontiguousarray(query)
    nearness, numbers = lists.quantizer.search(query, how["nprobe"])

    def look(part: slice) -> Found:
        f.omp_set_num_threads(1)  # of this thread's own
        own, near = np.ascontiguousarray(numbers[:, part]), np.ascontiguousarray(nearness[:, part])
        params = f.SearchParametersIVF(**{**how, "nprobe": own.shape[1]})
        found = Found(np.empty((1, num_found), np.float32), np.empty((1, num_found), np.int64))
        # The method of this name without the c takes no parameters.
        places = (f.swig_ptr(each) for each in (own, near, *found))
        lists.search_preassigned_c(1, f.swig_ptr(query), num_found, *places, False, params)
        return found

    num_parts = min(THREADS, how["nprobe"])
    parts = list(_threads().map(look, (slice(first, None, num_parts) for first in range(num_parts))))
    scores, ids = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
    best = np.lexsort((ids, -scores), axis=1)[:, :k]
    found = Found(np.full((1, k), -np.inf, np.float32), np.full((1, k), -1, np.int64))
    found.scores[:, : best.shape[1]] = np.take_along_axis(scores, best, axis=1)
    found.ids[:, : best.shape[1]] = np.take_along_axis(ids, best, axis=1)
    found.scores[found.ids < 0] = -np.inf
    return found


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="lists")


def score_exactly(queries: Float32[np.ndarray, "query dim"], vectors: Rows) -> Float32[np.ndarray, "query id"]:
    """Give inner products with stored vectors, which FAISS widens four times faster than numpy."""
    f = load_faiss()
    widener = f.IndexScalarQuantizer(vectors.shape[1], f.ScalarQuantizer.QT_fp16, f.METRIC_INNER_PRODUCT)
    wide = widener.sa_decode(np.ascontiguousarray(vectors).view(np.uint8))
    return np.asarray(queries @ wide.T, np.float32)


def vector_bytes(kind: str, dim: int) -> int:
    """Count the bytes of a vector and its id in a shard."""
    f = load_faiss()
    return ID_BYTES + (2 * dim if kind == IVF else f.RaBitQuantizer(dim, f.METRIC_INNER_PRODUCT, BITS[kind]).code_size)


def batches(ids: Ids) -> list[Ids]:
    """Cut ids into what is read at once."""
    return [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]


def _writing(index: Any) -> Callable[[Callable[[bytes], None]], None]:
    def write(put: Callable[[bytes], None]) -> None:
        f = load_faiss()
        writer = f.PyCallbackIOWriter(put)
        f.write_index(index, writer)
        del writer  # flushes its own buffer

    return write
