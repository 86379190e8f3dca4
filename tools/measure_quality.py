"""Measure search and locate on a folder of videos with captions and moments; print one JSON object.

    python tools/measure_quality.py DATA --index INDEX [--model NAME] [--rerank NAME ...]

DATA holds captions.jsonl (video, captions, kind; files under videos/) and moments.jsonl (query, file, kind,
relevant_windows in seconds). Each kind of caption is searched among the videos of its kind, with what is asked to order
the candidates, and corrected (SK-norm) by a bank of the other captions. Moments are looked for in their own video, and
(corpus) in all videos with moments.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from harness import read_rows

from vidret import Engine
from vidret.ground.spans import overlap
from vidret.text import absolute_path


def rank_captions(engine: Engine, data: Path, rows: list[dict[str, Any]], number: int, rerank: str) -> dict[str, float]:
    """Search with one caption of each video; the rank counts the videos of only these rows, ties by their average."""
    names = {absolute_path(data / "videos" / row["video"]) for row in rows}
    ranks = []
    for row in rows:
        own = absolute_path(data / "videos" / row["video"])
        hits = engine.search(pick_caption(row, number), k=100_000, candidates=100_000, rerank=rerank)
        scores = {path: hit.score for hit in hits for path in (hit.path, *hit.copies) if path in names}
        higher = sum(score > scores[own] for score in scores.values())
        equal = sum(score == scores[own] for score in scores.values())
        ranks.append(1 + higher + (equal - 1) / 2)
    array = np.array(ranks)
    recalls = {f"R@{k}": round(100 * float((array <= k).mean()), 2) for k in (1, 5, 10)}
    return {"queries": len(rows), **recalls, "MdR": float(np.median(array)), "MnR": round(float(array.mean()), 2)}


def pick_caption(row: dict[str, Any], number: int) -> str:
    """Give a video's caption by number, the last one where there are fewer."""
    captions: list[str] = row["captions"]
    return captions[min(number, len(captions) - 1)]


def best_overlap(start: float, end: float, windows: list[list[float]]) -> float:
    """Give the largest intersection over union of a span with the true windows."""
    edges = np.array(windows)
    return float(overlap(edges[:, 0], edges[:, 1], start, end).max())


def locate_moments(engine: Engine, data: Path, rows: list[dict[str, Any]], *, refine: bool = False) -> dict[str, float]:
    """Locate each query in its own video: R1 and R5 at three overlaps, the mean overlap, and the CPU time of a query.

    The CPU time is of this process, without that of the decoder.
    """
    first, best, spent_s = [], [], []
    for row in rows:
        started = time.process_time()
        moments = engine.locate(
            row["query"], 5, video=data / row["file"], overlapping=True, weak=True, refine_edges=refine
        )
        spent_s.append(time.process_time() - started)
        overlaps = [best_overlap(moment.start, moment.end, row["relevant_windows"]) for moment in moments]
        first.append(overlaps[0])
        best.append(max(overlaps))
    recalls = {
        f"R{k}@{limit}": round(100 * float((np.array(found) >= limit).mean()), 2)
        for k, found in ((1, first), (5, best))
        for limit in (0.3, 0.5, 0.7)
    }
    p50 = round(1000 * float(np.median(spent_s)), 1)
    return {"queries": len(rows), **recalls, "mIoU": round(100 * float(np.mean(first)), 2), "p50_cpu_ms": p50}


def locate_in_corpus(engine: Engine, data: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Locate each query among all videos: R@1 and R@10 with the right video and an overlap of at least half."""
    right = np.zeros((len(rows), 10), dtype=bool)
    for number, row in enumerate(rows):
        own = absolute_path(data / row["file"])
        moments = engine.locate(row["query"], 10, videos=1000, overlapping=True, weak=True)
        for rank, moment in enumerate(moments):
            good = moment.path == own and best_overlap(moment.start, moment.end, row["relevant_windows"]) >= 0.5
            right[number, rank] = good
    return {
        "queries": len(rows),
        "R@1,IoU=0.5": round(100 * float(right[:, 0].mean()), 2),
        "R@10,IoU=0.5": round(100 * float(right.any(axis=1).mean()), 2),
    }


def main() -> None:
    """Index what is missing, ask everything, print the numbers."""
    parser = argparse.ArgumentParser(description="Measure search and locate on captioned videos.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--rerank", nargs="+", default=["none", "ucofia", "glscl"])
    arguments = parser.parse_args()
    data: Path = arguments.data
    index = arguments.index or Path(tempfile.mkdtemp(prefix="vidret-quality-"))
    captions, moments = read_rows(data / "captions.jsonl"), read_rows(data / "moments.jsonl")
    report: dict[str, Any] = {"data": str(data), "model": arguments.model, "retrieval": {}, "moments": {}}

    engine = Engine.open(index / "videos", encoder=arguments.model)
    engine.index([data / "videos"], words=False)
    by_kind: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in captions:
        by_kind[row["kind"]].append(row)
    for rerank in arguments.rerank:
        report["retrieval"][rerank] = {
            f"{kind}, caption {n}": rank_captions(engine, data, rows, n, rerank)
            for kind, rows in by_kind.items()
            for n in (0, 1)
        }
    for rerank in arguments.rerank:
        for n in (0, 1):  # each caption is corrected by a bank of the others
            engine.calibrate([pick_caption(row, 1 - n) for row in captions], rerank=rerank)
            for kind, rows in by_kind.items():
                key = f"{rerank}, SK-norm"
                report["retrieval"].setdefault(key, {})[f"{kind}, caption {n}"] = rank_captions(
                    engine, data, rows, n, rerank
                )
        engine.forget_calibration(rerank=rerank)

    engine = Engine.open(index / "moments", encoder=engine.encoder)
    engine.index(sorted({str(data / row["file"]) for row in moments}), words=False)
    for kind in sorted({row["kind"] for row in moments}):
        rows = [row for row in moments if row["kind"] == kind]
        report["moments"][kind] = {
            "one video": locate_moments(engine, data, rows),
            "one video, edges refined": locate_moments(engine, data, rows, refine=True),
            "corpus": locate_in_corpus(engine, data, rows),
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
