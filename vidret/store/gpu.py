"""FAISS on a GPU: a copy of an index there, for the searches that FAISS's GPU code can do.

That code drops a selector without a word, and refuses to find, or to look into, more than 2,048: those searches run on
the index itself, on the CPU. No GPU has run this yet; ``tools/check_gpu.py`` compares the two.
"""

import logging
from functools import cache
from threading import Lock
from typing import Any

from vidret.devices import CPU, cuda_index

logger = logging.getLogger(__name__)

MOST = 2048  # results of a query, and lists that it looks into (GPU_MAX_SELECTION_K)


class Copies:
    """Where an index is searched: in its copy on a GPU, made when it is first wanted, or in itself."""

    def __init__(self, faiss: Any, device: str) -> None:
        """Take the GPU of ``cuda:N``; with any other device there is no copy."""
        self._faiss, self._gpu = faiss, cuda_index(device)
        self._copy: _Copy | None = None

    def choose(self, index: Any, most: int, *, filtered: bool) -> Any:
        """Return what to search for ``most`` results, or in ``most`` lists: the copy where it can, else the index."""
        if self._gpu is None or filtered or most > MOST:
            return index
        if self._copy is None:
            try:
                self._copy = _Copy(self._faiss, self._gpu, index)
            except RuntimeError as error:  # most often its memory is full
                logger.warning("FAISS cannot use GPU %d, so it searches on the CPU: %s", self._gpu, error)
                self._gpu = None
                return index
        return self._copy

    def forget(self) -> None:
        """Drop the copy, since the index has changed: ids cannot be removed on a GPU."""
        self._copy = None


class _Copy:
    """One index on a GPU. All of a GPU share its scratch memory, which one thread at a time may use."""

    def __init__(self, faiss: Any, gpu: int, index: Any) -> None:
        self._resources, self._lock = _open_resources(faiss, gpu)
        options = faiss.GpuClonerOptions()
        if hasattr(options, "use_cuvs"):  # cuVS, the default of builds that have it, knows no float16 indexes
            options.use_cuvs = False
        with self._lock:
            self._index = faiss.index_cpu_to_gpu(self._resources, gpu, index, options)

    def search(self, queries: Any, k: int, *, params: Any) -> Any:
        with self._lock:
            return self._index.search(queries, k, params=params)


@cache
def _open_resources(faiss: Any, gpu: int) -> tuple[Any, Lock]:
    """Return a GPU's resources, and the lock that goes with them: once a process, since they take 1.5 GB."""
    return faiss.StandardGpuResources(), Lock()


def choose_faiss_device(faiss: Any, device: str) -> str:
    """Return where FAISS searches for an engine on a device: on that GPU where FAISS sees it, else on the CPU."""
    gpu = cuda_index(device)
    return device if gpu is not None and gpu < faiss.get_num_gpus() else CPU
