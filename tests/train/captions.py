"""Token ids of captions, and their loss by loops."""

import math

import torch
from torch import Tensor

from vidret.train.captioner import caption_loss

VOCABULARY, START, END, WIDTH = 29, 27, 28, 16
FREQUENT = [1, 4, START, END]


def naive_loss(logits: Tensor, ids: Tensor, frequent: list[int], *, frequent_weight: float, weight: float) -> float:
    """Compute the loss by loops over captions and tokens, up to the end token."""
    total = weights = 0.0
    for row, caption in zip(logits.tolist(), ids.tolist(), strict=True):
        for position, scores in enumerate(row):
            if caption[position] == END:
                break
            target = caption[position + 1]
            loss = math.log(sum(math.exp(score) for score in scores)) - scores[target]
            token_weight = frequent_weight if target in frequent else 1.0
            total, weights = total + token_weight * loss, weights + token_weight
    return weight * total / weights if weights else 0.0


def make_captions(*lengths: int, width: int = 9, padding: int = END) -> Tensor:
    """Return random captions with the given numbers of words between start and end."""
    words = torch.Generator().manual_seed(len(lengths))
    ids = torch.full((len(lengths), width), padding)
    for row, length in zip(ids, lengths, strict=True):
        row[: length + 2] = torch.cat(
            [torch.tensor([START]), torch.randint(START, (length,), generator=words), torch.tensor([END])]
        )
    return ids


def compute_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return caption_loss(logits, ids, end=END, frequent=FREQUENT)
