"""Measure search and locate on a folder of videos with captions and moments; print one JSON object.

    python tools/measure_quality.py DATA [--index FOLDER] [--model NAME]

DATA holds captions.jsonl (video, captions, kind; files under videos/) and moments.jsonl (query, file, kind,
relevant_windows in seconds). Each kind of caption is searched among the videos of its kind: as a new index has it,
without reranking, and in an index of the sampling ``fast`` without reranking. Moments are looked for in their own
video.
"""

import time
from collections import defaultdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from harness import PREFIX, find_overlaps, make_parser, percent, print_json, read_rows

from vidret import Engine
from vidret.text import absolute_path

Rows = list[dict[str, Any]]


def rank_captions(engine: Engine, data: Path, rows: Rows, rerank: str = "auto") -> dict[str, Any]:
    """Search with the first and the second caption of videos, by kind; ties have their average rank."""
    report: dict[str, Any] = {}
    for kind, own_rows in group_by_kind(rows).items():
        names = {absolute_path(data / "videos" / row["video"]) for row in own_rows}
        for number in (0, 1):
            ranks = []
            for row in own_rows:
                own, text = absolute_path(data / "videos" / row["video"]), row["captions"][: number + 1][-1]
                hits = engine.search(text, k=100_000, candidates=100_000, rerank=rerank)
                scores = {path: hit.score for hit in hits for path in (hit.path, *hit.copies) if path in names}
                higher = sum(score > scores[own] for score in scores.values())
                equal = sum(score == scores[own] for score in scores.values())
                ranks.append(1 + higher + (equal - 1) / 2)
            recalls = {f"R@{k}": percent(np.array(ranks) <= k) for k in (1, 5, 10)}
            report[f"{kind}, caption {number}"] = {"queries": len(ranks), **recalls, "MdR": float(np.median(ranks))}
    return report


def group_by_kind(rows: Rows) -> dict[str, Rows]:
    """Return the rows of each kind."""
    by_kind = defaultdict[str, Rows](list)
    for row in rows:
        by_kind[row["kind"]].append(row)
    return by_kind


def locate_moments(engine: Engine, data: Path, rows: Rows, *, refine: bool = False) -> dict[str, float]:
    """Locate each query in its own video: R1 and R5 at three overlaps, the mean overlap, and the CPU time of a query.

    The CPU time is of this process, without that of the decoder.
    """
    first, best, spent_s = [], [], []
    for row in rows:
        started = time.process_time()
        overlaps = find_overlaps(
            engine, row["query"], data / row["file"], row["relevant_windows"], 5, refine_edges=refine
        )
        spent_s.append(time.process_time() - started)
        first.append(overlaps[0])
        best.append(max(overlaps))
    recalls = {
        f"R{k}@{limit}": percent(np.array(found) >= limit)
        for k, found in ((1, first), (5, best))
        for limit in (0.3, 0.5, 0.7)
    }
    return {"queries": len(rows), **recalls, "mIoU": percent(first), "p50_cpu_ms": 1000 * float(np.median(spent_s))}


def main() -> None:
    """Index what is missing, ask everything, print the numbers."""
    parser = make_parser(__doc__, model="starter")
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None, help="folder of the indexes; default: a new one")
    given = parser.parse_args()
    data, index = given.data, given.index or Path(mkdtemp(prefix=PREFIX))
    captions, moments = read_rows(data / "captions.jsonl"), read_rows(data / "moments.jsonl")
    report: dict[str, Any] = {}
    with Engine.open(index / "videos", encoder=given.model) as engine:
        engine.index([data / "videos"], words=False)
        report["as a new index"] = rank_captions(engine, data, captions)
        report["without reranking"] = rank_captions(engine, data, captions, "none")
    with Engine.open(index / "fast", encoder=given.model) as engine:
        engine.index([data / "videos"], words=False, sampling="fast")
        report["fast, without reranking"] = rank_captions(engine, data, captions, "none")
    with Engine.open(index / "moments", encoder=given.model) as engine:
        engine.index(sorted({str(data / row["file"]) for row in moments}), words=False)
        for kind, rows in group_by_kind(moments).items():
            report[f"moments, {kind}"] = locate_moments(engine, data, rows)
            report[f"moments, {kind}, edges refined"] = locate_moments(engine, data, rows, refine=True)
    print_json(report)


if __name__ == "__main__":
    main()
