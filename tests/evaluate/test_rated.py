"""Rated moments of all videos: the reader, what is left out, scores of the moments located, by the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluate.world import colour_encoder, read, run
from tests.fakes import write_film
from vidret.data.benchmarks.splits import read_split
from vidret.engine import Engine
from vidret.evaluate.moments import CORPUS
from vidret.evaluate.tables import make_tables
from vidret.metrics.corpus_moments import RetrievedMoment, score_rated

RATED: dict[int, tuple[str, list[tuple[str, float, float, float]]]] = {
    1: ("red", [("one", 4.0, 8.0, 4), ("two", 0.0, 4.0, 3.5), ("gone", 0.0, 2.0, 4)]),
    2: ("blue", [("two", 4.0, 8.0, 2), ("one", 0.0, 4.0, 0)]),
    3: ("white", [("gone", 0.0, 2.0, 4), ("one", 0.0, 4.0, 0)]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rated")
    write_film(folder / "videos/one.mp4", ("green", 4), ("red", 4))
    write_film(folder / "videos/two.mp4", ("red", 4), ("blue", 4))
    write_film(folder / "videos/other.mp4", ("yellow", 4))
    rows = [
        {
            "query_id": number,
            "query": text,
            "relevant_moment": [
                {"video_name": video, "timestamp": [start, end], "relevance": relevance, "duration": 8.0}
                for video, start, end, relevance in moments
            ],
        }
        for number, (text, moments) in RATED.items()
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    (folder / "video_corpus.json").write_text(json.dumps(dict.fromkeys(("one", "two", "other", "gone"), 8.0)))
    return folder


def test_moments_of_all_videos_are_scored(data: Path) -> None:
    split = read_split("tvr-ranking", data)
    assert split.videos == ("one", "two", "other", "gone")
    answer = run("eval", "rated", "--videos", data / "videos", "--annotations", data, "--out", data / "out")
    assert answer.code == 0, answer.err
    report = read(data / "out" / "report.json")
    assert [row["id"] for row in report["per_query"]] == ["1", "2"]  # nothing relevant is left of the third
    assert (report["data"]["num_queries"], report["data"]["missing"]) == (3, ["gone"])
    found = {}
    with Engine(data / "out" / "index", colour_encoder()) as engine:
        for row in report["per_query"]:
            moments = engine.locate_with(row["text"], CORPUS)
            found[row["id"]] = [RetrievedMoment(Path(one.path).stem, one.start, one.end) for one in moments]
    kept = [query for query in split.rated_queries if query.id != "3"]
    kept = [replace(query, moments=tuple(one for one in query.moments if one.video != "gone")) for query in kept]
    assert report["results"]["rated"] == score_rated(kept, found) | {"num_videos": 3}
    assert report["results"]["rated"]["nDCG"]["0.7"]["nDCG@10"] > 90
    (title, (columns, lines)) = next(make_tables(report))
    assert title == "rated moments: 2 queries, each in 3 videos"
    assert columns == ["minimum IoU", "nDCG@10", "nDCG@20", "nDCG@40"]
    assert [line[0] for line in lines] == ["0.3", "0.5", "0.7"]
    assert "minimum IoU" in answer.out
    assert "found by the similarity curve" in answer.err


def test_without_a_corpus_the_rated_videos_are_searched(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "test.json", tmp_path)
    split = read_split("tvr-ranking", tmp_path)
    assert split.videos == ("one", "two", "gone")
    assert split.notes == ("only videos with rated moments are searched",)
