"""Whether an MPEG transport stream breaks off: FFmpeg reads what is there of it, and does not say."""

HEAD_BYTES = 1020  # five of the longest packets
_SYNC = 0x47
# Bytes of a packet, and of what stands before its first: plain; with a time code, as on Blu-ray; with parity behind.
_LAYOUTS = ((188, 0), (192, 4), (204, 0))


def ends_inside_packet(head: bytes, num_bytes: int) -> bool:
    """Return whether a file ends in the middle of a packet; False where its first bytes are not those of packets.

    Args:
        head: The file's first ``HEAD_BYTES``, or all of a shorter one.
        num_bytes: The file's size.
    """
    for size, before in _LAYOUTS:
        syncs = head[before::size]
        if len(syncs) >= 3 and set(syncs) == {_SYNC}:
            return num_bytes % size > 0
    return False
