"""Inner product search over float16 vectors with FAISS: the flat index, copies on a GPU, and code shared by all kinds.

FAISS on a GPU silently ignores a selector, and rejects more than 2,048 results or lists: such searches run on the CPU.

This is the only module that imports FAISS. Every index can be rebuilt from the feature files, so a damaged or outdated
file costs time, but causes no wrong result.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float16, Float32

from vidret.devices import CPU, cuda_index
from vidret.errors import MissingExtraError, StoreError, read_fault
from vidret.store.snapshots.bitmap import Bits, Ids, are_ids
from vidret.store.vectors.base import Queries, SearchResult
from vidret.store.vectors.manifest import ManifestEntry, write_file
from vidret.types.arrays import widen_rows

logger = logging.getLogger(__name__)

Rows = Float16[np.ndarray, "id dim"]
Read = Callable[[Ids], tuple[Ids, Rows]]  # returns those ids that can be read, ascending, and their vectors

FLAT = "flat"
BATCH = 16_384
INNER_OFFSET = 37  # of the vectors' own index in a file with ids
MAX_SELECTION = 2048  # maximum results and lists of a query (GPU_MAX_SELECTION_K)


class GpuCopies:
    """The GPU copy of an index, made on first use."""

    def __init__(self, faiss: Any, device: str) -> None:
        """Use the GPU of ``cuda:N``; for any other device there is no copy."""
        self._faiss, self._gpu = faiss, cuda_index(device)
        self._copy: _Copy | None = None

    def choose(self, index: Any, max_selected: int, *, filtered: bool) -> Any:
        """Return the copy if it supports ``max_selected`` results or lists, else the index itself."""
        if self._gpu is None or filtered or max_selected > MAX_SELECTION:
            return index
        if self._copy is None:
            try:
                self._copy = _Copy(self._faiss, self._gpu, index)
            except RuntimeError as error:  # usually out of memory
                logger.warning("FAISS cannot use GPU %d, so it searches on the CPU: %s", self._gpu, error)
                self._gpu = None
                return index
        return self._copy

    def forget(self) -> None:
        """Drop the copy because the index has changed: FAISS cannot remove ids on a GPU."""
        self._copy = None


class _Copy:
    """An index on a GPU. All indexes of a GPU share its scratch memory, which only one thread may use at a time."""

    def __init__(self, faiss: Any, gpu: int, index: Any) -> None:
        self._resources, self._lock = _open_resources(faiss, gpu)
        options = faiss.GpuClonerOptions()
        if hasattr(options, "use_cuvs"):  # cuVS, where built in, is the default but does not support float16
            options.use_cuvs = False
        with self._lock:
            self._index = faiss.index_cpu_to_gpu(self._resources, gpu, index, options)

    def search(self, queries: Any, k: int, *, params: Any) -> Any:
        with self._lock:
            return self._index.search(queries, k, params=params)


@cache
def _open_resources(faiss: Any, gpu: int) -> tuple[Any, Lock]:
    """Return the resources of a GPU and their lock, once per process, since they take 1.5 GB."""
    return faiss.StandardGpuResources(), Lock()


def choose_faiss_device(faiss: Any, device: str) -> str:
    """Return the device if it is a GPU that FAISS sees, else ``cpu``."""
    gpu = cuda_index(device)
    return device if gpu is not None and gpu < faiss.get_num_gpus() else CPU


@dataclass(frozen=True, slots=True, eq=False)
class IdFilter:
    """A filter of the ids in a bitmap, which are roughly a ``fraction`` of all.

    A ``narrow`` filter selects videos by their properties, so all its ids may be far from a query.
    """

    bits: Bits
    fraction: float
    narrow: bool = True

    def selector(self) -> Any:
        """Return the FAISS selector."""
        return load_faiss().IDSelectorBitmap(self.bits)


@cache
def load_faiss() -> Any:
    """Import FAISS on first use.

    Raises:
        MissingExtraError: FAISS is not installed.
        StoreError: It cannot be loaded, as with too little memory.
    """
    with warnings.catch_warnings():
        # A warning about SWIG's types on Python 3.12 and later, which callers cannot avoid.
        warnings.filterwarnings("ignore", message="builtin type .* has no __module__", category=DeprecationWarning)
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise MissingExtraError("searching an index", "cpu") from error
        except ImportError as error:
            raise StoreError(f"FAISS cannot be loaded: {read_fault(error)}") from error
    return faiss


def choose_search_device(device: str, *, is_given: bool) -> str:
    """Return the device if it is a GPU that FAISS sees, else ``cpu``; ``is_given`` sets the log level."""
    if device == CPU:
        return CPU
    chosen = choose_faiss_device(load_faiss(), device)
    if chosen != device:  # expected with auto: the extra "cpu" has no GPU code
        level = logging.WARNING if is_given else logging.INFO
        logger.log(level, "FAISS does not see %s, so it searches on the CPU", device)
    return chosen


class Flat:
    """Vectors with exact search, in memory or mapped. No thread may add while another searches."""

    def __init__(self, dim: int, *, device: str = "cpu") -> None:
        """Start empty; on a device ``cuda:N`` a GPU copy is searched where possible; see ``GpuCopies``.

        Raises:
            StoreError: FAISS does not see the GPU.
        """
        self._faiss = f = load_faiss()
        if choose_faiss_device(f, device) != device:  # else copying would fail later, less clearly
            raise StoreError(f"device must be cpu or one of the {f.get_num_gpus()} GPUs visible to FAISS, got {device}")
        self.dim = dim
        self.ids: Ids = np.empty(0, np.int64)  # ascending
        self._index = f.IndexIDMap(f.IndexScalarQuantizer(dim, f.ScalarQuantizer.QT_fp16, f.METRIC_INNER_PRODUCT))
        self._gpu_copies = GpuCopies(f, device)

    def add(self, ids: Ids, vectors: Float[np.ndarray, "id dim"]) -> None:
        """Add vectors with new ids; float16 values are stored without loss."""
        if len(ids):
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids)
            self.ids = np.union1d(self.ids, ids)
            self._gpu_copies.forget()

    def search(self, queries: Queries, k: int, id_filter: IdFilter | None = None) -> SearchResult:
        """Return the k best per query."""
        params = None if id_filter is None else self._faiss.SearchParameters(sel=id_filter.selector())
        num_results = min(k, len(self.ids))
        index = self._gpu_copies.choose(self._index, num_results, filtered=id_filter is not None)
        return search_index(index, queries, k, num_results, params)

    def save(self, folder: Path) -> ManifestEntry:
        """Write all vectors to a file; return its manifest entry."""
        total = len(self.ids)
        return write_file(folder, FLAT, total, total * 2 * self.dim, make_writer(self._index))

    def load(self, path: Path, total: int) -> None:
        """Map a saved file; nothing can be added to it.

        Raises:
            ValueError: The dimension or the number of vectors is wrong, or it is another kind of index.
        """
        with path.open("rb") as file:
            head = file.read(INNER_OFFSET + 4)
            if (head[:4], head[INNER_OFFSET:]) != (b"IxMp", b"IxSQ"):  # other kinds may refer to further files
                raise ValueError("must be a flat index with ids")
            try:
                index = map_index(file, self._faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError:  # it cannot map files here
                file.seek(0)
                index = self._faiss.read_index(self._faiss.PyCallbackIOReader(file.read))
        ids = np.sort(np.asarray(self._faiss.vector_to_array(index.id_map), np.int64))
        codes = self._faiss.downcast_index(index.index)
        is_whole = codes.sq.qtype == self._faiss.ScalarQuantizer.QT_fp16 and codes.code_size == 2 * codes.d
        is_whole &= codes.metric_type == self._faiss.METRIC_INNER_PRODUCT and codes.codes.size() == 2 * self.dim * total
        shape = (codes.d, codes.ntotal, len(ids))
        if shape != (self.dim, total, total) or not (is_whole and are_ids(ids)):
            raise ValueError(f"dimension, vectors and ids must be {(self.dim, total, total)}, got {shape}")
        self._index, self.ids = index, ids
        self._gpu_copies.forget()


def search_index(index: Any, queries: Queries, k: int, num_results: int, params: Any) -> SearchResult:
    """Return the ``num_results`` best per query, padded to k."""
    scores = np.full((len(queries), k), -np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    if num_results and len(queries):
        with one_thread(queries):
            result = index.search(np.ascontiguousarray(queries), num_results, params=params)
        scores[:, :num_results], ids[:, :num_results] = result
        scores[ids < 0] = -np.inf
    return SearchResult(scores, ids)


@contextlib.contextmanager
def one_thread(queries: Queries) -> Iterator[None]:
    """Run FAISS on this thread for a single query, which is 3 times faster: idle threads spin and slow torch down."""
    f = load_faiss()
    threads = f.omp_get_max_threads()
    f.omp_set_num_threads(1 if len(queries) == 1 else threads)  # applies to this thread only
    try:
        yield
    finally:
        f.omp_set_num_threads(threads)


def merge_results(results: Sequence[SearchResult], k: int) -> SearchResult:
    """Return the k best of several results per query; ties in the order of their ids."""
    scores, ids = (np.concatenate(arrays, axis=1) for arrays in zip(*results, strict=True))
    if (missing := k - scores.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return SearchResult(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))


def score_exactly(queries: Queries, vectors: Rows) -> Float32[np.ndarray, "query id"]:
    """Return inner products with float16 vectors."""
    return np.asarray(queries @ widen_rows(vectors).T, np.float32)


def split_batches(ids: Ids) -> list[Ids]:
    """Split ids into batches to read."""
    return [ids[first : first + BATCH] for first in range(0, len(ids), BATCH)]


def map_index(file: BinaryIO, flags: int) -> Any:
    """Map the index in an open file; raise RuntimeError if FAISS cannot."""
    faiss = load_faiss()
    try:
        return faiss.read_index(file.name, flags)
    except TypeError:  # it opens only names in UTF-8, and maps no callback's file
        return faiss.read_index(f"/dev/fd/{file.fileno()}", flags)


def make_writer(index: Any) -> Callable[[Callable[[bytes], None]], None]:
    """Return the ``write`` argument of ``write_file`` for a FAISS index."""

    def write(append: Callable[[bytes], None]) -> None:
        f = load_faiss()
        writer = f.PyCallbackIOWriter(append)
        f.write_index(index, writer)
        del writer  # flushes its buffer

    return write


EXACT_UP_TO = 30_000  # vectors; more are searched in lists of similar ones
LISTS = 4  # number of lists, per square root of the number of vectors
PROBES = 12  # lists that are searched
SAMPLES_PER_LIST = 32
SEED = 1234


def find_nearest_rows(vectors: Float32[np.ndarray, "row dim"], k: int) -> SearchResult:
    """Return the k nearest rows of each row by inner product, itself included; approximately if there are many.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    f = load_faiss()
    num_rows, dim = vectors.shape
    vectors = np.ascontiguousarray(vectors, np.float32)
    k = min(k, num_rows)
    if num_rows <= EXACT_UP_TO:
        index = f.IndexFlatIP(dim)
    else:
        num_lists = round(LISTS * num_rows**0.5)
        index = f.IndexIVFFlat(f.IndexFlatIP(dim), dim, num_lists, f.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid, index.cp.spherical = SEED, 1, True
        num_samples = min(num_rows, num_lists * SAMPLES_PER_LIST)
        index.train(vectors[np.random.default_rng(SEED).choice(num_rows, num_samples, replace=False)])
        index.nprobe = PROBES
    index.add(vectors)
    parts = [index.search(vectors[first : first + BATCH], k) for first in range(0, num_rows, BATCH)]
    scores = [scores for scores, _ in parts] or [np.empty((0, k), np.float32)]
    rows = [rows for _, rows in parts] or [np.empty((0, k), np.int64)]
    return SearchResult(np.concatenate(scores), np.concatenate(rows))
