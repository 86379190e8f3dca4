"""From packets to the frames a player shows: arithmetic on timestamps, without any decoder."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

MISSING = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True, eq=False)
class Packets:
    """A stream's packets in the order of the file, one frame each, timestamps in ticks.

    ``discarded`` packets are decoded but never shown: an edit list cut them away.
    """

    pts: Int64[np.ndarray, " packet"]
    dts: Int64[np.ndarray, " packet"]
    durations: Int64[np.ndarray, " packet"]
    keyframes: Bool[np.ndarray, " packet"]
    discarded: Bool[np.ndarray, " packet"]


def names_frames(packets: Packets) -> bool:
    """Say whether the timestamps tell the shown frames apart: each has one, and no two share it."""
    pts = packets.pts[~packets.discarded]
    return bool((pts != MISSING).all()) and len(np.unique(pts)) == len(pts)


def order_frames(packets: Packets) -> tuple[Int64[np.ndarray, " frame"], Bool[np.ndarray, " frame"]]:
    """Give the shown frames' timestamps in the order of presentation, and which of them are keyframes."""
    shown = ~packets.discarded
    order = np.argsort(packets.pts[shown], kind="stable")
    return packets.pts[shown][order], packets.keyframes[shown][order]


def is_reordered(packets: Packets) -> bool:
    """Say whether frames are stored in another order than they are shown in (B-frames)."""
    return bool((np.diff(packets.pts) < 0).any())


def has_leading_frames(packets: Packets) -> bool:
    """Say whether a frame is stored after a keyframe but shown before it (an open group of pictures)."""
    if len(packets.pts) == 0:
        return False
    latest = np.maximum.accumulate(np.where(packets.keyframes, np.arange(len(packets.pts)), 0))
    return bool((packets.pts < packets.pts[latest])[latest > 0].any())


def is_uneven(pts: Int64[np.ndarray, " frame"]) -> bool:
    """Say whether the rate varies: some frame lies off the even grid by more than rounding to ticks explains."""
    if len(pts) < 3:
        return False
    grid = np.linspace(pts[0], pts[-1], num=len(pts))
    step = (pts[-1] - pts[0]) / (len(pts) - 1)
    return bool(np.abs(pts - grid).max() > max(1.0, 0.01 * step))


def last_duration(packets: Packets, pts: Int64[np.ndarray, " frame"]) -> int:
    """Say how many ticks the last frame stays: as its packet says, else as long as frames usually do; 0 if unknown."""
    declared = packets.durations[packets.pts == pts[-1]]
    if len(declared) and declared[0] > 0:
        return int(declared[0])
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0
