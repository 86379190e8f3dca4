"""Batches of all processes, put together with their true gradients.

The backward pass sums what all processes want of a process's own rows. So what is differentiated is the sum of all
processes' losses, and the mean over processes that data-parallel training makes of it is the gradient of the mean loss.
Either every process computes the loss of the whole gathered batch, or each that of its own rows against all columns:
whenever the mean over processes is the loss that one process would have computed alone, so is the gradient.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from vidret.align.batches import TextBatch, VideoBatch

Item = TypeVar("Item")
Batch = TypeVar("Batch", TextBatch, VideoBatch)


def gather(x: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "all ..."]:
    """Put the rows of all processes together, in their order; one process alone keeps its own.

    Processes may have different numbers of rows, and of what follows, as words: this is filled with zeros up to the
    most that there are (False, in a mask). Every process must call this for the same tensors in the same order, and go
    back through it where one does.
    """
    if not is_shared():
        return x
    shapes = _gather_equal(torch.tensor(x.shape, device=x.device))
    most = shapes.amax(dim=0).tolist()
    if list(x.shape) != most:
        filled = x.new_zeros(most)
        filled[tuple(slice(size) for size in x.shape)] = x
        x = filled
    parts: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return torch.cat([part[:num] for part, num in zip(parts, shapes[:, 0].tolist(), strict=True)])


def gather_batch(own: Batch) -> Batch:
    """Put the texts or the videos of all processes together, as ``gather`` does; what is None stays None."""
    return type(own)._make(None if part is None else gather(part) for part in own)


def gather_objects(own: list[Item]) -> list[Item]:
    """Put the lists of all processes together, in their order; for what has no gradient, as results are."""
    if not is_shared():
        return own
    found: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, own)
    return [item for part in found for item in part]


def is_shared() -> bool:
    """Say whether there are other processes to gather from."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Stack tensors of one shape; backward is the sum over processes of the gradient of the own part."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _gather_equal(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        grad = grad.clone(memory_format=torch.contiguous_format)  # what comes in is not ours to change
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def _gather_equal(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "process ..."]:
    """Stack the tensors of all processes, all of one shape."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)
