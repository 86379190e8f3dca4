"""Write the synthetic world, and sheets that show it.

    python tools/make_synthetic.py OUT [--seed 0] [--short 2000 200 500] [--films 200 40 40] [--size 96 64] [--frames 6]

OUT/msrvtt holds short captioned videos, OUT/qvhighlights long ones with moments, both with their annotation files; the
numbers are of train, val and test. The sheets pairs.png and films.png show what is in them. Videos that are there
already are not drawn again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidret.data.benchmarks.splits import read_split
from vidret.data.records import LabelledQuery
from vidret.data.synthetic.world import CaptionPair, read_pairs, write_grounding_world, write_retrieval_world
from vidret.errors import VidretError
from vidret.present.chart import INK, PAPER
from vidret.present.sheet import GAP
from vidret.video.reader import read_frames

LINE = 18
FPS = 2
NUM_PAIRS, NUM_FILMS = 15, 6
THUMBNAIL = 40
CLIP_SECONDS = 2.0
BAR = (214, 90, 40)


def draw_pairs(pairs: Sequence[CaptionPair], videos: Path, num_frames: int) -> Image.Image:
    """Draw a row of frames for each video under its caption, those of a pair one above the other."""
    rows = [
        (f"{pair.kind}: {caption}", read_frames(str(videos / f"{video}.mp4"), indices=range(num_frames)).pixels)
        for pair in pairs
        for video, caption in zip(pair.videos, pair.captions, strict=True)
    ]
    size = rows[0][1].shape[1]
    sheet = Image.new("RGB", (GAP + num_frames * (size + GAP), GAP + len(rows) * (size + LINE + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (title, frames) in enumerate(rows):
        top = GAP + number * (size + LINE + GAP)
        pen.text((GAP, top), title, INK, font)
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (GAP + column * (size + GAP), top + LINE))
    return sheet


def draw_films(queries: Sequence[LabelledQuery], videos: Path) -> Image.Image:
    """Draw one frame for each clip of each film, and below, for each query, a bar along its windows."""
    films = [(video, list(asked)) for video, asked in groupby(queries, lambda query: query.video)]
    height = sum(2 * GAP + THUMBNAIL + LINE * len(asked) for _, asked in films)
    longest = max(query.duration or 0 for query in queries)
    sheet = Image.new("RGB", (2 * GAP + round(longest / CLIP_SECONDS) * THUMBNAIL, height), PAPER)
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(13), GAP
    for video, asked in films:
        times = np.arange(CLIP_SECONDS / 2, asked[0].duration or 0, CLIP_SECONDS)
        frames = read_frames(str(videos / f"{video}.mp4"), times=times).pixels
        for clip, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame).resize((THUMBNAIL, THUMBNAIL)), (GAP + clip * THUMBNAIL, top))
        top += THUMBNAIL
        for query in asked:
            for start, end in query.spans:
                left, right = (GAP + time / CLIP_SECONDS * THUMBNAIL for time in (start, end))
                pen.rectangle((left, top + 2, right - 2, top + 5), BAR)
            left = GAP + query.spans[0][0] / CLIP_SECONDS * THUMBNAIL
            pen.text((min(left, sheet.width - GAP - pen.textlength(query.text, font)), top + 4), query.text, INK, font)
            top += LINE
        top += 2 * GAP
    return sheet


def main() -> None:
    """Write both worlds, draw both sheets."""
    parser = argparse.ArgumentParser(description="Write the synthetic world, and sheets that show it.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", type=int, nargs=3, default=(2000, 200, 500), metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--films", type=int, nargs=3, default=(200, 40, 40), metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), metavar=("SHORT", "FILMS"), help="pixels a side")
    parser.add_argument("--frames", type=int, default=6, help=f"of a short video, {FPS} a second")
    arguments = parser.parse_args()
    short, films = arguments.out / "msrvtt", arguments.out / "qvhighlights"
    seed = arguments.seed
    write_short = partial(write_retrieval_world, num_frames=arguments.frames, fps=FPS)
    try:
        for name, write, folder, counts, size in (
            ("short videos", write_short, short, arguments.short, arguments.size[0]),
            ("films", partial(write_grounding_world, fps=FPS), films, arguments.films, arguments.size[1]),
        ):
            started = time.perf_counter()
            num_drawn = write(
                folder, seed=seed, num_train=counts[0], num_val=counts[1], num_test=counts[2], size=size, progress=tell
            )
            seconds = time.perf_counter() - started
            print(f"{name}: {sum(counts)}, drawn now {num_drawn} in {seconds:.1f} s", file=sys.stderr)
    except VidretError as error:
        sys.exit(str(error))
    pairs = draw_pairs(read_pairs(short)[:NUM_PAIRS], short / "videos", arguments.frames)
    pairs.save(arguments.out / "pairs.png")
    queries = read_split("moments", films).queries
    shown = sorted({query.video for query in queries[:200]}, key=[q.video for q in queries].index)[:NUM_FILMS]
    draw_films([query for query in queries if query.video in shown], films / "videos").save(arguments.out / "films.png")


def tell(done: int, total: int) -> None:
    """Say how far it is, now and then."""
    if done % 100 == 0 or done == total:
        print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr)


if __name__ == "__main__":
    main()
