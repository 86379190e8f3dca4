"""The boxes of an MP4 or MOV file: where the coded media lies, which is not needed to read the times of frames."""

import struct
from typing import Protocol

_MAX_BOXES = 32  # files with more are fragmented: times are spread over the file, and all of it must be read


class Readable(Protocol):
    """A file with random access."""

    def seek(self, offset: int, /) -> int:
        """Move to an offset in bytes."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """Read up to ``size`` bytes."""
        ...


def find_payload(file: Readable, num_bytes: int) -> list[tuple[int, int]]:
    """Return the byte ranges of coded media as (start, end); empty if they are unknown.

    Reads a few bytes at the start of each box. The file's position afterwards is undefined.
    """
    ranges: list[tuple[int, int]] = []
    start = 0
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if head is None or len(head) < 16:
            return ranges if start == num_bytes else []
        size, kind, large_size = struct.unpack(">I4sQ", head)
        if start == 0 and kind != b"ftyp":
            return []
        header_bytes = 16 if size == 1 else 8
        size = large_size if size == 1 else size or num_bytes - start  # 0 extends to the end of the file
        if size < header_bytes:
            return []
        if kind == b"mdat":
            ranges.append((start + header_bytes, min(start + size, num_bytes)))
        elif kind == b"moof":
            return []
        start = min(start + size, num_bytes)
    return []
