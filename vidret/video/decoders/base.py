"""The protocols of decoders, and the frames that they return by index or in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from jaxtyping import UInt8

from vidret.text import is_utf8
from vidret.types import Picture, Resize
from vidret.video.grey import Grey

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo

# Which frames are decoded: all; those that others refer to, without the loop filter; or only keyframes.
SamplingMode = Literal["exact", "balanced", "fast"]
SAMPLING_MODES: tuple[SamplingMode, ...] = get_args(SamplingMode)


def choose_mode(name: object) -> SamplingMode:
    """Return the sampling mode of this name; ``exact`` for an unknown name."""
    return next((mode for mode in SAMPLING_MODES if mode == name), "exact")


@dataclass(frozen=True, slots=True, eq=False)
class StreamedFrame:
    """A decoded frame: its index, its start time, its small grey picture (see ``grey_from_luma``), and its image.

    Attributes:
        read_image: Returns its RGB image as displayed; None if it is too damaged.
        read_luma: Returns its luma as displayed, from 0 to 255; None if it is too damaged. Itself None if the decoder
            returns only RGB images.
        read_resized: Returns its resized image. Itself None unless the image is on a GPU.
    """

    index: int
    time_s: float
    grey: Grey
    read_image: Callable[[], Picture | None]
    read_luma: Callable[[], UInt8[np.ndarray, "height width"] | None] | None = None
    read_resized: Callable[[Resize], Picture] | None = None


class GaveUpError(Exception):
    """A decoder cannot continue with a file; another decoder may."""


# All decoders convert frames of these formats to identical RGB if their size is even; not so 10-bit 4:2:0.
SAME_COLOURS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuva420p", "gray", "bgr0"}
SAME_COLOURS |= {"yuv422p10le"}


def list_doubts(info: "VideoInfo") -> dict[str, bool]:
    """Return the properties on which only PyAV was measured, and whether a file has each of them."""
    return {
        f"only PyAV {info.rendering}": info.rendering != "",
        "frames are known by order only": info.by_order,
        "it does not begin with a keyframe": not (info.keyframes[0] or info.edit_list),
        "timestamps start late": info.reordered and bool(info.pts[0] != 0),
        "its pixels are not square": info.stretched,
        "odd sizes were not measured": (info.width | info.height) % 2 == 1,
        "it is displayed mirrored": info.mirrored,
        "it has several video streams": info.num_streams > 1,
        "it is damaged": info.damage != "",
        "its path must be valid UTF-8": not is_utf8(info.path),
    }


class GpuImage(Protocol):
    """An RGB image that a GPU decoded and holds."""

    def read(self) -> Picture:
        """Return a copy in main memory."""

    def resize(self, resize: Resize) -> Picture:
        """Return a resized copy in main memory, without one of the whole image."""


class FrameDecoder(Protocol):
    """A decoder with an open file; ``reads_all`` is whether ``stream`` decodes all frames."""

    reads_all: bool

    def decode(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture | GpuImage]]:
        """Yield each of these rising indices with its RGB image, without unreadable frames.

        Raise GaveUpError if the decoder cannot continue with the file.
        """

    def stream(self, first: int) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file.

        Raise GaveUpError if the decoder cannot continue with the file.
        """

    def close(self) -> None:
        """Close the file."""


class ExactDecoder(FrameDecoder, Protocol):
    """A decoder that may replace PyAV for a file that it reads exactly; static methods report what it can read.

    ``title`` is its name in messages.
    """

    title: str

    def __init__(self, info: "VideoInfo", gpu: int | None = None) -> None:
        """Open a file on the CPU, or on the GPU with this CUDA index.

        Raise GaveUpError if the file cannot be read exactly, or VidretError if the decoder cannot be loaded.
        """

    @staticmethod
    def find_doubt(info: "VideoInfo", *, on_gpu: bool = False) -> str:
        """Return why the decoder may not read a file exactly; empty if there is no doubt."""

    @staticmethod
    def find_gpu_doubt(info: "VideoInfo") -> str:
        """Return why a GPU may not decode a file, even if the decoder is requested; empty if it may."""

    @staticmethod
    def try_gpu(gpu: int) -> str:
        """Return why the decoder cannot use a GPU, empty if it can; this process keeps a CUDA context afterwards."""

    @staticmethod
    def is_at_hand() -> bool:
        """Return whether ``auto`` may use the decoder on a GPU."""
