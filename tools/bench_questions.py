"""Measure every kind of question over a large index; print one JSON object.

    python tools/bench_questions.py [--segments 100000] [--index DIR] [--only KIND ...] [--num 48]

The index is that of bench_search.py, with the same text encoder and queries: events in order and at the same time,
negative terms, images, images with words, taught concepts, and moments. Times are milliseconds of the CPU and of the
clock, of one question after another, with the encoding of the query.
"""

import argparse
import json
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from bench_search import build, time_queries

from vidret.align.baseline import UNRELATED
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.types import ComposedQuery, Query

CONCEPT = "benched"
NUM_EXAMPLES = 5
LOCATED = ("plain", "ordered", "while", "negative", "image", "concept")


def draw_image(random: np.random.Generator) -> np.ndarray:
    """Return an image of random squares."""
    return random.integers(256, size=(9, 16, 3), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)


def list_queries() -> dict[str, list[Query]]:
    """Return queries by kind."""
    random = np.random.default_rng(0)
    images = [draw_image(random) for _ in UNRELATED]
    pairs = list(pairwise(UNRELATED))
    triples = list(zip(UNRELATED, UNRELATED[1:], UNRELATED[2:], strict=False))
    return {
        "plain": list(UNRELATED),
        "ordered": [f"{one}, then {other}" for one, other in pairs],
        "ordered, three events": [f"{one}, then {other}, then {third}" for one, other, third in triples],
        "while": [f"{one} while {other}" for one, other in pairs],
        "negative": [f"{one}, no {other.split()[-1]}" for one, other in pairs],
        "ordered, negative": [f"{one}, then {other}, no {third.split()[-1]}" for one, other, third in triples],
        "image": list(images),
        "image and words": [
            ComposedQuery(images=(image,), text=text) for image, text in zip(images, UNRELATED, strict=True)
        ],
        "concept": [f"@{CONCEPT} {text}" for text in UNRELATED],
        "concept, ordered": [f"@{CONCEPT}, then {text}" for text in UNRELATED],
    }


def main() -> None:
    """Build or open the index, ask, print."""
    parser = argparse.ArgumentParser(description="Measure every kind of question over a large index.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--index", type=Path, default=None)
    parser.add_argument("--only", nargs="+", default=None, metavar="KIND")
    parser.add_argument("--num", type=int, default=48, help="questions of each kind")
    arguments = parser.parse_args()
    encoder = load_encoder()
    index = arguments.index or Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    if not (index / "catalog.sqlite").exists():
        build(index, encoder, arguments.segments, 12)
    report: dict[str, object] = {"threads": torch.get_num_threads()}
    with Engine.open(index, encoder=encoder) as engine:
        report["segments"] = engine.info().segments
        random = np.random.default_rng(1)
        engine.teach(CONCEPT, [draw_image(random) for _ in range(NUM_EXAMPLES)], replace=True)
        queries = list_queries()
        kinds = [(kind, kind, False) for kind in queries] + [(f"moments: {kind}", kind, True) for kind in LOCATED]
        for name, kind, is_located in kinds:
            if arguments.only is None or name in arguments.only:
                ask = (lambda query: engine.locate(query, 10, weak=True)) if is_located else engine.search
                report[name] = time_queries(ask, queries[kind][: arguments.num])
    report["load"] = round(os.getloadavg()[0], 1)  # of the machine: above its cores, times tell little
    if arguments.index is None:
        shutil.rmtree(index)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
