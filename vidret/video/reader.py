"""Frames by index from an open file, with any decoder: ordering, repeats, resizing and unreadable frames."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import numpy as np
from jaxtyping import Int64

from vidret.types import Frames, Picture, Resize
from vidret.video.probe import VideoInfo
from vidret.video.resize import resize_image
from vidret.video.streaming import StreamedFrame

_log = logging.getLogger(__name__)


class GaveUpError(Exception):
    """A decoder cannot continue with a file; another decoder may."""


def read_fault(error: Exception) -> str:
    """Return the first line of an error's message, or its type if there is no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class GpuImage(Protocol):
    """An RGB image that a GPU decoded and holds."""

    def read(self) -> Picture:
        """Return a copy in main memory."""
        ...

    def resize(self, resize: Resize) -> Picture:
        """Return a resized copy in main memory, without one of the whole image."""
        ...


class FrameDecoder(Protocol):
    """A decoder with an open file; ``reads_all`` tells whether ``stream`` decodes all frames."""

    reads_all: bool

    def decode(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture | GpuImage]]:
        """Yield each index with its RGB image, for rising indices; frames that cannot be read are left out.

        Raises:
            GaveUpError: The decoder cannot continue with the file.
        """
        ...

    def stream(self, first: int) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file.

        Raises:
            GaveUpError: The decoder cannot continue with the file.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Reader:
    """Frames of one open file, read by index.

    Calls with rising indices cost linear time in total, since nothing is decoded twice; a call may also go back.
    ``decoder`` names the decoder and ``why`` the reason for it. ``fallback`` describes why another decoder gave up; it
    is empty otherwise. ``observe``, where it is set, is called with the index and the full-size image of every decoded
    frame. Use the reader as a context manager.
    """

    def __init__(
        self,
        info: VideoInfo,
        source: FrameDecoder,
        decoder: str,
        why: str,
        resize: Resize | None,
        spare: Callable[[], FrameDecoder] | None = None,
        *,
        fallback: str = "",
    ) -> None:
        """Wrap a decoder; use ``open_reader`` to choose one.

        Args:
            info: The probed file.
            source: The decoder, with the file open.
            decoder: Its name.
            why: Why it was chosen.
            resize: How frames are resized; None keeps them full-sized.
            spare: Opens the file with PyAV if ``source`` gives up.
            fallback: Which decoder gave up before, and why.
        """
        self.info, self.decoder, self.why, self.fallback = info, decoder, why, fallback
        self._source, self._resize, self._spare = source, resize, spare
        self.observe: Callable[[int, Picture], None] | None = None

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " index"]) -> Frames:
        """Return the frames at these indices in rising order, each once.

        Frames that cannot be read are missing, and ``Frames.salvaged`` reports their number.

        Raises:
            ValueError: An index is outside the file.
            GaveUpError: The decoder gave up, and there is no other.
        """
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.info.num_frames:
            raise ValueError(f"indices must lie in 0..{self.info.num_frames - 1}, got {wanted[0]}..{wanted[-1]}")
        images: dict[int, Picture] = {}
        try:
            self._decode_missing(wanted, images)
        except GaveUpError as error:
            self._fall_back(error)
            self._decode_missing(wanted, images)
        kept = np.array(sorted(images), dtype=np.int64)
        salvaged = "" if len(kept) == len(wanted) else f"{len(kept)} of {len(wanted)} frames could be read"
        if salvaged:
            salvaged += ": truncated" if "truncated" in self.info.damage else ": damaged"
        height, width = (self._resize.crop,) * 2 if self._resize else (self.info.height, self.info.width)
        pixels = np.empty((len(kept), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(kept):
            pixels[row] = images.pop(int(index))
        return Frames(pixels, self.info.times[kept], salvaged)

    @property
    def reads_all(self) -> bool:
        """Whether ``stream`` decodes all frames."""
        return self._source.reads_all

    def stream(self, first: int = 0) -> Iterator[StreamedFrame]:
        """Yield the frames from an index to the end of the file; those that cannot be read are missing.

        Raises:
            GaveUpError: The decoder gave up, and there is no other.
        """
        position = first
        try:
            for frame in self._source.stream(first):
                position = frame.index + 1
                yield frame
        except GaveUpError as error:
            self._fall_back(error)
            yield from self._source.stream(position)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fall_back(self, error: GaveUpError) -> None:
        """Continue with PyAV, or raise the error if the file cannot be opened anew."""
        if self._spare is None:
            raise error
        _log.info("%s: %s gave up (%s), continuing with PyAV", self.info.path, self.decoder, error)
        self._source.close()
        self.fallback = f"{self.decoder} gave up ({self.why}): {error}"
        self._source, self.decoder, self.why = self._spare(), "pyav", self.fallback

    def _decode_missing(self, wanted: Int64[np.ndarray, " index"], images: dict[int, Picture]) -> None:
        for index, image in self._source.decode([int(i) for i in wanted if i not in images]):
            if not isinstance(image, np.ndarray):
                if self.observe is None and self._resize:
                    images[index] = image.resize(self._resize)
                    continue
                image = image.read()
            if self.observe is not None:
                self.observe(index, image)
            images[index] = resize_image(image, self._resize) if self._resize else image
