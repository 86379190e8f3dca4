"""Proof for vidret/video/timeline.py."""

import numpy as np
import pytest

from vidret.video.timeline import (
    MISSING,
    Packets,
    has_leading_frames,
    is_reordered,
    is_uneven,
    last_duration,
    names_frames,
    order_frames,
)


def packets(pts: list[int], keys: str = "", discarded: str = "", duration: int = 0) -> Packets:
    stamps = np.array(pts, dtype=np.int64)
    keyframes = np.array([keys[i : i + 1] == "K" for i in range(len(pts))])
    dropped = np.array([discarded[i : i + 1] == "D" for i in range(len(pts))])
    return Packets(stamps, stamps, np.full(len(pts), duration), keyframes, dropped)


def test_frames_are_put_in_the_order_of_presentation() -> None:
    pts, keyframes = order_frames(packets([0, 3, 1, 2], "K.K."))
    assert pts.tolist() == [0, 1, 2, 3]
    assert keyframes.tolist() == [True, True, False, False]


def test_discarded_packets_are_not_shown() -> None:
    pts, _ = order_frames(packets([-2, -1, 0, 1], "K...", "DD.."))
    assert pts.tolist() == [0, 1]


def test_missing_and_shared_timestamps_name_no_frames() -> None:
    assert names_frames(packets([0, 2, 1]))
    assert not names_frames(packets([0, 1, 1]))
    assert not names_frames(packets([0, MISSING, 1]))
    assert names_frames(packets([0, 0, 1], discarded="D.."))


def test_a_frame_shown_before_its_keyframe_leads() -> None:
    assert has_leading_frames(packets([0, 1, 4, 2, 3, 5], "K.K..."))
    assert not has_leading_frames(packets([0, 2, 1, 3, 5, 4], "K..K.."))
    assert not has_leading_frames(packets([2, 0, 1], "K.."))
    assert not has_leading_frames(packets([]))


def test_reordering_is_seen() -> None:
    assert is_reordered(packets([0, 2, 1]))
    assert not is_reordered(packets([0, 1, 2]))


@pytest.mark.parametrize(("rate", "tick"), [(29.97, 1000), (24.0, 1000), (25.0, 12800), (59.94, 90000)])
def test_rounding_to_ticks_is_even(rate: float, tick: int) -> None:
    assert not is_uneven(np.round(np.arange(500) / rate * tick).astype(np.int64))


def test_a_pause_is_uneven() -> None:
    assert is_uneven(np.array([0, 40, 80, 160, 200]))


def test_the_last_frame_stays_as_long_as_its_packet_says() -> None:
    assert last_duration(packets([0, 2, 1], duration=7), np.array([0, 1, 2])) == 7
    assert last_duration(packets([0, 40, 80]), np.array([0, 40, 80])) == 40
    assert last_duration(packets([0]), np.array([0])) == 0
