"""A CUDA machine that is none: two devices for PyTorch to see, and FAISS's GPU code on the CPU, with its limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import faiss
import pytest
import torch

from vidret.store.vectors import flat

MAX_SELECTION = 2048


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, num_devices: int = 2) -> None:
    """Have PyTorch see CUDA devices; nothing can be computed there."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: num_devices > 0)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_devices)


class GpuFaiss:
    """What FAISS's GPU code does, as read in its source of 1.15: it drops ``sel``, and refuses more than 2,048."""

    def __init__(self) -> None:
        self.num_resources = 0
        self.copied_to: list[int] = []
        self.num_searches = 0
        self.fault = ""

    def make_resources(self) -> object:
        self.num_resources += 1
        return object()

    def copy(self, _resources: object, number: int, index: Any, options: Any) -> "GpuIndex":
        assert not options.use_cuvs, "which refuses float16 indexes"
        if self.fault:
            raise RuntimeError(self.fault)
        self.copied_to.append(number)
        mapped = isinstance(index, faiss.IndexIVF)  # immutable, and only a GPU can copy it
        return GpuIndex(self, index if mapped else faiss.clone_index(index))


class GpuIndex:
    def __init__(self, owner: GpuFaiss, index: Any) -> None:
        self._owner, self._index = owner, index

    def search(self, queries: Any, k: int, *, params: Any = None) -> Any:
        self._owner.num_searches += 1
        if k > MAX_SELECTION or (isinstance(params, faiss.SearchParametersIVF) and params.nprobe > MAX_SELECTION):
            raise RuntimeError(f"GPU index only supports min/max-K selection up to {MAX_SELECTION} (requested {k})")
        if params is not None:
            params.sel = None
        return self._index.search(queries, k, params=params)


@contextmanager
def gpu_faiss(num_gpus: int = 2) -> Iterator[GpuFaiss]:
    """Have FAISS see GPUs."""
    fake = GpuFaiss()
    flat._open_resources.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss, "get_num_gpus", lambda: num_gpus)
        patch.setattr(faiss, "StandardGpuResources", fake.make_resources, raising=False)
        patch.setattr(faiss, "GpuClonerOptions", lambda: SimpleNamespace(use_cuvs=True), raising=False)
        patch.setattr(faiss, "index_cpu_to_gpu", fake.copy, raising=False)
        yield fake
    flat._open_resources.cache_clear()
