"""Measure what Ray costs on one machine: the same videos, cores and encoder, on threads and on Ray.

    python tools/bench_ray.py VIDEOS [--limit 40] [--rounds 3] [--words on]

Each run is a ``vidret index`` of its own into a new folder, by turns; medians. Ray's start, with the loading of models
in its workers, is apart: it is paid once a run, however long that is. Prints a table to stderr and a line of JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vidret.index.ray.run import START
from vidret.index.run import count_cores
from vidret.video.scan import scan

PROGRAM = "from vidret.cli import main; main()"
RUNNERS = ("local", "ray")


def run_index(files: list[str], runner: str, model: str, words: str) -> dict[str, float]:
    """Index files into a new folder; give the seconds of the work and of the start before it."""
    with tempfile.TemporaryDirectory(prefix="vidret-bench-") as folder:
        manifest = Path(folder, "videos.jsonl")
        manifest.write_text("".join(json.dumps({"path": file}) + "\n" for file in files))
        command = ["index", str(manifest), "--index", f"{folder}/index", "--runner", runner]
        command += ["--model", model, "--words", words, "--json"]
        told = subprocess.run([sys.executable, "-c", PROGRAM, *command], check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(told.stdout)
    if report["failed"]:
        sys.exit(f"videos must be readable, got {report['failed'][0]}")
    start = report["speeds"].get(START, 0.0)
    return {"seconds": report["elapsed"] - start, "start": start, "segments": report["num_segments"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what Ray costs on one machine.")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--words", default="off", help="Words that are read too, as for vidret index.")
    arguments = parser.parse_args()
    files = scan(arguments.videos)[: arguments.limit]
    runs: dict[str, list[dict[str, float]]] = {runner: [] for runner in RUNNERS}
    for number in range(arguments.rounds):
        for runner in RUNNERS[:: 1 if number % 2 else -1]:
            runs[runner].append(run_index(files, runner, arguments.model, arguments.words))
            print(number, runner, {name: round(value, 2) for name, value in runs[runner][-1].items()}, file=sys.stderr)
    medians = {
        runner: {name: round(statistics.median(each[name] for each in several), 2) for name in several[0]}
        for runner, several in runs.items()
    }
    ratio = round(medians["local"]["seconds"] / medians["ray"]["seconds"], 3)
    print(f"{'':8}{'seconds':>9}{'start':>9}{'segments':>10}", file=sys.stderr)
    for runner, row in medians.items():
        print(f"{runner:8}{row['seconds']:9.2f}{row['start']:9.2f}{row['segments']:10.0f}", file=sys.stderr)
    print(f"throughput of Ray against threads: {ratio:.2f}", file=sys.stderr)
    print(json.dumps({"files": len(files), "cores": count_cores(), "ratio": ratio, **medians}))


if __name__ == "__main__":
    main()
