"""Where an MP4 or MOV file keeps its pictures: bytes that nobody needs who only asks for its frames' times."""

import struct
from typing import Protocol

_MOST_BOXES = 32  # more are fragments, each with times of its own, and the whole file must be read


class Readable(Protocol):
    """What can be read from any place."""

    def seek(self, offset: int, /) -> int:
        """Go to a place."""
        ...

    def read(self, size: int, /) -> bytes | None:
        """Read bytes."""
        ...


def find_payload(file: Readable, num_bytes: int) -> list[tuple[int, int]]:
    """List the ranges, as (start, end), that hold coded pictures and sound; none where that is not known.

    Reads a few bytes at the start of each box, and leaves the file where the last was.
    """
    found: list[tuple[int, int]] = []
    start = 0
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        if head is None or len(head) < 16:
            return found if start == num_bytes else []
        size, kind, large = struct.unpack(">I4sQ", head)
        if start == 0 and kind != b"ftyp":
            return []
        header = 16 if size == 1 else 8
        size = large if size == 1 else size or num_bytes - start  # 0 goes to the end
        if size < header:
            return []
        if kind == b"mdat":
            found.append((start + header, min(start + size, num_bytes)))
        elif kind == b"moof":
            return []
        start = min(start + size, num_bytes)
    return []
