"""Partition of a score matrix into tiles that fit a memory limit, and of tiles into blocks that fit a CPU cache."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from vidret.align.batches import TextBatch
from vidret.align.prepared import PreparedVideos

BLOCK = 1 << 17  # word-token similarities per block; they and their intermediate results fit a core's cache
COPIES = 6  # maximum number of tensors of a block's size that are alive at once


class Blocks(NamedTuple):
    """Number of texts and videos per block, and of videos per tile; a tile consists of whole blocks."""

    texts: int
    videos: int
    tile: int


def plan_blocks(texts: TextBatch, videos: PreparedVideos, memory: int) -> Blocks:
    """Choose block and tile sizes so that a block fits a cache and a tile fits into ``memory`` bytes.

    Raises:
        ValueError: ``memory`` is too small for one block.
    """
    num_texts, num_words, dim = texts.words.shape
    num_videos, num_tokens, _ = videos.tokens.shape
    num_frames = videos.frames.shape[1]
    pair = max(1, num_words * num_tokens)
    pairs = max(1, BLOCK // pair)
    per_text = balanced_size(num_texts, max(1, math.isqrt(pairs)))
    per_video = balanced_size(num_videos, max(1, pairs // per_text))
    text_floats = COPIES * per_text * num_words * dim
    pair_floats = COPIES * per_text * per_video * (pair + num_words + num_tokens + num_frames)
    video_floats = 2 * per_video * num_tokens * dim  # unpacked, and trimmed copies
    available = memory // 4 - text_floats - pair_floats
    if available < video_floats:
        raise ValueError(
            f"memory must be at least {4 * (text_floats + pair_floats + video_floats)} bytes, got {memory}"
        )
    return Blocks(per_text, per_video, per_video * (available // video_floats))


def balanced_size(total: int, limit: int) -> int:
    """Return the chunk size, at most ``limit``, that divides ``total`` most evenly.

    >>> balanced_size(10, 6)
    5
    """
    return max(1, -(-total // max(1, -(-total // limit))))


def iter_slices(total: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of ``size`` that cover ``range(total)``; the last may be smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush numbers below 1e-38 to zero on CPUs inside the context, and restore the previous mode after it.

    Softmaxes at tau 0.01 produce many of them: everything but the maximum has a weight of about exp(-100). With
    denormals a CPU takes five times as long.
    """
    previous = bool(torch.full((8,), 1e-39).mul(0.5).eq(0).all())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(previous)
