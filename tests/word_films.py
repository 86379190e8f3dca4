"""Small videos with words: drawn on their frames, in a subtitle track; and with silence."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.video.films import write_sound

RATE = 4
SIZE = (480, 270)
SUBTITLES = """1
00:00:00,500 --> 00:00:01,500
<i>Where is</i> the lighthouse?

2
00:00:02,000 --> 00:00:03,000
{\\an8}Behind
the hill.
"""
# A decoding process whose OCR takes no time: it finds bright pixels and knows a text by its width.
QUICK_OCR = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from vidret.channels.screen import ScreenReader
from vidret.channels import screen
from vidret.video.workers import worker

class QuickModels:
    def detect(self, image):
        rows, columns = np.nonzero(image.min(axis=2) > 200)
        if not len(rows):
            return []
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return [np.array(corners, np.float32) / image.shape[1::-1]]

    def read(self, image, box):
        columns = np.nonzero(image.min(axis=2) > 200)[1]  # the box depends on the resolution of the search
        return chr(97 + round(float(np.ptp(columns)) / image.shape[1] * 20)) * 6, 0.9

class QuickReader(ScreenReader):
    def __init__(self):
        self._models = QuickModels()
        self.start()

screen._load_reader = QuickReader
worker.run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""


def write_worded(
    path: Path,
    *scenes: tuple[str, float],
    salt: int = 0,
    silence: bool = False,
    subtitles: str = "",
    cuts: bool = False,
) -> Path:
    """Write scenes of (shown text, seconds), with silence, a subtitle track (in .mkv) and cuts if wanted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"}))
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        sound = cast(Any, container.add_stream("aac", rate=16000, layout="mono")) if silence else None
        source = cast(Any, av.open(io.BytesIO(subtitles.encode()), format="srt")) if subtitles else None
        track = cast(Any, container.add_stream_from_template(source.streams.subtitles[0])) if source else None
        for scene_index, (text, seconds) in enumerate(scenes):
            picture = draw_text(text, salt + 67 * scene_index * cuts)
            for _ in range(round(seconds * RATE)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        for packet in source.demux(source.streams.subtitles[0]) if source else ():
            if packet.size:
                packet.stream = track
                container.mux(packet)
        if sound is not None:
            write_sound(container, sound, sum(seconds for _, seconds in scenes))
    return path


def draw_text(text: str, salt: int = 0) -> np.ndarray:
    """Return a dark image with a text in white."""
    image = Image.new("RGB", SIZE, (30, 40 + salt % 200, 60))
    font = ImageFont.load_default(size=36)
    ImageDraw.Draw(image).text((30, 110), text, fill=(255, 255, 255), font=font)
    return np.asarray(image, np.uint8)


def shown(texts: Sequence[Any]) -> list[str]:
    """Return the words of texts without spaces, which a reader of short lines may drop, in small letters."""
    return [text.text.replace(" ", "").lower() for text in texts]
