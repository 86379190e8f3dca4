"""Measure search over a large index; print one JSON object.

    python tools/bench_search.py [--segments 100000] [--frames 12] [--texts 0] [--index DIR]

Builds an index as ``vidret index`` makes one with the starter, of made vectors: frames of unit length around a centre
of their segment, one of 200, with 49 regions a frame, of which UCoFiA's tokens are chosen and packed as int8. Regions
are drawn once a centre, so segments of one centre have equal tokens; each has its own copy on disk. Or takes the index
that an earlier run left in DIR. Then opens it and asks with the real text encoder, one query after another: as people
do, reranked by the index's own ranker from stored tokens, and without rerank. Times are wall milliseconds, text
encoding included. With ``--texts`` the index also has that many timed texts, of words whose frequencies follow Zipf's
law, so that a search compares pictures and words. Files are in the page cache after the warm searches. On a busy
machine the CPU's milliseconds tell more than the clock's, so both are there.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from vidret.align.baseline import UNRELATED
from vidret.channels.picture.ranking import AUTO, load_ranker
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.sentences import DIM, FINGERPRINT, NAME
from vidret.engine import Engine
from vidret.store.records import RANKER, NewSegment
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SegmentEmbedding, TextSource, TimedText

T = TypeVar("T")
SEGMENTS_PER_VIDEO = 50
CENTRES = 200
REGIONS = 49  # a frame, of the starter
NUM_WARM = 8
VOCABULARY = 50_000
WORDS_PER_TEXT = 9


def build(path: Path, encoder: Encoder, num_segments: int, num_frames: int) -> float:
    """Store made segments as an index run would; return the seconds it took."""
    random = np.random.default_rng(0)
    ranker = load_ranker(AUTO, encoder)
    centres = random.standard_normal((CENTRES, encoder.dim), dtype=np.float32)
    packed = [ranker.pack(make_segment(centre, num_frames, random, regions=REGIONS)) for centre in centres]
    started = time.perf_counter()
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        made = {"name": ranker.name, "fingerprint": ranker.fingerprint, "tokens": "int8"}
        store.set_meta(RANKER, json.dumps(made))
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count = min(SEGMENTS_PER_VIDEO, num_segments - first)
            file = path / "files" / f"{first}.mp4"
            file.parent.mkdir(exist_ok=True)
            file.touch()
            video = store.begin_video(f"made-{first}", duration=count * 12.0, facts={}, num_segments=count)
            chosen = random.integers(CENTRES, size=count)
            segments = [
                NewSegment(
                    video,
                    number,
                    12.0 * number,
                    12.0 * (number + 1),
                    make_segment(centres[centre], num_frames, random, start=12.0 * number),
                    packed[centre],
                )
                for number, centre in enumerate(chosen)
            ]
            store.add_segments(segments)
            store.finish_video(video)
            store.set_file(str(file), state="done", video=video, num_bytes=0, mtime_ns=0)
        store.save_vectors()
    return time.perf_counter() - started


def add_texts(path: Path, num_texts: int) -> float:
    """Store made texts for the videos of an index; return the seconds it took."""
    random = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    made = ["".join(random.choice(letters, random.integers(3, 11))) for _ in range(VOCABULARY)]
    words = np.array([word for query in UNRELATED for word in query.split()] + made)
    odds = 1 / np.arange(1, len(words) + 1)
    centres = random.standard_normal((CENTRES, DIM), dtype=np.float32)
    started = time.perf_counter()
    with Store.open(path) as store:
        contents = list(store.contents())
    with TextStore.create(path, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as texts:
        shares = np.array_split(np.arange(num_texts), len(contents))
        for number, (fingerprint, rows) in enumerate(zip(contents, shares, strict=True)):
            source: TextSource = "speech" if number % 2 else "screen"
            track = texts.begin(fingerprint, source, "made", duration_s=600.0)
            chosen = random.choice(len(words), (len(rows), WORDS_PER_TEXT), p=odds / odds.sum())
            starts = np.sort(random.uniform(0, 595, len(rows)))
            lines = [
                TimedText(float(start), float(start) + 3.0, " ".join(words[own]), source)
                for start, own in zip(starts, chosen, strict=True)
            ]
            noise = random.standard_normal((len(rows), DIM), dtype=np.float32)
            texts.add(track, lines, unit(centres[random.integers(CENTRES, size=len(rows))] + noise), until_s=600.0)
            texts.finish(track)
        texts.save()
    return time.perf_counter() - started


def make_segment(
    centre: Float[np.ndarray, " dim"],
    num_frames: int,
    random: np.random.Generator,
    *,
    start: float = 0.0,
    regions: int = 0,
) -> SegmentEmbedding:
    """Draw a segment's vectors around a centre, with as many regions of each frame."""
    frames = unit(centre + random.standard_normal((num_frames, len(centre)), dtype=np.float32))
    times = start + np.arange(num_frames) + 0.5
    tokens = None
    if regions:
        noise = random.standard_normal((num_frames, regions, len(centre)), dtype=np.float32)
        tokens = unit(frames[:, None] + noise / len(centre) ** 0.5).reshape(-1, len(centre))
    return SegmentEmbedding(unit(frames.mean(0)), frames, times, tokens)


def unit(vectors: Float[np.ndarray, "*any dim"]) -> Float[np.ndarray, "*any dim"]:
    """Scale to unit length."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def time_queries(ask: Callable[[T], object], queries: Sequence[T]) -> dict[str, float]:
    """Ask every query once, after a few to warm up."""
    for query in queries[:NUM_WARM]:
        ask(query)
    seconds, busy = [], []
    for query in queries:
        started, worked = time.perf_counter(), time.process_time()
        ask(query)
        seconds.append(time.perf_counter() - started)
        busy.append(time.process_time() - worked)
    return {
        "p50_ms": round(1e3 * statistics.median(seconds), 2),
        "p99_ms": round(1e3 * float(np.percentile(seconds, 99)), 2),
        "p50_cpu_ms": round(1e3 * statistics.median(busy), 2),
    }


def main() -> None:
    """Build, open, search, locate; print."""
    parser = argparse.ArgumentParser(description="Measure search over a large index.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--texts", type=int, default=0)
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

    if arguments.texts and not TextStore.exists(index):
        report["texts_build_seconds"] = round(add_texts(index, arguments.texts), 1)
    report["texts"] = arguments.texts

    started = time.perf_counter()
    with Store.open(index) as store:
        store.search(np.eye(1, encoder.dim, dtype=np.float32), 1)
    report["open_seconds"] = round(time.perf_counter() - started, 3)

    engine = Engine.open(index, encoder=encoder)
    info = engine.info()
    if info.with_tokens < info.segments:
        parser.error(f"{index}: all {info.segments} segments must have tokens, got {info.with_tokens}: name another")
    report |= {"rerank": engine.ranker.name, "index_mb": round(info.num_bytes / 1e6)}
    started = time.perf_counter()
    engine.search("a warm start", 10)
    report["first_search_seconds_with_baseline"] = round(time.perf_counter() - started, 3)
    report["search"] = time_queries(lambda query: engine.search(query, 10), UNRELATED)
    report["search_without_rerank"] = time_queries(lambda query: engine.search(query, 10, rerank=None), UNRELATED)
    report["locate"] = time_queries(lambda query: engine.locate(query, 10, weak=True), UNRELATED)
    report["load"] = round(os.getloadavg()[0], 1)  # of the machine: above its cores, times tell little
    if arguments.index is None:
        shutil.rmtree(index)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
