"""What UCoFiA computes once per video for all queries, and the blocks in which videos are compared with queries."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from vidret.align.batches import TextBatch
from vidret.layers import pack_rows


class PreparedVideos(NamedTuple):
    """The video side of all three levels.

    Attributes:
        videos: Video vectors, multiplied by their mixing matrix.
        frames: Frame vectors of unit length.
        tokens: Tokens, multiplied by their mixing matrix; float32, float16, or int8 with ``token_scales``.
        frame_mask: False where a frame is padding; None if none is.
        token_mask: False where a token is padding; None if none is.
        sizes: Number of patches that each token is the mean of; None if all are 1.
        token_scales: Scale of each int8 token.
    """

    videos: Float[Tensor, "video dim"]
    frames: Float[Tensor, "video frame dim"]
    tokens: Shaped[Tensor, "video token dim"]
    frame_mask: Bool[Tensor, "video frame"] | None = None
    token_mask: Bool[Tensor, "video token"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    token_scales: Float[Tensor, "video token"] | None = None

    def take(self, rows: Tensor | slice) -> "PreparedVideos":
        """Return the selected videos, in the given order."""
        return self._each(lambda field: field[rows])

    def trimmed(self) -> "PreparedVideos":
        """Return a copy without frames and tokens that are padding in every video; masks that are all True are None."""
        num_frames, frame_mask = trim(self.frame_mask)
        num_tokens, token_mask = trim(self.token_mask)
        tokens, sizes, scales = (
            None if field is None else field[:, :num_tokens] for field in (self.tokens, self.sizes, self.token_scales)
        )
        assert tokens is not None
        return PreparedVideos(self.videos, self.frames[:, :num_frames], tokens, frame_mask, token_mask, sizes, scales)

    def packed(self, dtype: torch.dtype) -> "PreparedVideos":
        """Return a copy with tokens of ``dtype``: float16, or int8 with one scale per token."""
        tokens = self.unpacked().tokens
        if dtype != torch.int8:
            return self._replace(tokens=tokens.to(dtype), token_scales=None)
        packed, scales = pack_rows(tokens)
        return self._replace(tokens=packed, token_scales=scales)

    def unpacked(self) -> "PreparedVideos":
        """Return a copy with float32 tokens."""
        if self.token_scales is None:
            return self._replace(tokens=self.tokens.float())
        return self._replace(tokens=self.tokens.float().mul_(self.token_scales[..., None]), token_scales=None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PreparedVideos":
        return PreparedVideos(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]


def trim(mask: Bool[Tensor, "item n"] | None) -> tuple[int | None, Bool[Tensor, "item m"] | None]:
    """Return the number of columns up to the last real entry of any item, and their mask; None if all are real."""
    if mask is None:
        return None, None
    columns = mask.any(dim=0).nonzero()
    length = int(columns[-1]) + 1 if len(columns) else 1
    return length, None if mask[:, :length].all() else mask[:, :length]


BLOCK = 1 << 17  # word-token similarities per block; they and their intermediate results fit a core's cache
MIN_TASKS = 4  # of each thread: a search for one query starts none
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


def run_tasks(tasks: Sequence[Callable[[], None]], device: torch.device) -> None:
    """Run tasks of many small operations: on a CPU on as many threads as PyTorch has, else one after another.

    The operations are too small for PyTorch to divide one of them. Each task computes on a single thread, so that its
    results do not depend on their number.
    """
    num_threads = min(torch.get_num_threads(), len(tasks) // MIN_TASKS) if device.type == "cpu" else 1
    if num_threads <= 1:
        with flushed_denormals():
            for task in tasks:
                task()
        return
    previous, grad = torch.get_num_threads(), torch.is_grad_enabled()

    def start() -> None:  # these are settings of a thread
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        torch.set_grad_enabled(grad)

    try:
        with ThreadPoolExecutor(num_threads, initializer=start) as threads:
            for done in [threads.submit(task) for task in tasks]:
                done.result()
    finally:
        torch.set_num_threads(previous)


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
