"""Measure search and locate of pictures and words together; print tables.

    python tools/measure_words.py DATA [--index INDEX] [--cost] [--limit N]

DATA is a folder as for ``vidret eval folder``, with videos and queries.jsonl; ``vidret.evaluate.queries`` defines the
measures. ``--cost`` also indexes the videos twice, without and with words, and prints the CPU seconds and the peak
memory of both (on Linux).
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import sum_memory_mb

from vidret import Engine
from vidret.cli.evaluate.scores import print_tables
from vidret.data.records import find_videos
from vidret.evaluate.gallery import index_gallery
from vidret.evaluate.queries import evaluate_queries, read_queries_folder
from vidret.evaluate.report import Gallery

POLL_INTERVAL_S = 0.1
INDEXING = (
    "import sys; from vidret import Engine; Engine.open(sys.argv[1]).index([sys.argv[2]], words=sys.argv[3] == 'on')"
)


def measure_cost(videos: Path) -> list[str]:
    """Index the videos without and with words, each in a process of its own; return lines with CPU and memory."""
    seconds, peaks = {}, {}
    for words in ("off", "on"):
        with tempfile.TemporaryDirectory(prefix="vidret-cost-") as index:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            peaks[words] = run_and_watch([sys.executable, "-c", INDEXING, index, str(videos), words])
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[words] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = [
        f"indexing, words {words}: {seconds[words]:.1f} s of CPU, {peaks[words] / 1e3:.2f} GB at most"
        for words in seconds
    ]
    ratio, more = seconds["on"] / seconds["off"], (peaks["on"] - peaks["off"]) / 1e3
    return [*lines, f"ratio: {ratio:.2f}, {more:.2f} GB more"]


def run_and_watch(command: Sequence[str]) -> float:
    """Run a command; return the peak of the resident MB of all its processes together, shared pages in each."""
    process, peak = subprocess.Popen(command), 0.0
    while process.poll() is None:
        peak = max(peak, sum_memory_mb(process.pid))
        time.sleep(POLL_INTERVAL_S)
    if process.returncode:
        sys.exit(f"indexing must end without an error, got exit status {process.returncode}")
    return peak


def main() -> None:
    """Index the videos if need be, answer every query, print the tables."""
    parser = argparse.ArgumentParser(description="Measure search of pictures and words.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None, help="Index of the videos; default: a new one.")
    parser.add_argument("--cost", action="store_true", help="Also measure what indexing costs.")
    parser.add_argument("--limit", type=int, default=None, help="Only about so many queries, evenly chosen.")
    arguments = parser.parse_args()
    split, videos = read_queries_folder(arguments.data)
    step = max(1, len(split.corpus_queries) // arguments.limit) if arguments.limit else 1
    split = replace(split, corpus_queries=split.corpus_queries[::step])
    with Engine.open(arguments.index or tempfile.mkdtemp(prefix="vidret-words-")) as engine:
        if arguments.index is None:
            gallery = index_gallery(engine, split, videos, words=True)[0]
        else:
            gallery = Gallery(*find_videos(split.videos, videos), {})
        engine.search("warm up")
        report = evaluate_queries(engine, split, gallery)
    print_tables(report.to_dict())
    print(f"search, p50: {report.results['search_p50_ms']:.0f} ms")
    if arguments.cost:
        print("\n".join(measure_cost(videos)))


if __name__ == "__main__":
    main()
