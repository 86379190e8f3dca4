"""The training paths of ``tools/check_gpu.py``: one step on the CPU and on a device, and steps of several processes.

As a program, ``gpu_training.py BACKEND DEVICE RENDEZVOUS RANK WORLD`` is one of these processes: a step of towers on
its share of a batch. Process 0 leaves the gradients in RENDEZVOUS.pt.
"""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from gpu_paths import METHODS, NUM_FRAMES, NotHereError, Outcome, Setup, run_both
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from vidret.devices import CPU, cuda_index
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, retrieval_loss

NUM_PAIRS, TOWER_WIDTH = 8, 64


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
        return tuple(move(item, device) for item in part)
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


class Towers(nn.Module):
    """A small tower for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.text = (
            nn.Sequential(nn.Linear(TOWER_WIDTH, TOWER_WIDTH), nn.GELU(), nn.Linear(TOWER_WIDTH, 32)) for _ in "vt"
        )

    def forward(self, videos: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors."""
        return functional.normalize(self.video(videos), dim=-1), functional.normalize(self.text(texts), dim=-1)


def step_together(device: str, rank: int, world: int) -> Tensor:
    """Return the gradients of one step, on the CPU; the processes' shares of the batch follow each other."""
    torch.manual_seed(0)
    model: nn.Module = Towers().to(device)
    videos, texts = torch.randn(2, NUM_PAIRS, TOWER_WIDTH)
    own = torch.arange(NUM_PAIRS)[rank * NUM_PAIRS // world : (rank + 1) * NUM_PAIRS // world]
    if dist.is_initialized():
        model = DistributedDataParallel(model)
        rows = [torch.zeros(1, device=device) for _ in range(world)]
        dist.all_gather(rows, torch.ones(1, device=device))  # also where there is one process, which gathers nothing
    found, asked = (gather(rows) for rows in model(videos[own].to(device), texts[own].to(device)))
    loss = retrieval_loss(20 * asked @ found.T, same=find_same_videos(gather(own.to(device))))
    torch.autograd.backward(loss)
    return torch.cat([weight.grad.flatten().cpu() for weight in model.parameters() if weight.grad is not None])


def run_rank() -> None:
    """Join the others, step, and leave the gradients."""
    backend, device, rendezvous, rank, world = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    gpu = cuda_index(device)
    if gpu is not None:
        device = f"cuda:{rank}" if backend == "nccl" and world > 1 else device
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        gradients = step_together(device, rank, world)
        if rank == 0:
            torch.save(gradients, f"{rendezvous}.pt")
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()


def train_together(setup: Setup, backend: str) -> Outcome:
    """Compare the gradients of processes that share a batch with those of one process on the CPU.

    ``nccl`` wants a card for each process: with one card it is one process, which still gathers and reduces. ``gloo``
    lets two share a card.
    """
    gpu = cuda_index(setup.device)
    if setup.device != CPU and gpu is None:
        raise NotHereError(f"{backend} gathers on CPUs and CUDA")
    if backend == "nccl" and (gpu is None or not torch.distributed.is_nccl_available()):
        raise NotHereError("nccl is for CUDA")
    world = 2 if backend == "gloo" else min(2, torch.cuda.device_count())
    rendezvous = setup.scratch / f"rendezvous-{backend}"
    commands = [
        [sys.executable, __file__, backend, setup.device, str(rendezvous), str(rank), str(world)]
        for rank in range(world)
    ]
    since = time.perf_counter()
    alone = step_together(CPU, 0, 1)
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


if __name__ == "__main__":
    run_rank()
