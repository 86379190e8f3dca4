"""Frames that a decoding process and its parent share."""

import os

import numpy as np
import pytest

from tests.video.conftest import Film, numbers_of, stream_film
from vidret.video.workers.messages import FrameRing
from vidret.video.workers.pool import DecodePool

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


def open_both() -> tuple[FrameRing, FrameRing]:
    """Return the ends of the parent and of the process."""
    created = FrameRing.create()
    assert created is not None
    return created[0], FrameRing(created[1])


def test_frames_pass_without_a_copy_and_free_their_slot() -> None:
    parent, process = open_both()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    slots = [process.put(pixels + number) for number in range(4)]
    assert slots == [0, 1, 2, None]
    frames = np.frombuffer(parent.take(1, pixels.nbytes), np.uint8).reshape(pixels.shape)
    assert (frames == pixels + 1).all()
    part = frames[1:]
    del frames
    assert process.put(pixels) is None, "a part of the frames is still held"
    del part
    assert process.put(pixels[:, ::-1]) == 1
    assert (np.frombuffer(parent.take(1, pixels.nbytes), np.uint8).reshape(pixels.shape) == pixels[:, ::-1]).all()


def test_what_does_not_fit_is_refused() -> None:
    parent, process = open_both()
    assert process.put(np.zeros(9 << 20, np.uint8)) is None
    for slot, num_bytes in ((-1, 1), (3, 1), (0, 9 << 20), (0, -1)):
        with pytest.raises(ValueError, match="slot must be in"):
            parent.take(slot, num_bytes)


@pytest.mark.usefixtures("fresh_processes")
def test_frames_outlive_their_process(films: dict[str, Film]) -> None:
    with DecodePool(1, num_frames=12, fps=25.0) as pool:
        _, segments, _ = stream_film(pool, films["h264.mp4"].path)
        assert len(segments) > 3, "frames that nobody frees do not stop it"
    assert numbers_of(segments) == films["h264.mp4"].numbers
