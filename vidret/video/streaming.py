"""Frames of a video in order, each with a small grey picture and, on demand, its image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from vidret.types import Picture, Resize
from vidret.video.grey import Grey

# Which frames are decoded: all; those that others refer to, without the loop filter; or keyframes alone.
SamplingMode = Literal["exact", "balanced", "fast"]
SAMPLING_MODES: tuple[SamplingMode, ...] = get_args(SamplingMode)


def choose_mode(name: object) -> SamplingMode:
    """Return the mode of a name; ``exact`` for an unknown one."""
    return next((mode for mode in SAMPLING_MODES if mode == name), "exact")


@dataclass(frozen=True, slots=True, eq=False)
class StreamedFrame:
    """A decoded frame.

    Attributes:
        index: Its index in the video.
        time_s: When it begins, in seconds.
        grey: A small grey picture of it; see ``grey_from_luma``.
        read_image: Returns its RGB image as displayed; None if it is too damaged.
        read_luma: Returns its brightness as displayed, from 0 to 255; None if it is too damaged. Itself None where the
            decoder has nothing but the image.
        read_resized: Returns its resized image. None where a GPU does not hold the image.
    """

    index: int
    time_s: float
    grey: Grey
    read_image: Callable[[], Picture | None]
    read_luma: Callable[[], UInt8[np.ndarray, "height width"] | None] | None = None
    read_resized: Callable[[Resize], Picture] | None = None
