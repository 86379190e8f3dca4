"""Decoding with Decord, for the kinds of files on which it was measured to be exact.

Only this module uses Decord. Both ``decord2`` and the original ``decord`` work.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from vidret.errors import read_fault
from vidret.text import is_url
from vidret.types import Picture
from vidret.video.decoders.base import SAME_COLOURS, GaveUpError, StreamedFrame, list_doubts
from vidret.video.grey import grey_from_luma
from vidret.video.probe import VideoInfo

# Measured frame by frame, in rising and in shuffled order, with decord 0.6.0 and decord2 3.4.0.
_EXACT = {"mov": {"h264", "av1", "prores", "mjpeg"}, "matroska": {"h264", "vp8", "vp9", "av1", "ffv1"}}
# Decord decodes ahead without limit while its caller is busy, in the worst case the whole file.
_MAX_BYTES = 512 << 20


class DecordDecoder:
    """A ``FrameDecoder`` that reads single frames; batches would fill memory at full size and fail on rotated files."""

    reads_all = True
    title = "Decord"

    def __init__(self, info: VideoInfo, gpu: int | None = None) -> None:
        """Open a file on the CPU, or on the GPU with this CUDA index.

        Raise GaveUpError if Decord cannot read the file, or counts another number of frames than the container has.
        """
        if is_url(info.path):
            raise GaveUpError("it reads local files only")
        decord = _import_decord(on_gpu=gpu is not None)
        path = os.path.abspath(info.path)  # noqa: PTH100
        self._shape, self._times = (info.height, info.width, 3), info.times
        try:
            context = decord.cpu(0) if gpu is None else decord.gpu(gpu)
            self._reader: Any = decord.VideoReader(path, ctx=context, num_threads=1)
            num_frames = len(self._reader)
        except Exception as error:
            raise GaveUpError(read_fault(error)) from error
        if num_frames != info.num_frames:
            raise GaveUpError(f"Decord counts {num_frames} frames, the container has {info.num_frames}")

    def decode(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Yield each index with its RGB image; see ``FrameDecoder``."""
        for index in indices:
            try:
                image = self._reader[index].asnumpy()
            except Exception as error:
                raise GaveUpError(read_fault(error)) from error
            if image.shape != self._shape:
                # In rotated videos whose rows swscale pads, Decord mistakes the padding for a fourth channel.
                raise GaveUpError(f"frames must have shape {self._shape}, got {image.shape} from Decord")
            yield index, image

    def stream(self, first: int) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file."""
        for index, image in self.decode(range(first, len(self._times))):
            grey = grey_from_luma(image[:, :, 1])  # green is most of the brightness
            yield StreamedFrame(index, float(self._times[index]), grey, partial(_identity, image))

    def close(self) -> None:
        """Close the file."""
        self._reader = None

    @staticmethod
    def find_doubt(info: VideoInfo, *, on_gpu: bool = False) -> str:
        """Return why Decord may not read a file exactly, or not in bounded memory; empty if there is no doubt.

        On a GPU, the size of frames is no doubt, since they are not queued in main memory.
        """
        if is_url(info.path):
            return "Decord reads local files only"
        kind = info.container.split(",")[0]
        version = read_version(on_gpu=on_gpu)
        if not version:
            return "Decord is not installed"
        num_bytes = info.num_frames * info.width * info.height * 3
        doubts = {
            f"Decord was not measured to be exact on {info.codec} in {kind}": info.codec not in _EXACT.get(kind, ()),
            "this version of Decord has no AV1": info.codec == "av1" and version.startswith("0."),
            "the frame rate varies": info.variable_rate,
            "an edit list removes frames": info.edit_list,
            "groups of pictures are open": info.open_gop,
            f"Decord converts {info.pixel_format} colours differently": info.pixel_format not in SAME_COLOURS,
            "it is displayed rotated": info.rotation != 0,
            "Decord might load all of it into memory": not on_gpu and num_bytes > _MAX_BYTES,
        } | list_doubts(info)
        return next((why for why, doubtful in doubts.items() if doubtful), "")

    @staticmethod
    def find_gpu_doubt(info: VideoInfo) -> str:
        """Return why Decord may not decode a file on a GPU, where its threads may crash; empty if it may."""
        return (
            ""
            if info.codec == "h264" and info.pixel_format == "yuv420p"
            else "Decord decodes 8-bit 4:2:0 H.264 on GPUs"
        )

    @staticmethod
    def try_gpu(gpu: int) -> str:
        """Return why Decord cannot use a GPU, empty if it can; this process keeps a CUDA context afterwards."""
        try:
            decord = _import_decord(on_gpu=True)
            decord.ndarray.empty((1,), ctx=decord.gpu(gpu))
        except Exception as error:
            return read_fault(error)
        return ""

    @staticmethod
    def is_at_hand() -> bool:
        """Return True; if Decord is not installed, ``try_gpu`` reports that."""
        return True


def _identity(image: Picture) -> Picture:
    return image


def _import_decord(*, on_gpu: bool) -> Any:
    """Import Decord, unless ``on_gpu`` without the CUDA libraries, of which decord2 would load 800 MB.

    A build with GPU code always needs them.
    """
    if on_gpu or "nvidia" in sys.modules:
        import decord
    else:
        sys.modules["nvidia"] = None  # type: ignore[assignment]
        try:
            import decord
        except OSError:
            del sys.modules["nvidia"]
            return _import_decord(on_gpu=True)
        finally:
            sys.modules.pop("nvidia", None)
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def read_version(*, on_gpu: bool) -> str:
    """Return the version of Decord, empty if it is not installed."""
    try:
        return str(_import_decord(on_gpu=on_gpu).__version__)
    except (ImportError, OSError, RuntimeError):
        return ""
