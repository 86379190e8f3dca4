"""Measure search and locate of pictures and words together; print tables.

    python tools/measure_words.py DATA [--index INDEX] [--cost] [--limit N]

DATA holds videos/ and queries.jsonl, whose rows have query, kind, file (null if no video shows what is asked for) and
relevant_windows in seconds. Every query is answered by ``search`` and ``locate`` over all videos.

- R@1, R@10: the right video is first, or among the first ten.
- R1@0.5: the best moment in the right video overlaps a true window by half or more (intersection over union).
- hit@1: so does the very first moment of all videos.
- nothing: the share of queries without a good match: right for queries with no file, wrong for others.
- AUC: how well the score of the first video separates the queries with a file from those without.

``--cost`` also indexes the videos twice, without and with words, and prints the CPU seconds of both.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidret import Engine

Row = dict[str, Any]
MEASURES = ("R@1", "R@10", "R1@0.5", "hit@1", "nothing")
OVERLAP = 0.5
INDEXING = (
    "import sys; from vidret import Engine; Engine.open(sys.argv[1]).index([sys.argv[2]], words=sys.argv[3] == 'on')"
)


def read_rows(path: Path) -> list[Row]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def overlap_windows(start: float, end: float, windows: Sequence[Sequence[float]]) -> float:
    """Return the best intersection over union of a span and a true window."""
    best = 0.0
    for first, last in windows:
        shared = max(0.0, min(end, last) - max(start, first))
        best = max(best, shared / (max(end, last) - min(start, first)))
    return best


def answer(engine: Engine, row: Row) -> Row:
    """Return the measures of one query that apply to it, in 0..1, the first score, and the time of the search."""
    started = time.perf_counter()
    hits = engine.search(row["query"], 10)
    elapsed_s = time.perf_counter() - started
    moments = engine.locate(row["query"], 10, videos=10, weak=True)
    nothing = not hits or all(hit.weak for hit in hits)
    measured: Row = {"nothing": float(nothing), "score": hits[0].score if hits else -np.inf, "seconds": elapsed_s}
    if row["file"] is None:
        return measured
    names = [] if nothing else [Path(hit.path).name for hit in hits]
    own = [moment for moment in moments if Path(moment.path).name == row["file"]]
    right = [overlap_windows(each.start, each.end, row["relevant_windows"]) >= OVERLAP for each in own[:1]]
    measured["R@1"], measured["R@10"] = float(names[:1] == [row["file"]]), float(row["file"] in names)
    measured["R1@0.5"] = float(not nothing and any(right))
    measured["hit@1"] = float(not nothing and any(right) and moments[0] is own[0])
    return measured


def compare_scores(present: Sequence[float], absent: Sequence[float]) -> float:
    """Return the probability that a present query scores above an absent one (AUC), ties counting half."""
    pairs = [(one > other) + 0.5 * (one == other) for one in present for other in absent]
    return float(np.mean(pairs)) if pairs else float("nan")


def tabulate(rows: Sequence[Row], answers: Sequence[Row]) -> list[str]:
    """Return the lines of the table: one per kind, then one for all queries with a file."""
    by_kind: defaultdict[str, list[Row]] = defaultdict(list)
    for row, each in zip(rows, answers, strict=True):
        by_kind[row["kind"]].append(each)
        if row["file"] is not None:
            by_kind["all with a file"].append(each)
    order = [
        *sorted(set(by_kind) - {"all with a file"}),
        *(["all with a file"] if "all with a file" in by_kind else []),
    ]
    lines = [f"{'kind':<18}{'n':>5}" + "".join(f"{name:>9}" for name in MEASURES)]
    for kind in order:
        cells = []
        for name in MEASURES:
            values = [each[name] for each in by_kind[kind] if name in each]
            cells.append(f"{100 * np.mean(values):>9.1f}" if values else f"{'-':>9}")
        lines.append(f"{kind:<18}{len(by_kind[kind]):>5}" + "".join(cells))
    return lines


def measure_cost(videos: Path) -> list[str]:
    """Index the videos without and with words, each in a process of its own; return lines with CPU seconds."""
    spent = {}
    for words in ("off", "on"):
        with tempfile.TemporaryDirectory(prefix="vidret-cost-") as index:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", INDEXING, index, str(videos), words], check=True, env=os.environ)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent[words] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = [f"indexing, words {words}: {seconds:.1f} s of CPU" for words, seconds in spent.items()]
    return [*lines, f"ratio: {spent['on'] / spent['off']:.2f}"]


def main() -> None:
    """Index the videos if need be, answer every query, print the tables."""
    parser = argparse.ArgumentParser(description="Measure search of pictures and words.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None, help="Index of the videos; default: a new one.")
    parser.add_argument("--cost", action="store_true", help="Also measure what indexing costs.")
    parser.add_argument("--limit", type=int, default=None, help="Only about so many queries, evenly chosen.")
    arguments = parser.parse_args()
    videos = arguments.data / "videos"
    rows = read_rows(arguments.data / "queries.jsonl")
    rows = rows[:: max(1, len(rows) // arguments.limit)] if arguments.limit else rows
    with Engine.open(arguments.index or tempfile.mkdtemp(prefix="vidret-words-")) as engine:
        if arguments.index is None:
            engine.index([videos], words=True)
        engine.search("warm up")
        answers = [answer(engine, row) for row in rows]
    print("\n".join(tabulate(rows, answers)))
    present, absent = (
        [each["score"] for row, each in zip(rows, answers, strict=True) if (row["file"] is None) == is_absent]
        for is_absent in (False, True)
    )
    print(f"AUC of present against absent: {compare_scores(present, absent):.3f}")
    print(f"search, p50: {1000 * float(np.median([each['seconds'] for each in answers])):.0f} ms")
    if arguments.cost:
        print("\n".join(measure_cost(videos)))


if __name__ == "__main__":
    main()
