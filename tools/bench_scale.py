"""Measure stores of growing size, kind by kind, or searches of an engine over one large index.

    python tools/bench_scale.py --like INDEX [--sizes 1000 10000 100000 1000000] [--kinds flat ivf ...] [--work DIR]
    python tools/bench_scale.py --like INDEX --searches 1000000 [--texts-a-segment 5] [--dim 384] [--work DIR]

The first form writes one JSON with every number.

Vectors are drawn like real ones: as normals with the mean and covariance of the frames that ``vidret index`` stored in
INDEX, each scaled to unit length. Where --dim is not its own, the spectrum keeps its shape and is stretched: direction
j of the drawn ones varies as direction j * own / dim of the real ones, and all of it together as much as before. A
third of the queries are drawn alike, a third are stored vectors moved by half of a deviation, and a third are vectors
of real texts, by INDEX's encoder, put through the same stretching. Recall is told by kind of query: texts, which people
search with, lie farther from all stored vectors than the others, and lose first.

Each number is of a fresh process. ``open_ms`` is from Store.open to the first answer, modules imported before; the
files are in the page cache, since no process may empty it. RAM is the growth of that process over all its searches;
``mapped`` of it are pages of files, which the system takes back at need. On a busy machine the CPU's milliseconds tell
more than the clock's, so both are there. Finished cells of the JSON are kept: interrupt and run again at will.

The second form makes an index of that many segments (see ``made_index.py``), and a small one, unless they are there.
It prints one JSON of what an engine takes to open and search them in one process, with its text encoder loaded: wall
and CPU milliseconds, medians, alternatives query by query in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import made_index
import numpy as np
from harness import read_memory_mb, time_in_turn, time_queries
from made_index import WHO, MadeEncoder, unit

from vidret.channels.picture.query_bank import UNRELATED
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.search.models import choose_models
from vidret.search.open_index import OpenIndex
from vidret.search.preparation import save_scales, save_text_background
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.store.upkeep import folder_size
from vidret.store.vectors.faiss import FaissVectors
from vidret.store.vectors.flat import load_faiss
from vidret.store.vectors.ivf import KINDS, vector_bytes
from vidret.types import Filters, SegmentEmbedding

ALL_KINDS = ("flat", *KINDS, "milvus")
SIZES = (1000, 10_000, 100_000, 1_000_000)
SEGMENTS_PER_VIDEO = 1000
NUM_QUERIES = 300
QUERY_KINDS = ("drawn", "moved", "texts")
NUM_WARM = 20
MEMORY_FIELDS = ("VmRSS", "RssFile")
ROUNDS = 3
BESIDE_S = 60.0
SMALL = 100_000, 50_000  # segments and texts
TOP, CANDIDATES = 10, 200  # what people see; what an engine looks at again
MOVED = 0.5
SHRINK = 0.02  # of the variance goes to all directions alike: few real frames leave most of them unseen


@dataclass(frozen=True)
class Cloud:
    """Where vectors are, in the basis of their own axes: a mean, deviations, the real texts, and the axes."""

    mean: np.ndarray
    deviations: np.ndarray
    texts: np.ndarray
    axes: np.ndarray

    def draw(self, num: int, seed: int) -> np.ndarray:
        """Draw unit vectors."""
        noise = np.random.default_rng(seed).standard_normal((num, len(self.mean)), dtype=np.float32)
        return unit(self.mean + noise * self.deviations)

    def queries(self, stored: np.ndarray) -> np.ndarray:
        """Make the queries, one kind after another."""
        third = NUM_QUERIES // 3
        rng = np.random.default_rng(1)
        members = stored[rng.integers(0, len(stored), third)].astype(np.float32)
        moved = unit(members + MOVED * rng.standard_normal(members.shape) * self.deviations)
        return np.concatenate([self.draw(third, 2**40), moved, np.resize(self.texts, (third, len(self.mean)))])


def fit_cloud(like: Path, dim: int, texts: Path | None) -> tuple[Cloud, dict[str, Any]]:
    """Measure the frames of a real index; say what was measured."""
    with Store.open(like) as store:
        frames = np.concatenate([frame for frame, _ in store.features.read_frames(store.searchable())]).astype(
            np.float32
        )
        encoder = load_encoder(store.encoder_name)
    lines = [*(texts.read_text("utf-8").splitlines() if texts else []), *UNRELATED][: NUM_QUERIES // 3]
    sentences = np.stack([text.sentence for text in encoder.encode_text(lines)])
    own = frames.shape[1]
    spread, axes = np.linalg.eigh(np.cov(frames.T, dtype=np.float64))
    spread, axes = np.maximum(spread[::-1], 0), axes[:, ::-1]
    spread = (1 - SHRINK) * spread + SHRINK * spread.mean()
    taken, scale = np.arange(dim) * own // dim, (own / dim) ** 0.5
    cloud = Cloud(
        (scale * (frames.mean(0) @ axes)[taken]).astype(np.float32),
        (scale * np.sqrt(spread)[taken]).astype(np.float32),
        unit((sentences @ axes)[:, taken]),
        axes[:, taken].astype(np.float32),
    )
    told = {
        "frames": len(frames),
        "encoder": encoder.name,
        "own_dim": own,
        "mean_length": round(float(np.linalg.norm(cloud.mean)), 3),
        "effective_dimensions": round(float(spread.sum() ** 2 / (spread**2).sum()), 1),
        "texts": len(lines),
    }
    return cloud, told


# Building


def build_store(kind: str, size: int, work: Path, cloud: Cloud) -> tuple[Path, float, float]:
    """Make a store of this kind and size; give its folder, and the seconds for its segments and for its vectors.

    Kinds on this machine share one folder a size, filled once. Milvus has its own, since vectors go there as they come.
    """
    dim = len(cloud.mean)
    if kind == "milvus":
        path = work / f"{size}-milvus"
        store = Store.create(path, **WHO, dim=dim, vectors=f"milvus://{path / 'milvus.db'}")
    else:
        path = work / str(size)
        store = Store.create(path, **WHO, dim=dim)
    with store:
        started = time.perf_counter()
        fill(store, size, cloud)
        filled = time.perf_counter()
        if kind != "milvus":
            have(store, kind)
            store.upkeep.set_memory(0 if kind == "flat" else size * vector_bytes(kind, dim))
        store.upkeep.save_vectors()
        return path, filled - started, time.perf_counter() - filled


def fill(store: Store, size: int, cloud: Cloud) -> None:
    """Store segments as an index run would, a video at a time; what is stored already is skipped."""
    for first in range(0, size, SEGMENTS_PER_VIDEO):
        name, count = f"made-{first}", min(SEGMENTS_PER_VIDEO, size - first)
        if store.videos.find_complete(name) is not None:
            continue
        video = store.writer.begin_video(name, duration=float(count), facts={}, num_segments=count)
        store.writer.set_file(f"/made/{first}.mp4", state="running", video=video)
        vectors, times = cloud.draw(count, first), np.array([0.5])
        made = (SegmentEmbedding(vector, vector[None], times) for vector in vectors)
        store.writer.add_segments([NewSegment(video, n, n, n + 1.0, vector) for n, vector in enumerate(made)])
        store.writer.finish_video(video)
        store.writer.set_file(f"/made/{first}.mp4", state="done", num_bytes=0, mtime_ns=(first + 1) * 10**9)
        tell(f"{first + count:,} of {size:,} segments stored", end="\r")


def have(store: Store, kind: str) -> None:
    """Make a store search flat, or by shards, whatever its size: only here, to compare them."""
    ivf_from = sys.maxsize if kind == "flat" else 1
    store._vectors.index = FaissVectors(store._vectors._options, ivf_from=ivf_from)


def find_truth(path: Path, queries: np.ndarray) -> np.ndarray:
    """Find the ids that an exact search of the stored float16 values gives, by numpy."""
    with Store.open(path) as store:
        ids, vectors = store.searchable(), store.features.read_searchable()
        best, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
        for first in range(0, len(ids), 16_384):
            part = slice(first, first + 16_384)
            scores = np.concatenate([scores, queries @ vectors[part].astype(np.float32).T], axis=1)
            best = np.concatenate([best, np.broadcast_to(ids[part], (len(queries), len(ids[part])))], axis=1)
            kept = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
            scores, best = np.take_along_axis(scores, kept, 1), np.take_along_axis(best, kept, 1)
    return best


# Measuring, in a process of its own


def measure_store(path: Path, kind: str, asked: Path) -> dict[str, Any]:
    """Open a store and search it, one query at a time."""
    load_faiss()
    with np.load(asked) as arrays:
        queries, truth = arrays["queries"], arrays["truth"]
    before = [read_memory_mb(field) for field in MEMORY_FIELDS]
    started, worked = time.perf_counter(), time.process_time()
    with Store.open(path) as store:
        if kind != "milvus":
            have(store, kind)
        store.search(queries[:1], TOP)
        told: dict[str, Any] = {"open_ms": round(1e3 * (time.perf_counter() - started), 1)}
        told["open_cpu_ms"] = round(1e3 * (time.process_time() - worked), 1)
        for k in (TOP, CANDIDATES):
            for query in queries[-NUM_WARM:]:
                store.search(query[None], k)
            seconds, busy, recalls = [], [], []
            for query, expected in zip(queries, truth[:, :k], strict=True):
                started, worked = time.perf_counter(), time.process_time()
                _, ids = store.search(query[None], k)
                seconds.append(time.perf_counter() - started)
                busy.append(time.process_time() - worked)
                recalls.append(len(set(ids[0].tolist()) & set(expected.tolist())) / len(expected))
            told[f"p50_ms_at_{k}"] = round(1e3 * statistics.median(seconds), 2)
            told[f"p99_ms_at_{k}"] = round(1e3 * float(np.percentile(seconds, 99)), 2)
            told[f"p50_cpu_ms_at_{k}"] = round(1e3 * statistics.median(busy), 2)
            for name, part in zip(QUERY_KINDS, np.array_split(recalls, 3), strict=True):
                told[f"recall_at_{k}_{name}"] = round(float(np.mean(part)), 4)
    grown = [read_memory_mb(field) - old for field, old in zip(MEMORY_FIELDS, before, strict=True)]
    told["ram_mb"], told["mapped_mb"] = (round(megabytes, 1) for megabytes in grown)
    return told


def run_cell(kind: str, size: int, work: Path, cloud: Cloud) -> dict[str, Any]:
    """Build and measure one kind at one size."""
    path, fill_seconds, build_seconds = build_store(kind, size, work, cloud)
    asked = work / f"{size}.npz"
    if not asked.exists():
        with Store.open(path) as store:
            queries = cloud.queries(store.features.read_searchable())
        np.savez(asked, queries=queries, truth=find_truth(path, queries))
    command = [sys.executable, __file__, "--measure", str(path), kind, str(asked)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    features = path / "features"
    return {
        "fill_seconds": round(fill_seconds, 1),
        "build_seconds": round(build_seconds, 2),
        **json.loads(ran.stdout),
        "disk_mb": round((folder_size(path) - folder_size(features)) / 1e6, 2),  # the catalog and the vectors
        "features_mb": round(folder_size(features) / 1e6, 2),
        "load": round(os.getloadavg()[0], 1),  # of the machine: above its cores, times tell little
    }


# Searching with an engine


def measure_searches(index: Path, small: Path, encoder: MadeEncoder) -> dict[str, Any]:
    """Measure an engine over a large index and a small one; the small one holds what a few questions need."""
    told: dict[str, Any] = {"memory_before_mb": round(read_memory_mb("VmRSS"))}
    told["open"] = time_queries(lambda _: open_and_search(index, encoder), range(7))
    files, words = made_index.find_files(index), list(UNRELATED)
    half, few = (Filters(folder=str(files / name)) for name in ("even", "even/0"))
    with Engine.open(index, encoder=encoder, rerank="none") as engine:
        search = partial(engine.search, k=TOP)
        told["search"] = time_queries(search, words * ROUNDS)
        told["filters"] = time_in_turn(
            {"none": search, "half": partial(search, filters=half), "thousandth": partial(search, filters=few)}, words
        )
        judged = [(hit.video, hit.time) for hit in search(words[0])]
        likes = {f"{number} likes": partial(search, like=judged[:number], seen=judged) for number in (1, 3)}
        told["feedback"] = time_in_turn({"none": search, **likes}, words)
        told["ready"] = time_queries(lambda _: engine.check_index(), words)
        told["two_threads"] = measure_threads(search, words)
        told["beside_commits"] = measure_beside(index, search, words)
        told["memory_mb"] = {field: round(read_memory_mb(field)) for field in MEMORY_FIELDS}
    with Store.open(index) as store:
        nearest = partial(store.search, k=CANDIDATES)
        vectors = [text.sentence[None] for text in encoder.encode_text(words)]
        told["nearest"] = time_queries(nearest, vectors)
        told["nearest_two_threads"] = measure_threads(nearest, vectors)
    with Engine.open(small, encoder=encoder, rerank="none") as engine:
        asked = {"plain": "a dog runs", "without": "a dog runs -good", "phrase": '"zebra crossing", then a dog runs'}
        asks = {name: partial(lambda query, _: engine.search(query, TOP), query) for name, query in asked.items()}
        told["small"] = time_in_turn(asks, words[:20])
    return told


def prepare(path: Path, encoder: MadeEncoder) -> None:
    """Store what an index run computes ahead of searches."""
    index = OpenIndex(
        Store.open(path), encoder, choose_models(path, encoder, rerank="none", tokens="int8", head="none")
    )
    with Store.open(path, write=True) as store:
        save_scales(store, index.pictures)
    save_text_background(index.store)
    index.close()


def open_and_search(index: Path, encoder: MadeEncoder) -> None:
    """Open an index and wait for the first result."""
    with Engine.open(index, encoder=encoder, rerank="none") as engine:
        engine.search("a dog runs on a beach", TOP)


def measure_threads(ask: Callable[[Any], object], queries: Sequence[Any]) -> float:
    """Give the throughput of two threads relative to one: the median of rounds, in turn."""

    def ask_all(_: int) -> float:
        started = time.perf_counter()
        for query in queries:
            ask(query)
        return time.perf_counter() - started

    ratios = []
    for _ in range(2 * ROUNDS):
        single = ask_all(0)
        with ThreadPoolExecutor(2) as pool:
            ratios.append(2 * single / max(pool.map(ask_all, range(2))))
    return round(statistics.median(ratios), 2)


def measure_beside(index: Path, search: Callable[[str], object], words: list[str]) -> dict[str, float]:
    """Measure searches while another process commits a segment each second."""
    command = [sys.executable, __file__, "--commit", str(index)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        seconds, until = list[float](), time.monotonic() + BESIDE_S
        while time.monotonic() < until:
            started = time.perf_counter()
            search(words[len(seconds) % len(words)])
            seconds.append(time.perf_counter() - started)
        writer.terminate()
    return {"p50_ms": round(1e3 * statistics.median(seconds), 2), "p99_ms": round(1e3 * np.percentile(seconds, 99), 2)}


def run_searches(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the indexes that are not there, and measure."""
    cloud, told = fit_cloud(arguments.like, arguments.dim, arguments.texts)
    size, dim = arguments.searches, arguments.dim
    encoder = MadeEncoder(load_encoder(), cloud.axes)
    report: dict[str, Any] = {"segments": size, "texts_a_segment": arguments.texts_a_segment, "dim": dim, "like": told}
    index, small = arguments.work / f"searched-{size}-{dim}", arguments.work / f"asked-{dim}"
    for path, segments, texts in ((index, size, arguments.texts_a_segment * size), (small, *SMALL)):
        done, started = path.with_name(f"{path.name}.done"), time.perf_counter()
        if not done.exists():
            tell(f"making {path} ...")
            made_index.make_pictures(path, segments, cloud.draw, dim)
            if texts:
                made_index.make_texts(path, texts, common=path == small)
            prepare(path, encoder)
            done.touch()
            report[f"{path.name}_build_s"] = round(time.perf_counter() - started, 1)
    report["disk_mb"] = folder_size(index) // 10**6
    report |= measure_searches(index, small, encoder)
    return report | {"load": round(os.getloadavg()[0], 1)}


def tell(line: str, *, end: str = "\n") -> None:
    """Say how far it is."""
    print(f"{line:<60}", end=end, file=sys.stderr, flush=True)


def cells_to_do(sizes: list[int], kinds: list[str], cells: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Give what is not in the JSON yet, small before large."""
    for size in sorted(sizes):
        yield from ((size, kind) for kind in kinds if f"{size}/{kind}" not in cells)


def main() -> None:
    """Build and measure."""
    if sys.argv[1:2] == ["--commit"]:
        for number in made_index.commit_segments(Path(sys.argv[2]), 1.0):
            print(number, flush=True)
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure_store(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description="Measure stores of growing size, kind by kind.")
    parser.add_argument("--like", type=Path, required=True, metavar="INDEX")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--kinds", nargs="+", choices=ALL_KINDS, default=ALL_KINDS[:-1])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--texts", type=Path, help="real queries, a line each; unrelated ones follow")
    parser.add_argument("--work", type=Path, default=Path("bench-scale"), help="where the stores are made, and kept")
    parser.add_argument("--out", type=Path, default=Path("bench-scale.json"))
    parser.add_argument("--searches", type=int, metavar="SEGMENTS", help="measure an engine over so many instead")
    parser.add_argument("--texts-a-segment", type=int, default=5, help="of the index that an engine searches")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.searches:
        print(json.dumps(run_searches(arguments), indent=2))
        return
    cloud, told = fit_cloud(arguments.like, arguments.dim, arguments.texts)
    setting = {"dim": arguments.dim, "like": told, "cores": os.cpu_count(), "queries": NUM_QUERIES}
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {**setting, "cells": {}}
    if {key: report[key] for key in setting} != setting:
        parser.error(f"{arguments.out} was measured with other settings: {report}")
    for size, kind in cells_to_do(arguments.sizes, arguments.kinds, report["cells"]):
        tell(f"{size:,} {kind} ...")
        report["cells"][f"{size}/{kind}"] = cell = run_cell(kind, size, arguments.work, cloud)
        tell(f"\r{size:,} {kind}: {json.dumps(cell)}")
        unfinished = arguments.out.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(report, indent=2) + "\n")
        unfinished.replace(arguments.out)


if __name__ == "__main__":
    main()
