"""From packets to the frames a player shows: arithmetic on timestamps, without any decoder."""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

MISSING = np.iinfo(np.int64).min
# FFmpeg takes a step back by more than this for a restart of the clock.
_STEP_BACK_S = 0.1
LONGEST_STILL_S = 600.0  # a frame may stay this long, like a slide; beyond, timestamps are wrong or a recording paused


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


def drop_last(packets: Packets) -> Packets:
    """Return all packets but the last."""
    return Packets(*(getattr(packets, field.name)[:-1] for field in fields(packets)))


def find_restarts(dts: Int64[np.ndarray, " packet"], tick: float) -> Int64[np.ndarray, " restart"]:
    """Return the indices of the packets at which the clock starts anew, as in recordings joined byte by byte.

    There decoding times step back, or ahead by more than ``LONGEST_STILL_S``. One packet alone that is off is none: the
    two before a restart must both lie beyond the two from it on.

    Args:
        dts: Decoding times in ticks, in the order of the file; ``MISSING`` ones are passed over.
        tick: Seconds.
    """
    known = np.flatnonzero(dts != MISSING)
    if len(known) < 2:
        return known[:0]
    stamps = dts[known].astype(np.float64) * tick
    padded = np.pad(stamps, 1, mode="edge")
    before = np.stack([padded[:-3], stamps[:-1]])
    after = np.stack([stamps[1:], padded[3:]])
    is_back = after.max(axis=0) < before.min(axis=0) - _STEP_BACK_S
    is_ahead = after.min(axis=0) > before.max(axis=0) + LONGEST_STILL_S
    restarts: Int64[np.ndarray, " restart"] = known[1:][is_back | is_ahead]
    return restarts


def follow_restarts(packets: Packets, tick: float) -> tuple[Packets, Int64[np.ndarray, " packet"]]:
    """Return the packets on one clock, and the ticks added to the timestamps of each; none where no clock restarts.

    After a restart time goes on: each part begins where the frames before it end, as in what FFmpeg converts. A frame
    that a demuxer dated by the clock of the next part loses its presentation time.

    Args:
        packets: As the file has them.
        tick: Seconds.
    """
    restarts = find_restarts(packets.dts, tick)
    if len(restarts) == 0:
        return packets, np.zeros(0, dtype=np.int64)
    lag = np.where(packets.dts == MISSING, 0, packets.pts - packets.dts.astype(np.float64))
    is_dated = (packets.pts != MISSING) & (np.abs(lag) * tick < LONGEST_STILL_S)
    offsets = np.zeros(len(packets.pts), dtype=np.int64)
    offset, end = 0, MISSING
    for part in np.split(np.arange(len(offsets)), restarts):
        pts = np.sort(packets.pts[part][is_dated[part]])
        if len(pts):
            offset = 0 if end == MISSING else end - int(pts[0])
            end = int(pts[-1]) + offset + (int(np.median(np.diff(pts))) if len(pts) > 1 else 1)
        offsets[part] = offset
    pts = np.where(is_dated, packets.pts + offsets, MISSING)
    dts = np.where(packets.dts != MISSING, packets.dts + offsets, MISSING)
    return replace(packets, pts=pts, dts=dts), offsets


def has_unique_timestamps(packets: Packets) -> bool:
    """Say whether the timestamps tell the shown frames apart: each has one, and no two share it."""
    pts = packets.pts[~packets.discarded]
    return bool((pts != MISSING).all()) and len(np.unique(pts)) == len(pts)


def sort_frames(packets: Packets) -> tuple[Int64[np.ndarray, " frame"], Bool[np.ndarray, " frame"]]:
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


def has_variable_rate(pts: Int64[np.ndarray, " frame"]) -> bool:
    """Say whether the rate varies: some frame lies off the even grid by more than rounding to ticks explains."""
    if len(pts) < 3:
        return False
    grid = np.linspace(pts[0], pts[-1], num=len(pts))
    step = (pts[-1] - pts[0]) / (len(pts) - 1)
    return bool(np.abs(pts - grid).max() > max(1.0, 0.01 * step))


def last_frame_duration(packets: Packets, pts: Int64[np.ndarray, " frame"]) -> int:
    """Say how many ticks the last frame stays: as its packet says, else as long as frames usually do; 0 if unknown."""
    declared = packets.durations[packets.pts == pts[-1]]
    if len(declared) and declared[0] > 0:
        return int(declared[0])
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0


def find_gaps(times: Float64[np.ndarray, " frame"], duration: float) -> Float64[np.ndarray, "gap 2"]:
    """Return where no frame begins for longer than ``LONGEST_STILL_S``: from a frame to the next, or to the end.

    Args:
        times: When frames begin, in seconds, rising.
        duration: When the last one ends, in seconds.
    """
    begins, ends = times, np.append(times[1:], duration)
    is_gap = ends - begins > LONGEST_STILL_S
    return np.stack([begins[is_gap], ends[is_gap]], axis=1)


def first_gap_start(times: Float64[np.ndarray, " frame"], duration: float) -> float:
    """Return the seconds at which the first gap begins; the duration where there is none."""
    gaps = find_gaps(times, duration)
    return float(gaps[0, 0]) if len(gaps) else duration
