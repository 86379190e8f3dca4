"""Measure vidret serve; print one JSON object, and exit with 1 after an error.

    python tools/bench_serve.py [--videos 300] [--queries 200] [--clients 50] [--repeats 5] [--index DIR]
    python tools/bench_serve.py --only soak [--minutes 10] [--videos 120] [--clients 50]
    python tools/bench_serve.py --only page [--segments 100000] [--keys 40] [--index DIR]

The server runs in a process of its own; clients and the browser share the machine. The parts:

- ``search``: an index of rendered videos by the starter, or DIR. By turns, medians, no query asked twice: the engine in
  this process and a client of the server; one client and all at once, through kept connections.
- ``soak``: minutes of load: clients search, locate and fetch frames, each with a pause of about a second between two
  calls, while an indexer adds videos, deletes files, and runs ``vidret index --prune``. A video whose file is deleted
  between a search and its frame is no error, if the answer says so: it is counted as ``gone``. ``memory_mb`` is of the
  server and its decoders, the median of the second, third and fourth quarter of the time, on Linux.
- ``page``: the page in a browser, over a made index, which is left in DIR. ``key_to_results_ms`` is from a key press in
  the search box to the cards of its results, with pauses between keys; ``took_ms`` is what the server says of it.
  ``scroll`` are the times between two frames while a list of all videos, loaded to its end before, is scrolled by 3,000
  pixels a second. Thumbnails are one picture, since the files are empty.
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

import torch
from harness import VIDRET, Cost, describe_ms, make_parser, measure, run_parts, time_in_turn
from made_index import build_index
from worlds import write_retrieval_world

from vidret.client import RemoteEngine, RemoteError
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.serve.files import GONE

ROOT = Path(__file__).parents[1]
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
SEGMENTS_PER_VIDEO, SCROLL_S = 10, 5.0
LOADING_S = 240.0  # for the list
TEXT = "a man rides a bicycle on a street and a dog runs in the garden of a house by the sea "
OBSERVE = """() => {
    window.waits = [];
    let pressed = 0;
    document.getElementById("query").addEventListener("input", () => (pressed = performance.now()));
    new MutationObserver(() => {
        if (!pressed || !document.querySelector("#results .title")) return;
        const took = /in (\\d+) ms/.exec(document.getElementById("status").textContent)?.[1];
        if (!took) return;
        window.waits.push([performance.now() - pressed, Number(took)]);
        pressed = 0;
    }).observe(document.getElementById("status"), { childList: true, characterData: true, subtree: true });
}"""
SCROLL = """async (seconds) => {
    const gaps = [];
    scrollTo(0, 0);
    let last = await new Promise(requestAnimationFrame);
    const end = last + 1000 * seconds;
    while (last < end) {
        const now = await new Promise(requestAnimationFrame);
        scrollBy(0, 3 * (now - last));
        gaps.push(now - last);
        last = now;
    }
    return gaps.slice(5);
}"""


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


def measure_server(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Start the server and measure it."""
    asked = WARM_QUERIES + given.queries + 4 * given.clients * given.repeats
    if asked > (most := math.prod(map(len, WORDS))):
        raise SystemExit(f"no query is asked twice: there are {most}, and {asked} are needed")
    queries, index = draw_queries(), given.index or scratch / "index"
    if given.index is None:
        videos = render_videos(scratch, given.videos)
        with Engine.open(index, encoder="starter") as engine:
            engine.index([videos], words=False)
    with (
        run_server(index, scratch / "server.log") as (url, _),
        RemoteEngine(url) as remote,
        Engine.open(index) as engine,
    ):
        asks = {"engine": engine.search, "http": remote.search}
        time_in_turn(asks, list(itertools.islice(queries, WARM_QUERIES)), num_warm=0)
        search = time_in_turn(asks, list(itertools.islice(queries, given.queries)), num_warm=0)
        return {
            "videos": engine.info().videos,
            "threads": torch.get_num_threads(),
            "search": search,
            "added_p50_ms": round(search["http"]["p50_ms"] - search["engine"]["p50_ms"], 2),
            f"{given.clients} clients": measure_many(url, given.clients, given.repeats, queries),
        }


# Minutes of load


@dataclass(slots=True)
class Record:
    """What clients and the indexer did, filled by all threads; appending is atomic."""

    calls: defaultdict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def time(self, kind: str, call: Callable[[], Any]) -> Any:
        """Call something, and note how long it took or why it failed; None after an error."""
        answers = list[Any]()
        try:
            cost = measure(lambda: answers.append(call()))
        except RemoteError as error:
            is_gone = kind == "frame" and (error.status == HTTPStatus.NOT_FOUND or GONE in str(error))
            (self.gone if is_gone else self.errors).append(f"{kind}: {error}")
            return None
        self.calls[kind].append(cost)
        return answers[0]

    def to_dict(self) -> dict[str, Any]:
        """Return what is printed."""
        quarter = max(1, len(self.memory_mb) // 4)
        quarters = [self.memory_mb[number * quarter : (number + 1) * quarter] for number in (1, 2, 3)]
        return {
            **{kind: {"calls": len(own), **describe_ms(own)} for kind, own in sorted(self.calls.items())},
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


def soak(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Render videos, index half of them, and load a server with clients and an indexer."""
    waiting, num_videos, num_clients = (
        sorted(render_videos(folder, given.videos).iterdir()),
        given.videos,
        given.clients,
    )
    videos, index = folder / "videos", folder / "index"
    videos.mkdir()
    for path in waiting[: num_videos // 2]:
        path.rename(videos / path.name)
    waiting = waiting[num_videos // 2 :]
    subprocess.run([*VIDRET, "index", str(videos), "--index", str(index), "--words", "off"], check=True)
    record, stop = Record(), threading.Event()
    queries = list(draw_queries())
    with run_server(index, folder / "server.log") as (url, pid), ThreadPoolExecutor(num_clients + 2) as pool:
        ends = time.monotonic() + 60 * given.minutes
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


# The page


def time_keys(page: Any, num_keys: int) -> dict[str, float]:
    """Type letters with pauses; return how long each waited for results."""
    page.evaluate(OBSERVE)
    page.locator("#query").press_sequentially(TEXT[:10], delay=30)  # the models load
    page.wait_for_timeout(15_000)
    page.evaluate("() => { window.waits.length = 0; }")
    for letter in TEXT[10 : 10 + num_keys]:
        page.keyboard.press("Space" if letter == " " else letter)
        page.wait_for_timeout(700)
    waits = page.evaluate("window.waits")
    shown, took = [wait for wait, _ in waits], [took for _, took in waits if took is not None]
    return {
        "num_keys": len(shown),
        "best": round(min(shown), 1),
        "p50": round(statistics.median(shown), 1),
        "p95": round(sorted(shown)[int(0.95 * (len(shown) - 1))], 1),
        "took_p50": statistics.median(took),
    }


def time_scrolling(page: Any, url: str, num_videos: int, seconds: float) -> dict[str, float]:
    """Load the whole list, and scroll through it; return the times between two frames in milliseconds."""
    page.goto(url)
    page.wait_for_selector("#results .title")
    deadline = time.monotonic() + LOADING_S
    while page.locator("#results .card").count() < num_videos and time.monotonic() < deadline:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(50)
    gaps = sorted(page.evaluate(SCROLL, seconds))
    return {
        "cards": page.locator("#results .card").count(),
        "frames_per_second": round(1000 / statistics.fmean(gaps), 1),
        "gap_p50_ms": round(statistics.median(gaps), 1),
        "gap_p95_ms": round(gaps[int(0.95 * (len(gaps) - 1))], 1),
    }


def measure_page(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Serve a made index, and use its page in a browser."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT))
    from tests.browser import FLAGS, find_browser

    index, num_videos = given.index or scratch / "index", given.segments // SEGMENTS_PER_VIDEO
    if not index.exists():
        build_index(index, load_encoder("starter"), given.segments, 3, per_video=SEGMENTS_PER_VIDEO)
    path = find_browser()  # which starts Playwright
    with run_server(index, scratch / "server.log") as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[f"--{flag}" for flag in FLAGS.split()])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        picture = (ROOT / "docs" / "page.jpg").read_bytes()
        page.route("**/api/thumbnails/**", lambda route: route.fulfill(body=picture, content_type="image/jpeg"))
        page.goto(url)
        page.wait_for_selector("#results .title", timeout=120_000)
        report = {"key_to_results_ms": time_keys(page, given.keys)}
        report["scroll"] = time_scrolling(page, url, num_videos, SCROLL_S)
        browser.close()
    return report


def main() -> int:
    """Measure and print; return 1 after an error."""
    parser = make_parser(
        __doc__, videos=300, queries=200, clients=50, repeats=5, minutes=10.0, segments=100_000, keys=40
    )
    parser.add_argument("--index", type=Path, default=None, help="an index that is there, in place of a made one")
    report = run_parts(
        parser, {"search": measure_server, "soak": soak, "page": measure_page}, ["search"], num_threads=None
    )
    return int(bool(report.get("soak", {}).get("errors")))


if __name__ == "__main__":
    sys.exit(main())
