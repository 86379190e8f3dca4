"""Measure searches, of an engine and of ``vidret serve``; print one JSON object, and exit with 1 after a wrong answer.

    python tools/bench_search.py [--only PART ...] [--segments 100000] [--texts 0] [--index DIR]

The first parts and ``page`` have an index of made vectors (see made_index.py), which is left in DIR; with ``--texts``
it also has that many timed texts, so that a search compares pictures and words.

- ``search``: opens it and asks with the real text encoder, one query after another: reranked by the index's own ranker
  from stored tokens, and without rerank. Milliseconds have text encoding in them.
- ``questions``: events in order and at the same time, negative terms, images, images with words, taught concepts; and
  moments of them.
- ``start``: what commands cost from the start of Python to their end: help, a search here, one by a server, the models.
- ``describe``: the overview of a folder, a comparison of two and the diversity of the index, as commands: cold, without
  the vectors of texts that a machine keeps, and warm, with them.
- ``page``: the page in a browser. ``key_to_results_ms`` is from a key press in the search box to the cards of its
  results, with pauses between keys; ``took_ms`` is what the server says of it. ``scroll`` are the times between two
  frames while a list of all videos, loaded to its end before, is scrolled by 3,000 pixels a second. Thumbnails are one
  picture, since the files are empty.

The others index rendered videos, or take DIR. The server runs in a process of its own; clients share the machine.

- ``server``: the engine in this process and a client of the server, by turns; one client and all at once, through kept
  connections. Medians, no query is asked twice.
- ``soak``: minutes of load: clients search, locate and fetch frames, each with a pause of about a second between two
  calls, while an indexer adds videos, deletes files, and runs ``vidret index --prune``. A video whose file is deleted
  between a search and its frame is no error, if the answer says so: it is counted as ``gone``. ``memory_mb`` is of the
  server and its decoders, the median of the second, third and fourth quarter of the time, on Linux.
"""

import argparse
import importlib
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
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from harness import (
    VIDRET,
    Cost,
    describe_ms,
    make_parser,
    measure,
    run_parts,
    run_vidret,
    sum_over_processes,
    take_turns,
    time_in_turn,
    time_queries,
)
from made_index import build_index, make_texts
from make_synthetic import write_retrieval_world

from vidret.channels.picture.query_bank import UNRELATED
from vidret.client import RemoteEngine, RemoteError
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.serve.files import GONE
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import ComposedQuery, Query

ROOT = Path(__file__).parents[1]
NUM_THREADS = torch.get_num_threads()  # of PyTorch, unless a part is measured on one
CONCEPT, NUM_EXAMPLES = "benched", 5
START_REPEATS = 15
LOCATED = ("plain", "ordered", "while", "negative", "image", "concept")
PATIENCE_S, LOADING_S = 120.0, 240.0  # until a server answers, until the page has listed all videos
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
PAGE_SEGMENTS = 10  # of a video
TYPED = "a man rides a bicycle on a street and a dog runs in the garden of a house by the sea "
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
SCROLL = """async () => {
    const gaps = [];
    scrollTo(0, 0);
    let last = await new Promise(requestAnimationFrame);
    const end = last + 5000;
    while (last < end) {
        const now = await new Promise(requestAnimationFrame);
        scrollBy(0, 3 * (now - last));
        gaps.push(now - last);
        last = now;
    }
    return gaps.slice(5);
}"""


def make_index(given: argparse.Namespace, scratch: Path) -> Path:
    """Return the index, which is made unless it is there."""
    index = given.index or scratch / "index"
    if not Store.exists(index):
        build_index(index, load_encoder(), given.segments)
    if given.texts and not TextStore.exists(index):
        make_texts(index, given.texts)
    return index


def measure_search(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Open the index, then search and locate."""
    index, encoder, queries = make_index(given, scratch), load_encoder(), UNRELATED[: given.queries]
    encoder.encode_text(["warm"])

    def open_store() -> None:
        with Store.open(index) as store:
            store.search(np.eye(1, store.dim, dtype=np.float32), 1)

    with Engine.open(index, encoder=encoder) as engine:
        opened, first = measure(open_store), measure(lambda: engine.search("a warm start", 10))
        return {
            "rerank": engine.ranker.name,
            "index_mb": round(engine.info().num_bytes / 1e6),
            "open_seconds": round(opened.wall_s, 3),
            "first_search_seconds_with_baseline": round(first.wall_s, 3),
            "search": time_queries(lambda query: engine.search(query, 10), queries),
            "search_without_rerank": time_queries(lambda query: engine.search(query, 10, rerank=None), queries),
            "locate": time_queries(lambda query: engine.locate(query, 10, weak=True), queries),
        }


def list_questions() -> dict[str, Sequence[Query]]:
    """Return questions by kind."""
    rng = np.random.default_rng(0)
    images = [draw_image(rng) for _ in UNRELATED]
    pairs = list(itertools.pairwise(UNRELATED))
    triples = zip(UNRELATED, UNRELATED[1:], UNRELATED[2:], strict=False)
    composed = zip(images, UNRELATED, strict=True)
    return {
        "plain": list(UNRELATED),
        "ordered": [f"{one}, then {other}" for one, other in pairs],
        "ordered, three events": [f"{one}, then {other}, then {third}" for one, other, third in triples],
        "while": [f"{one} while {other}" for one, other in pairs],
        "negative": [f"{one}, no {other.split()[-1]}" for one, other in pairs],
        "image": images,
        "image and words": [ComposedQuery(images=(image,), text=text) for image, text in composed],
        "concept": [f"@{CONCEPT} {text}" for text in UNRELATED],
    }


def draw_image(rng: np.random.Generator) -> np.ndarray:
    """Return an image of random squares."""
    return rng.integers(256, size=(9, 16, 3), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)


def measure_questions(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Ask every kind of question, and locate some."""
    rng, questions = np.random.default_rng(1), list_questions()
    with Engine.open(make_index(given, scratch)) as engine:
        engine.teach(CONCEPT, [draw_image(rng) for _ in range(NUM_EXAMPLES)], replace=True)
        locate = partial(engine.locate, k=10, weak=True)
        searches = {kind: time_queries(engine.search, queries[: given.queries]) for kind, queries in questions.items()}
        moments = {f"moments: {kind}": time_queries(locate, questions[kind][: given.queries]) for kind in LOCATED}
        return searches | moments


def measure_start(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run short commands by turns, each in a process of its own."""
    index = make_index(given, scratch)
    with run_server(index, scratch / "server.log") as (url, _):
        search = (*VIDRET, "search", "a dog on a beach")
        commands = {
            "python": (sys.executable, "-c", "pass"),
            "help": (*VIDRET, "--help"),
            "help of search": (*VIDRET, "search", "--help"),
            "search": (*search, "--index", str(index)),
            "search --server": (*search, "--server", url),
            "models": (*VIDRET, "models"),
        }
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        return take_turns({name: partial(run, command) for name, command in commands.items()}, START_REPEATS)


def measure_describe(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run each command cold and warm."""
    index = make_index(given, scratch)
    one, other = index / "files" / "a", index / "files" / "b"
    commands = {
        "overview": ("describe", one),
        "against": ("describe", one, "--against", other),
        "diversity": ("info", "--diversity"),
    }
    report: dict[str, Any] = {}
    for name, command in commands.items():
        run = partial(run_vidret, *command, "--index", index)
        with patch.dict(os.environ, XDG_CACHE_HOME=str(scratch / name)):
            report[name] = {state: measure(run) for state in ("cold", "warm")}
    return report


# The server


def draw_queries() -> Iterator[str]:
    """Return queries that all differ, in an order of chance."""
    queries = [" ".join(("a", *words)) for words in itertools.product(*WORDS)]
    random.Random(0).shuffle(queries)
    return iter(queries)


def render_videos(folder: Path, num_videos: int) -> Path:
    """Render videos; return their folder."""
    write_retrieval_world(folder / "world", num_train=num_videos - 4, num_val=2, num_test=2, size=320)
    return folder / "world" / "videos"


@contextmanager
def run_server(index: Path, log: Path) -> Iterator[tuple[str, int]]:
    """Run vidret serve until the end of the block; yield its URL and process id once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, ends = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    command = [*VIDRET, "serve", "--index", str(index), "--port", str(port), "--no-open"]
    open_to_all = {name: value for name, value in os.environ.items() if name != "VIDRET_TOKEN"}
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=open_to_all) as server:
        try:
            while not answers(url):
                if server.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"the server does not answer:\n{log.read_text()}")
                time.sleep(0.1)
            yield url, server.pid
        finally:
            server.terminate()


def answers(url: str) -> bool:
    """Return whether a server answers."""
    try:
        with RemoteEngine(url) as remote:
            remote.info()
    except RemoteError:
        return False
    return True


def measure_many(url: str, num_clients: int, repeats: int, queries: Iterator[str]) -> dict[str, float]:
    """Ask with one client, then with many at once, by turns and equally often; return searches a second."""
    one, many = list[float](), list[float]()

    def ask(client: RemoteEngine, part: Sequence[str]) -> None:
        for query in part:
            client.search(query)

    with ExitStack() as stack, ThreadPoolExecutor(num_clients) as pool:
        clients = [stack.enter_context(RemoteEngine(url)) for _ in range(num_clients)]
        list(pool.map(RemoteEngine.info, clients))  # connected
        for _ in range(repeats):
            single = list(itertools.islice(queries, 2 * num_clients))
            parts = [list(itertools.islice(queries, 2)) for _ in clients]
            one.append(2 * num_clients / measure(partial(ask, clients[0], single)).wall_s)
            many.append(2 * num_clients / measure(lambda parts=parts: list(pool.map(ask, clients, parts))).wall_s)  # type: ignore[misc]
    rates = statistics.median(one), statistics.median(many)
    return {
        "one_a_second": round(rates[0], 1),
        "many_a_second": round(rates[1], 1),
        "ratio": round(rates[1] / rates[0], 2),
    }


def measure_server(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Compare an engine in this process with a client of the server, and one client with many."""
    asked = WARM_QUERIES + given.queries + 4 * given.clients * given.repeats
    if asked > (most := math.prod(map(len, WORDS))):
        raise SystemExit(f"no query is asked twice: there are {most}, and {asked} are needed")
    torch.set_num_threads(NUM_THREADS)  # as the server has
    queries, index = draw_queries(), given.index or scratch / "index"
    if given.index is None:
        with Engine.open(index, encoder="starter") as engine:
            engine.index([render_videos(scratch, given.videos)], words=False)
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
    num_runs: int = 0
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
        quarters = [
            self.memory_mb[quarter_index * quarter : (quarter_index + 1) * quarter] for quarter_index in (1, 2, 3)
        ]
        return {
            **{
                kind: {"calls": len(call_times), **describe_ms(call_times)}
                for kind, call_times in sorted(self.calls.items())
            },
            "index_runs": self.num_runs,
            "memory_mb": [round(statistics.median(samples)) for samples in quarters if samples],
            "gone": len(self.gone),
            "errors": self.errors,
        }


def run_client(url: str, number: int, queries: Sequence[str], ends: float, record: Record) -> None:
    """Ask one thing after the other until the end, as a person would."""
    chance = random.Random(number)
    with RemoteEngine(url) as remote:
        while time.monotonic() < ends:
            query = chance.choice(queries)
            if hits := record.time("search", partial(remote.search, query, 5)):
                hit = chance.choice(hits)
                record.time("frame", partial(remote.frame, hit.video, hit.time))
            if chance.random() < 0.3:
                record.time("locate", partial(remote.locate, query, 3))
            time.sleep(chance.uniform(0.5, 1.5) * PAUSE_S)


def run_indexer(index: Path, videos: Path, waiting: list[Path], ends: float, record: Record) -> None:
    """Move videos into the indexed folder and others out of it, and index it, until the end."""
    command = [*VIDRET, "index", str(videos), "--index", str(index), "--prune"]
    while time.monotonic() < ends:
        present = sorted(videos.iterdir())
        for path in random.Random(record.num_runs).sample(present, min(BATCH, len(present) - 1)):
            waiting.append(path.rename(index.parent / path.name))  # noqa: PERF401  files move one by one
        for _ in range(BATCH):
            path = waiting.pop(0)
            path.rename(videos / path.name)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        record.num_runs += 1
        if done.returncode:
            record.errors.append(f"index: {done.stderr.strip()}")


def read_private_mb(process: Path) -> float:
    """Return the memory of a process, without pages that it shares."""
    fields = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def measure_soak(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Render videos, index half of them, and load a server with clients and an indexer."""
    videos, index, record, stop = folder / "videos", folder / "index", Record(), threading.Event()
    rendered, queries = sorted(render_videos(folder, given.videos).iterdir()), list(draw_queries())
    videos.mkdir()
    for path in rendered[: given.videos // 2]:
        path.rename(videos / path.name)
    waiting = rendered[given.videos // 2 :]
    subprocess.run([*VIDRET, "index", str(videos), "--index", str(index), "--words", "off"], check=True)

    def watch_memory(pid: int) -> None:
        while not stop.wait(MEMORY_EVERY_S):
            record.memory_mb.append(sum_over_processes(read_private_mb, pid))

    with run_server(index, folder / "server.log") as (url, pid), ThreadPoolExecutor(given.clients + 2) as pool:
        ends = time.monotonic() + 60 * given.minutes
        memory = pool.submit(watch_memory, pid)
        jobs = [
            pool.submit(run_client, url, client_index, queries, ends, record) for client_index in range(given.clients)
        ]
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
    page.locator("#query").press_sequentially(TYPED[:10], delay=30)  # the models load
    page.wait_for_timeout(15_000)
    page.evaluate("() => { window.waits.length = 0; }")
    for letter in TYPED[10 : 10 + num_keys]:
        page.keyboard.press("Space" if letter == " " else letter)
        page.wait_for_timeout(700)
    shown, took = zip(*page.evaluate("window.waits"), strict=True)
    return {
        "num_keys": len(shown),
        "best": round(min(shown), 1),
        "p50": round(statistics.median(shown), 1),
        "p95": round(float(np.percentile(shown, 95, method="lower")), 1),
        "took_p50": statistics.median(took),
    }


def time_scrolling(page: Any, url: str, num_videos: int) -> dict[str, float]:
    """Load the whole list, and scroll through it; return the times between two frames in milliseconds."""
    page.goto(url)
    page.wait_for_selector("#results .title")
    cards, deadline = page.locator("#results .card"), time.monotonic() + LOADING_S
    while cards.count() < num_videos and time.monotonic() < deadline:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(50)
    gaps = page.evaluate(SCROLL)
    return {
        "cards": cards.count(),
        "frames_per_second": round(1000 / statistics.fmean(gaps), 1),
        "gap_p50_ms": round(statistics.median(gaps), 1),
        "gap_p95_ms": round(float(np.percentile(gaps, 95, method="lower")), 1),
    }


def measure_page(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Serve a made index, and use its page in a browser."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT))
    browsers, index = importlib.import_module("tests.browser"), given.index or scratch / "index"
    if not index.exists():
        build_index(index, load_encoder("starter"), given.segments, 3, per_video=PAGE_SEGMENTS)
    path, flags = (
        browsers.find_browser(),
        [f"--{flag}" for flag in browsers.FLAGS.split()],
    )  # the first starts Playwright
    with run_server(index, scratch / "server.log") as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        picture = (ROOT / "docs" / "page.jpg").read_bytes()
        page.route("**/api/thumbnails/**", lambda route: route.fulfill(body=picture, content_type="image/jpeg"))
        page.goto(url)
        page.wait_for_selector("#results .title", timeout=120_000)
        keys = time_keys(page, given.keys)
        report = {"key_to_results_ms": keys, "scroll": time_scrolling(page, url, given.segments // PAGE_SEGMENTS)}
        browser.close()
    return report


def main() -> int:
    """Measure and print; return 1 after an error."""
    load = {"videos": 300, "clients": 50, "repeats": 5, "minutes": 10.0, "keys": 40}
    parser = make_parser(__doc__, segments=100_000, texts=0, queries=200, index=Path, **load)
    measures = [measure_search, measure_questions, measure_start, measure_describe, measure_page, measure_server]
    report = run_parts(parser, [*measures, measure_soak], ["search"])
    return int(bool(report.get("soak", {}).get("errors")))


if __name__ == "__main__":
    sys.exit(main())
