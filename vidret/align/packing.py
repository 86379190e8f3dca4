"""Serialization of prepared videos: a few small arrays per segment, as bytes."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

from vidret.align.prepared import PreparedVideos
from vidret.align.stacking import Array, Padded, pack_arrays, pad_rows, unpack_arrays
from vidret.align.ucofia_temporal import pool_frames

Stacked = tuple[Shaped[Tensor, "item row column"], Bool[Tensor, "item row"] | None]


def unpack_stacked(packed: Sequence[bytes | memoryview]) -> list[Stacked]:
    """Return what ``unpack_arrays`` does, as tensors."""
    return [_as_tensors(padded) for padded in unpack_arrays(packed)]


def stack_rows(arrays: Sequence[Array]) -> Stacked:
    """Return what ``pad_rows`` does, as tensors."""
    return _as_tensors(pad_rows(arrays))


def _as_tensors(padded: Padded) -> Stacked:
    rows, mask = padded
    return torch.from_numpy(rows), None if mask is None else torch.from_numpy(mask)


def pack_video(video: PreparedVideos, *, whole: bool) -> bytes:
    """Serialize a single prepared video without its frames, which are stored elsewhere.

    Args:
        video: A batch of one video. Tokens are written with their dtype, so pack them to int8 or float16 first.
        whole: Whether to include the video vector, which does not follow from the frames if a trained head made it.
    """
    tokens = video.tokens[0] if video.token_mask is None else video.tokens[0, video.token_mask[0]]
    kept = slice(None) if video.token_mask is None else video.token_mask[0]
    scales, sizes = (None if field is None else field[0, kept] for field in (video.token_scales, video.sizes))
    empty = torch.empty(0)
    return pack_arrays(
        [
            _array(empty if scales is None else scales),
            _array(empty if sizes is None else sizes),
            _array((video.videos[0] if whole else empty).half()),
            _array(tokens),
        ]
    )


def unpack_videos(
    packed: Sequence[bytes | memoryview], frames: Sequence[Float[np.ndarray, "_frame dim"]]
) -> PreparedVideos:
    """Return the videos that ``pack_video`` wrote, as a padded batch.

    If any item is empty, frames serve as the tokens of all.

    Raises:
        AlignerError: The bytes have another format version.
    """
    rows, frame_mask = stack_rows(frames)
    rows = rows.float()
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


def _array(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array
