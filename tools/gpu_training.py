"""The training paths of ``tools/check_gpu.py``: one step on the CPU and on a device, and steps of several processes."""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from gpu_paths import METHODS, NUM_FRAMES, NotHereError, Outcome, Setup, run_both
from torch import Tensor

from vidret.devices import CPU, cuda_index


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from saying that no trainer is attached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare_gradients(setup: Setup, make: Callable[[], Any], batch: Any, tolerance: float) -> Outcome:
    """Compare the gradients of one step: the length of their difference, relative."""

    def step(device: str) -> Tensor:
        torch.manual_seed(0)
        module = make().to(device).train()
        moved = type(batch)(*(move(part, device) for part in batch))
        torch.autograd.backward(module.training_step(moved, 0))
        return torch.cat([weight.grad.flatten().cpu() for weight in module.parameters() if weight.grad is not None])

    with quiet():
        here, there, cpu_s, device_s = run_both(setup, step)
    return Outcome(cpu_s, device_s, float((here - there).norm() / here.norm()), tolerance)


def move(part: Any, device: str) -> Any:
    """Move tensors, and tuples of them."""
    if isinstance(part, tuple):
        return tuple(move(each, device) for each in part)
    return part.to(device) if isinstance(part, Tensor) else part


def train_retrieval(setup: Setup, method: str, tolerance: float) -> Outcome:
    """Compare a training step for retrieval."""
    from vidret.data.dataset import RetrievalBatch
    from vidret.train.retrieval import RetrievalModule

    num, side, generator = 4, setup.vision.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, NUM_FRAMES, side, side, 3), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, 40_000, (num, 8), generator=generator)
    ids[:, 0], ids[:, -1], numbers = 49406, 49407, torch.arange(num)
    mask = torch.ones(num, NUM_FRAMES, dtype=torch.bool)
    batch = RetrievalBatch(pixels, mask, ids, numbers, numbers, numbers)
    shapes: dict[str, Any] = {"vision": setup.vision, "text": setup.text, "num_frames": NUM_FRAMES}
    return compare_gradients(
        setup, lambda: RetrievalModule(cast(Any, method), **shapes, **METHODS[method]), batch, tolerance
    )


def train_head(setup: Setup) -> Outcome:
    """Compare a training step of the head, without dropout."""
    from vidret.data.grounding import GroundingBatch
    from vidret.train.grounding import GroundingModule

    num, num_frames, generator = 4, 20, torch.Generator().manual_seed(0)
    dim, layers = (32, 2) if setup.tiny else (256, 4)
    shape = (num, num_frames, 1 + setup.vision.num_patches, setup.vision.width)
    batch = GroundingBatch(
        tuple(torch.randn(shape, generator=generator).half() for _ in range(layers)),
        torch.ones(num, num_frames, dtype=torch.bool),
        None,
        None,
        torch.randn(num, layers, 7, setup.text.width, generator=generator).half(),
        torch.ones(num, 7, dtype=torch.bool),
        torch.tensor([[[4.0, 16.0]]]).expand(num, 1, 2),
        torch.ones(num, 1, dtype=torch.bool),
        torch.rand(num, num_frames, generator=generator),
        torch.full((num,), 40.0),
        torch.arange(num),
    )
    settings: dict[str, Any] = {"width": setup.vision.width, "text_width": setup.text.width, "dim": dim}
    settings |= {"num_layers": layers, "dropout": 0.0, "drop_path": 0.0}
    return compare_gradients(setup, lambda: GroundingModule(**settings), batch, 0.01)


# Several processes


def train_together(setup: Setup, backend: str) -> Outcome:
    """Compare the gradients of processes that share a batch with those of one process on the CPU.

    ``nccl`` wants a card for each process: with one card it is one process, which still gathers and reduces. ``gloo``
    lets two share a card.
    """
    import gpu_rank

    gpu = cuda_index(setup.device)
    if setup.device != CPU and gpu is None:
        raise NotHereError(f"{backend} gathers on CPUs and CUDA")
    if backend == "nccl" and (gpu is None or not torch.distributed.is_nccl_available()):
        raise NotHereError("nccl is for CUDA")
    world = 2 if backend == "gloo" else min(2, torch.cuda.device_count())
    rendezvous = setup.scratch / f"rendezvous-{backend}"
    commands = [
        [sys.executable, gpu_rank.__file__, backend, setup.device, str(rendezvous), str(rank), str(world)]
        for rank in range(world)
    ]
    since = time.perf_counter()
    alone = gpu_rank.step(CPU, 0, 1)
    between = time.perf_counter()
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        told = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    device_s = time.perf_counter() - between
    for rank, text in zip(ranks, told, strict=True):
        if rank.returncode:
            raise RuntimeError((text.strip().splitlines() or [f"a process ended with {rank.returncode}"])[-1])
    together = torch.load(f"{rendezvous}.pt", weights_only=True)
    note = f"{world} processes of it, their start included"
    return Outcome(between - since, device_s, float((alone - together).norm() / alone.norm()), 0.01, note)


TRAINING: dict[str, Callable[[Setup], Outcome]] = {
    "train, CLIP": lambda setup: train_retrieval(setup, "clip", 0.01),
    "train, TempMe": lambda setup: train_retrieval(setup, "tempme", 0.05),
    "train, head": train_head,
    "train in two processes, gloo": lambda setup: train_together(setup, "gloo"),
    "train in a process a card, nccl": lambda setup: train_together(setup, "nccl"),
}
