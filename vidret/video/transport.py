"""Whether an MPEG transport stream is cut off, which FFmpeg does not report."""

HEAD_BYTES = 1020  # five of the longest packets
_SYNC = 0x47
# Bytes of a packet and before its sync byte: plain, with a time code as on Blu-ray, and with parity bytes at the end.
_LAYOUTS = ((188, 0), (192, 4), (204, 0))


def ends_inside_packet(head: bytes, num_bytes: int) -> bool:
    """Return whether a file ends in the middle of a packet; False if it does not start with packets.

    Args:
        head: The first ``HEAD_BYTES`` of the file, or all of a shorter one.
        num_bytes: The size of the file.
    """
    for size, offset in _LAYOUTS:
        syncs = head[offset::size]
        if len(syncs) >= 3 and set(syncs) == {_SYNC}:
            return num_bytes % size > 0
    return False
