"""How a matrix of scores is cut into blocks that fit a cache and tiles that fit a memory bound."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from vidret.align.batches import TextBatch
from vidret.align.prepared import PreparedVideos

BLOCK = 1 << 17  # word-token similarities computed at once: they and what is made of them fit a core's cache
COPIES = 6  # tensors of a block's size that live at the same time, at most


class Blocks(NamedTuple):
    """How work is cut: texts and videos of a block, and videos of a tile, which is made of whole blocks."""

    texts: int
    videos: int
    tile: int


def plan_blocks(texts: TextBatch, videos: PreparedVideos, memory: int) -> Blocks:
    """Cut the work so that a block fits a cache, and a tile the memory bound.

    Raises:
        ValueError: The bound is too small for one block.
    """
    num_texts, num_words, dim = texts.words.shape
    num_videos, num_tokens, _ = videos.tokens.shape
    num_frames = videos.frames.shape[1]
    pair = max(1, num_words * num_tokens)
    pairs = max(1, BLOCK // pair)
    per_text = even(num_texts, max(1, math.isqrt(pairs)))
    per_video = even(num_videos, max(1, pairs // per_text))
    of_texts = COPIES * per_text * num_words * dim
    of_pairs = COPIES * per_text * per_video * (pair + num_words + num_tokens + num_frames)
    of_videos = 2 * per_video * num_tokens * dim  # unpacked, and trimmed copies
    left = memory // 4 - of_texts - of_pairs
    if left < of_videos:
        raise ValueError(f"memory must be at least {4 * (of_texts + of_pairs + of_videos)} bytes, got {memory}")
    return Blocks(per_text, per_video, per_video * (left // of_videos))


def even(total: int, most: int) -> int:
    """Give the size of equal parts that are no larger than ``most``: 10 in parts of at most 4 are 4, 4 and 2."""
    return max(1, -(-total // max(1, -(-total // most))))


def slices(total: int, size: int) -> Iterator[slice]:
    """Cut a range into slices of a size; the last may be smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 for 0 inside, on CPUs; as it was before, afterwards.

    Softmaxes at tau 0.01 are full of them (exp(-100) is the weight of whatever is not the best), and a CPU takes five
    times as long over the whole.
    """
    were = bool(torch.full((8,), 1e-39).mul(0.5).eq(0).all())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were)
