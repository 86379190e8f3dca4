"""Batches gathered from all processes, with exact gradients.

The backward pass sums the gradients of all processes for a process's own rows. So it differentiates the sum of the
losses of all processes, and the mean over processes that data-parallel training takes is the gradient of the mean loss.
Each process computes either the loss of the whole gathered batch, or that of its own rows against all columns: if the
mean over processes is the loss that a single process would compute, so is the gradient.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Item = TypeVar("Item")


def gather(x: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "all ..."]:
    """Concatenate the rows of all processes, in the order of the processes; a single process returns its own.

    Processes may differ in the number of rows and in the sizes of further axes, such as words. Further axes are padded
    with zeros (False in a mask) to the maximum. Every process must call this for the same tensors in the same order,
    and must run the backward pass if any process does.
    """
    if not is_distributed():
        return x
    shapes = _gather_equal(torch.tensor(x.shape, device=x.device))
    max_shape = shapes.amax(dim=0).tolist()
    if list(x.shape) != max_shape:
        padded = x.new_zeros(max_shape)
        padded[tuple(slice(size) for size in x.shape)] = x
        x = padded
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call, unused-ignore]
    return torch.cat([rows[:num_rows] for rows, num_rows in zip(gathered, shapes[:, 0].tolist(), strict=True)])


def gather_objects(objects: list[Item]) -> list[Item]:
    """Concatenate the lists of all processes, in the order of the processes, without gradients."""
    if not is_distributed():
        return objects
    gathered: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, objects)
    return [item for items in gathered for item in items]


def is_distributed() -> bool:
    """Return whether there are other processes to gather from."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Stack tensors of one shape; the backward pass sums the gradient of a process's rows over processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return _gather_equal(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        grad = grad.clone(memory_format=torch.contiguous_format)  # autograd owns the incoming tensor
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def _gather_equal(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "process ..."]:
    """Stack the tensors of all processes, which have one shape."""
    gathered = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, x.contiguous())
    return torch.stack(gathered)
