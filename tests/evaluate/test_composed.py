"""Composed retrieval: ranks by loops, what is left out, and the command on WebVid-CoVR's files."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.world import read, run
from tests.fakes import ColourEncoder, paint, unit, write_film
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.composed import evaluate_composed, score_ranks
from vidret.evaluate.gallery import Evaluation
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
    listed = [(one.source, one.video, one.text) for one in read_split("webvid-covr", data).captions]
    assert listed == [(f"{source}.mp4", f"{target}.mp4", text) for source, target, text in ROWS]
    answer = run("eval", "composed", "--videos", data / "videos", "--annotations", data, "--out", data / "out")
    assert answer.code == 0, answer.err
    report = read(data / "out" / "report.json")
    assert report["data"]["missing"] == ["gone.mp4"]
    vectors = {colour: unit(paint(colour).reshape(-1, 3).mean(axis=0) - 110) for colour in ("red", "yellow", "blue")}
    for kind in ("text", "image"):
        ranks = []
        for source, target, text in ((row[0][2:], row[1][2:], row[2]) for row in ROWS[:4]):
            asked = vectors[text if kind == "text" else source]
            others = [colour for colour in vectors if colour != source]
            best = sorted(others, key=lambda colour: -float(asked @ vectors[colour]))
            ranks.append(best.index(target) + 1 if target in best else len(best) + 1)
        assert report["results"][kind] == score_ranks(np.array(ranks), 3)
    assert report["results"]["text"]["R@1"] == 75.0  # a video is not its own target
    assert [row["rank"] for row in report["per_query"]][3] == 3
    (title, (columns, lines)) = next(make_tables(report))
    assert title == "a frame and a text: 4 queries, 3 videos"
    assert columns == ["query", "R@1", "R@5", "R@10", "R@50", "mean"]
    assert [line[0] for line in lines] == ["frame and text", "text only", "frame only"]
    assert "frame and text" in answer.out
    assert "found by picture" in answer.err


def test_queries_without_both_of_their_videos_are_refused(data: Path) -> None:
    split = read_split("webvid-covr", data)
    files, missing = find_videos(split.videos, data / "videos")
    with Engine(data / "none", ColourEncoder()) as engine:
        evaluation = Evaluation(engine, split, Gallery(files, missing, dict.fromkeys(files, "damaged")))
        with pytest.raises(VidretError, match="must have at least one query with both of its videos"):
            evaluate_composed(evaluation)


def test_recalls_count_ranks() -> None:
    scores = score_ranks(np.array([1, 3, 7, 60]), 80)
    expected = {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "R@50": 75.0}
    assert scores == {"num_queries": 4, "gallery_size": 80, **expected, "mean": 56.25}
