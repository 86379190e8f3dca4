"""Measure what vidret serve adds to the engine, and what it takes away; print a table, or one JSON object.

    python tools/bench_serve.py [--videos 300] [--queries 200] [--clients 50] [--repeats 5] [--index DIR] [--json]

Starts the real server in a process of its own on an index of rendered videos, starter encoder, or on DIR, in which it
keeps thumbnails. All by turns, medians, no query asked twice: the engine in this process and a client of the server;
one client and all at once, through kept connections; then the thumbnails of 20 hits over six connections, as browsers
fetch them, and the first paint of the page in a new browser profile (Chromium, where playwright is installed). Clients,
server and browser share the machine.
"""

import argparse
import importlib
import itertools
import json
import math
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

from vidret.client import RemoteEngine, RemoteError
from vidret.data.synthetic.world import write_retrieval_world
from vidret.engine import Engine
from vidret.present.show import show_table

PATIENCE = 120.0  # seconds a server may take to start
SIZE = 320  # pixels, about what a thumbnail shows
NUM_HITS, NUM_CONNECTIONS = 20, 6  # of a page, and of a browser to one server
WARM_QUERIES = 20
PROGRAM = (sys.executable, "-c", "from vidret.cli import main; main()")  # vidret, from the environment of this Python
WORDS = (
    ("red", "blue", "small", "large", "old", "wooden", "shining", "broken"),
    ("dog", "car", "square", "child", "boat", "ring", "bird", "house", "star", "train"),
    ("moving to the left", "turning", "growing", "falling", "at rest", "seen from above", "in the dark", "jumping"),
    ("on a beach", "in a street", "beside another", "before a wall", "in the snow", "on green ground"),
)


def make_index(folder: Path, num_videos: int) -> Path:
    """Render videos and index them with the starter."""
    write_retrieval_world(folder / "world", num_train=num_videos - 4, num_val=2, num_test=2, size=SIZE)
    with Engine.open(folder / "index", encoder="starter") as engine:
        engine.index([folder / "world" / "videos"], words=False)
    return folder / "index"


def draw_queries() -> Iterator[str]:
    """Give queries that all differ, in an order of chance."""
    queries = [" ".join(("a", *words)) for words in itertools.product(*WORDS)]
    random.Random(0).shuffle(queries)
    return iter(queries)


@contextmanager
def run_server(index: Path, log: Path) -> Iterator[tuple[str, int]]:
    """Run vidret serve until the end of the block; give its URL and process id once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [*PROGRAM, "serve", "--index", str(index), "--port", str(port), "--no-open"]
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


def timed(work: Callable[[], Any]) -> float:
    """Run something and give the milliseconds it took."""
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def measure_one(engine: Engine, remote: RemoteEngine, queries: Sequence[str]) -> dict[str, float]:
    """Ask the engine here and the server the same, by turns."""
    spent: dict[str, list[float]] = {"engine": [], "http": []}
    asked = [("engine", engine.search), ("http", remote.search)]
    for query in queries:
        for name, search in asked:
            spent[name].append(timed(partial(search, query)))
        asked.reverse()
    added = statistics.median(far - near for near, far in zip(spent["engine"], spent["http"], strict=True))
    medians = {f"{name}_p50_ms": round(statistics.median(each), 2) for name, each in spent.items()}
    return {**medians, "added_p50_ms": round(added, 2)}


def measure_many(url: str, num_clients: int, repeats: int, queries: Iterator[str]) -> dict[str, float]:
    """Ask with one client, then with many at once, by turns and equally often; give searches a second."""
    errors: list[str] = []
    waited: list[float] = []
    rates: dict[str, list[float]] = {"one": [], "many": []}

    def ask(client: RemoteEngine, part: Sequence[str]) -> None:
        for query in part:
            started = time.perf_counter()
            try:
                client.search(query)
            except RemoteError as error:
                errors.append(str(error))
            waited.append(1e3 * (time.perf_counter() - started))

    def ask_all(clients: Sequence[RemoteEngine], parts: Sequence[Sequence[str]]) -> None:
        list(pool.map(ask, clients, parts))

    with ExitStack() as stack, ThreadPoolExecutor(num_clients) as pool:
        clients = [stack.enter_context(RemoteEngine(url)) for _ in range(num_clients)]
        list(pool.map(RemoteEngine.info, clients))  # connected
        for _ in range(repeats):
            parts = [list(itertools.islice(queries, 2)) for _ in clients]
            alone = list(itertools.islice(queries, 2 * num_clients))
            rates["one"].append(len(alone) / timed(partial(ask, clients[0], alone)))
            waited.clear()
            rates["many"].append(len(alone) / timed(partial(ask_all, clients, parts)))
    one, many = (1e3 * statistics.median(rates[name]) for name in ("one", "many"))
    return {
        "one_a_second": round(one, 1),
        "many_a_second": round(many, 1),
        "ratio": round(many / one, 2),
        "many_p50_ms": round(statistics.median(waited), 1),
        "many_max_ms": round(max(waited), 1),
        "errors": len(errors),
    }


def measure_thumbnails(url: str, remote: RemoteEngine, query: str, repeats: int) -> dict[str, float]:
    """Fetch the thumbnails of one answer, over and over; the first time nothing is ready."""
    paths = [f"/api/thumbnails/{hit.video}?t={hit.time}" for hit in remote.search(query, NUM_HITS)]
    address = url.removeprefix("http://")
    connections = [HTTPConnection(address, timeout=30) for _ in range(NUM_CONNECTIONS)]

    def fetch(connection: HTTPConnection, part: Sequence[str]) -> None:
        for path in part:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            reason = response.headers.get("X-Vidret-Reason")
            if response.status != 200 or reason:
                raise SystemExit(f"{path}: no thumbnail, got {response.status} {reason}")

    parts = [paths[place::NUM_CONNECTIONS] for place in range(NUM_CONNECTIONS)]
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        spent = [timed(lambda: list(pool.map(fetch, connections, parts))) for _ in range(repeats + 1)]
    for connection in connections:
        connection.close()
    return {"hits": len(paths), "first_ms": round(spent[0]), "warm_p50_ms": round(statistics.median(spent[1:]), 1)}


def measure_paint(url: str, repeats: int) -> dict[str, float] | str:
    """Open the page in a fresh profile each time; give when it was first painted, as the browser counts."""
    try:
        playwright = importlib.import_module("playwright.sync_api")
    except ImportError:
        return "not measured: playwright is not installed"
    spent: dict[str, list[float]] = {"first-paint": [], "first-contentful-paint": []}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(repeats + 1):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(url)
                for name, each in spent.items():
                    entry = f"performance.getEntriesByName('{name}')[0]"
                    page.wait_for_function(f"() => {entry}")
                    each.append(page.evaluate(f"() => {entry}.startTime"))
        browser.close()
    medians = {name.replace("-", "_"): round(statistics.median(each[1:]), 1) for name, each in spent.items()}
    return {f"{name}_p50_ms": value for name, value in medians.items()}


def list_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Lay the numbers out beside their targets."""
    one, many, paint, thumbnails = (report[name] for name in ("search", "clients", "paint", "thumbnails"))
    painted = paint if isinstance(paint, str) else f"{paint['first_contentful_paint_p50_ms']} ms"
    return [
        ("videos; threads of torch", f"{report['videos']}; {report['threads']}", ""),
        ("engine.search, p50", f"{one['engine_p50_ms']} ms", ""),
        ("the same over HTTP, p50", f"{one['http_p50_ms']} ms", ""),
        ("added by HTTP, p50", f"{one['added_p50_ms']} ms", "5 ms at most"),
        ("searches a second, one client", f"{many['one_a_second']}", ""),
        (f"searches a second, {report['num_clients']} clients", f"{many['many_a_second']}", ""),
        ("ratio", f"{many['ratio']}x", "3x at least"),
        ("errors", f"{many['errors']}", "0"),
        ("waiting among all clients, p50; longest", f"{many['many_p50_ms']}; {many['many_max_ms']} ms", ""),
        (f"thumbnails of {thumbnails['hits']} hits, warm (first)", _say_thumbnails(thumbnails), "300 ms at most"),
        ("first contentful paint of the page, p50", painted, "200 ms at most"),
    ]


def _say_thumbnails(thumbnails: dict[str, float]) -> str:
    return f"{thumbnails['warm_p50_ms']} ({thumbnails['first_ms']}) ms"


def main() -> None:
    """Start the server, measure, print."""
    parser = argparse.ArgumentParser(description="Measure what vidret serve adds to the engine.")
    parser.add_argument("--videos", type=int, default=300, help="how many to render; even")
    parser.add_argument("--queries", type=int, default=200, help="asked of the engine and of the server in turn")
    parser.add_argument("--clients", type=int, default=50, help="that ask at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--index", type=Path, default=None, help="an index that is there, in place of rendered videos")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    queries = draw_queries()
    asked = WARM_QUERIES + arguments.queries + 4 * arguments.clients * arguments.repeats + 1
    if asked > math.prod(map(len, WORDS)):
        parser.error(f"no query is asked twice: there are {math.prod(map(len, WORDS))}, and {asked} are needed")
    with tempfile.TemporaryDirectory(prefix="vidret-bench-") as scratch:
        index = arguments.index or make_index(Path(scratch), arguments.videos)
        with (
            run_server(index, Path(scratch) / "server.log") as (url, _),
            RemoteEngine(url) as remote,
            Engine.open(index) as engine,
        ):
            measure_one(engine, remote, list(itertools.islice(queries, WARM_QUERIES)))
            report = {
                "videos": engine.info().videos,
                "threads": torch.get_num_threads(),
                "num_clients": arguments.clients,
                "search": measure_one(engine, remote, list(itertools.islice(queries, arguments.queries))),
                "clients": measure_many(url, arguments.clients, arguments.repeats, queries),
                "thumbnails": measure_thumbnails(url, remote, next(queries), arguments.repeats),
                "paint": measure_paint(url, arguments.repeats),
            }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show_table(("what", "measured", "target"), list_rows(report))


if __name__ == "__main__":
    main()
