"""The HTML page of a report: self-contained, with escaped text, and plots and images that match the results."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.world import Answer, read
from vidret.data.records import LabelledQuery, Split
from vidret.errors import VidretError
from vidret.evaluate.page import (
    NUM_HITS,
    count_overlaps,
    find_gap,
    plot_histogram,
    plot_recall,
    plot_thresholds,
    plot_timeline,
    render_worst,
    trace_overlaps,
    trace_recall,
    write_page,
)
from vidret.evaluate.report import Gallery, Report
from vidret.present.html import render_table

VOID = ("meta", "img", "br", "link", "input", "hr")
Attributes = list[tuple[str, str | None]]


class Tree(HTMLParser):
    """A parsed page with its tags and texts; tags that are not properly nested fail."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages(searched: tuple[Path, Answer], located: tuple[Path, Answer]) -> dict[str, str]:
    folders = {"retrieval": searched[0], "moments": located[0]}
    return {name: (folder / "report.html").read_text("utf-8") for name, folder in folders.items()}


def colour_of(source: str | None) -> tuple[int, ...]:
    """Return the colour in the middle of an embedded image."""
    assert source is not None
    head, _, data = source.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        middle = picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    assert isinstance(middle, tuple)
    return middle


@pytest.mark.parametrize("name", ["retrieval", "moments"])
def test_page_loads_nothing(pages: dict[str, str], name: str) -> None:
    tree = Tree(pages[name])
    for tag, attributes in tree.tags:
        assert tag not in ("script", "link", "iframe", "object", "a")
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "srcset", "action", "data"):
                assert str(value).startswith("data:image/jpeg;base64,")
    assert "url(" not in pages[name]
    assert "@import" not in pages[name]
    assert not re.search(r"https?://", pages[name])
    policy = next(meta for meta in tree.find("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in pages[name]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in tree.find("meta")


def test_text_is_escaped(pages: dict[str, str]) -> None:
    assert "a red thing & <more>" in Tree(pages["retrieval"]).texts
    assert "a red thing &amp; &lt;more&gt;" in pages["retrieval"]
    assert "red & <blue>" in Tree(pages["moments"]).texts
    assert "<more>" not in pages["retrieval"]
    assert "<blue>" not in pages["moments"]


def test_page_has_the_content_of_the_report(pages: dict[str, str], searched: tuple[Path, Answer], world: Path) -> None:
    texts = Tree(pages["retrieval"]).texts
    facts = read(searched[0] / "report.json")
    assert f"Retrieval on {world.name}" in texts
    assert f"{world.name}: 10 captions, 5 of 7 videos" in texts
    assert "1 video missing, omitted with their rows: gone.mp4" in texts
    assert f"bad.mp4: {facts['data']['failed']['bad.mp4']}" in texts
    assert facts["results"]["rows"][0]["protocol"] in texts
    assert "t2v, plain: 2 tied queries" in texts
    assert f"torch {facts['versions']['torch']}" in texts
    plain = facts["results"]["rows"][0]
    row = texts.index("plain")
    numbers = [text for text in texts[row + 1 :] if text.strip()][:6]
    assert numbers == [f"{plain[name]:.1f}" for name in ("R@1", "R@5", "R@10", "R-Sum", "MdR", "MnR")]


# Worst queries


def test_worst_queries_show_their_video_and_top_videos(pages: dict[str, str], searched: tuple[Path, Answer]) -> None:
    rows = read(searched[0] / "report.json")["per_query"]
    tree = Tree(pages["retrieval"])
    ranks = [int(text.split()[1].split(".")[0]) for text in tree.texts if re.fullmatch(r"rank [\d.]+ of 5", text)]
    assert ranks == sorted((int(row["rank"]) for row in rows), reverse=True)
    pictures = [image["src"] for image in tree.find("img")]
    assert len(pictures) == len(rows) * (1 + NUM_HITS)
    worst = max(rows, key=lambda row: (row["rank"], row["top"][0][1] - row["score"]))
    shown = [image["alt"] for image in tree.find("img")][: 1 + NUM_HITS]
    assert shown == [worst["video"], *(name for name, _ in worst["top"][:NUM_HITS])]
    colours = {str(image["alt"]): colour_of(image["src"]) for image in tree.find("img")}
    for name, channel in (("red.mp4", 0), ("blue.mp4", 2)):
        assert int(np.argmax(colours[name])) == channel
        assert colours[name][channel] > 150
    assert min(colours["white.mp4"]) > 200
    assert colours["mixed.mp4"][0] > 150 > 100 > colours["mixed.mp4"][1], "the middle of green, red and yellow"


def test_moments_have_a_timeline_and_frames(pages: dict[str, str], located: tuple[Path, Answer]) -> None:
    rows = {row["text"]: row for row in read(located[0] / "report.json")["per_query"]}
    tree = Tree(pages["moments"])
    overlaps = [float(text.split()[1].rstrip(",")) for text in tree.texts if text.startswith("overlap 0.")]
    assert overlaps == sorted(overlaps)
    assert len([svg for svg in tree.find("svg") if svg["class"] == "timeline"]) == len(rows)
    article = next(part for part in pages["moments"].split("<article>") if "<h3>yellow</h3>" in part)
    shots = re.findall(r'src="([^"]+)"', article)
    assert len(shots) == 4, "two of the true span, two of the predicted one"
    for shot in shots:
        red, green, blue = colour_of(shot)
        assert min(red, green) > 150 > 100 > blue
    lane = re.search(r'class="lane" x="([\d.]+)" y="8" width="([\d.]+)"', article)
    bar = re.search(r'class="true" x="([\d.]+)" y="8" width="([\d.]+)"', article)
    assert lane is not None
    assert bar is not None
    left, width = float(lane[1]), float(lane[2])
    assert (float(bar[1]) - left) / width == pytest.approx(9 / 16, abs=1e-3)
    assert float(bar[2]) / width == pytest.approx(7 / 16, abs=1e-3)


def test_a_query_that_is_answered_with_nothing_is_among_the_worst(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    row: dict[str, Any] = {
        "video": "bad",
        "true": [[1, 2]],
        "moments": [],
        "top": [],
        "kind": "one event",
        "score": 0.5,
    }
    rows = [
        {**row, "text": "found late", "rank": 9, "nothing": False, "best_overlap": 0.0},
        {**row, "text": "refused", "rank": 1, "nothing": True, "best_overlap": 0.9},
    ]
    _, worst, other = render_worst({"task": "queries", "per_query": rows}, {"bad": tmp_path / "bad.mp4"})
    assert "<h3>refused</h3>" in worst
    assert "<h3>found late</h3>" in other


def test_an_absent_query_that_is_answered_is_among_the_worst(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    row: dict[str, Any] = {"video": None, "true": [], "moments": [["bad", 1, 2, 0.9]], "kind": "absent", "score": 0.9}
    late = {"text": "found late", "video": "bad", "true": [[1, 2]], "rank": 9, "best_overlap": 0.0}
    rows = [
        {**row, **late, "nothing": False, "top": [["bad", 0.9]]},
        {**row, "text": "answered", "nothing": False},
        {**row, "text": "refused", "nothing": True},
    ]
    _, *articles = render_worst({"task": "queries", "per_query": rows}, {"bad": tmp_path / "bad.mp4"})
    assert [re.findall("<h3>(.*)</h3>", article) for article in articles] == [["answered"], ["found late"]]
    assert "absent: answered, but no video is correct" in articles[0]
    assert "1. bad" in articles[0]


def test_a_timeline_lasts_as_long_as_its_video_or_else_as_its_spans(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    row = {"text": "a dog", "video": "bad", "true": [[1, 2]], "overlap": 0.0}
    for more, share in (
        ({"duration": 8.0, "found": None}, 1 / 8),
        ({"duration": None, "found": [3, 4, 0.5]}, 1 / 4),
        ({"duration": 8.0, "found": [14, 16, 0.5]}, 1 / 16),
    ):
        facts = {"task": "moments", "per_query": [{**row, **more}]}
        _, article = render_worst(facts, {"bad": tmp_path / "bad.mp4"})
        lane, bar = (
            re.search(rf'class="{name}" x="[0-9.]+" y="8" width="([0-9.]+)"', article) for name in ("lane", "true")
        )
        assert lane is not None
        assert bar is not None
        assert float(bar[1]) / float(lane[1]) == pytest.approx(share, abs=1e-3)


def test_queries_without_span_and_unreadable_videos_are_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    row: dict[str, Any] = {"text": "a dog", "video": "bad", "true": [[1, 2]], "found": None, "duration": None}
    facts = {"task": "moments", "per_query": [{**row, "overlap": 0.0}]}
    heading, article = render_worst(facts, {"bad": tmp_path / "bad.mp4"})
    assert heading == "<h2>The 1 worst query</h2>"
    tree = Tree(article)
    assert "overlap 0.00, in bad; no span found" in tree.texts
    assert tree.find("img") == []
    assert len([paragraph for paragraph in tree.find("p") if paragraph["class"] == "unread"]) == 2
    assert list(render_worst({"task": "highlights", "per_query": [{"text": "a dog"}]}, {})) == []


def test_gap_is_the_distance_to_the_nearest_true_span() -> None:
    true = [[10, 20], [40, 50]]
    for found, gap in (([0, 4, 0.9], 6), ([22, 25, 0.9], 2), ([30, 39, 0.9], 1), ([60, 61, 0.9], 10), ([15, 45, 1], 0)):
        assert find_gap({"true": true, "found": found}) == gap
    assert find_gap({"true": true, "found": None}) == float("inf")


# Tables and curves


def test_table_aligns_numbers_to_the_right() -> None:
    tree = Tree(render_table((["what", "IoU", "R@1"], [["a <b>", "0.5", "61.0"], ["c", "", "7.5"]])))
    assert [header.get("class") for header in tree.find("th")] == [None, "number", "number"]
    assert [text for text in tree.texts if text.strip()] == ["what", "IoU", "R@1", "a <b>", "0.5", "61.0", "c", "7.5"]


def test_curves_equal_counts_by_hand() -> None:
    ranks, overlaps = np.array([1, 1.5, 3, 8]), np.array([0, 0.05, 0.1, 0.349, 0.35, 0.999, 1])
    for k, share in trace_recall(ranks, 9):
        assert share == 100 * sum(rank < k + 1 if k > 1 else rank == 1 for rank in ranks) / 4
    assert [k for k, _ in trace_recall(ranks, 9)] == list(range(1, 10))
    shares = dict(trace_overlaps(overlaps))
    assert [shares[t] for t in (0.01, 0.35, 1.0)] == pytest.approx([600 / 7, 300 / 7, 100 / 7])
    assert count_overlaps(overlaps) == [2, 1, 0, 2, 0, 0, 0, 0, 0, 2]


def points_of(picture: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]+)"', picture)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_plots_are_svg_with_curves_bars_and_labels() -> None:
    picture = plot_recall(
        {"text to video": [(1, 0.0), (2, 50.0), (4, 100.0)], "video & text": [(1, 100.0), (4, 100.0)]}
    )
    rising, flat = points_of(picture)
    assert (rising[0], flat[-1]) == ((44, 254), (448, 32)), "from corner to corner"
    assert [y for _, y in rising] == sorted((y for _, y in rising), reverse=True)
    assert rising[1][0] - rising[0][0] == pytest.approx(rising[2][0] - rising[1][0], abs=0.02), "doubling is a step"
    assert len({y for _, y in flat}) == 1
    assert {"text to video", "video & text", "R@K, percent", "K"} <= set(Tree(picture).texts)

    (line,) = points_of(plot_thresholds([(0.5, 50.0), (1.0, 0.0)]))
    assert line[0][1] < line[1][1]

    picture = plot_histogram([0, 3, 6])
    heights = [float(height) for height in re.findall(r'class="bar"[^>]+height="([\d.]+)"', picture)]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1])
    assert plot_histogram([0, 0]).count('class="bar"') == 2

    picture = plot_timeline(10, [[2, 4], [9, 12]], None)
    assert picture.count('class="true"') == 2
    assert 'class="found"' not in picture
    ends = [float(x) + float(w) for x, w in re.findall(r'class="true" x="([\d.]+)" y="8" width="([\d.]+)"', picture)]
    assert ends == pytest.approx([52 + 0.4 * 488, 540]), "clipped to the video"
    for plot in (picture, plot_histogram([5]), plot_timeline(36_000, [[0, 1]], [5, 6, 0.5])):
        Tree(plot)


def test_page_without_results_and_unwritable_page(tmp_path: Path) -> None:
    split = Split("qvhighlights-test", ("a.jsonl",), ("v",), queries=(LabelledQuery("1", "v", "red", 10.0),))
    row = {"id": "1", "text": "red", "video": "v", "duration": 10.0, "true": [], "found": [0, 1, 0.5]}
    model = {"name": "starter", "segments": "of 12 s"}
    settings = {"by": "the similarity curve"}
    gallery = Gallery({"v": tmp_path / "v.mp4"}, [], {})
    report = Report("moments", split, gallery, model, settings, {}, [row], {"scoring": 1.0})
    write_page(report, tmp_path / "new" / "report.html")
    tree = Tree((tmp_path / "new" / "report.html").read_text("utf-8"))
    assert "Moments on qvhighlights-test" in tree.texts
    assert tree.find("img") == tree.find("svg") == []
    with pytest.raises(VidretError, match=r"report\.html/page: cannot be written"):
        write_page(report, tmp_path / "new" / "report.html" / "page")
