"""Load vidret serve for minutes while its index grows and shrinks; print one JSON object, exit with 1 after an error.

    python tools/soak.py [--minutes 10] [--clients 50] [--videos 120]

Clients search, locate and fetch frames, each with a pause of about a second between two calls. An indexer adds
rendered videos meanwhile, deletes files, and runs ``vidret index --prune``. A video whose file is deleted between a
search and its frame is no error, if the answer says so: it is counted as ``gone``. ``memory_mb`` is of the server and
its decoders, the median of the second, third and fourth quarter of the time. All share this machine, which must be
Linux.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
from bench_serve import PROGRAM, SIZE, draw_queries, run_server

from vidret.client import RemoteEngine, RemoteError
from vidret.data.synthetic.world import write_retrieval_world
from vidret.serve.files import GONE

PAUSE_S = 1.0  # of a client between two calls, on average
MEMORY_EVERY_S = 2.0
BATCH = 4  # videos that each index run adds, and as many that it removes


@dataclass(slots=True)
class Record:
    """What clients and the indexer did, filled by all threads; appending is atomic."""

    waited_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def time(self, kind: str, call: Callable[[], Any]) -> Any:
        """Call something, and note how long it took or why it failed; None after an error."""
        started = time.perf_counter()
        try:
            answer = call()
        except RemoteError as error:
            is_gone = kind == "frame" and (error.status == HTTPStatus.NOT_FOUND or GONE in str(error))
            (self.gone if is_gone else self.errors).append(f"{kind}: {error}")
            return None
        self.waited_ms[kind].append(1e3 * (time.perf_counter() - started))
        return answer


def run_client(url: str, number: int, queries: Sequence[str], ends: float, record: Record) -> None:
    """Ask one thing after the other until the end, as a person would."""
    chance = random.Random(number)
    with RemoteEngine(url) as remote:
        while time.monotonic() < ends:
            query = chance.choice(queries)
            hits = record.time("search", lambda query=query: remote.search(query, 5))  # type: ignore[misc]
            if hits:
                hit = chance.choice(hits)
                record.time("frame", lambda hit=hit: remote.frame(hit.video, hit.time))  # type: ignore[misc]
            if chance.random() < 0.3:
                record.time("locate", lambda query=query: remote.locate(query, 3))  # type: ignore[misc]
            time.sleep(chance.uniform(0.5, 1.5) * PAUSE_S)


def run_indexer(index: Path, videos: Path, waiting: list[Path], ends: float, record: Record) -> None:
    """Move videos into the indexed folder and others out of it, and index it, until the end."""
    while time.monotonic() < ends:
        present = sorted(videos.iterdir())
        for path in random.Random(len(record.runs)).sample(present, min(BATCH, len(present) - 1)):
            waiting.append(path.rename(index.parent / path.name))  # noqa: PERF401  files move one by one
        for _ in range(BATCH):
            path = waiting.pop(0)
            path.rename(videos / path.name)
        command = [*PROGRAM, "index", str(videos), "--index", str(index), "--prune"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        record.runs.append(time.monotonic() - started)
        if done.returncode:
            record.errors.append(f"index: {done.stderr.strip()}")


def read_memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants, without pages that they share."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            fields = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
            waiting += [int(each) for task in process.glob("task/*/children") for each in task.read_text().split()]
        except (OSError, ProcessLookupError):  # it has ended
            continue
        total += sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    return total / 1024


def watch_memory(pid: int, stop: threading.Event, record: Record) -> None:
    """Note the memory of a process every few seconds until it is told to stop."""
    while not stop.wait(MEMORY_EVERY_S):
        record.memory_mb.append(read_memory_mb(pid))


def summarise(record: Record) -> dict[str, Any]:
    """Return what is printed."""
    quarter = max(1, len(record.memory_mb) // 4)
    quarters = [record.memory_mb[number * quarter : (number + 1) * quarter] for number in (1, 2, 3)]
    calls = {
        kind: {
            "calls": len(waited),
            "p50_ms": round(statistics.median(waited), 1),
            "p99_ms": round(float(np.percentile(waited, 99)), 1),
            "max_ms": round(max(waited), 1),
        }
        for kind, waited in sorted(record.waited_ms.items())
    }
    return {
        **calls,
        "index_runs": len(record.runs),
        "memory_mb": [round(statistics.median(each)) for each in quarters if each],
        "gone": len(record.gone),
        "errors": len(record.errors),
    }


def soak(folder: Path, *, minutes: float, num_clients: int, num_videos: int) -> Record:
    """Render videos, index half of them, and load a server with clients and an indexer."""
    write_retrieval_world(folder / "world", num_train=num_videos - 4, num_val=2, num_test=2, size=SIZE)
    videos, index = folder / "videos", folder / "index"
    videos.mkdir()
    waiting = sorted((folder / "world" / "videos").iterdir())
    for path in waiting[: num_videos // 2]:
        path.rename(videos / path.name)
    waiting = waiting[num_videos // 2 :]
    subprocess.run([*PROGRAM, "index", str(videos), "--index", str(index), "--words", "off"], check=True)
    record, stop = Record(), threading.Event()
    queries = list(draw_queries())
    with run_server(index, folder / "server.log") as (url, pid), ThreadPoolExecutor(num_clients + 2) as pool:
        ends = time.monotonic() + 60 * minutes
        memory = pool.submit(watch_memory, pid, stop, record)
        jobs = [pool.submit(run_client, url, each, queries, ends, record) for each in range(num_clients)]
        jobs.append(pool.submit(run_indexer, index, videos, waiting, ends, record))
        try:
            for job in jobs:
                job.result()
        finally:
            stop.set()
        memory.result()
    return record


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser(description="Load vidret serve while its index grows and shrinks.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--videos", type=int, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidret-soak-") as folder:
        record = soak(
            Path(folder), minutes=arguments.minutes, num_clients=arguments.clients, num_videos=arguments.videos
        )
    print(json.dumps(summarise(record), indent=2))
    for error in record.errors[:10]:
        print(error, file=sys.stderr)
    return 1 if record.errors else 0


if __name__ == "__main__":
    sys.exit(main())
