"""The brightness of a decoded frame, without converting the whole frame where its format stores it separately."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

_PLANAR_8_BIT = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "nv12", "gray"}
_PLANAR_10_BIT = {"yuv420p10le", "yuv422p10le", "yuv444p10le"}
_SMALL = (256, 144)  # pixels; frames of other formats are scaled down to this


def read_luma(frame: Any) -> UInt8[np.ndarray, "height width"]:
    """Return the brightness of a frame of PyAV, of any size, valid while the frame is.

    Raises:
        av.FFmpegError, OSError, ValueError: The frame is too damaged.
    """
    name = frame.format.name
    if name in _PLANAR_8_BIT:
        return _view_plane(frame, np.uint8)
    if name in _PLANAR_10_BIT:
        return (_view_plane(frame, np.uint16)[::2, ::2] >> 2).astype(np.uint8)
    width, height = _SMALL
    return _view_plane(frame.reformat(width=width, height=height, format="gray"), np.uint8)


def _view_plane(frame: Any, dtype: type[np.uint8 | np.uint16]) -> np.ndarray:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[: frame.height, : frame.width]
