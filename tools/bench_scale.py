"""Measure stores of growing size, kind by kind, or searches of an engine over one large index; print one JSON object.

    python tools/bench_scale.py --like INDEX [--sizes 1000 10000 100000 1000000] [--kinds flat ivf ...] [--work DIR]
    python tools/bench_scale.py --like INDEX --searches 1000000 [--texts-a-segment 5] [--dim 384] [--work DIR]

Vectors are drawn like real ones: as normals with the mean and covariance of the frames that ``vidret index`` stored in
INDEX, each scaled to unit length. Where --dim is not its own, the spectrum keeps its shape and is stretched. A third of
the queries are drawn alike, a third are stored vectors moved by half of a deviation, and a third are vectors of real
texts, by INDEX's encoder, put through the same stretching: they lie farther from all stored vectors than the others,
and lose recall first.

Each number of the first form is of a fresh process. ``open`` is from Store.open to the first answer, modules imported
before; files are in the page cache. RAM is the growth of that process over all its searches; ``mapped`` of it are pages
of files, which the system takes back at need. Cells are printed on stderr as they are done, and what they made is kept.

The second form makes an index of that many segments (see ``made_index.py``), unless it is there, and measures an engine
that opens and searches it in one process, with its text encoder loaded: alternatives query by query in turn.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import made_index
import numpy as np
from harness import (
    Cost,
    describe_ms,
    make_parser,
    measure,
    measure_call,
    print_json,
    read_memory_mb,
    run_in_new_process,
    take_turns,
    tell,
    time_in_turn,
    time_queries,
)
from made_index import MadeEncoder, unit

from vidret.channels.picture.query_bank import UNRELATED
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.store.upkeep import folder_size
from vidret.store.vectors.faiss import FaissVectors
from vidret.store.vectors.flat import load_faiss
from vidret.store.vectors.ivf import KINDS, vector_bytes
from vidret.types import Filters

ALL_KINDS = ("flat", *KINDS, "milvus")
SIZES = [1000, 10_000, 100_000, 1_000_000]
SEGMENTS_PER_VIDEO = 1000
NUM_QUERIES = 300
QUERY_KINDS = ("drawn", "moved", "texts")
MEMORY_FIELDS = ("VmRSS", "RssFile")
ROUNDS = 3
BESIDE_S = 60.0
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
        stored = [frames for frames, _ in store.features.read_frames(store.searchable())]
        encoder = load_encoder(store.encoder_name)
    frames = np.concatenate(stored).astype(np.float32)
    lines = [*(texts.read_text("utf-8").splitlines() if texts else []), *UNRELATED][: NUM_QUERIES // 3]
    sentences = np.stack([text.sentence for text in encoder.encode_text(lines)])
    encoder_dim = frames.shape[1]
    spread, axes = np.linalg.eigh(np.cov(frames.T, dtype=np.float64))
    spread, axes = np.maximum(spread[::-1], 0), axes[:, ::-1]
    spread = (1 - SHRINK) * spread + SHRINK * spread.mean()
    taken, scale = np.arange(dim) * encoder_dim // dim, (encoder_dim / dim) ** 0.5
    cloud = Cloud(
        (scale * (frames.mean(0) @ axes)[taken]).astype(np.float32),
        (scale * np.sqrt(spread)[taken]).astype(np.float32),
        unit((sentences @ axes)[:, taken]),
        axes[:, taken].astype(np.float32),
    )
    facts = {
        "frames": len(frames),
        "encoder": encoder.name,
        "own_dim": encoder_dim,
        "mean_length": round(float(np.linalg.norm(cloud.mean)), 3),
        "effective_dimensions": round(float(spread.sum() ** 2 / (spread**2).sum()), 1),
        "texts": len(lines),
    }
    return cloud, facts


# A store of each kind and size


def run_cell(kind: str, size: int, work: Path, cloud: Cloud) -> dict[str, Any]:
    """Build and measure one kind at one size.

    Kinds on this machine share one folder a size, filled once. Milvus has its own, since vectors go there as they come.
    """
    dim, path, asked = (
        len(cloud.mean),
        work / (f"{size}-milvus" if kind == "milvus" else str(size)),
        work / f"{size}.npz",
    )
    vectors = f"milvus://{path / 'milvus.db'}" if kind == "milvus" else None
    make = partial(made_index.make_pictures, path, size, cloud.draw, dim, per_video=SEGMENTS_PER_VIDEO, vectors=vectors)

    def save() -> None:
        with Store.open(path, write=True) as store:
            if kind != "milvus":
                have(store, kind)
                store.upkeep.set_memory(0 if kind == "flat" else size * vector_bytes(kind, dim))
            store.upkeep.save_vectors()

    filled, built = measure(make), measure(save)
    if not asked.exists():
        with Store.open(path) as store:
            ids, stored = store.features.intact_vectors(store.searchable())
        queries = cloud.queries(stored)
        np.savez(asked, queries=queries, truth=find_truth(ids, stored, queries))
    features_bytes = folder_size(path / "features")
    return {
        "fill_seconds": round(filled.wall_s, 1),
        "build_seconds": round(built.wall_s, 2),
        **run_in_new_process(measure_store, path, kind, asked),
        "disk_mb": round((folder_size(path) - features_bytes) / 1e6, 2),  # the catalog and the vectors
        "features_mb": round(features_bytes / 1e6, 2),
        "load": round(os.getloadavg()[0], 1),  # of the machine: above its cores, times tell little
    }


def have(store: Store, kind: str) -> None:
    """Make a store search flat, or by shards, whatever its size: only here, to compare them."""
    ivf_from = sys.maxsize if kind == "flat" else 1
    store._vectors.index = FaissVectors(store._vectors._options, ivf_from=ivf_from)


def find_truth(ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Find the ids that an exact search of the stored float16 values gives, by numpy."""
    best, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for first in range(0, len(ids), 16_384):
        rows = slice(first, first + 16_384)
        scores = np.concatenate([scores, queries @ vectors[rows].astype(np.float32).T], axis=1)
        best = np.concatenate([best, np.broadcast_to(ids[rows], (len(queries), len(ids[rows])))], axis=1)
        kept = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
        scores, best = np.take_along_axis(scores, kept, 1), np.take_along_axis(best, kept, 1)
    return best


def measure_store(path: Path, kind: str, asked: Path) -> dict[str, Any]:
    """Open a store and search it, one query at a time: to be called in a process of its own."""
    load_faiss()
    with np.load(asked) as arrays:
        queries, truth = arrays["queries"], arrays["truth"]
    before = [read_memory_mb(field) for field in MEMORY_FIELDS]

    def open_store() -> Store:
        store = Store.open(path)
        if kind != "milvus":
            have(store, kind)
        store.search(queries[:1], TOP)
        return store

    store, opened = measure_call(open_store)
    report: dict[str, Any] = {"open": opened}
    with store:
        for k in (TOP, CANDIDATES):
            found = list[np.ndarray]()
            report[f"at {k}"] = time_queries(lambda query: found.append(store.search(query[None], k)[1][0]), queries)  # noqa: B023
            pairs = zip(found[-len(queries) :], truth[:, :k], strict=True)
            recalls = [
                len({*found_ids.tolist()} & {*expected.tolist()}) / len(expected) for found_ids, expected in pairs
            ]
            for name, kind_recalls in zip(QUERY_KINDS, np.array_split(recalls, 3), strict=True):
                report[f"at {k}"][f"recall_{name}"] = round(float(np.mean(kind_recalls)), 4)
    grown = [read_memory_mb(field) - old for field, old in zip(MEMORY_FIELDS, before, strict=True)]
    report["ram_mb"], report["mapped_mb"] = (round(megabytes, 1) for megabytes in grown)
    return report


# Searching with an engine


def measure_searches(index: Path, encoder: MadeEncoder) -> dict[str, Any]:
    """Measure an engine over a large index."""
    report: dict[str, Any] = {"memory_before_mb": round(read_memory_mb("VmRSS"))}
    report["open"] = time_queries(lambda _: open_and_search(index, encoder), range(7))
    files, words = made_index.find_files(index), list(UNRELATED)
    half, few = (Filters(folder=str(files / name)) for name in ("even", "even/0"))
    with Engine.open(index, encoder=encoder, rerank="none") as engine:
        search = partial(engine.search, k=TOP)
        report["search"] = time_queries(search, words * ROUNDS)
        filters = {"none": search, "half": partial(search, filters=half), "thousandth": partial(search, filters=few)}
        report["filters"] = time_in_turn(filters, words, num_warm=len(words))  # what each reads is mapped then
        judged = [(hit.video, hit.time) for hit in search(words[0])]
        likes = {f"{num_likes} likes": partial(search, like=judged[:num_likes], seen=judged) for num_likes in (1, 3)}
        report["feedback"] = time_in_turn({"none": search, **likes}, words, num_warm=len(words))
        report["ready"] = time_queries(lambda _: engine.check_index(), words)
        report["two_threads"] = measure_threads(search, words)
        report["beside_commits"] = measure_beside(index, search, words)
        report["memory_mb"] = {field: round(read_memory_mb(field)) for field in MEMORY_FIELDS}
    with Store.open(index) as store:
        nearest = partial(store.search, k=CANDIDATES)
        vectors = [text.sentence[None] for text in encoder.encode_text(words)]
        report["nearest"] = time_queries(nearest, vectors)
        report["nearest_two_threads"] = measure_threads(nearest, vectors)
    return report


def open_and_search(index: Path, encoder: MadeEncoder) -> None:
    """Open an index and wait for the first result."""
    with Engine.open(index, encoder=encoder, rerank="none") as engine:
        engine.search("a dog runs on a beach", TOP)


def measure_threads(ask: Callable[[Any], object], queries: Sequence[Any]) -> float:
    """Return the throughput of two threads relative to one: the median of rounds, in turn."""

    def ask_all(_: int = 0) -> None:
        for query in queries:
            ask(query)

    def ask_twice() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ask_all, range(2)))

    costs = take_turns({"one": ask_all, "two": ask_twice}, 2 * ROUNDS)
    return round(2 * costs["one"].wall_s / costs["two"].wall_s, 2)


def commit(index: Path, ready: Any) -> None:
    """Commit a segment each second, in a process of its own, and say when the first one is stored."""
    for _ in made_index.commit_segments(index, 1.0):
        ready.set()


def measure_beside(index: Path, search: Callable[[str], object], words: list[str]) -> dict[str, float]:
    """Measure searches while another process commits a segment each second."""
    context = multiprocessing.get_context("spawn")
    ready, costs = context.Event(), list[Cost]()
    writer = context.Process(target=commit, args=(index, ready), daemon=True)
    writer.start()
    ready.wait()
    until = time.monotonic() + BESIDE_S
    while time.monotonic() < until:
        costs.append(measure(partial(search, words[len(costs) % len(words)])))
    writer.terminate()
    return describe_ms(costs)


def run_searches(given: argparse.Namespace, cloud: Cloud) -> dict[str, Any]:
    """Make the index unless it is there, and measure."""
    size, dim, encoder = given.searches, given.dim, MadeEncoder(load_encoder(), cloud.axes)
    report: dict[str, Any] = {"segments": size, "texts_a_segment": given.texts_a_segment, "dim": dim}
    index = given.work / f"searched-{size}-{dim}"

    def make() -> None:
        made_index.make_pictures(index, size, cloud.draw, dim)
        if given.texts_a_segment:
            made_index.make_texts(index, given.texts_a_segment * size)
        with Store.open(index, write=True) as store:
            store.upkeep.save_vectors()
        with Engine.open(index, encoder=encoder, rerank="none") as engine:
            engine.prepare_searches()

    if not (done := index.with_name(f"{index.name}.done")).exists():
        tell(f"making {index} ...")
        report["build_s"] = round(measure(make).wall_s, 1)
        done.touch()
    report["disk_mb"] = folder_size(index) // 10**6
    return report | measure_searches(index, encoder)


def main() -> None:
    """Build and measure."""
    parser = make_parser(__doc__, dim=512, texts_a_segment=5, sizes=SIZES, work=Path("bench-scale"))
    parser.add_argument("--like", type=Path, required=True, metavar="INDEX")
    parser.add_argument("--kinds", nargs="+", choices=ALL_KINDS, default=ALL_KINDS[:-1])
    parser.add_argument("--texts", type=Path, help="real queries, a line each; unrelated ones follow")
    parser.add_argument("--searches", type=int, metavar="SEGMENTS", help="measure an engine over so many instead")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cloud, facts = fit_cloud(given.like, given.dim, given.texts)
    if given.searches:
        print_json({"like": facts, **run_searches(given, cloud)})
        return
    cells = {}
    for size, kind in product(sorted(given.sizes), given.kinds):
        cells[f"{size}/{kind}"] = run_cell(kind, size, given.work, cloud)
        tell(f"{size:,} {kind}: {json.dumps(cells[f'{size}/{kind}'], default=Cost.to_dict)}")
    print_json({"dim": given.dim, "like": facts, "cores": os.cpu_count(), "queries": NUM_QUERIES, "cells": cells})


if __name__ == "__main__":
    main()
