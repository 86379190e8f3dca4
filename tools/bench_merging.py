"""Measure what merging tokens without training gains and costs in ``vidret index``; print one JSON object.

    python tools/bench_merging.py VIDEOS [--model ViT-B-16/random] [--levels gentle half] [--repeats 1]

Whole index runs by turns in one process, on one thread of PyTorch: open_clip's own towers (fp32), then each level with
fp32 and bf16 weights. CPU seconds are of this process and its decoders, ratios those of open_clip, and of ``off`` in
the same precision, to the run's. Cosines are between the segments' vectors and those of ``off`` in fp32, and between
all pairs of different segments of ``off`` for comparison; with random weights they say little about a trained model.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_index import decode_all, timed

from vidret.encode.encoder import Encoder
from vidret.encode.families.open_clip_encoder import OpenClipEncoder
from vidret.encode.families.open_clip_loading import load_open_clip
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import MERGE_LEVELS, join_merge
from vidret.engine import Engine
from vidret.index.stages import encode_segments
from vidret.video.scan import scan

PRECISIONS = ("fp32", "bf16")


def load_variants(model: str, levels: list[str]) -> dict[str, Encoder]:
    """Load the encoders to compare by name."""
    source, towers, tokenizer = load_open_clip(model)
    cpu = torch.device("cpu")
    found: dict[str, Encoder] = {
        "open_clip": OpenClipEncoder(source.name, towers, tokenizer, device=cpu, dtype=torch.float32)
    }
    for precision in PRECISIONS:
        for level in MERGE_LEVELS:
            if level == "off" or level in levels:
                name = join_merge(model, level)
                found[f"{level} {precision}"] = load_encoder(name, device="cpu", precision=precision)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure merging tokens without training.")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--model", default="ViT-B-16/random")
    parser.add_argument("--levels", nargs="+", default=["gentle", "half"], choices=MERGE_LEVELS)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files, scratch = scan([str(arguments.videos)]), Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    variants = load_variants(arguments.model, arguments.levels)
    segments = decode_all(files, variants["off fp32"])
    vectors, seconds = {}, {name: list[float]() for name in variants}
    for number in range(arguments.repeats):
        for name, encoder in variants.items():
            with Engine(scratch / f"{name}-{number}", encoder) as engine:
                seconds[name].append(timed(lambda engine=engine: engine.index(files, workers=1, words=False))["cpu"])  # type: ignore[misc]
    for name, encoder in variants.items():
        made = encode_segments(encoder, segments[:: max(1, len(segments) // 8)], pack=None, tokens=False)
        vectors[name] = np.stack([each.video for each in made])
    shutil.rmtree(scratch)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    exact = vectors["off fp32"]
    rows: dict[str, Any] = {}
    for name, cpu in medians.items():
        cosines = (vectors[name] * exact).sum(axis=1)
        rows[name] = {"cpu_s": round(cpu, 2), "against_open_clip": round(medians["open_clip"] / cpu, 2)}
        if name != "open_clip":
            rows[name]["against_off"] = round(medians[f"off {name.split()[1]}"] / cpu, 2)
        rows[name] |= {"cosine_mean": round(float(cosines.mean()), 4), "cosine_least": round(float(cosines.min()), 4)}
    between = (exact @ exact.T)[np.triu_indices(len(exact), 1)]
    report = {
        "model": arguments.model,
        "segments": len(segments),
        "frames": sum(len(each) for each in segments),
        "pictures": sum(len(each.pictures) for each in segments),
        "decode_cpu_s": round(timed(lambda: decode_all(files, variants["off fp32"]))["cpu"], 2),
        "runs": rows,
        "cosine_between_segments": round(float(between.mean()), 4) if len(between) else None,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
