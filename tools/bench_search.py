"""Measure search over a large index; print one JSON object.

    python tools/bench_search.py [--segments 100000] [--frames 12] [--index DIR]

Builds an index of made vectors (unit vectors around 200 centres; the starter's dimension) through the store's own door,
or takes the one that an earlier run left in DIR, then opens it and asks with the real text encoder, one query after
another. Times are wall milliseconds, text encoding included.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidret.align.baseline import UNRELATED
from vidret.encode.encoder import Encoder
from vidret.encode.load import load_encoder
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.types import SegmentEmbedding

SEGMENTS_PER_VIDEO = 50


def build(path: Path, encoder: Encoder, num_segments: int, num_frames: int) -> float:
    """Store made segments as an index run would; give the seconds it took."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((200, encoder.dim))
    started = time.perf_counter()
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count = min(SEGMENTS_PER_VIDEO, num_segments - first)
            file = path / "files" / f"{first}.mp4"
            file.parent.mkdir(exist_ok=True)
            file.touch()
            video = store.begin_video(f"made-{first}", duration=count * 12.0, facts={}, num_segments=count)
            for number in range(count):
                frames = centres[random.integers(200)] + random.standard_normal((num_frames, encoder.dim))
                frames = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
                mean = frames.mean(0)
                times = number * 12.0 + np.arange(num_frames) + 0.5
                embedding = SegmentEmbedding(mean / np.linalg.norm(mean), frames, times)
                store.add_segment(video, number, number * 12.0, (number + 1) * 12.0, embedding)
            store.finish_video(video)
            store.set_file(str(file), state="done", video=video, num_bytes=0, mtime_ns=0)
        store.save_vectors()
    return time.perf_counter() - started


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Give the median and the 99th percentile in milliseconds."""
    return {
        "p50_ms": round(1e3 * statistics.median(seconds), 2),
        "p99_ms": round(1e3 * float(np.percentile(seconds, 99)), 2),
    }


def main() -> None:
    """Build, open, search, locate; print."""
    parser = argparse.ArgumentParser(description="Measure search over a large index.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--index", type=Path, default=None)
    arguments = parser.parse_args()
    encoder = load_encoder()
    encoder.encode_text(["warm"])
    index = arguments.index or Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    report: dict[str, Any] = {
        "segments": arguments.segments,
        "frames": arguments.frames,
        "threads": torch.get_num_threads(),
    }
    if not (index / "catalog.sqlite").exists():
        report["build_seconds"] = round(build(index, encoder, arguments.segments, arguments.frames), 1)

    started = time.perf_counter()
    with Store.open(index) as store:
        store.search(np.eye(1, encoder.dim, dtype=np.float32), 1)
    report["open_seconds"] = round(time.perf_counter() - started, 3)

    engine = Engine.open(index, encoder=encoder)
    started = time.perf_counter()
    engine.search("a warm start", 10)
    report["first_search_seconds_with_baseline"] = round(time.perf_counter() - started, 3)
    for name, ask in (("search", engine.search), ("locate", engine.locate)):
        seconds = []
        for query in UNRELATED:
            started = time.perf_counter()
            ask(query, 10)
            seconds.append(time.perf_counter() - started)
        report[name] = percentiles(seconds)
    if arguments.index is None:
        shutil.rmtree(index)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
