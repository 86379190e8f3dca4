"""Small arrays of many segments: as bytes, and stacked with padding."""

import struct
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64, Shaped

from vidret.errors import AlignerError

Array = Shaped[np.ndarray, "..."]
Padded = tuple[Shaped[np.ndarray, "item row column"], Bool[np.ndarray, "item row"] | None]

FORMAT = 1
_TYPES = (np.dtype("i1"), np.dtype("<f2"), np.dtype("<f4"))
_HEAD, _SHAPE = struct.Struct("<BBxx"), struct.Struct("<BxHI")  # format, count; type, columns, rows


def pack_arrays(arrays: Sequence[Array]) -> bytes:
    """Serialize arrays (row) or (row, column) of int8, float16 or float32.

    Returns:
        Bytes for ``unpack_arrays``, which returns a vector as one column.
    """
    chunks = [_HEAD.pack(FORMAT, len(arrays))]
    for array in arrays:
        rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
        chunks.append(_SHAPE.pack(_TYPES.index(array.dtype), columns, rows))
    for array in arrays:
        chunks.append(np.ascontiguousarray(array).tobytes())
        chunks.append(b"\0" * (-len(chunks[-1]) % 4))
    return b"".join(chunks)


def unpack_arrays(packed: Sequence[bytes | memoryview]) -> list[Padded]:
    """Deserialize items that ``pack_arrays`` wrote, each with equally many arrays, and stack them as ``pad_rows``.

    Items with equal shapes are read at once, since reading a few hundred small arrays one by one takes longer than
    scoring them.

    Raises:
        AlignerError: The bytes have another format version.
    """
    by_head: dict[bytes, list[int]] = {}
    for index, data in enumerate(packed):
        version, count = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (None, 0)
        if version != FORMAT:
            raise AlignerError(f"stored tokens must have format {FORMAT}, got {version}: index again with this version")
        by_head.setdefault(bytes(data[: _HEAD.size + count * _SHAPE.size]), []).append(index)
    groups = [_unpack_group(head, [packed[index] for index in indices]) for head, indices in by_head.items()]
    return [_join(list(by_head.values()), arrays) for arrays in zip(*groups, strict=True)]


def _unpack_group(head: bytes, packed: Sequence[bytes | memoryview]) -> list[Shaped[np.ndarray, "item row column"]]:
    """Deserialize items with equal headers."""
    stacked, offset, arrays = np.frombuffer(bytearray().join(packed), np.uint8).reshape(len(packed), -1), len(head), []
    for code, columns, rows in _SHAPE.iter_unpack(head[_HEAD.size :]):
        num_bytes = rows * columns * _TYPES[code].itemsize
        values = stacked[:, offset : offset + num_bytes].view(_TYPES[code])
        arrays.append(values.reshape(len(packed), rows, columns))
        offset += num_bytes + -num_bytes % 4
    return arrays


def _join(indices: Sequence[Sequence[int]], groups: Sequence[Shaped[np.ndarray, "_item _row column"]]) -> Padded:
    """Return one stack with the items of each group at their indices, padded to the most rows."""
    if len(groups) == 1:
        return groups[0], None
    lengths = np.empty(sum(map(len, indices)), np.int64)
    stack = np.zeros((len(lengths), max(group.shape[1] for group in groups), groups[0].shape[2]), groups[0].dtype)
    for rows, group in zip(indices, groups, strict=True):
        stack[rows, : group.shape[1]] = group
        lengths[rows] = group.shape[1]
    return stack, _mask(lengths)


def pad_rows(arrays: Sequence[Array]) -> Padded:
    """Stack arrays, zero-padded to the most rows; the mask is None if all have equally many."""
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    mask, rows = _mask(lengths), np.concatenate(arrays)
    if mask is None:
        return rows.reshape(len(arrays), -1, rows.shape[-1]), None
    padded = np.zeros((*mask.shape, rows.shape[-1]), rows.dtype)
    padded[mask] = rows
    return padded, mask


def _mask(lengths: Int64[np.ndarray, " item"]) -> Bool[np.ndarray, "item row"] | None:
    """Return True for rows that are not padding; None if none is padding."""
    if lengths.min() == lengths.max():
        return None
    return np.arange(lengths.max()) < lengths[:, None]
