"""What the tools read: an index on this machine or behind a server, and JPEG frames of its videos."""

import os
from typing import Protocol

from vidret.client import RemoteEngine
from vidret.engine import Engine
from vidret.serve.files import open_video
from vidret.store.records import StoredVideo
from vidret.video.files import FileStat, stat_file
from vidret.video.workers.image_pool import ImagePool

AnyEngine = Engine | RemoteEngine
MIN_WIDTH = 64  # pixels; a frame is not drawn smaller to save bytes


class FrameDrawer(Protocol):
    """Draws frames of the videos of an index."""

    def draw(self, video: StoredVideo, time_s: float, width: int) -> bytes:
        """Return a JPEG of the frame nearest to a time, at most ``width`` pixels wide.

        Raises:
            VidretError: The frame cannot be decoded.
        """

    def close(self) -> None:
        """Stop drawing."""


class IndexFrames:
    """Frames of local files and URLs. Paths come from the index, and links are checked as by ``vidret serve``."""

    def __init__(self, engine: Engine) -> None:
        """Store the engine; a decoding process starts with the first frame."""
        self._engine, self._pool = engine, ImagePool(1)

    def draw(self, video: StoredVideo, time_s: float, width: int) -> bytes:
        """Return a JPEG; see ``FrameDrawer``."""
        path, file = open_video(self._engine, video)
        status: FileStat
        if file is None:
            status = stat_file(path)
        else:
            with file:  # another process opens it again to decode it
                status = os.fstat(file.fileno())
        return self._pool.draw_frame(path, status, time_s, width)

    def close(self) -> None:
        """Stop the decoding process."""
        self._pool.close()


class ServerFrames:
    """Frames that a ``vidret serve`` draws."""

    def __init__(self, engine: RemoteEngine) -> None:
        """Store the client."""
        self._engine = engine

    def draw(self, video: StoredVideo, time_s: float, width: int) -> bytes:
        """Return a JPEG; see ``FrameDrawer``."""
        return self._engine.frame(video.id, time_s, width)

    def close(self) -> None:
        """Do nothing: the owner of the client closes it."""


def open_frames(engine: AnyEngine) -> FrameDrawer:
    """Return the frames of an engine."""
    return IndexFrames(engine) if isinstance(engine, Engine) else ServerFrames(engine)


def draw_within(frames: FrameDrawer, video: StoredVideo, time_s: float, width: int, max_bytes: int) -> bytes | None:
    """Return a JPEG of at most ``max_bytes``, drawn smaller if need be; None if even the smallest is larger.

    Raises:
        VidretError: The frame cannot be decoded.
    """
    while True:
        content = frames.draw(video, min(max(time_s, 0.0), video.duration), width)
        if len(content) <= max_bytes:
            return content
        if width <= MIN_WIDTH:
            return None
        width = max(MIN_WIDTH, width // 2)
