"""The video side of UCoFiA, computed once for all queries; its bytes; and the blocks in which it is compared."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from vidret.align.batches import TextBatch, stack_rows, unpack_stacked
from vidret.align.stacking import pack_arrays
from vidret.layers import pack_rows, pool_frames


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


def pack_video(video: PreparedVideos, *, whole: bool) -> bytes:
    """Serialize a batch of one video without its frames, which are stored elsewhere; tokens keep their dtype.

    ``whole`` includes the video vector, which does not follow from the frames if a trained head made it.
    """
    kept = slice(None) if video.token_mask is None else video.token_mask[0]
    empty = torch.empty(0)
    scales, sizes = (empty if field is None else field[0, kept] for field in (video.token_scales, video.sizes))
    vector = (video.videos[0] if whole else empty).half()
    return pack_arrays([part.detach().cpu().numpy() for part in (scales, sizes, vector, video.tokens[0, kept])])


def unpack_videos(
    packed: Sequence[bytes | memoryview], frames: Sequence[Float[np.ndarray, "_frame dim"]]
) -> PreparedVideos:
    """Return the videos that ``pack_video`` wrote, as a padded batch.

    If any item is empty, frames serve as the tokens of all.

    Raises:
        AlignerError: The bytes have another format version.
    """
    rows, frame_mask = stack_rows(frames)
    if not all(map(len, packed)):
        return PreparedVideos(pool_frames(rows, frame_mask), rows, rows, frame_mask, frame_mask)
    scales, sizes, wholes, (tokens, token_mask) = unpack_stacked(packed)
    whole = wholes[0][..., 0].float() if wholes[0].shape[1] else pool_frames(rows, frame_mask)
    # Missing sizes, like those of padding, are 1.
    counts = functional.pad(sizes[0][..., 0], (0, tokens.shape[1] - sizes[0].shape[1])).clamp(min=1)
    return PreparedVideos(
        whole,
        rows,
        tokens,
        frame_mask,
        token_mask,
        counts if sizes[0].shape[1] else None,
        scales[0][..., 0] if scales[0].shape[1] else None,
    )


def trim(mask: Bool[Tensor, "item n"] | None) -> tuple[int | None, Bool[Tensor, "item m"] | None]:
    """Return the number of columns up to the last real entry of any item, and their mask; None if all are real."""
    if mask is None:
        return None, None
    columns = mask.any(dim=0).nonzero()
    length = int(columns[-1]) + 1 if len(columns) else 1
    return length, None if mask[:, :length].all() else mask[:, :length]


BLOCK = 1 << 17  # word-token similarities per block; they and their intermediate results fit a core's cache
MIN_TASKS = 4  # of each thread


def plan_blocks(texts: TextBatch, videos: PreparedVideos) -> tuple[int, int]:
    """Return the number of texts and of videos of a block that fits a cache."""
    (num_texts, num_words, _), (num_videos, num_tokens, _) = texts.words.shape, videos.tokens.shape
    pairs = max(1, BLOCK // max(1, num_words * num_tokens))
    per_text = balanced_size(num_texts, math.isqrt(pairs))
    return per_text, balanced_size(num_videos, pairs // per_text)


def balanced_size(total: int, limit: int) -> int:
    """Return the chunk size, at most ``limit``, that divides ``total`` most evenly.

    >>> balanced_size(10, 6)
    5
    """
    return max(1, -(-total // max(1, -(-total // limit))))


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
