"""Pictures that come from anywhere: whole ones are read, the others cost nothing."""

import asyncio
import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.serve.test_search import BLUE, encode
from vidret.errors import VidretError
from vidret.serve.images import ImageReader, decode_base64
from vidret.types import Picture
from vidret.video.images import KINDS, LONGEST_SIDE, read_image


def decode_picture(text: str) -> Picture:
    return read_image(decode_base64(text))


def noise(*size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read(kind: str) -> None:
    picture = decode_picture(encode(Image.new("RGB", (30, 20), (200, 30, 30)), kind))
    assert picture.shape == (20, 30, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_picture(encode(Image.new(mode, (30, 20)), kind)).shape == (20, 30, 3)


def test_pictures_stand_the_way_up_that_they_say() -> None:
    out, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    noise(20, 30).save(out, "JPEG", exif=turned)
    assert decode_picture(base64.b64encode(out.getvalue()).decode()).shape == (30, 20, 3)


def test_large_pictures_become_small() -> None:
    assert max(decode_picture(encode(Image.new("RGB", (3000, 2000)))).shape) == LONGEST_SIDE


def bomb(width: int, height: int) -> str:
    """Promise a picture of any size in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(whole).decode()


@pytest.mark.parametrize("side", [6400, 10_000, 15_000, 60_000])
def test_bombs_are_not_unpacked(side: int) -> None:
    with pytest.raises(VidretError, match="image must have at most 40 megapixels, got more"):
        decode_picture(bomb(side, side))


BROKEN = base64.b64decode(encode(noise(64, 64)))
OTHER = {
    "no picture": base64.b64encode(b"no picture at all").decode(),
    "nothing": "data:,",
    "cut off": base64.b64encode(BROKEN[:2000]).decode(),
    "damaged": base64.b64encode(BROKEN[:500] + bytes(500) + BROKEN[1000:]).decode(),
    "another kind": encode(Image.new("RGB", (8, 8)), "TIFF"),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_whole_picture_is_told(name: str) -> None:
    with pytest.raises(VidretError, match=r"image must be a complete image file \(JPEG, PNG, WEBP, GIF, BMP\)"):
        decode_picture(OTHER[name])


@pytest.mark.parametrize("text", ["not base64!", BLUE[:-1], "ü", "data:image/png;base64,%%%"])
def test_what_is_no_base64_is_told(text: str) -> None:
    with pytest.raises(VidretError, match="image must be base64, got something else"):
        decode_picture(text)


def test_the_reader_gives_the_same_from_a_process_of_its_own() -> None:
    text = encode(noise(40, 60))
    reader = ImageReader()
    try:
        assert (asyncio.run(reader.read(text)) == decode_picture(text)).all()
        for wrong, sentence in (
            (bomb(10_000, 10_000), "image must have at most 40 megapixels, got more"),
            (OTHER["damaged"], "image must be a complete image file"),
            ("%", "image must be base64, got something else"),
        ):
            with pytest.raises(VidretError, match=sentence):
                asyncio.run(reader.read(wrong))
    finally:
        reader.close()


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    reader = ImageReader(timeout_s=0.001)
    try:
        with pytest.raises(VidretError, match=r"image cannot be decoded: no answer from the decoder for 0.001 s"):
            asyncio.run(reader.read(encode(noise(1000, 1000))))
    finally:
        reader.close()
