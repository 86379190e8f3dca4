"""Read frames by index from an open file, whoever decodes: order, repeats, resizing and losses are settled here."""

import logging
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from jaxtyping import Int64, UInt8

from vidret.types import Frames, Resize
from vidret.video.probe import VideoInfo
from vidret.video.resize import resize_image

Picture = UInt8[np.ndarray, "height width 3"]

_log = logging.getLogger(__name__)


class GaveUpError(Exception):
    """A decoder cannot go on with a file; another may."""


class FrameDecoder(Protocol):
    """Decode frames by rising index; a frame that cannot be read is left out."""

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, Picture]]:
        """Give each index with its picture."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Reader:
    """Read frames of one open file: first this segment, then the next, without decoding anything twice.

    ``decoder`` and ``why`` say who decodes; ``fallback`` is empty, or says which decoder gave up, and why. Rising calls
    cost linear time; a call may also go back. Use as a context.
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
        """Take an open source, and PyAV's in case it gives up; ``open_reader`` knows both."""
        self.info, self.decoder, self.why, self.fallback = info, decoder, why, fallback
        self._source, self._resize, self._spare = source, resize, spare

    def read(self, indices: Sequence[int] | Int64[np.ndarray, " index"]) -> Frames:
        """Read the frames of these indices, rising, each once; those that cannot be read are missing and counted."""
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.info.num_frames:
            raise ValueError(f"indices must lie in 0..{self.info.num_frames - 1}, got {wanted[0]}..{wanted[-1]}")
        found: dict[int, Picture] = {}
        try:
            self._collect(wanted, found)
        except GaveUpError as error:
            if self._spare is None:
                raise
            _log.info("%s: %s gave up (%s), PyAV goes on", self.info.path, self.decoder, error)
            self._source.close()
            self.fallback = f"{self.decoder} gave up ({self.why}): {error}"
            self._source, self.decoder, self.why = self._spare(), "pyav", self.fallback
            self._collect(wanted, found)
        kept = np.array(sorted(found), dtype=np.int64)
        salvaged = "" if len(kept) == len(wanted) else f"{len(kept)} of {len(wanted)} frames could be read"
        if salvaged:
            salvaged += ": truncated" if "truncated" in self.info.damage else ": damaged"
        height, width = (self._resize.crop,) * 2 if self._resize else (self.info.height, self.info.width)
        pixels = np.empty((len(kept), height, width, 3), dtype=np.uint8)
        for place, index in enumerate(kept):
            pixels[place] = found.pop(int(index))
        return Frames(pixels, self.info.times[kept], salvaged)

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _collect(self, wanted: Int64[np.ndarray, " index"], found: dict[int, Picture]) -> None:
        for index, picture in self._source.pictures([int(i) for i in wanted if i not in found]):
            found[index] = resize_image(picture, self._resize) if self._resize else picture
