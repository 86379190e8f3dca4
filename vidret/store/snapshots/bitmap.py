"""Sets of ids as bitmaps, least significant bit first, as FAISS reads them."""

import zlib

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vidret.errors import StoreError

MAX_ID = 2**32  # the largest id of a segment
Bits = UInt8[np.ndarray, " _byte"]
Ids = Int64[np.ndarray, " _id"]


def are_ids(ids: Ids) -> bool:
    """Return whether ids are valid ids of segments: ascending, unique, from 0 to ``MAX_ID``."""
    return not len(ids) or bool(ids[0] >= 0 and ids[-1] <= MAX_ID and (ids[1:] > ids[:-1]).all())


def make_bitmap(ids: Ids, chosen: Bool[np.ndarray, " _id"] | bool = True) -> Bits:
    """Return ascending ids, or the chosen ones, as a bitmap; fast for ids without gaps.

    Raises:
        StoreError: An id is out of range: the bitmap could take all memory.
    """
    if len(ids) and not 0 <= ids[0] <= ids[-1] <= MAX_ID:
        raise StoreError(f"ids of segments must ascend from 0 to {MAX_ID}, got {ids[0]} to {ids[-1]}")
    flags = np.zeros(int(ids[-1]) + 1 if len(ids) else 0, bool)
    if len(flags) and len(flags) - ids[0] == len(ids):
        flags[int(ids[0]) :] = chosen
    else:
        flags[ids] = chosen
    return np.packbits(flags, bitorder="little")


def list_ids(bits: Bits) -> Ids:
    """Return the ids in a bitmap, ascending; bytes of zeros cost next to nothing."""
    filled = np.flatnonzero(bits)
    first, end = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    is_dense = end - first < 2 * len(filled)
    chosen = bits[first:end] if is_dense else bits[filled]
    places = np.flatnonzero(np.unpackbits(chosen, bitorder="little").view(bool))
    return places + 8 * first if is_dense else filled[places >> 3] * 8 + (places & 7)


def add_ids(bits: Bits, ids: Ids) -> Bits:
    """Return a bitmap with ids added."""
    if not len(ids):
        return bits
    if not are_ids(ids):
        raise StoreError(f"ids of segments must ascend from 0 to {MAX_ID}, got {ids[0]} to {ids[-1]}")
    grown = np.zeros(max(len(bits), int(ids.max()) // 8 + 1), np.uint8)
    grown[: len(bits)] = bits
    np.bitwise_or.at(grown, ids >> 3, np.left_shift(1, ids & 7).astype(np.uint8))
    return grown


def contains(bits: Bits, ids: Ids) -> Bool[np.ndarray, " _id"]:
    """Return a mask of the ids that are in a bitmap."""
    is_set = (ids >= 0) & (ids < 8 * len(bits))
    is_set[is_set] = bits[ids[is_set] >> 3] >> (ids[is_set] & 7).astype(np.uint8) & 1
    return is_set


def subtract(bits: Bits, others: Bits) -> Bits:
    """Return a bitmap of the ids that are in ``bits``, but not in ``others``."""
    rest = bits.copy()
    shared = min(len(bits), len(others))
    rest[:shared] &= ~others[:shared]
    return rest


def pack_bitmap(bits: Bits) -> bytes:
    """Return the compressed bytes of a bitmap, which a catalog stores."""
    return zlib.compress(bits.tobytes(), level=1)


def unpack_bitmap(packed: object) -> Bits | None:
    """Return a bitmap from the bytes of ``pack_bitmap``; None if they are missing or not valid."""
    if not isinstance(packed, bytes):
        return None
    try:
        unpacked = zlib.decompressobj().decompress(packed, MAX_ID // 8 + 1)
    except zlib.error:
        return None
    return np.frombuffer(unpacked, np.uint8)


def count_ids(bits: Bits) -> int:
    """Return the number of ids in a bitmap."""
    return int(np.bitwise_count(bits).sum(dtype=np.int64))
