"""Frames of videos as HTML images with embedded data."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vidret.errors import DecodeError
from vidret.evaluate.markup import escape_text
from vidret.video.decode import read_frames
from vidret.video.probe import probe

IMAGE_SIZE = (256, 144)
QUALITY = 80


class FrameImages:
    """Frames of videos as HTML images with embedded data, each decoded once."""

    def __init__(self, files: Mapping[str, Path] | None = None, *, size: tuple[int, int] = IMAGE_SIZE) -> None:
        """Store the paths of videos by id, any other id is a path itself; nothing is read yet.

        ``size`` is the width and height in pixels that an image fits in.
        """
        self._files, self._size = files or {}, size
        self._cache: dict[tuple[str, float | None], str] = {}

    def render(self, video_id: str, time_s: float | None, title: str, line: str, kind: str) -> str:
        """Return a figure with the frame at a time, or in the middle of the video, or the reason that it is unreadable.

        Args:
            video_id: Id of the video.
            time_s: Time of the frame in seconds; None for the middle of the video.
            title: First line of the caption.
            line: Second line of the caption.
            kind: Additional CSS class of the figure.
        """
        image = self.read(video_id, time_s)
        caption = f"<b>{escape_text(title)}</b><br>{escape_text(line)}"
        return f'<figure class="shot {kind}">{image}<figcaption>{caption}</figcaption></figure>'

    def read(self, video_id: str, time_s: float | None) -> str:
        """Return the image of a frame, or a paragraph with the reason that it is unreadable."""
        if (video_id, time_s) not in self._cache:
            self._cache[video_id, time_s] = self._read(video_id, time_s)
        return self._cache[video_id, time_s]

    def _read(self, video_id: str, time_s: float | None) -> str:
        path = str(self._files.get(video_id, video_id))
        try:
            if time_s is None:
                info = probe(path)
                time_s = info.start + info.shown_seconds / 2
            pixels = read_frames(path, times=[time_s]).pixels[0]
        except DecodeError as error:
            return f'<p class="unread">{escape_text(error.reason)}</p>'
        image = Image.fromarray(np.asarray(pixels))
        image.thumbnail(self._size)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        size = f'width="{image.width}" height="{image.height}"'
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img {size} alt="{escape_text(video_id)}" src="data:image/jpeg;base64,{data}">'
