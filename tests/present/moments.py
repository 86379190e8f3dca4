"""Moments for the tests of exports and cutting, and what the frames of a film show."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.films import read_number
from vidret.errors import VidretError
from vidret.types import Moment
from vidret.video.container import ONE_THREAD

ODD_PATHS = (
    "/films/plain.mp4",
    '/films/a "b", c.mp4',
    "/films/two\nlines.mp4",
    "/films/\u6620\u753b.mp4",
    "-x.mp4",
    os.fsdecode(b"/films/bad\xff\xfe.mp4"),
    "/films/=cmd;#\\.mp4",
)


def make_moment(path: str = "/films/a.mp4", start: float = 1.0, end: float = 2.0, score: float = 0.5) -> Moment:
    return Moment(1, path, start, end, score)


def read_timed(path: Path) -> list[tuple[int, float]]:
    """Return the number that each frame shows, and its time."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    shown = [np.asarray(frame.to_ndarray(format="rgb24", **ONE_THREAD), np.uint8) for frame in frames]
    return [(read_number(picture), frame.time or 0) for picture, frame in zip(shown, frames, strict=True)]


def assert_refused(call: Callable[[], object], message: str) -> None:
    """Assert that a call raises a one-line VidretError that contains a message."""
    with pytest.raises(VidretError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
