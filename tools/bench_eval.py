"""Measure how long metrics take; print one JSON object.

    python tools/bench_eval.py [--queries 50000] [--predictions submission.jsonl --truth highlight_val_release.jsonl]

Retrieval: random scores of the size of MSR-VTT 1k-A and of MSVD, then a corpus of random unit vectors whose scores are
multiplied tile by tile, for the matrix would not fit. Grounding: a submission in the form of QVHighlights against its
truth, where both files are given. Memory is the most that the process has held so far.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vidret.data.benchmarks.qvhighlights import read_labelled
from vidret.evaluate.comparing import compare
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import score_highlights
from vidret.metrics.predictions import read_predictions
from vidret.metrics.retrieval import evaluate, evaluate_tiles, hits

DIM = 512
MSVD_VIDEOS, MSVD_CAPTIONS = 670, 27_763


def measure(report: dict[str, Any], name: str, call: Callable[[], Any]) -> Any:
    """Note how long a call takes, and the most memory so far."""
    started, busy = time.perf_counter(), time.process_time()
    result = call()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report[name] = {"seconds": round(seconds, 3), "cpu_seconds": round(busy, 3), "peak_memory_mb": round(peak)}
    return result


def measure_retrieval(report: dict[str, Any], num_queries: int) -> None:
    """Rank matrices, then a corpus by tiles."""
    random = np.random.default_rng(0)
    scores = random.standard_normal((1000, 1000), dtype=np.float32)
    rows = measure(report, "1,000 x 1,000", lambda: evaluate(scores))
    first, second = (hits(row.metrics.ranks.mean, 10) for row in rows)
    measure(report, "compare 1,000 queries, 10,000 resamples", lambda: compare(first, second, seed=0))

    scores = random.standard_normal((MSVD_CAPTIONS, MSVD_VIDEOS), dtype=np.float32)
    truth = np.arange(MSVD_CAPTIONS) * MSVD_VIDEOS // MSVD_CAPTIONS
    measure(report, f"MSVD, {MSVD_CAPTIONS:,} x {MSVD_VIDEOS}", lambda: evaluate(scores, truth))

    texts, videos = (random.standard_normal((num_queries, DIM), dtype=np.float32) for _ in range(2))
    for vectors in (texts, videos):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    corpus = f"{num_queries:,} x {num_queries:,} by tiles"
    measure(
        report, corpus, lambda: evaluate_tiles(lambda r, c: texts[r] @ videos[c].T, np.arange(num_queries), len(videos))
    )


def measure_grounding(report: dict[str, Any], predictions: Path, truth: Path) -> None:
    """Read both files and score moments, and highlights where there are any."""
    queries = measure(report, "read the truth", lambda: read_labelled(truth.stem, truth).queries)
    found = measure(report, "read the predictions", lambda: read_predictions(predictions))
    moments = measure(report, f"moments of {len(queries):,} queries", lambda: score_moments(queries, found))
    report["MR-mAP"] = round(moments.full.mean_average_precision, 2)
    if all(each.saliency is not None for each in found):
        measure(report, f"highlights of {len(queries):,} queries", lambda: score_highlights(queries, found))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description="Measure how long metrics take.")
    parser.add_argument("--queries", type=int, default=50_000, help="texts and videos of the corpus")
    parser.add_argument("--predictions", type=Path, default=None, help="a submission of QVHighlights, .jsonl")
    parser.add_argument("--truth", type=Path, default=None, help="the annotations it is scored against")
    arguments = parser.parse_args()
    if (arguments.predictions is None) != (arguments.truth is None):
        parser.error("--predictions and --truth belong together")
    report: dict[str, Any] = {}
    if arguments.predictions is not None:
        measure_grounding(report, arguments.predictions, arguments.truth)
    measure_retrieval(report, arguments.queries)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
