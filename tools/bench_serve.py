"""Measure vidret serve; print one JSON object, and exit with 1 after an error.

    python tools/bench_serve.py [--videos 300] [--queries 200] [--clients 50] [--repeats 5] [--index DIR]
    python tools/bench_serve.py --soak 10 [--videos 120] [--clients 50]

Starts the real server in a process of its own on an index of rendered videos, starter encoder, or on DIR. By turns,
medians, no query asked twice: the engine in this process and a client of the server; one client and all at once,
through kept connections. Clients and server share the machine.

``--soak`` loads the server for minutes: clients search, locate and fetch frames, each with a pause of about a second
between two calls, while an indexer adds videos, deletes files, and runs ``vidret index --prune``. A video whose file is
deleted between a search and its frame is no error, if the answer says so: it is counted as ``gone``. ``memory_mb`` is
of the server and its decoders, the median of the second, third and fourth quarter of the time, on Linux.
"""

import argparse
import itertools
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import PREFIX, VIDRET, measure, print_json

from vidret.client import RemoteEngine, RemoteError
from vidret.data.synthetic.world import write_retrieval_world
from vidret.engine import Engine
from vidret.serve.files import GONE

PATIENCE = 120.0  # seconds a server may take to start
SIZE = 320  # pixels of a rendered video
WARM_QUERIES = 20
PAUSE_S = 1.0  # of a client between two calls, on average
MEMORY_EVERY_S = 2.0
BATCH = 4  # videos that each index run adds, and as many that it removes
WORDS = (
    ("red", "blue", "small", "large", "old", "wooden", "shining", "broken"),
    ("dog", "car", "square", "child", "boat", "ring", "bird", "house", "star", "train"),
    ("moving to the left", "turning", "growing", "falling", "at rest", "seen from above", "in the dark", "jumping"),
    ("on a beach", "in a street", "beside another", "before a wall", "in the snow", "on green ground"),
)


def draw_queries() -> Iterator[str]:
    """Return queries that all differ, in an order of chance."""
    queries = [" ".join(("a", *words)) for words in itertools.product(*WORDS)]
    random.Random(0).shuffle(queries)
    return iter(queries)


def render_videos(folder: Path, num_videos: int) -> Path:
    """Render videos; return their folder."""
    write_retrieval_world(folder / "world", num_train=num_videos - 4, num_val=2, num_test=2, size=SIZE)
    return folder / "world" / "videos"


@contextmanager
def run_server(index: Path, log: Path) -> Iterator[tuple[str, int]]:
    """Run vidret serve until the end of the block; yield its URL and process id once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [*VIDRET, "serve", "--index", str(index), "--port", str(port), "--no-open"]
    open_to_all = {name: value for name, value in os.environ.items() if name != "VIDRET_TOKEN"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=open_to_all) as server:
        try:
            wait_for(url, server, log)
            yield url, server.pid
        finally:
            server.terminate()


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a server answers."""
    ends = time.monotonic() + PATIENCE
    with RemoteEngine(url) as remote:
        while server.poll() is None and time.monotonic() < ends:
            try:
                remote.info()
            except RemoteError:
                time.sleep(0.1)
            else:
                return
    raise SystemExit(f"the server does not answer:\n{log.read_text()}")


def measure_one(engine: Engine, remote: RemoteEngine, queries: Sequence[str]) -> dict[str, float]:
    """Ask the engine here and the server the same, by turns."""
    spent_ms: dict[str, list[float]] = {"engine": [], "http": []}
    asked = [("engine", engine.search), ("http", remote.search)]
    for query in queries:
        for name, search in asked:
            cost = measure(lambda search=search, query=query: search(query))  # type: ignore[misc]
            spent_ms[name].append(1e3 * cost.wall_s)
        asked.reverse()
    added = statistics.median(far - near for near, far in zip(spent_ms["engine"], spent_ms["http"], strict=True))
    medians = {f"{name}_p50_ms": round(statistics.median(own), 2) for name, own in spent_ms.items()}
    return {**medians, "added_p50_ms": round(added, 2)}


def measure_many(url: str, num_clients: int, repeats: int, queries: Iterator[str]) -> dict[str, float]:
    """Ask with one client, then with many at once, by turns and equally often; return searches a second."""
    rates: dict[str, list[float]] = {"one": [], "many": []}

    def ask(client: RemoteEngine, part: Sequence[str]) -> None:
        for query in part:
            client.search(query)

    with ExitStack() as stack, ThreadPoolExecutor(num_clients) as pool:
        clients = [stack.enter_context(RemoteEngine(url)) for _ in range(num_clients)]
        list(pool.map(RemoteEngine.info, clients))  # connected
        for _ in range(repeats):
            parts = [list(itertools.islice(queries, 2)) for _ in clients]
            single = list(itertools.islice(queries, 2 * num_clients))
            rates["one"].append(len(single) / measure(lambda part=single: ask(clients[0], part)).wall_s)  # type: ignore[misc]
            cost = measure(lambda parts=parts: list(pool.map(ask, clients, parts)))  # type: ignore[misc]
            rates["many"].append(len(single) / cost.wall_s)
    one, many = (statistics.median(own) for own in rates.values())
    return {"one_a_second": round(one, 1), "many_a_second": round(many, 1), "ratio": round(many / one, 2)}


def measure_server(scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Start the server and measure it."""
    queries, index = draw_queries(), arguments.index or scratch / "index"
    if arguments.index is None:
        videos = render_videos(scratch, arguments.videos)
        with Engine.open(index, encoder="starter") as engine:
            engine.index([videos], words=False)
    with (
        run_server(index, scratch / "server.log") as (url, _),
        RemoteEngine(url) as remote,
        Engine.open(index) as engine,
    ):
        measure_one(engine, remote, list(itertools.islice(queries, WARM_QUERIES)))
        return {
            "videos": engine.info().videos,
            "threads": torch.get_num_threads(),
            "search": measure_one(engine, remote, list(itertools.islice(queries, arguments.queries))),
            f"{arguments.clients} clients": measure_many(url, arguments.clients, arguments.repeats, queries),
        }


# Minutes of load


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

    def to_dict(self) -> dict[str, Any]:
        """Return what is printed."""
        quarter = max(1, len(self.memory_mb) // 4)
        quarters = [self.memory_mb[number * quarter : (number + 1) * quarter] for number in (1, 2, 3)]
        calls = {
            kind: {
                "calls": len(waited),
                "p50_ms": round(statistics.median(waited), 1),
                "p99_ms": round(float(np.percentile(waited, 99)), 1),
            }
            for kind, waited in sorted(self.waited_ms.items())
        }
        return {
            **calls,
            "index_runs": len(self.runs),
            "memory_mb": [round(statistics.median(own)) for own in quarters if own],
            "gone": len(self.gone),
            "errors": self.errors,
        }


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
        command = [*VIDRET, "index", str(videos), "--index", str(index), "--prune"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        record.runs.append(time.monotonic() - started)
        if done.returncode:
            record.errors.append(f"index: {done.stderr.strip()}")


def read_private_mb(pid: int) -> float:
    """Return the memory of a process and its descendants, without pages that they share."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            fields = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
            waiting += [int(child) for task in process.glob("task/*/children") for child in task.read_text().split()]
        except (OSError, ProcessLookupError):  # it has ended
            continue
        total += sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
    return total / 1024


def watch_memory(pid: int, stop: threading.Event, record: Record) -> None:
    """Note the memory of a process every few seconds until it is told to stop."""
    while not stop.wait(MEMORY_EVERY_S):
        record.memory_mb.append(read_private_mb(pid))


def soak(folder: Path, *, minutes: float, num_clients: int, num_videos: int) -> dict[str, Any]:
    """Render videos, index half of them, and load a server with clients and an indexer."""
    waiting = sorted(render_videos(folder, num_videos).iterdir())
    videos, index = folder / "videos", folder / "index"
    videos.mkdir()
    for path in waiting[: num_videos // 2]:
        path.rename(videos / path.name)
    waiting = waiting[num_videos // 2 :]
    subprocess.run([*VIDRET, "index", str(videos), "--index", str(index), "--words", "off"], check=True)
    record, stop = Record(), threading.Event()
    queries = list(draw_queries())
    with run_server(index, folder / "server.log") as (url, pid), ThreadPoolExecutor(num_clients + 2) as pool:
        ends = time.monotonic() + 60 * minutes
        memory = pool.submit(watch_memory, pid, stop, record)
        jobs = [pool.submit(run_client, url, number, queries, ends, record) for number in range(num_clients)]
        jobs.append(pool.submit(run_indexer, index, videos, waiting, ends, record))
        try:
            for job in jobs:
                job.result()
        finally:
            stop.set()
        memory.result()
    return record.to_dict()


def main() -> int:
    """Measure or soak, and print."""
    parser = argparse.ArgumentParser(description="Measure vidret serve.")
    parser.add_argument("--videos", type=int, default=300, help="how many to render; even")
    parser.add_argument("--queries", type=int, default=200, help="asked of the engine and of the server in turn")
    parser.add_argument("--clients", type=int, default=50, help="that ask at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", type=Path, default=None, help="an index that is there, in place of rendered videos")
    parser.add_argument("--soak", type=float, default=None, metavar="MINUTES", help="load the server while it changes")
    given = parser.parse_args()
    asked = WARM_QUERIES + given.queries + 4 * given.clients * given.repeats
    if asked > (most := math.prod(map(len, WORDS))):
        parser.error(f"no query is asked twice: there are {most}, and {asked} are needed")
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        if given.soak is None:
            report = measure_server(Path(folder), given)
        else:
            report = soak(Path(folder), minutes=given.soak, num_clients=given.clients, num_videos=given.videos)
    print_json(report)
    return int(bool(report.get("errors")))


if __name__ == "__main__":
    sys.exit(main())
