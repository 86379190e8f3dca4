"""Proof for vidret/video/timeline.py."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.video.timeline import (
    MISSING,
    Packets,
    discard_outliers,
    find_gaps,
    find_restarts,
    find_still,
    first_gap_start,
    follow_restarts,
    has_leading_frames,
    has_unique_timestamps,
    has_variable_rate,
    is_reordered,
    last_frame_duration,
    sort_frames,
)


def packets(
    pts: list[int], keys: str = "", discarded: str = "", duration: int = 0, sizes: list[int] | None = None
) -> Packets:
    stamps = np.array(pts, dtype=np.int64)
    keyframes = np.array([keys[i : i + 1] == "K" for i in range(len(pts))], dtype=bool)
    dropped = np.array([discarded[i : i + 1] == "D" for i in range(len(pts))], dtype=bool)
    return Packets(
        stamps,
        stamps,
        np.full(len(pts), duration),
        keyframes,
        dropped,
        np.array(sizes or [0] * len(pts), dtype=np.int64),
    )


def test_shown_frames_are_put_in_the_order_of_presentation() -> None:
    pts, keyframes = sort_frames(packets([-2, 0, 3, 1, 2], "KK.K.", "D...."))
    assert pts.tolist() == [0, 1, 2, 3]
    assert keyframes.tolist() == [True, True, False, False]
    assert is_reordered(packets([0, 2, 1]))
    assert not is_reordered(packets([0, 1, 2]))


@given(st.integers(0, 10**9), st.integers(0, 16), st.sampled_from([-1, 1]), st.integers(0, 3))
def test_a_damaged_timestamp_is_told_from_reordered_ones(seed: int, depth: int, side: int, num_damaged: int) -> None:
    rng = np.random.default_rng(seed)
    shown = np.cumsum(rng.choice([1, 2, 10_000], 300, p=[0.5, 0.4, 0.1]))
    order = np.argsort(np.arange(300) + rng.integers(0, depth + 1, 300), kind="stable")  # none moves farther than this
    stamps = shown[order]
    damaged = rng.choice(np.arange(34, 266), num_damaged, replace=False)
    stamps[damaged] += side * (1 << 40) + np.arange(num_damaged)
    kept, num_outliers = discard_outliers(packets(stamps.tolist(), discarded="D"))
    assert num_outliers == num_damaged
    assert np.flatnonzero(kept.discarded).tolist() == [0, *sorted(damaged)]
    joined = packets([*range(0, 100, 2), *range(1, 100, 2), MISSING])
    assert discard_outliers(joined) == (joined, 0), "two recordings without a common clock"


def test_missing_and_shared_timestamps_name_no_frames() -> None:
    assert has_unique_timestamps(packets([0, 2, 1]))
    assert not has_unique_timestamps(packets([0, 1, 1]))
    assert not has_unique_timestamps(packets([0, MISSING, 1]))
    assert has_unique_timestamps(packets([0, 0, 1], discarded="D.."))


def test_a_frame_shown_before_its_keyframe_leads() -> None:
    assert has_leading_frames(packets([0, 1, 4, 2, 3, 5], "K.K..."))
    assert not has_leading_frames(packets([0, 2, 1, 3, 5, 4], "K..K.."))
    assert not has_leading_frames(packets([2, 0, 1], "K.."))
    assert not has_leading_frames(packets([]))


@given(st.integers(0, 2**32 - 1))
def test_a_group_is_still_from_where_no_packet_is_large_and_none_is_shown_before_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 120))
    keys = "K" + "".join("K" if draw < 0.04 else "." for draw in rng.random(size - 1))
    pts = np.arange(size) + rng.choice([0, 0, 0, 3], size) * rng.choice([0, 1])
    pts = pts * 200 + np.arange(size)  # no two alike
    sizes = np.where(rng.random(size) < rng.choice([0.01, 0.1]), 100, 10)
    expected = np.zeros(size, dtype=bool)
    starts = [index for index, key in enumerate(keys) if key == "K"]
    for start, end in pairwise(starts):
        for first in range(start + 1, end):
            is_small = all(sizes[index] <= 10 for index in range(first, end))
            if is_small and pts[start:first].max() < pts[first:end].min():
                expected[first:end] = end - first >= 12
                break
    found = find_still(packets(pts.tolist(), keys, sizes=sizes.tolist()), 10)
    assert found.tolist() == expected[np.argsort(pts)].tolist()


@pytest.mark.parametrize(("rate", "tick"), [(29.97, 1000), (24.0, 1000), (25.0, 12800), (59.94, 90000)])
def test_rounding_to_ticks_is_even(rate: float, tick: int) -> None:
    assert not has_variable_rate(np.round(np.arange(500) / rate * tick).astype(np.int64))
    assert has_variable_rate(np.array([0, 40, 80, 160, 200]))


def test_the_last_frame_stays_as_long_as_its_packet_says() -> None:
    assert last_frame_duration(packets([0, 2, 1], duration=7), np.array([0, 1, 2])) == 7
    assert last_frame_duration(packets([0, 40, 80]), np.array([0, 40, 80])) == 40
    assert last_frame_duration(packets([0]), np.array([0])) == 0


def test_a_clock_restarts_where_it_steps_back_or_far_ahead() -> None:
    tick = 0.04
    assert find_restarts(np.arange(10), tick).tolist() == []
    assert find_restarts(np.array([50, 51, 52, 0, 10, 20, 0, 1]), tick).tolist() == [3, 6]
    assert find_restarts(np.array([0, 1, 20_000, 20_001]), tick).tolist() == [2]
    assert find_restarts(np.array([0, 1, 10_000, 10_001]), tick).tolist() == []
    assert find_restarts(np.array([5, 4, 5, 3, 6]), tick).tolist() == []
    assert find_restarts(np.array([50, MISSING, 51, MISSING, 0, 1]), tick).tolist() == [4]
    assert find_restarts(np.zeros(0, dtype=np.int64), tick).tolist() == []
    for wrong in (0, 70, 1_000_000):
        assert find_restarts(np.array([50, 51, 52, 53, wrong, 55, 56, 57]), tick).tolist() == [], "a single one"


def test_time_goes_on_after_a_restart() -> None:
    joined = Packets(
        pts=np.array([52, 55, 53, 54, 2, 3, 1, MISSING, 100_002, 100_001]),
        dts=np.array([50, 51, 52, 53, 0, 1, MISSING, 3, 100_000, 100_001]),
        durations=np.ones(10, dtype=np.int64),
        keyframes=np.zeros(10, dtype=bool),
        discarded=np.zeros(10, dtype=bool),
        num_bytes=np.zeros(10, dtype=np.int64),
    )
    moved, offsets = follow_restarts(joined, 0.04)
    assert moved.pts.tolist() == [52, 55, 53, 54, 57, 58, 56, MISSING, 60, 59]
    assert moved.dts.tolist() == [50, 51, 52, 53, 55, 56, MISSING, 58, 58, 59]
    assert offsets.tolist() == [0] * 4 + [55] * 4 + [-99_942] * 2
    steady = packets([0, 2, 1, 3])
    moved, offsets = follow_restarts(steady, 0.04)
    assert (moved is steady, len(offsets)) == (True, 0)


def test_a_frame_dated_by_the_next_clock_loses_its_time() -> None:
    joined = packets([0, 1, 90_000, 3, 90_000, 90_001])
    joined = replace(joined, dts=np.array([0, 1, 2, 3, 90_000, 90_001]))
    moved, _ = follow_restarts(joined, 0.04)
    assert moved.pts.tolist() == [0, 1, MISSING, 3, 4, 5]
    fine = packets([0, 3600, 90_000_000, 10_800, 900_000_000, 900_003_600])  # in ticks of a transport stream
    fine = replace(fine, dts=np.array([-3600, 0, 3600, 7200, 899_996_400, 900_000_000]))
    moved, _ = follow_restarts(fine, 1 / 90_000)
    assert moved.pts.tolist() == [0, 3600, MISSING, 10_800, 16_200, 19_800]
    undated = replace(packets([0, 1, 2, 3, MISSING, MISSING]), dts=np.array([0, 1, 2, 3, 90_000, 90_001]))
    assert follow_restarts(undated, 0.04)[0].pts.tolist() == [0, 1, 2, 3, MISSING, MISSING]


def test_a_gap_is_longer_than_any_still() -> None:
    assert find_gaps(np.array([0.0, 600.0, 1201.0, 1202.0]), 5000.0).tolist() == [[600, 1201], [1202, 5000]]
    assert first_gap_start(np.array([0.0, 600.0, 1201.0, 1202.0]), 5000.0) == 600
    assert find_gaps(np.array([0.0]), 0.04).tolist() == []
    assert first_gap_start(np.array([0.0, 600.0]), 600.04) == 600.04
