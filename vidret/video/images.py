"""Images decoded in a worker process: a video frame to JPEG, a stretch to grey pictures, an image file to RGB."""

import io
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

from vidret.errors import DecodeError, VidretError
from vidret.types import Frames, Picture, Resize
from vidret.video import wire
from vidret.video.decode import open_reader
from vidret.video.files import read_content
from vidret.video.footage import read_greys
from vidret.video.probe import VideoInfo, probe
from vidret.video.sampling import nearest

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 256 << 20  # of an image file: more than that many pixels take
MAX_PIXELS = 40_000_000
LONGEST_SIDE = 1024  # pixels; no encoder uses more
_QUALITY = 82


def answer_request(request: wire.Header, payload: bytes) -> tuple[wire.Header, bytes | memoryview]:
    """Return the message that answers an ``ImagePool``.

    It is a JPEG for a ``frame``, grey pictures with their times for ``footage``, otherwise RGB pixels and their shape.

    Those of ``frames`` come with their times; ``facts`` are those of ``VideoInfo``.

    Raises:
        VidretError: The video or the image cannot be read.
    """
    try:
        if request["image"] == "frame":
            info = _probe(os.fsdecode(payload), *request["version"])
            return {"kind": "image"}, draw_frame(info, request["time_s"], request["width"])
        if request["image"] == "frames":
            info = _probe(os.fsdecode(payload), *request["version"])
            frames = read_times(info, request["times_s"], Resize(**request["resize"]))
            fields = {"shape": frames.pixels.shape, "times": frames.times.tolist(), "salvaged": frames.salvaged}
            return {"kind": "image"} | fields, np.ascontiguousarray(frames.pixels).reshape(-1).data
        if request["image"] == "facts":
            return {"kind": "image", "facts": _probe(os.fsdecode(payload), *request["version"]).facts()}, b""
        if request["image"] == "footage":
            info = _probe(os.fsdecode(payload), *request["version"])
            greys, times = read_greys(info, request["start_s"], request["end_s"], request["rate"])
            header = {"kind": "image", "times": times.tolist(), "size": (info.width, info.height)}
            return header, greys.reshape(-1).data
        image = read_image(payload)
        return {"kind": "image", "shape": image.shape}, np.ascontiguousarray(image).reshape(-1).data
    except MemoryError:
        _probe.cache_clear()
        raise


@lru_cache(maxsize=16)
def _probe(path: str, _num_bytes: int, _mtime_ns: int) -> VideoInfo:
    """Probe a file, which reads all its packets, once for all frames of the video."""
    return probe(path)


def draw_frame(info: VideoInfo, time_s: float, width: int) -> bytes:
    """Return a JPEG, at most ``width`` pixels wide, of the frame nearest to ``time_s`` seconds.

    Raises:
        DecodeError: The frame cannot be decoded.
    """
    with open_reader(info) as reader:
        frames = reader.read(nearest(info.times, np.array([time_s])))
    if not len(frames):
        raise DecodeError(info.path, "no frame could be decoded")
    image = Image.fromarray(np.asarray(frames.pixels[0]))
    image.thumbnail((width, image.height))
    return encode_jpeg(image)


def read_times(info: VideoInfo, times_s: Sequence[float], resize: Resize) -> Frames:
    """Return the resized frames nearest to some times in seconds, each once.

    Raises:
        DecodeError: None of them can be decoded.
    """
    with open_reader(info, resize=resize) as reader:
        frames = reader.read(nearest(info.times, np.array(times_s, np.float64)))
    if not len(frames):
        raise DecodeError(info.path, "no frame could be decoded")
    return frames


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def read_image_at(path: str) -> Picture:
    """Return the image in a local file; see ``read_image``.

    Raises:
        DecodeError: The file cannot be read, or is not an image.
    """
    content = read_content(path, MAX_BYTES)
    try:
        return read_image(content)
    except VidretError as error:
        raise DecodeError(path, str(error)) from error


def read_image(content: bytes) -> Picture:
    """Decode an image file to RGB, rotated as its EXIF says, and shrunk if a side exceeds ``LONGEST_SIDE``.

    The size in the header is checked before any pixel is decoded.

    Returns:
        Pixels as uint8 (height, width, 3).

    Raises:
        VidretError: The file is not an image of one of ``KINDS``, is damaged, or has more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise VidretError(f"image must have at most {MAX_PIXELS // 10**6} megapixels, got more") from None
    except (OSError, ValueError, SyntaxError) as error:
        kinds = ", ".join(KINDS)
        raise VidretError(f"image must be a complete image file ({kinds}), got a damaged file or none") from error
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(upright)
