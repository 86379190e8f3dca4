"""Frames of the videos of a local index, decoded in a process of their own."""

from typing import Self

from vidret.store.records import StoredVideo
from vidret.video.files import may_exist, stat_file
from vidret.video.workers.image_pool import ImagePool


class FileFrames:
    """Draws frames of files. A context manager, whose decoding process starts with the first frame."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._pool = ImagePool(1)

    def draw(self, video: StoredVideo, time_s: float, width: int) -> bytes:
        """Return a JPEG of the frame nearest to a time, at most ``width`` pixels wide.

        Raises:
            DecodeError: The frame cannot be decoded.
        """
        path = next((path for path in video.paths if may_exist(path)), video.paths[0])
        return self._pool.draw_frame(path, stat_file(path), min(time_s, video.duration), width)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()
