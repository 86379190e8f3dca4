"""The merging of tokens by loops over single ones."""

from collections.abc import Sequence

import torch
from torch import Tensor


def naive_match(metric: Sequence[Tensor] | Tensor, num_merged: int, front: int, back: int) -> dict[int, int]:
    """Return which positions merge into which: the even ones most similar to an odd one, the first of ties."""
    evens = [i for i in range(front, len(metric) - back) if i % 2 == 0]
    odds = [i for i in range(front, len(metric) - back) if i % 2 == 1]
    best: dict[int, tuple[float, int]] = {}
    for i in evens:
        for j in odds:
            score = float(metric[i] @ metric[j] / (metric[i].norm() * metric[j].norm()))
            if i not in best or score > best[i][0]:
                best[i] = (score, j)
    ranked = sorted(evens, key=lambda i: -best[i][0])
    return {i: best[i][1] for i in ranked[:num_merged]}


def naive_merge(tokens: Tensor, sizes: Tensor, into: dict[int, int], front: int, back: int) -> tuple[Tensor, Tensor]:
    """Merge one sequence to [front | kept even | merged odd | back]."""
    inner = range(front, len(tokens) - back)
    order = [
        *range(front),
        *(i for i in inner if i % 2 == 0 and i not in into),
        *(i for i in inner if i % 2 == 1),
        *range(len(tokens) - back, len(tokens)),
    ]
    rows, counts = [], []
    for i in order:
        members = [i, *(source for source, target in into.items() if target == i)]
        counts.append(sum(float(sizes[member]) for member in members))
        rows.append(
            sum((sizes[member] * tokens[member] for member in members), torch.zeros(tokens.shape[1])) / counts[-1]
        )
    return torch.stack(rows), torch.tensor(counts)
