"""Measure search over a large index; print one JSON object.

    python tools/bench_search.py [--segments 100000] [--frames 12] [--texts 0] [--index DIR] [--only PART ...]

The index is of made vectors (see made_index.py), or the one that an earlier run left in DIR; with ``--texts`` it also
has that many timed texts, so that a search compares pictures and words. Parts share it with ``--index`` only:

- ``search``: opens it and asks with the real text encoder, one query after another: reranked by the index's own ranker
  from stored tokens, and without rerank.
- ``questions``: events in order and at the same time, negative terms, images, images with words, taught concepts; and
  moments of them.
- ``start``: what commands cost from the start of Python to their end: help, a search here, one by a server, the models.
- ``describe``: the overview of a folder, a comparison of two and the diversity of the index, as commands: cold, without
  the vectors of phrases that an index keeps, and warm, with them.

Milliseconds have text encoding in them. Files are in the page cache after the warm searches.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from bench_serve import run_server
from harness import VIDRET, make_parser, measure, run_parts, run_vidret, take_turns, time_queries
from made_index import build_index, make_texts

from vidret.channels.picture.query_bank import UNRELATED
from vidret.corpus.vectors import FOLDER
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import ComposedQuery, Query

CONCEPT, NUM_EXAMPLES = "benched", 5
START_REPEATS = 15
LOCATED = ("plain", "ordered", "while", "negative", "image", "concept")


def measure_search(engine: Engine, index: Path, num_queries: int) -> dict[str, Any]:
    """Open the index, then search and locate."""

    def open_store() -> None:
        with Store.open(index) as store:
            store.search(np.eye(1, engine.encoder.dim, dtype=np.float32), 1)

    queries = UNRELATED[:num_queries]
    opened, first = measure(open_store), measure(lambda: engine.search("a warm start", 10))
    return {
        "rerank": engine.ranker.name,
        "index_mb": round(engine.info().num_bytes / 1e6),
        "open_seconds": round(opened.wall_s, 3),
        "first_search_seconds_with_baseline": round(first.wall_s, 3),
        "search": time_queries(lambda query: engine.search(query, 10), queries),
        "search_without_rerank": time_queries(lambda query: engine.search(query, 10, rerank=None), queries),
        "locate": time_queries(lambda query: engine.locate(query, 10, weak=True), queries),
    }


def list_questions() -> dict[str, list[Query]]:
    """Return questions by kind."""
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
        "image": list(images),
        "image and words": [
            ComposedQuery(images=(image,), text=text) for image, text in zip(images, UNRELATED, strict=True)
        ],
        "concept": [f"@{CONCEPT} {text}" for text in UNRELATED],
    }


def draw_image(random: np.random.Generator) -> np.ndarray:
    """Return an image of random squares."""
    return random.integers(256, size=(9, 16, 3), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)


def measure_questions(engine: Engine, _index: Path, num_queries: int) -> dict[str, Any]:
    """Ask every kind of question, and locate some."""
    random = np.random.default_rng(1)
    questions = {kind: own[:num_queries] for kind, own in list_questions().items()}
    engine.teach(CONCEPT, [draw_image(random) for _ in range(NUM_EXAMPLES)], replace=True)
    report: dict[str, Any] = {kind: time_queries(engine.search, own) for kind, own in questions.items()}
    for kind in LOCATED:
        report[f"moments: {kind}"] = time_queries(lambda query: engine.locate(query, 10, weak=True), questions[kind])
    return report


def measure_start(index: Path) -> dict[str, Any]:
    """Run short commands by turns, each in a process of its own."""
    with run_server(index, index / "server.log") as (url, _):
        commands: dict[str, tuple[object, ...]] = {
            "python": (sys.executable, "-c", "pass"),
            "help": (*VIDRET, "--help"),
            "help of search": (*VIDRET, "search", "--help"),
            "search": (*VIDRET, "search", "a dog on a beach", "--index", index),
            "search --server": (*VIDRET, "search", "a dog on a beach", "--server", url),
            "models": (*VIDRET, "models"),
        }
        runs = {
            name: partial(subprocess.run, [str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            for name, command in commands.items()
        }
        return {name: cost.to_dict() for name, cost in take_turns(runs, START_REPEATS).items()}


def measure_describe(index: Path) -> dict[str, Any]:
    """Run each command cold and warm."""
    one, other = index / "files" / "a", index / "files" / "b"
    commands = {
        "overview": ("describe", one),
        "against": ("describe", one, "--against", other),
        "diversity": ("info", "--diversity"),
    }
    report: dict[str, Any] = {}
    for name, command in commands.items():
        shutil.rmtree(index / FOLDER, ignore_errors=True)
        report[name] = {
            state: measure(lambda command=command: run_vidret(*command, "--index", index)).to_dict()  # type: ignore[misc]
            for state in ("cold", "warm")
        }
    return report


def open_index(given: argparse.Namespace, scratch: Path) -> tuple[Path, Engine]:
    """Open the index, or build it unless it is there."""
    encoder, index = load_encoder(), given.index or scratch
    encoder.encode_text(["warm"])
    if not Store.exists(index):
        build_index(index, encoder, given.segments, given.frames)
    if given.texts and not TextStore.exists(index):
        make_texts(index, given.texts)
    engine = Engine.open(index, encoder=encoder)
    info = engine.info()
    if info.with_tokens < info.segments:
        raise SystemExit(f"{index}: all {info.segments} segments must have tokens, got {info.with_tokens}")
    return index, engine


def main() -> None:
    """Build or open the index, ask, print."""
    parser = make_parser(__doc__, segments=100_000, frames=12, texts=0, queries=len(UNRELATED))
    parser.add_argument("--index", type=Path, default=None)
    measures: dict[str, Callable[[Engine, Path, int], dict[str, Any]]] = {
        "search": measure_search,
        "questions": measure_questions,
        "start": lambda _engine, index, _: measure_start(index),
        "describe": lambda _engine, index, _: measure_describe(index),
    }

    def run(name: str, given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
        index, engine = open_index(given, scratch)
        with engine:
            return measures[name](engine, index, given.queries)

    run_parts(parser, {name: partial(run, name) for name in measures}, ["search"])


if __name__ == "__main__":
    main()
