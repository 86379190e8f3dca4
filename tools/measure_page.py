"""Measure the page of vidret serve in a browser; print one JSON object.

    python tools/measure_page.py --work DIR [--segments 100000] [--videos 10000] [--keys 40] [--seconds 5]

Serves a made index in a process of its own; the browser shares the machine. ``key_to_results_ms`` is from a key press
in the search box to the cards of its results, with pauses between keys; ``took_ms`` is what the server says of it.
``scroll`` are the times between two frames while a list of all videos is scrolled by 3,000 pixels a second, which is
loaded to its end before. Thumbnails are one picture, since the files are empty. ``facets_ms`` are requests for counts.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from bench_serve import run_server
from harness import print_json
from made_index import build_index
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.browser import FLAGS, find_browser
from vidret.encode.families.registry import load_encoder

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


def open_page(page: Page, url: str) -> None:
    """Open the page, and wait for its list."""
    picture = (Path(__file__).parents[1] / "docs" / "page.jpg").read_bytes()
    page.route("**/api/thumbnails/**", lambda route: route.fulfill(body=picture, content_type="image/jpeg"))
    page.goto(url)
    page.wait_for_selector("#results .title", timeout=120_000)


def time_keys(page: Page, num_keys: int) -> dict[str, float]:
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


def time_scrolling(page: Page, url: str, num_videos: int, seconds: float) -> dict[str, float]:
    """Load the whole list, and scroll through it; return the times between two frames in milliseconds."""
    page.goto(url)
    page.wait_for_selector("#results .title")
    deadline = time.monotonic() + LOADING_S
    while page.locator("#results .card").count() < num_videos:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(50)
        if time.monotonic() > deadline:
            break
    gaps = sorted(page.evaluate(SCROLL, seconds))
    return {
        "cards": page.locator("#results .card").count(),
        "frames_per_second": round(1000 / statistics.fmean(gaps), 1),
        "gap_p50_ms": round(statistics.median(gaps), 1),
        "gap_p95_ms": round(gaps[int(0.95 * (len(gaps) - 1))], 1),
    }


def time_facets(page: Page, url: str) -> list[float]:
    """Return how long the counts take, first and again, with a filter."""
    waits = []
    for query in ("", "", "?sound=off", "?min_seconds=1"):
        started = time.perf_counter()
        page.request.get(f"{url}/api/facets{query}")
        waits.append(round(1000 * (time.perf_counter() - started), 1))
    return waits


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description="Measure the page in a browser.")
    parser.add_argument("--work", type=Path, required=True, help="Folder of the made index, kept for the next run.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    index = arguments.work / f"made-{arguments.segments}-{arguments.videos}"
    if not index.exists():
        per_video = arguments.segments // arguments.videos
        build_index(index, load_encoder("starter"), arguments.segments, 3, per_video=per_video)
    path = find_browser()  # which starts Playwright
    with run_server(index, arguments.work / "server.log") as (url, _), sync_playwright() as playwright:
        flags = [f"--{flag}" for flag in FLAGS.split()]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        open_page(page, url)
        report = {"facets_ms": time_facets(page, url), "key_to_results_ms": time_keys(page, arguments.keys)}
        report["scroll"] = time_scrolling(page, url, arguments.videos, arguments.seconds)
        browser.close()
    print_json(json.loads(json.dumps(report)))


if __name__ == "__main__":
    main()
