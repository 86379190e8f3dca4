"""Write the synthetic world, and sheets that show it.

    python tools/make_synthetic.py OUT [--seed 0] [--train 2000 --val 200 --test 500] [--films 200 40 40]

OUT/msrvtt holds short captioned videos, OUT/qvhighlights long ones with moments, both with their annotation files. The
sheets pairs.png and films.png show what is in them. What is there already is not drawn again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from vidret.data.records import LabelledQuery
from vidret.data.splits import read_split
from vidret.data.synthetic import CaptionPair, read_pairs, write_grounding_world, write_retrieval_world
from vidret.errors import VidretError
from vidret.sheet import FAINT, GAP, INK, PAPER
from vidret.video.decode import read_frames

LINE = 20
COLUMNS = 12
BAR = (214, 90, 40)


def draw_pairs(pairs: Sequence[CaptionPair], videos: Path) -> Image.Image:
    """Draw a row of frames for each video, those of a pair one above the other."""
    rows = []
    for pair in pairs:
        for video, caption in zip(pair.videos, pair.captions, strict=True):
            frames = read_frames(str(videos / f"{video}.mp4")).pixels
            chosen = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
            rows.append((f"{pair.kind}, {video}: {caption}", frames[chosen]))
    return draw_rows(rows)


def draw_rows(rows: Sequence[tuple[str, UInt8[np.ndarray, "frame size size 3"]]]) -> Image.Image:
    """Draw titled rows of frames."""
    size = rows[0][1].shape[1]
    sheet = Image.new("RGB", (GAP + COLUMNS * (size + GAP), GAP + len(rows) * (size + LINE + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (title, frames) in enumerate(rows):
        top = GAP + number * (size + LINE + GAP)
        pen.text((GAP, top), title, INK, font)
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (GAP + column * (size + GAP), top + LINE))
    return sheet
