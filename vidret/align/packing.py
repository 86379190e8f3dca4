"""Serialization of prepared videos: a few small arrays per segment, as bytes."""

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
    """Serialize arrays (row) or (row, column) of int8, float16 or float32.

    Returns:
        Bytes for ``unpack_stacked``, which returns a vector as one column.
    """
    chunks = [_HEAD.pack(FORMAT, len(arrays))]
    for array in arrays:
        rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
        chunks.append(_SHAPE.pack(_TYPES.index(array.dtype), columns, rows))
    for array in arrays:
        chunks.append(np.ascontiguousarray(array).tobytes())
        chunks.append(b"\0" * (-len(chunks[-1]) % 4))
    return b"".join(chunks)


def unpack_stacked(packed: Sequence[bytes | memoryview]) -> list[Stacked]:
    """Deserialize items that ``pack_arrays`` wrote, each with equally many arrays, and stack them as ``stack_rows``.

    Items with equal shapes are read at once, since reading a few hundred small arrays one by one takes longer than
    scoring them.

    Raises:
        AlignerError: The bytes have another format version.
    """
    by_head: dict[bytes, list[int]] = {}
    for index, data in enumerate(packed):
        by_head.setdefault(_read_head(data), []).append(index)
    groups = [_unpack_group(head, [packed[index] for index in indices]) for head, indices in by_head.items()]
    return [_join(list(by_head.values()), arrays) for arrays in zip(*groups, strict=True)]


def _read_head(packed: bytes | memoryview) -> bytes:
    """Return the header, which describes the arrays that follow."""
    version, count = _HEAD.unpack_from(packed) if len(packed) >= _HEAD.size else (None, 0)
    if version != FORMAT:
        raise AlignerError(f"stored tokens must have format {FORMAT}, got {version}: index again with this version")
    return bytes(packed[: _HEAD.size + count * _SHAPE.size])


def _unpack_group(head: bytes, packed: Sequence[bytes | memoryview]) -> list[Shaped[np.ndarray, "item row column"]]:
    """Deserialize items with equal headers."""
    offset, arrays = len(head), []
    for code, columns, rows in _SHAPE.iter_unpack(head[_HEAD.size :]):
        values = [np.frombuffer(data, _TYPES[code], rows * columns, offset) for data in packed]
        arrays.append(np.concatenate(values).reshape(len(packed), rows, columns))
        offset += values[0].nbytes + -values[0].nbytes % 4
    return arrays


def _join(indices: Sequence[Sequence[int]], groups: Sequence[Shaped[np.ndarray, "_item _row column"]]) -> Stacked:
    """Return one stack with the items of each group at their indices, padded to the most rows."""
    if len(groups) == 1:
        return torch.from_numpy(groups[0]), None
    lengths = np.empty(sum(map(len, indices)), np.int64)
    stack = np.zeros((len(lengths), max(group.shape[1] for group in groups), groups[0].shape[2]), groups[0].dtype)
    for rows, group in zip(indices, groups, strict=True):
        stack[rows, : group.shape[1]] = group
        lengths[rows] = group.shape[1]
    return torch.from_numpy(stack), _mask(lengths)


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


def stack_rows(arrays: Sequence[Array]) -> Stacked:
    """Stack arrays, zero-padded to the most rows; the mask is None if all have equally many."""
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    mask, rows = _mask(lengths), np.concatenate(arrays)
    if mask is None:
        return torch.from_numpy(rows.reshape(len(arrays), -1, rows.shape[-1])), None
    padded = np.zeros((*mask.shape, rows.shape[-1]), rows.dtype)
    padded[mask.numpy()] = rows
    return torch.from_numpy(padded), mask


def _mask(lengths: Int64[np.ndarray, " item"]) -> Bool[Tensor, "item row"] | None:
    """Return True for rows that are not padding; None if none is padding."""
    if lengths.min() == lengths.max():
        return None
    return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])


def _array(values: Tensor) -> Array:
    array: Array = values.detach().cpu().numpy()
    return array
