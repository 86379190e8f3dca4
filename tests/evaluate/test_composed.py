"""Composed retrieval: ranks by loops, what is left out, and the command on WebVid-CoVR's files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.world import run
from tests.fakes import ColourEncoder, paint, unit, write_film
from vidret.data.benchmarks.splits import read_split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.composed import evaluate_composed, score_ranks
from vidret.evaluate.gallery import Evaluation, index_gallery
from vidret.evaluate.report import Gallery
from vidret.evaluate.tables import make_tables

ROWS = [
    ("a/red", "a/blue", "blue"),
    ("a/yellow", "a/red", "red"),
    ("a/blue", "a/yellow", "yellow"),
    ("a/red", "a/red", "red"),
    ("a/red", "gone", "grey"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    for colour in ("red", "yellow", "blue", "white"):
        write_film(folder / f"videos/a/{colour}.mp4", (colour, 3))
    with (folder / "webvid8m-covr_test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["txt1", "pth1", "pth2", "edit"])
        table.writerows(["", *row] for row in ROWS)
    return folder


@pytest.mark.wrong_shapes
def test_ranks_are_those_of_a_search_among_the_targets(data: Path) -> None:
    split = read_split("webvid-covr", data)
    read = [(one.source, one.video, one.text) for one in split.captions]
    assert read == [(f"{source}.mp4", f"{target}.mp4", text) for source, target, text in ROWS]
    with Engine(data / "index", ColourEncoder()) as engine:
        gallery, _ = index_gallery(engine, split, data / "videos")
        report = evaluate_composed(Evaluation(engine, split, gallery))
        failed = dict.fromkeys(("a/red.mp4", "a/blue.mp4", "a/yellow.mp4"), "damaged")
        with pytest.raises(VidretError, match="must have at least one query with both of its videos"):
            evaluate_composed(Evaluation(engine, split, Gallery(gallery.files, gallery.missing, failed)))
    assert list(report.gallery.missing) == ["gone.mp4"]
    vectors = {colour: unit(paint(colour).reshape(-1, 3).mean(axis=0) - 110) for colour in ("red", "yellow", "blue")}
    for kind in ("text", "image"):
        ranks = []
        for source, target, text in ((row[0][2:], row[1][2:], row[2]) for row in ROWS[:4]):
            asked = vectors[text if kind == "text" else source]
            others = [colour for colour in vectors if colour != source]
            best = sorted(others, key=lambda colour: -float(asked @ vectors[colour]))
            ranks.append(best.index(target) + 1 if target in best else len(best) + 1)
        assert report.results[kind] == score_ranks(np.array(ranks), 3)
    assert report.results["text"]["R@1"] == 75.0  # a video is not its own target
    assert [row["rank"] for row in report.per_query][3] == 3


def test_recalls_count_ranks() -> None:
    scores = score_ranks(np.array([1, 3, 7, 60]), 80)
    expected = {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "R@50": 75.0}
    assert scores == {"num_queries": 4, "gallery_size": 80, **expected, "mean": 56.25}


def test_the_command_writes_a_report(data: Path) -> None:
    answer = run("eval", "composed", "--videos", data / "videos", "--annotations", data, "--out", data / "out")
    facts = json.loads((data / "out" / "report.json").read_text())
    assert facts["results"]["composed"]["num_queries"] == 4
    (title, (columns, lines)) = next(make_tables(facts))
    assert title == "a frame and a text: 4 queries, 3 videos"
    assert columns == ["query", "R@1", "R@5", "R@10", "R@50", "mean"]
    assert [line[0] for line in lines] == ["frame and text", "text only", "frame only"]
    assert "frame and text" in answer.out
