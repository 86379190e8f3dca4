"""UCoFiA's aggregation and levels by loops, written from the paper."""

import math

import torch
from torch import Tensor

from vidret.align.ucofia_levels import TAU, Mixing


def naive_softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def naive_aggregate(values: list[float], matrix: Tensor | None = None) -> float:
    """Return the aggregated similarity: softmax weights, mixed, then a second softmax."""
    weights = naive_softmax([value / TAU for value in values])
    if matrix is not None:
        size = range(len(values))
        weights = [sum(weights[i] * float(matrix[i, j]) for i in size) for j in size]
    weights = naive_softmax([weight / TAU for weight in weights])
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def naive_both_ways(similarities: Tensor, mixing: Mixing) -> float:
    """Return Bi-ISA of a pair's (word, token) similarities."""
    rows, columns = similarities.tolist(), similarities.T.tolist()
    first = naive_aggregate([naive_aggregate(column, mixing.words_first) for column in columns], mixing.tokens_second)
    second = naive_aggregate([naive_aggregate(row, mixing.tokens_first) for row in rows], mixing.words_second)
    return (first + second) / 2


def make_mixing(dim: int = 6, *, num_frames: int = 3, num_words: int = 4, num_tokens: int = 5) -> Mixing:
    mixing = Mixing(dim, num_frames=num_frames, num_words=num_words, num_tokens=num_tokens)
    with torch.no_grad():
        for matrix in mixing.parameters():
            matrix.add_(0.2 * torch.randn_like(matrix))
    return mixing


def naive_frames(sentence: Tensor, frames: Tensor, matrix: Tensor | None) -> tuple[float, int]:
    """Return the aggregated similarity of a pair, and the index of its best frame."""
    values = [float(sentence @ frame) for frame in frames]
    return naive_aggregate(values, matrix), max(range(len(values)), key=values.__getitem__)
