"""Tests of query images: valid ones are decoded, others are refused cheaply."""

import asyncio
import base64
import io
import itertools
import struct
import zlib
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from tests.serve.conftest import BLUE, encode
from vidret.errors import VidretError
from vidret.serve.fields import ImageReader, decode_base64
from vidret.types import Picture
from vidret.video.images import KINDS, LONGEST_SIDE, read_image


def decode_image(text: str) -> Picture:
    return read_image(decode_base64(text))


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


def test_every_format_mode_and_rotation_is_read_and_large_images_are_shrunk() -> None:
    for kind in KINDS:
        image = decode_image(encode(Image.new("RGB", (30, 20), (200, 30, 30)), kind))
        assert (image.shape, image.dtype.name) == ((20, 30, 3), "uint8")
        assert np.abs(image.astype(int) - (200, 30, 30)).max() < 12, kind
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1", "I;16"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert decode_image(encode(Image.new(mode, (30, 20)), kind)).shape == (20, 30, 3), mode
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    noise(20, 30).save(out, "JPEG", exif=exif)
    assert decode_image(base64.b64encode(out.getvalue()).decode()).shape == (30, 20, 3)
    assert max(decode_image(encode(Image.new("RGB", (3000, 2000)))).shape) == LONGEST_SIDE


def bomb(width: int, height: int) -> str:
    """Return a small PNG file whose header claims any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(image).decode()


BROKEN = base64.b64decode(encode(noise(64, 64)))
BOMB, INCOMPLETE, NO_BASE64 = (
    "image must have at most 40 megapixels, got more",
    r"image must be a complete image file \(JPEG, PNG, WEBP, GIF, BMP\)",
    "image must be base64, got something else",
)
DAMAGED = base64.b64encode(BROKEN[:500] + bytes(500) + BROKEN[1000:]).decode()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        *((bomb(side, side), BOMB) for side in (6400, 10_000, 15_000, 60_000)),
        (base64.b64encode(b"no image at all").decode(), INCOMPLETE),
        ("data:,", INCOMPLETE),
        (base64.b64encode(BROKEN[:2000]).decode(), INCOMPLETE),
        (DAMAGED, INCOMPLETE),
        (encode(Image.new("RGB", (8, 8)), "TIFF"), INCOMPLETE),
        *((text, NO_BASE64) for text in ("not base64!", BLUE[:-1], "ü", "data:image/png;base64,%%%")),
    ],
    ids=itertools.count(),
)
def test_bombs_and_invalid_images_are_refused(text: str, rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        decode_image(text)


def test_reader_gives_the_same_from_a_process_or_times_out() -> None:
    text = encode(noise(40, 60))
    with closing(ImageReader()) as reader:
        assert (asyncio.run(reader.read(text)) == decode_image(text)).all()
        for wrong, rule in ((bomb(10_000, 10_000), BOMB), (DAMAGED, INCOMPLETE), ("%", NO_BASE64)):
            with pytest.raises(VidretError, match=rule):
                asyncio.run(reader.read(wrong))
    rule = r"image cannot be decoded: no answer from the decoder for 0.001 s"
    with closing(ImageReader(timeout_s=0.001)) as reader, pytest.raises(VidretError, match=rule):
        asyncio.run(reader.read(encode(noise(1000, 1000))))
