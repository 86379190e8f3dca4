"""Query images in requests: base64 to RGB, within limits."""

import base64

import anyio
import anyio.to_thread

from vidret.errors import VidretError
from vidret.types import Picture
from vidret.video.workers.image_pool import ImagePool

NUM_PROCESSES = 2
TIMEOUT_S = 10.0


class ImageReader:
    """Decodes images in separate processes, a few at a time, since they may be malicious."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Set the limits; the processes start with the first image."""
        self._limiter = anyio.CapacityLimiter(NUM_PROCESSES)
        self._pool = ImagePool(NUM_PROCESSES, timeout_s=timeout_s)

    async def read(self, text: str) -> Picture:
        """Decode base64 or a data URL to an RGB image; see ``vidret.video.images.read_image``.

        Raises:
            VidretError: The text is not base64, or not that of a readable image.
        """
        return await anyio.to_thread.run_sync(self._read, text, limiter=self._limiter)

    def close(self) -> None:
        """Stop the processes."""
        self._pool.close()

    def _read(self, text: str) -> Picture:
        return self._pool.read_image(decode_base64(text))


def decode_base64(text: str) -> bytes:
    """Decode base64 or a data URL to bytes.

    Raises:
        VidretError: The text is neither.
    """
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError:
        raise VidretError("image must be base64, got something else") from None
