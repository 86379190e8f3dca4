"""Images that come as text: base64 to RGB, within limits."""

import base64

import anyio
import anyio.to_thread

from vidret.errors import VidretError
from vidret.types import Picture
from vidret.video.image_pool import ImagePool

AT_ONCE = 2  # images decoded at a time, each in a process
TIMEOUT_S = 10.0


class PictureReader:
    """Decode images in processes of their own, few at a time: whoever sends them may mean harm."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Share one reader among all that read; the processes start with the first image."""
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._pool = ImagePool(AT_ONCE, timeout_s=timeout_s)

    async def read(self, text: str) -> Picture:
        """Decode base64 or a data URL; see ``vidret.video.images.read_image``.

        Raises:
            VidretError: It is no base64, or no readable image.
        """
        return await anyio.to_thread.run_sync(self._read, text, limiter=self._limiter)

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def _read(self, text: str) -> Picture:
        return self._pool.read_image(decode_base64(text))


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data URL.

    Raises:
        VidretError: It is neither.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError:
        raise VidretError("image must be base64, got something else") from None
