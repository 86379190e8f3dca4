"""The frames that a player shows and their times, derived from packet timestamps without decoding."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

MISSING = np.iinfo(np.int64).min
# A larger step back is a restart of the clock, as in FFmpeg.
_STEP_BACK_S = 0.1
_MIN_STILL = 12  # frames; fewer are quickly decoded
_MOST_REORDERED, _NEIGHBOURS = 32, 48  # packets of fields: the most that a codec reorders, and the number compared
_MAX_OUTLIERS = 0.01  # share of all packets; more cannot be told from regular ones
LONGEST_STILL_S = 600.0  # a frame may stay this long, such as a slide; a longer gap is a pause or bad timestamps


@dataclass(frozen=True, slots=True, eq=False)
class Packets:
    """The packets of a stream in file order, one frame each, with timestamps in ticks.

    ``discarded`` packets are decoded but not shown, because an edit list removes them.
    """

    pts: Int64[np.ndarray, " packet"]
    dts: Int64[np.ndarray, " packet"]
    durations: Int64[np.ndarray, " packet"]
    keyframes: Bool[np.ndarray, " packet"]
    discarded: Bool[np.ndarray, " packet"]
    num_bytes: Int64[np.ndarray, " packet"]


def drop_last(packets: Packets) -> Packets:
    """Return all packets but the last."""
    return Packets(*(getattr(packets, field.name)[:-1] for field in fields(packets)))


def find_restarts(dts: Int64[np.ndarray, " packet"], tick: float) -> Int64[np.ndarray, " restart"]:
    """Return the indices of the packets at which the clock restarts, as in concatenated recordings.

    At a restart, decoding times step back, or ahead by more than ``LONGEST_STILL_S``. A single outlier is not a
    restart: the two packets before it must both be beyond the two packets from it on.
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
    """Return the packets on one continuous clock, and the ticks added to each; no offsets if the clock never restarts.

    Each section after a restart begins where the frames before it end, as in FFmpeg's output. A frame to which the
    demuxer gave a timestamp of the next section's clock loses its presentation time. A tick is ``tick`` seconds.
    """
    restarts = find_restarts(packets.dts, tick)
    if len(restarts) == 0:
        return packets, np.zeros(0, dtype=np.int64)
    lag = np.where(packets.dts == MISSING, 0, packets.pts - packets.dts.astype(np.float64))
    is_dated = (packets.pts != MISSING) & (np.abs(lag) * tick < LONGEST_STILL_S)
    offsets = np.zeros(len(packets.pts), dtype=np.int64)
    offset, end = 0, MISSING
    for section in np.split(np.arange(len(offsets)), restarts):
        pts = np.sort(packets.pts[section][is_dated[section]])
        if len(pts):
            offset = 0 if end == MISSING else end - int(pts[0])
            end = int(pts[-1]) + offset + (int(np.median(np.diff(pts))) if len(pts) > 1 else 1)
        offsets[section] = offset
    pts = np.where(is_dated, packets.pts + offsets, MISSING)
    dts = np.where(packets.dts != MISSING, packets.dts + offsets, MISSING)
    return replace(packets, pts=pts, dts=dts), offsets


def discard_outliers(packets: Packets) -> tuple[Packets, int]:
    """Return the packets with those of a damaged timestamp marked as discarded, and the number of these.

    A timestamp is damaged if it moves a frame past more frames than any codec reorders. With such a frame, the file
    could not be read in one pass. Damage among the last frames of a file is not detected.
    """
    pts, far = packets.pts, _MOST_REORDERED + 1
    least_after = np.minimum.accumulate(pts[::-1])[::-1]
    if len(pts) <= far or (pts[:-far] <= least_after[far:]).all() or (pts == MISSING).any():
        return packets, 0
    num_misplaced = np.zeros(len(pts), dtype=np.int64)
    for distance in range(1, min(_NEIGHBOURS + 1, len(pts))):
        is_swapped = pts[:-distance] > pts[distance:]
        num_misplaced[:-distance] += is_swapped
        num_misplaced[distance:] += is_swapped
    is_outlier = num_misplaced > _MOST_REORDERED
    num_outliers = int(is_outlier.sum())
    if num_outliers > max(1, _MAX_OUTLIERS * len(pts)):
        return packets, 0
    return replace(packets, discarded=packets.discarded | is_outlier), num_outliers


def has_unique_timestamps(packets: Packets) -> bool:
    """Return whether every shown frame has a timestamp, and no two share one."""
    pts = packets.pts[~packets.discarded]
    return bool((pts != MISSING).all()) and len(np.unique(pts)) == len(pts)


def rises(stamps: Int64[np.ndarray, " packet"]) -> bool:
    """Return whether every timestamp is known and later than the one before it.

    >>> rises(np.array([0, 1, 3])), rises(np.array([0, 2, 1])), rises(np.array([MISSING, 1]))
    (True, False, False)
    """
    return bool((np.diff(stamps) > 0).all() and (stamps != MISSING).all())


def sort_frames(packets: Packets) -> tuple[Int64[np.ndarray, " frame"], Bool[np.ndarray, " frame"]]:
    """Return the timestamps of the shown frames in presentation order, and which of them are keyframes."""
    shown = ~packets.discarded
    order = np.argsort(packets.pts[shown], kind="stable")
    return packets.pts[shown][order], packets.keyframes[shown][order]


def find_still(packets: Packets, max_bytes: float) -> Bool[np.ndarray, " frame"]:
    """Return which shown frames, in presentation order, are the still end of a group of pictures.

    From the first of them to the next keyframe no packet has more than ``max_bytes``, too few to change a picture
    visibly, and no other frame is decoded or shown. Ends shorter than ``_MIN_STILL`` frames do not count, nor does that
    of the last group.
    """
    size = len(packets.pts)
    is_still = np.zeros(size, dtype=bool)
    starts = np.flatnonzero(packets.keyframes)
    for start, end in pairwise(starts.tolist()):
        large = np.flatnonzero(packets.num_bytes[start + 1 : end] > max_bytes)
        pts = packets.pts[start:end]
        is_clean = np.maximum.accumulate(pts)[:-1] < np.minimum.accumulate(pts[::-1])[::-1][1:]  # before packets 1..
        is_clean[: int(large[-1]) + 1 if len(large) else 0] = False
        if is_clean.any() and end - start - 1 - (first := int(np.argmax(is_clean))) >= _MIN_STILL:
            is_still[start + 1 + first : end] = True
    shown = ~packets.discarded
    still: Bool[np.ndarray, " frame"] = is_still[shown][np.argsort(packets.pts[shown], kind="stable")]
    return still


def is_reordered(packets: Packets) -> bool:
    """Return whether frames are stored in another order than they are shown in (B-frames)."""
    return bool((np.diff(packets.pts) < 0).any())


def has_leading_frames(packets: Packets) -> bool:
    """Return whether a frame is stored after a keyframe but shown before it (open GOP)."""
    if len(packets.pts) == 0:
        return False
    latest = np.maximum.accumulate(np.where(packets.keyframes, np.arange(len(packets.pts)), 0))
    return bool((packets.pts < packets.pts[latest])[latest > 0].any())


def has_variable_rate(pts: Int64[np.ndarray, " frame"]) -> bool:
    """Return whether some frame is off the even grid by more than the rounding to ticks."""
    if len(pts) < 3:
        return False
    grid = np.linspace(pts[0], pts[-1], num=len(pts))
    step = (pts[-1] - pts[0]) / (len(pts) - 1)
    return bool(np.abs(pts - grid).max() > max(1.0, 0.01 * step))


def last_frame_duration(packets: Packets, pts: Int64[np.ndarray, " frame"]) -> int:
    """Return the duration of the last frame in ticks: its packet's, else the median of all; 0 if unknown."""
    declared = packets.durations[packets.pts == pts[-1]]
    if len(declared) and declared[0] > 0:
        return int(declared[0])
    return int(np.median(np.diff(pts))) if len(pts) > 1 else 0


def find_gaps(times: Float64[np.ndarray, " frame"], duration: float) -> Float64[np.ndarray, "gap 2"]:
    """Return the (start, end) of gaps longer than ``LONGEST_STILL_S`` between frames or before the end, in seconds."""
    begins, ends = times, np.append(times[1:], duration)
    is_gap = ends - begins > LONGEST_STILL_S
    return np.stack([begins[is_gap], ends[is_gap]], axis=1)


def first_gap_start(times: Float64[np.ndarray, " frame"], duration: float) -> float:
    """Return when the first gap begins, in seconds; the duration if there is none."""
    gaps = find_gaps(times, duration)
    return float(gaps[0, 0]) if len(gaps) else duration
