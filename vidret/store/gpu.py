"""GPU copies of FAISS indexes, for the searches that FAISS supports on a GPU.

FAISS on a GPU silently ignores a selector, and rejects more than 2,048 results or lists: such searches run on the CPU.
Not yet run on a real GPU; ``tools/check_gpu.py`` compares both.
"""

import logging
from functools import cache
from threading import Lock
from typing import Any

from vidret.devices import CPU, cuda_index

logger = logging.getLogger(__name__)

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
