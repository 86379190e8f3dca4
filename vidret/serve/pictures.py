"""Pictures that come as text: base64 to RGB, within limits."""

import base64
import io

import anyio
import anyio.to_thread
import numpy as np
from PIL import Image, ImageOps

from vidret.errors import VidretError
from vidret.types import Picture

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 40_000_000
LONGEST_SIDE = 1024  # no encoder looks at more, and what waits for the engine stays small
AT_ONCE = 2  # pictures decoded at a time: each may take 160 MB while it is


class PictureReader:
    """Decode pictures aside from what else the server does, few at a time."""

    def __init__(self) -> None:
        """Share one reader among all that read."""
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def read(self, text: str) -> Picture:
        """Decode a picture; see ``decode_picture``."""
        return await anyio.to_thread.run_sync(decode_picture, text, limiter=self._limiter)


def decode_picture(text: str) -> Picture:
    """Turn base64 (or a data URL) into RGB, the way up that the picture says, made smaller where it is large.

    Raises:
        VidretError: It is no base64, no picture, a broken one or too large a one.
    """
    try:
        content = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except ValueError:
        raise VidretError("image must be base64, got something else") from None
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            picture.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise VidretError(f"image must have at most {MAX_PIXELS // 10**6} megapixels, got more") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise VidretError(f"image must be a whole picture ({', '.join(KINDS)}), got none or a broken one") from error
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(upright)
