"""Tests of vidret collection and vidret cut, and of --save of vidret search and vidret locate."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.video.films import write_video
from vidret.errors import VidretError
from vidret.present.ffmpeg import find_ffmpeg
from vidret.video.probe import probe


def test_searches_are_saved_and_run_again(run: Runner, index: Path) -> None:
    assert (
        "kept: vidret collection show 'my reds'"
        in run("search", "red", "-k", 1, "--index", index, "--save", "my reds")[2]
    )
    assert run("locate", "blue", "-k", 1, "--index", index, "--save", "blues")[0] == 0
    rows = [line.split() for line in run("collection", "list", "--index", index)[1].splitlines()]
    assert rows == [["what", "found"], ["blues", "moments", "blue"], ["my", "reds", "videos", "red"]]
    show = ("collection", "show", "--index", index)
    assert run(*show, "my reds")[1] == run("search", "red", "-k", 1, "--index", index)[1]
    assert run(*show, "blues")[1] == run("locate", "blue", "-k", 1, "--index", index)[1]
    assert run(*show, "blues", "--format", "edl")[1].startswith("TITLE: blues\n")
    assert json.loads(run(*show, "my reds", "--format", "json")[1])[0]["by"] == "curve"
    run.check_refusal(("search", "red", "--index", index, "--save", "my reds"), 1, "name must be new, got my reds")
    run.check_refusal(("search", "red", "--like", "red.mp4@1", "--index", index, "--save", "x"), 1, "teach a concept")
    run.check_refusal(("search", "red", "--by", "moment", "--index", index, "--save", "x"), 2, "--by video")
    run.check_refusal(("locate", "red", "red.mp4", "--index", index, "--save", "x"), 2, "of all videos")


def test_lists_are_made_changed_and_shown(run: Runner, index: Path, films: Path) -> None:
    add = ("collection", "add", "best", "--index", index)
    assert run(*add, "red.mp4", "--from", 1, "--to", 2.5, "--note", "the take")[0] == 0
    assert run(*add, films / "blue.mp4")[0] == 0
    assert run("collection", "edit", "best", 2, "--place", 1, "--to", 2, "--index", index)[0] == 0
    lines = [line.split() for line in run("collection", "show", "best", "--index", index)[1].splitlines()]
    assert [line[:3] for line in lines] == [
        ["rank", "start", "end"],
        ["1", "0:00.0", "0:02.0"],
        ["2", "0:01.0", "0:02.5"],
        ["the", "take"],
    ]
    (films / "red.mp4").unlink()
    run("index", films, "--index", index)
    code, out, err = run("collection", "show", "best", "--index", index)
    assert (code, "red.mp4  (not in the index)" in out) == (0, True)
    assert "1 moments of best are of videos that are not in the index, and left out" in err
    table = run("collection", "show", "best", "--index", index, "--format", "csv")[1]
    assert [row.split(",")[2].rpartition("/")[2] for row in table.splitlines()[1:]] == ["blue.mp4"]
    assert run("collection", "remove", "best", 1, "--index", index)[0] == 0
    (kept,) = json.loads(run("collection", "list", "--index", index, "--json")[1])
    assert [moment["note"] for moment in kept["moments"]] == ["the take"], "what is missing stays"
    run.check_refusal(("collection", "edit", "best", 2, "--index", index), 1, "which has 1 moments, got 2")
    assert run("collection", "remove", "best", "--index", index)[0] == 0
    assert "There are no collections." in run("collection", "list", "--index", index)[2]
    run.check_refusal(
        ("collection", "show", "best", "--index", index), 1, "name must be that of a collection, got best"
    )


def test_a_list_is_cut_into_files_and_a_film(run: Runner, tmp_path: Path) -> None:
    try:
        find_ffmpeg()
    except VidretError:
        pytest.skip("needs ffmpeg: the machine's, or the package imageio-ffmpeg")
    (tmp_path / "films").mkdir()
    film = write_video(tmp_path / "films" / "a.mp4", range(100), options={"g": "25", "preset": "ultrafast"}, audio=True)
    index = tmp_path / "index"
    run("index", film, "--index", index)
    for start in (1, 2.2):
        run("collection", "add", "best", "a.mp4", "--from", start, "--to", start + 1, "--index", index)
    code, _, err = run("cut", "best", tmp_path / "out", "--index", index)
    assert code == 0
    assert "01_a_1.00-2.00.mp4: copied as it is" in err
    assert "02_a_2.20-3.20.mp4: encoded again" in err
    assert [probe(path).num_frames for path in sorted((tmp_path / "out").iterdir())] == [25, 25]
    _, _, err = run("cut", "best", tmp_path / "best.mp4", "--index", index)
    assert "best.mp4: encoded again, 2 moments" in err
    assert probe(tmp_path / "best.mp4").num_frames == 50
    run.check_refusal(("cut", "best", tmp_path / "best.mp4", "--index", index), 1, "exists already")
    _, _, err = run("cut", "best", tmp_path / "out", "--index", index, "--encode", "--overwrite")
    assert err.count("encoded again") == 2
