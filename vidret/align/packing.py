"""Prepared videos on their way to disk and back: a few small arrays a segment, in one run of bytes."""

import struct
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from vidret.align.prepared import PreparedVideos
from vidret.align.temporal import pool_frames
from vidret.errors import AlignerError

Array = Shaped[np.ndarray, "..."]

FORMAT = 1
_TYPES = (np.dtype("i1"), np.dtype("<f2"), np.dtype("<f4"))
_HEAD, _SHAPE = struct.Struct("<BBxx"), struct.Struct("<BxHI")  # format, count; type, columns, rows


def pack_arrays(arrays: Sequence[Array]) -> bytes:
    """Write arrays (row) or (row, column) of int8, float16 or float32 one after the other; small ones first align best.

    Returns:
        The bytes that ``unpack_arrays`` reads; a vector comes back with one column.
    """
    parts = [_HEAD.pack(FORMAT, len(arrays))]
    for array in arrays:
        rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
        parts.append(_SHAPE.pack(_TYPES.index(array.dtype), columns, rows))
    for array in arrays:
        parts.append(np.ascontiguousarray(array).tobytes())
        parts.append(b"\0" * (-len(parts[-1]) % 4))
    return b"".join(parts)


def unpack_arrays(packed: bytes | memoryview) -> list[Array]:
    """Read what ``pack_arrays`` wrote, without copying.

    Raises:
        AlignerError: The bytes are of another format.
    """
    found, count = _HEAD.unpack_from(packed) if len(packed) >= _HEAD.size else (None, 0)
    if found != FORMAT:
        raise AlignerError(f"stored tokens must be of format {FORMAT}, got {found}: index again with this version")
    place, arrays = _HEAD.size + count * _SHAPE.size, []
    for number in range(count):
        code, columns, rows = _SHAPE.unpack_from(packed, _HEAD.size + number * _SHAPE.size)
        array = np.frombuffer(packed, _TYPES[code], rows * columns, place).reshape(rows, columns)
        place += array.nbytes + -array.nbytes % 4
        arrays.append(array)
    return arrays


def pack_video(video: PreparedVideos, *, whole: bool) -> bytes:
    """Write one prepared video, but for its frames, which are stored anyway; ``whole`` adds the vector of the video.

    That vector follows from the frames unless a head was trained to make it. Tokens are written as they are: packed to
    int8 or float16 before.
    """
    tokens = video.tokens[0] if video.token_mask is None else video.tokens[0, video.token_mask[0]]
    kept = slice(None) if video.token_mask is None else video.token_mask[0]
    scales, sizes = (None if part is None else part[0, kept] for part in (video.token_scales, video.sizes))
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
    packed: Sequence[bytes | memoryview], frames: Sequence[Float[np.ndarray, "frame dim"]]
) -> PreparedVideos:
    """Put stored videos together again, padded where they differ in length; an empty one has its frames for tokens."""
    rows, frame_mask = stack_rows(frames)
    rows = rows.float()
    parts = [unpack_arrays(each) for each in packed if len(each)]
    if len(parts) < len(packed):
        return PreparedVideos(pool_frames(rows, frame_mask), rows, rows, frame_mask, frame_mask)
    scales, sizes, wholes, tokens = zip(*parts, strict=True)
    stacked, token_mask = stack_rows(tokens)
    whole = stack_rows(wholes)[0][..., 0].float() if len(wholes[0]) else pool_frames(rows, frame_mask)
    counts = None
    if any(len(each) for each in sizes):
        ones = [each if len(each) else np.ones((len(own), 1), "<f4") for each, own in zip(sizes, tokens, strict=True)]
        counts = stack_rows(ones)[0][..., 0].clamp(min=1)
    of_rows = stack_rows(scales)[0][..., 0] if len(scales[0]) else None
    return PreparedVideos(whole, rows, stacked, frame_mask, token_mask, counts, of_rows)


def stack_rows(arrays: Sequence[Array]) -> tuple[Shaped[Tensor, "item row column"], Bool[Tensor, "item row"] | None]:
    """Stack arrays of different numbers of rows, zeros below; the mask is None when all have the same."""
    lengths = [len(each) for each in arrays]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.from_numpy(np.stack(arrays)), None
    padded = np.zeros((len(arrays), longest, arrays[0].shape[-1]), arrays[0].dtype)
    for row, each in zip(padded, arrays, strict=True):
        row[: len(each)] = each
    return torch.from_numpy(padded), torch.arange(longest) < torch.tensor(lengths)[:, None]


def _array(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array
