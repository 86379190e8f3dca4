"""Decoding with torchcodec, on the CPU or on an NVIDIA GPU, for files on which it was measured to be exact.

Only this module uses torchcodec. It is also the only decoder that uses torch, which it imports on first use, so that
processes with another decoder start without it. The GPU path has not run on a GPU yet; ``tools/check_gpu.py`` compares
its frames with those of the CPU.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vidret.errors import MissingExtraError, VidretError, read_fault
from vidret.text import is_url
from vidret.types import Picture, Resize
from vidret.video.decoders.base import SAME_COLOURS, GaveUpError, StreamedFrame, list_doubts
from vidret.video.geometry import ResizePlan, plan_resize
from vidret.video.grey import GREY_SHAPE, Grey, find_samples, grey_from_samples
from vidret.video.probe import VideoInfo

# Measured frame by frame, in rising and in shuffled order, with torchcodec 0.12.0 and FFmpeg 8: equal to PyAV's.
_EXACT = {
    "mov": {"h264", "hevc", "av1", "mpeg4", "prores", "mjpeg"},
    "matroska": {"h264", "hevc", "vp8", "vp9", "av1", "ffv1"},
    "avi": {"mjpeg"},
    "asf": {"wmv2"},
    "gif": {"gif"},
}
_GPU_CODECS = {"h264", "hevc", "vp9", "av1"}
_CLOCK_TOLERANCE_S = 1e-3
_MAX_BYTES = 8 << 30  # opening reads all of a file without a heartbeat, and a decoder silent for two minutes is ended


def load_torchcodec() -> Any:
    """Import torchcodec.

    Raise MissingExtraError if it is not installed, or VidretError if it is installed and cannot be loaded.
    """
    try:
        import torchcodec.decoders
    except ModuleNotFoundError as error:
        raise MissingExtraError("the decoder torchcodec", "torchcodec") from error
    except (RuntimeError, ImportError, OSError) as error:
        raise VidretError(
            f"torchcodec cannot be loaded, {_find_reason(str(error))}: it needs the shared libraries of FFmpeg 4 to 8 "
            "and a version made for this PyTorch"
        ) from error
    return torchcodec


def _find_reason(text: str) -> str:
    """Return why torchcodec's libraries do not load, from its error with a traceback for each version of FFmpeg."""
    faults = re.findall(r"^OSError: (?!Could not load this library)(.+)$", text, re.MULTILINE)
    others = [fault for fault in faults if not re.search(r"\blib(av|sw)", fault)]
    if faults:
        return others[0] if others else "FFmpeg was not found"
    return (text.splitlines() or ["for no known reason"])[0]


class TorchcodecDecoder:
    """A ``FrameDecoder`` that checks the time of every frame. On a GPU, images stay there until they are resized."""

    reads_all = True
    title = "torchcodec"

    def __init__(self, info: VideoInfo, gpu: int | None = None) -> None:
        """Open a file on the CPU, or on the GPU with this CUDA index.

        Raise GaveUpError if the file cannot be read exactly, or VidretError if torchcodec cannot be loaded.
        """
        doubt = self.find_doubt(info, on_gpu=gpu is not None)
        if doubt:
            raise GaveUpError(doubt)
        decoders = load_torchcodec().decoders
        self._times, self._on_gpu = info.times, gpu is not None
        self._shape = (info.height, info.width, 3)
        try:
            self._decoder: Any = decoders.VideoDecoder(
                os.path.abspath(info.path),  # noqa: PTH100
                stream_index=info.stream,
                dimension_order="NHWC",
                seek_mode="exact",
                device="cpu" if gpu is None else f"cuda:{gpu}",
            )
            num_frames = len(self._decoder)
            self._offset_s = float(self._decoder.metadata.begin_stream_seconds_from_content - info.times[0])
        except Exception as error:
            raise GaveUpError(read_fault(error)) from error
        if num_frames != info.num_frames:
            raise GaveUpError(f"torchcodec counts {num_frames} frames, the container has {info.num_frames}")
        if self._on_gpu:
            self._fetch(0)  # only then does torchcodec report a fallback to the CPU
            if self._decoder.cpu_fallback:
                raise GaveUpError(str(self._decoder.cpu_fallback))

    def decode(self, indices: Sequence[int]) -> "Iterator[tuple[int, Picture | DeviceImage]]":
        """Yield each index with its RGB image; see ``FrameDecoder``."""
        for index in indices:
            data = self._fetch(index)
            yield index, DeviceImage(data) if self._on_gpu else data.numpy()

    def stream(self, first: int) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file."""
        for index in range(first, len(self._times)):
            image = DeviceImage(self._fetch(index))
            resize = image.resize if self._on_gpu else None
            yield StreamedFrame(index, float(self._times[index]), image.read_grey(), image.read, read_resized=resize)

    def close(self) -> None:
        """Close the file."""
        self._decoder = None

    def _fetch(self, index: int) -> Any:
        """Return the RGB image of a frame, a tensor of shape (height, width, 3)."""
        try:
            frame = self._decoder.get_frame_at(index)
        except Exception as error:
            raise GaveUpError(read_fault(error)) from error
        time_s, wanted_s = frame.pts_seconds - self._offset_s, float(self._times[index])
        if abs(time_s - wanted_s) > _CLOCK_TOLERANCE_S:
            raise GaveUpError(f"frame {index} must begin at {wanted_s:.3f} s, got {time_s:.3f} s from torchcodec")
        if tuple(frame.data.shape) != self._shape:
            raise GaveUpError(f"frames must have shape {self._shape}, got {tuple(frame.data.shape)} from torchcodec")
        return frame.data

    @staticmethod
    def find_doubt(info: VideoInfo, *, on_gpu: bool = False) -> str:
        """Return why torchcodec may not read a file exactly, or not on a GPU; empty if there is no doubt."""
        if is_url(info.path):
            return "it reads local files only"
        kind = info.container.split(",")[0]
        doubts = {
            f"it was not measured to be exact on {info.codec} in {kind}": info.codec not in _EXACT.get(kind, ()),
            "groups of pictures are open": info.codec == "h264" and info.open_gop,  # or begin without a whole picture
            f"it converts {info.pixel_format} colours differently": info.pixel_format not in {*SAME_COLOURS, "bgra"},
            "it reads all of a file to open it, which takes too long here": info.num_bytes > _MAX_BYTES,
        } | list_doubts(info)
        if on_gpu:
            doubts |= {
                f"GPUs decode {', '.join(sorted(_GPU_CODECS))}": info.codec not in _GPU_CODECS,
                "GPUs decode yuv420p": info.pixel_format != "yuv420p",
                "frames are displayed rotated": info.rotation != 0,
            }
        return next((why for why, doubtful in doubts.items() if doubtful), "")

    @staticmethod
    def find_gpu_doubt(info: VideoInfo) -> str:
        """Return why a GPU may not decode a file; empty if there is no doubt."""
        return TorchcodecDecoder.find_doubt(info, on_gpu=True)

    @staticmethod
    def try_gpu(gpu: int) -> str:
        """Return why torchcodec cannot use a GPU, empty if it can; this process keeps a CUDA context afterwards."""
        try:
            version = load_torchcodec().__version__
            if "+cpu" in version:
                return f"this build, {version}, has no GPU code"
            import torch

            torch.empty(1, device=f"cuda:{gpu}")
        except Exception as error:
            return read_fault(error)
        return ""

    @staticmethod
    def is_at_hand() -> bool:
        """Return whether torchcodec is installed; its libraries may still fail to load."""
        return find_spec("torchcodec") is not None


class DeviceImage:
    """An RGB image on the device that decoded it, so that only a small copy of it need go to main memory."""

    def __init__(self, data: Any) -> None:
        """Wrap a tensor of shape (height, width, 3) and type uint8."""
        self._data = data

    def read(self) -> Picture:
        """Return a copy in main memory; raise GaveUpError if the device failed."""
        return _copy(lambda: self._data)

    def read_grey(self) -> Grey:
        """Return the grey picture of ``grey_from_luma`` from the green channel; only its samples are copied.

        Raise GaveUpError if the device failed.
        """
        return grey_from_samples(list(_copy(self._sample_green)))

    def resize(self, resize: Resize) -> Picture:
        """Return a copy in main memory, resized as by ``resize_image`` up to rounding.

        Raise ValueError if the crop is larger than the shorter side, or GaveUpError if the device failed, for example
        because it ran out of memory.
        """
        height, width, _ = self._data.shape
        plan = plan_resize(height, width, resize)
        return _copy(lambda: self._resize(plan, resize))

    def _sample_green(self) -> Any:
        """Return the four samples of every block of the green channel, which has most of the brightness."""
        green = self._data[:, :, 1]
        samples = green.new_empty((4, *GREY_SHAPE))
        for row, position in enumerate(find_samples(*green.shape)):
            samples[row] = green[position]
        return samples

    def _resize(self, plan: ResizePlan, resize: Resize) -> Any:
        from torch.nn import functional

        planes = self._data.permute(2, 0, 1)[None].float()
        for size in ((planes.shape[2], plan.width), (plan.height, plan.width)):  # rounded in between, as in Pillow
            if planes.shape[2:] != size:
                planes = functional.interpolate(planes, size, mode=resize.interpolation, antialias=True)
                planes = planes.round().clamp(0, 255)
        cropped = planes[0, :, plan.top : plan.top + plan.crop_height, plan.left : plan.left + plan.crop_width]
        return cropped.byte().permute(1, 2, 0).contiguous()


def _copy(compute: Callable[[], Any]) -> UInt8[np.ndarray, "..."]:
    """Return a copy in main memory of the tensor that ``compute`` returns."""
    try:
        copy: UInt8[np.ndarray, ...] = compute().cpu().numpy()
    except RuntimeError as error:
        raise GaveUpError(read_fault(error)) from error
    return copy
