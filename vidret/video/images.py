"""Single images: a video frame as JPEG, grey pictures of part of a video, an image file as RGB."""

import io

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageOps

from vidret.errors import DecodeError, VidretError
from vidret.types import Picture
from vidret.video.decoders.base import StreamedFrame
from vidret.video.files import read_content
from vidret.video.grey import GREY_SHAPE, Grey, Greys
from vidret.video.probe import VideoInfo
from vidret.video.reader import open_reader, read_chosen
from vidret.video.sampling import find_shown, nearest

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_BYTES = 256 << 20  # of an image file: more than MAX_PIXELS take
MAX_PIXELS = 40_000_000
LONGEST_SIDE = 1024  # pixels; no encoder uses more
_QUALITY = 82


def draw_frame(info: VideoInfo, time_s: float, width: int, height: int | None = None) -> bytes:
    """Return a JPEG of at most ``width`` x ``height`` pixels of the frame shown at ``time_s`` seconds.

    Raise DecodeError if the frame cannot be decoded.
    """
    frames = read_chosen(info, find_shown(info.times, np.array([time_s])))
    image = Image.fromarray(np.asarray(frames.pixels[0]))
    image.thumbnail((width, height or image.height))
    return encode_jpeg(image)


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def read_image_at(path: str) -> Picture:
    """Return the image in a local file; see ``read_image``.

    Raise DecodeError if the file cannot be read, or is not an image.
    """
    content = read_content(path, MAX_BYTES)
    try:
        return read_image(content)
    except VidretError as error:
        raise DecodeError(path, str(error)) from error


def read_image(content: bytes) -> Picture:
    """Decode an image file to RGB, rotated as its EXIF says, and shrunk if a side exceeds ``LONGEST_SIDE``.

    The size in the header is checked before any pixel is decoded. Raise VidretError if the file is not an image of one
    of ``KINDS``, is damaged, or has more than ``MAX_PIXELS``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=KINDS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # grey of 16 bits, which ``convert`` would clip to 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise VidretError(f"image must have at most {MAX_PIXELS // 10**6} megapixels, got more") from None
    except (OSError, ValueError, SyntaxError) as error:
        kinds = ", ".join(KINDS)
        raise VidretError(f"image must be a complete image file ({kinds}), got a damaged file or none") from error
    upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(upright)


def read_greys(
    info: VideoInfo, start_s: float, end_s: float, rate: float
) -> tuple[Greys, Float64[np.ndarray, " frame"]]:
    """Return the frames nearest to every step of ``1 / rate`` seconds as grey pictures, with their times in seconds.

    A picture is the whole displayed frame, averaged to 36 x 64 pixels at any aspect ratio. Each frame is returned once;
    unreadable frames are left out. Raise DecodeError if the file cannot be opened.
    """
    num_steps = int((end_s - start_s) * rate) + 1
    wanted = np.unique(nearest(info.times, start_s + np.arange(num_steps) / rate))
    chosen, last = set(wanted.tolist()), int(wanted[-1])
    greys: list[Grey] = []
    times: list[float] = []
    with open_reader(info, for_streaming=True) as reader:
        for frame in reader.stream(int(wanted[0])):
            grey = read_grey(frame) if frame.index in chosen else None
            if grey is not None:
                greys.append(grey)
                times.append(frame.time_s)
            if frame.index >= last:
                break
    stacked = np.stack(greys) if greys else np.empty((0, *GREY_SHAPE), np.uint8)
    return stacked, np.array(times, np.float64)


def read_grey(frame: StreamedFrame) -> Grey | None:
    """Return a whole frame as a grey picture of 36 x 64 pixels, each the mean of its area; None if damaged."""
    if frame.read_luma is not None:
        picture = frame.read_luma()  # no frame is converted to RGB
    else:
        image = frame.read_image()
        picture = None if image is None else np.asarray(Image.fromarray(image).convert("L"))
    if picture is None:
        return None
    height, width = GREY_SHAPE
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))
