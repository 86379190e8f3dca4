"""One process of several that train together, for ``tools/check_gpu.py``: a step of towers on its share of a batch.

    python tools/gpu_rank.py BACKEND DEVICE RENDEZVOUS RANK WORLD

Process 0 leaves the gradients in RENDEZVOUS.pt.
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from vidret.devices import cuda_index
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, retrieval_loss

NUM, WIDTH = 8, 64


class Towers(nn.Module):
    """A small tower for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.text = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 32)) for _ in "vt")

    def forward(self, videos: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors."""
        return functional.normalize(self.video(videos), dim=-1), functional.normalize(self.text(texts), dim=-1)


def step(device: str, rank: int, world: int) -> Tensor:
    """Return the gradients of one step, on the CPU; the processes' shares of the batch follow each other."""
    torch.manual_seed(0)
    model: nn.Module = Towers().to(device)
    videos, texts = torch.randn(2, NUM, WIDTH)
    own = torch.arange(NUM)[rank * NUM // world : (rank + 1) * NUM // world]
    if dist.is_initialized():
        model = DistributedDataParallel(model)
        rows = [torch.zeros(1, device=device) for _ in range(world)]
        dist.all_gather(rows, torch.ones(1, device=device))  # also where one process is alone, which gathers nothing
    found, asked = (gather(rows) for rows in model(videos[own].to(device), texts[own].to(device)))
    loss = retrieval_loss(20 * asked @ found.T, same=find_same_videos(gather(own.to(device))))
    torch.autograd.backward(loss)
    return torch.cat([weight.grad.flatten().cpu() for weight in model.parameters() if weight.grad is not None])


def main() -> None:
    """Join the others, step, and leave the gradients."""
    backend, device, rendezvous, rank, world = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    gpu = cuda_index(device)
    if gpu is not None:
        device = f"cuda:{rank}" if backend == "nccl" and world > 1 else device
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        gradients = step(device, rank, world)
        if rank == 0:
            torch.save(gradients, f"{rendezvous}.pt")
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
