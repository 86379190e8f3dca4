"""Small grey pictures of a stretch of a video at a fixed rate, to compare the footage of two files."""

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from vidret.video.decode import open_reader
from vidret.video.grey import GREY_SHAPE
from vidret.video.probe import VideoInfo
from vidret.video.sampling import nearest
from vidret.video.streaming import StreamedFrame

Footage = UInt8[np.ndarray, "frame 36 64"]


def read_greys(
    info: VideoInfo, start_s: float, end_s: float, rate: float
) -> tuple[Footage, Float64[np.ndarray, " frame"]]:
    """Return the frames nearest to every step of ``1 / rate`` seconds as grey pictures, with their times in seconds.

    A picture is the whole frame as displayed, averaged to 36 x 64 pixels whatever its aspect ratio. A frame is returned
    once; frames that cannot be read are missing.

    Raises:
        DecodeError: The file cannot be opened.
    """
    num_steps = int(max(end_s - start_s, 0.0) * rate) + 1
    wanted = np.unique(nearest(info.times, start_s + np.arange(num_steps) / rate))
    chosen, last = set(wanted.tolist()), int(wanted[-1])
    greys: list[UInt8[np.ndarray, "36 64"]] = []
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


def read_grey(frame: StreamedFrame) -> UInt8[np.ndarray, "36 64"] | None:
    """Return the brightness of a whole frame as 36 x 64 pixels, each the mean of what it covers; None if damaged."""
    if frame.read_luma is not None:
        picture = frame.read_luma()  # no frame is converted to RGB
    else:
        image = frame.read_image()
        picture = None if image is None else np.asarray(Image.fromarray(image).convert("L"))
    if picture is None:
        return None
    height, width = GREY_SHAPE
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))
