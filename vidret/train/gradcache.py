"""GradCache: a batch is encoded in chunks of which only the vectors are kept, with the gradients of the whole batch.

A contrastive loss needs the vectors of all pairs at once, but not what the towers computed on the way there. The
backward pass goes from the loss to the vectors, whose gradients it keeps, and then through one chunk after another,
which is encoded again for that. The activations in memory are those of one chunk, and the towers run forwards twice.
Gradients accumulated over small batches would take as little memory, but contrast each pair with few others.

Reference: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Vectors = tuple[Tensor | None, ...]


def encode_chunks(encode: Callable[..., Vectors], *inputs: Tensor | None, size: int) -> Vectors:
    """Return what a function makes of rows, ``size`` of them at a time.

    Dropout is the same in both passes.

    Args:
        encode: Makes tensors of the rows of ``inputs``, or None, each row on its own.
        inputs: Tensors with one row per item, or None.
        size: Maximum number of rows at a time, at least 1.
    """
    pieces = [() if each is None else torch.split(each, size) for each in inputs]
    num_chunks = max(map(len, pieces))
    chunks: list[Vectors] = [
        checkpoint(encode, *(piece[index] if piece else None for piece in pieces), use_reentrant=False)
        for index in range(num_chunks)
    ]
    return tuple(None if rows[0] is None else torch.cat(rows) for rows in zip(*chunks, strict=True))
