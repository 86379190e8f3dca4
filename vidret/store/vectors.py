"""The candidates' index: inner products over (id, float16 vector), kept by FAISS. Nothing else here knows FAISS.

Every index is derived: it can be built again from the feature files at any time, so a damaged or outdated file costs
seconds, never an answer. FAISS itself loads flipped bytes without a word; hence the seal, which the catalog keeps.
"""

import hashlib
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64

from vidret.errors import MissingExtraError, StoreError

logger = logging.getLogger(__name__)

Ids = Int64[np.ndarray, " id"]
IVF_FROM = 200_000  # below, a flat scan answers in tens of milliseconds and misses nothing
IVF_PROBES = 32
RETRAIN_GROWTH = 4
SAMPLES_PER_LIST = 64
SEED = 1234
BATCH = 16_384


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


@dataclass(frozen=True, slots=True)
class Seal:
    """What a saved index must be, to be believed; ``trained`` is the number of vectors its lists were made for."""

    sha256: str
    kind: str
    dim: int
    total: int
    trained: int


class Vectors:
    """A searchable set of vectors by id: ids are never reused, and a vector never changes under its id."""

    def __init__(self, dim: int, *, device: str = "cpu", ivf_from: int = IVF_FROM) -> None:
        """Start empty and flat: exact, and quick to fill.

        ``device="cuda"`` searches a copy on the first GPU; unproven on a real one.

        Raises:
            StoreError: FAISS sees no GPU, and one was asked for.
        """
        self._faiss = load_faiss()
        self._threads = self._faiss.omp_get_max_threads()
        if device != "cpu" and self._faiss.get_num_gpus() < 1:  # moving an index there would only fail later and worse
            raise StoreError(f"device must be 'cpu' where FAISS sees no GPU, got {device!r}")
        self.dim = dim
        self._device = device
        self._ivf_from = ivf_from
        self._index = self._flat()
        self._trained = 0
        self._ids: Ids = np.empty(0, np.int64)
        self._copy: Any = None

    @property
    def ids(self) -> Ids:
        """Give the ids held, rising."""
        return self._ids

    @property
    def kind(self) -> str:
        """Say how a search goes: ``flat`` looks at everything, ``ivf`` at the nearest lists."""
        return "ivf" if self._trained else "flat"

    def add(self, ids: Ids, vectors: Float[np.ndarray, "id dim"]) -> None:
        """Add vectors under new ids; float16 values are kept without loss."""
        if len(ids):
            self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), ids)
            self._ids = np.union1d(self._ids, ids)
            self._copy = None

    def remove(self, ids: Ids) -> None:
        """Forget ids."""
        if len(ids):
            self._index.remove_ids(np.ascontiguousarray(ids))
            self._ids = np.setdiff1d(self._ids, ids, assume_unique=True)
            self._copy = None

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, within: Ids | None = None
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k best per query, best first, among all or ``within``; for fewer, id -1 and score -inf."""
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), -1, np.int64)
        num_found = min(k, len(self._ids) if within is None else len(within))
        if num_found and len(queries):
            # FAISS's threads spin on after their work and slow torch's down: a lone query is 3 times faster on one.
            self._faiss.omp_set_num_threads(1 if len(queries) == 1 else self._threads)
            found = self._searched().search(
                np.ascontiguousarray(queries), num_found, params=self._how(num_found, within)
            )
            scores[:, :num_found], ids[:, :num_found] = found
            scores[ids < 0] = -np.inf
        return scores, ids

    def train(self) -> bool:
        """Change to the kind of index this many vectors call for; return whether anything changed.

        It takes seconds to minutes, so it belongs at the end of an indexing run, never into a search.
        """
        num = len(self._ids)
        if self._trained:
            due = num > RETRAIN_GROWTH * self._trained or num < self._ivf_from // 2  # no to and fro at the threshold
        else:
            due = num >= self._ivf_from
        if due:
            self._faiss.omp_set_num_threads(self._threads)
            ids, vectors = self._stored_ids(self._index), self._stored_vectors(self._index)
            listed = num >= self._ivf_from
            index = self._ivf(vectors) if listed else self._flat()
            for part in np.array_split(np.arange(num), num // BATCH + 1):
                index.add_with_ids(vectors[part].astype(np.float32), ids[part])
            self._index, self._trained, self._copy = index, num if listed else 0, None
        return due

    def save(self, path: Path) -> Seal:
        """Write the index in one step, so that a reader finds the old file or the new one; return its seal."""
        temporary = path.with_name(path.name + ".new")
        digest = hashlib.sha256()

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        try:
            with temporary.open("wb") as file:
                writer = self._faiss.PyCallbackIOWriter(write)
                self._faiss.write_index(self._index, writer)
                del writer  # flushes its own buffer
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)  # a full disk needs the space
            raise StoreError(f"{path}: cannot be written ({error.strerror})") from error
        return Seal(digest.hexdigest(), self.kind, self.dim, len(self._ids), self._trained)

    def load(self, path: Path, seal: Seal) -> bool:
        """Take over a saved index if it is exactly what was sealed; else stay as before and return False."""
        try:
            with path.open("rb") as file:  # one handle for both passes: a file replaced in between stays unseen
                if hashlib.file_digest(file, "sha256").hexdigest() != seal.sha256:
                    raise ValueError("it is not the file that was saved")
                file.seek(0)
                index = self._faiss.read_index(self._faiss.PyCallbackIOReader(file.read))
            ids = np.unique(self._stored_ids(index))
            if (index.d, index.ntotal, len(ids)) != (self.dim, seal.total, seal.total) or seal.dim != self.dim:
                raise ValueError("it does not hold what was saved")
        except (OSError, RuntimeError, ValueError) as error:
            logger.info("%s: building it anew (%s)", path, error)
            return False
        self._index, self._ids, self._trained, self._copy = index, ids, seal.trained, None
        return True

    def _flat(self) -> Any:
        f = self._faiss
        return f.IndexIDMap(f.IndexScalarQuantizer(self.dim, f.ScalarQuantizer.QT_fp16, f.METRIC_INNER_PRODUCT))

    def _ivf(self, vectors: Float16[np.ndarray, "id dim"]) -> Any:
        f = self._faiss
        num_lists = round(4 * len(vectors) ** 0.5)
        # Residuals would be rounded once more; without them the float16 values stay what they are.
        index = f.IndexIVFScalarQuantizer(
            f.IndexFlatIP(self.dim), self.dim, num_lists, f.ScalarQuantizer.QT_fp16, f.METRIC_INNER_PRODUCT, False
        )
        index.cp.seed, index.cp.min_points_per_centroid = SEED, 1
        num_samples = min(len(vectors), num_lists * SAMPLES_PER_LIST)
        sample = np.random.default_rng(SEED).choice(len(vectors), num_samples, replace=False)
        index.train(vectors[np.sort(sample)].astype(np.float32))
        return index

    def _stored_ids(self, index: Any) -> Ids:
        f = self._faiss
        if isinstance(index, f.IndexIDMap):
            return np.asarray(f.vector_to_array(index.id_map), np.int64)
        parts = [f.rev_swig_ptr(index.invlists.get_ids(i), size).copy() for i, size in _filled_lists(index)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _stored_vectors(self, index: Any) -> Float16[np.ndarray, "id dim"]:
        """Read the vectors back, in the order of the stored ids: the codes are the float16 values themselves."""
        f = self._faiss
        if isinstance(index, f.IndexIDMap):
            codes = f.vector_to_array(f.downcast_index(index.index).codes)
        else:
            width = index.invlists.code_size
            codes = np.concatenate(
                [f.rev_swig_ptr(index.invlists.get_codes(i), size * width) for i, size in _filled_lists(index)]
            )
        return np.asarray(codes.view(np.float16).reshape(-1, self.dim))

    def _how(self, k: int, within: Ids | None) -> Any:
        """Look into enough lists to find k, also where k is a good part of everything that may be found."""
        f = self._faiss
        selected = {} if within is None else {"sel": f.IDSelectorBatch(np.ascontiguousarray(within))}
        if not self._trained:
            return f.SearchParameters(**selected) if selected else None
        num_may = len(self._ids) if within is None else len(within)
        num_probes = max(IVF_PROBES * len(self._ids) // num_may, -(-4 * k * self._index.nlist // num_may))
        return f.SearchParametersIVF(nprobe=min(num_probes, self._index.nlist), **selected)

    def _searched(self) -> Any:
        if self._device == "cpu":
            return self._index
        if self._copy is None:  # on a GPU ids cannot be removed, so the copy is made again when the set changes
            resources = self._faiss.StandardGpuResources()
            self._copy = (resources, self._faiss.index_cpu_to_gpu(resources, 0, self._index))
        return self._copy[1]


def _filled_lists(index: Any) -> list[tuple[int, int]]:
    sizes = [(number, index.invlists.list_size(number)) for number in range(index.nlist)]
    return [(number, size) for number, size in sizes if size]
