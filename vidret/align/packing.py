"""Prepared videos on their way to disk and back: a few small arrays a segment, in one run of bytes."""

import struct
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia_temporal import pool_frames
from vidret.errors import AlignerError

Array = Shaped[np.ndarray, "..."]
Stacked = tuple[Shaped[Tensor, "item row column"], Bool[Tensor, "item row"] | None]

FORMAT = 1
_TYPES = (np.dtype("i1"), np.dtype("<f2"), np.dtype("<f4"))
_HEAD, _SHAPE = struct.Struct("<BBxx"), struct.Struct("<BxHI")  # format, count; type, columns, rows


def pack_arrays(arrays: Sequence[Array]) -> bytes:
    """Write arrays (row) or (row, column) of int8, float16 or float32 one after the other; small ones first align best.

    Returns:
        The bytes that ``unpack_stacked`` reads; a vector comes back with one column.
    """
    parts = [_HEAD.pack(FORMAT, len(arrays))]
    for array in arrays:
        rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
        parts.append(_SHAPE.pack(_TYPES.index(array.dtype), columns, rows))
    for array in arrays:
        parts.append(np.ascontiguousarray(array).tobytes())
        parts.append(b"\0" * (-len(parts[-1]) % 4))
    return b"".join(parts)


def unpack_stacked(packed: Sequence[bytes | memoryview]) -> list[Stacked]:
    """Read many that ``pack_arrays`` wrote, with the same number of arrays each, as ``stack_rows`` gives them.

    All that have the same shapes are read at once: looked at one by one, a few hundred small arrays cost more than what
    is then done with them.

    Raises:
        AlignerError: The bytes are of another format.
    """
    alike: dict[bytes, list[int]] = {}
    for item, each in enumerate(packed):
        alike.setdefault(_read_head(each), []).append(item)
    parts = [_unpack_alike(head, [packed[item] for item in items]) for head, items in alike.items()]
    return [_join(list(alike.values()), arrays) for arrays in zip(*parts, strict=True)]


def _read_head(packed: bytes | memoryview) -> bytes:
    """Give the bytes that say what the rest is."""
    found, count = _HEAD.unpack_from(packed) if len(packed) >= _HEAD.size else (None, 0)
    if found != FORMAT:
        raise AlignerError(f"stored tokens must be of format {FORMAT}, got {found}: index again with this version")
    return bytes(packed[: _HEAD.size + count * _SHAPE.size])


def _unpack_alike(head: bytes, packed: Sequence[bytes | memoryview]) -> list[Shaped[np.ndarray, "item row column"]]:
    """Read those that share a head."""
    place, arrays = len(head), []
    for code, columns, rows in _SHAPE.iter_unpack(head[_HEAD.size :]):
        parts = [np.frombuffer(each, _TYPES[code], rows * columns, place) for each in packed]
        arrays.append(np.concatenate(parts).reshape(len(packed), rows, columns))
        place += parts[0].nbytes + -parts[0].nbytes % 4
    return arrays


def _join(items: Sequence[Sequence[int]], parts: Sequence[Shaped[np.ndarray, "item row column"]]) -> Stacked:
    """Put the parts of a stack where their items belong, padded to the longest."""
    if len(parts) == 1:
        return torch.from_numpy(parts[0]), None
    lengths = np.empty(sum(map(len, items)), np.int64)
    stack = np.zeros((len(lengths), max(part.shape[1] for part in parts), parts[0].shape[2]), parts[0].dtype)
    for rows, part in zip(items, parts, strict=True):
        stack[rows, : part.shape[1]] = part
        lengths[rows] = part.shape[1]
    return torch.from_numpy(stack), _mask(lengths)


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
    if not all(map(len, packed)):
        return PreparedVideos(pool_frames(rows, frame_mask), rows, rows, frame_mask, frame_mask)
    scales, sizes, wholes, (tokens, token_mask) = unpack_stacked(packed)
    whole = wholes[0][..., 0].float() if wholes[0].shape[1] else pool_frames(rows, frame_mask)
    # Where sizes are missing, as in padding, they are 1.
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


def stack_rows(arrays: Sequence[Array]) -> Stacked:
    """Stack arrays of different numbers of rows, zeros below; the mask is None when all have the same."""
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    mask, rows = _mask(lengths), np.concatenate(arrays)
    if mask is None:
        return torch.from_numpy(rows.reshape(len(arrays), -1, rows.shape[-1])), None
    padded = np.zeros((*mask.shape, rows.shape[-1]), rows.dtype)
    padded[mask.numpy()] = rows
    return torch.from_numpy(padded), mask


def _mask(lengths: Int64[np.ndarray, " item"]) -> Bool[Tensor, "item row"] | None:
    """Say which rows are not padding; None if all are."""
    if lengths.min() == lengths.max():
        return None
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def _array(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array
