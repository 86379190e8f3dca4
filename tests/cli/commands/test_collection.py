"""Tests of vidret collection and vidret cut, and of --save of vidret search and vidret locate."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.scripted_server import Reply, serve
from tests.video.films import write_video
from vidret.client import RemoteEngine
from vidret.types import SavedCollection
from vidret.video.probe import probe


def test_searches_are_saved_and_run_again(run: Runner, index: Path) -> None:
    saved = run.err("search", "red", "-k", 1, "--save", "my reds")
    assert f"saved; to run it again: vidret collection show 'my reds' --index {index}" in saved
    run.monkeypatch.chdir(index.parent)
    index.rename("my index")
    again = run.err("locate", "blue", "-k", 1, "--save", "blues", "--index", "my index")
    assert again.startswith(f"saved; to run it again: vidret collection show blues --index '{index.parent}/my index'")
    Path("my index").rename("vidret-index")
    run.monkeypatch.delenv("VIDRET_INDEX")
    again = run.err("locate", "black", "-k", 1, "--save", "blacks")
    assert again.startswith("saved; to run it again: vidret collection show blacks located")
    run.out("collection", "remove", "blacks")
    rows = [" ".join(line.split()) for line in run.out("collection", "list").splitlines()]
    assert rows == ["name what query", "blues search for moments blue", "my reds search for videos red"]
    assert run.out("collection", "show", "my reds") == run.out("search", "red", "-k", 1)
    assert run.out("collection", "show", "blues") == run.out("locate", "blue", "-k", 1)
    assert run.out("collection", "show", "blues", "--format", "edl").startswith("TITLE: blues\n")
    table = run.out("collection", "show", "blues", "--format", "csv")
    assert table == run.out("locate", "blue", "-k", 1, "--format", "csv"), "the query is not the name"
    (row,) = json.loads(run.out("collection", "show", "my reds", "--format", "json"))
    assert (row["rank"], row["query"], row["by"]) == (1, "red", "curve")
    for command, name in (("search", "second"), ("locate", "second moment")):
        second = run(command, "red", "-k", 1, "--offset", 1)[1]
        run.out(command, "red", "-k", 1, "--offset", 1, "--save", name)
        assert run.out("collection", "show", name) == second
        run.out(command, "black", "--at-least", 1, "--save", f"sure {name}")
        assert run.err("collection", "show", f"sure {name}") == "No match has a probability of 100 % or more."
    run.check_refusal("search red --save 'my reds'", 1, "name must be new, got my reds")
    run.check_refusal("search red --like red.mp4@1 --save x", 1, "teach a concept")
    run.check_refusal("search red --by moment --save x", 2, "--by video")
    run.check_refusal("locate red red.mp4 --save x", 2, "of all videos")


def test_a_search_that_a_server_keeps_is_not_in_an_index_here(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[SavedCollection] = []
    monkeypatch.setattr(RemoteEngine, "save_collection", lambda _engine, collection: kept.append(collection))
    with serve() as server:
        server.replies = [Reply({"hits": []})]
        assert f"saved at {server.url}" in run.err("search", "red", "--save", "reds", "--server", server.url)
    assert [(collection.name, collection.query) for collection in kept] == [("reds", "red")]


@pytest.mark.usefixtures("own_index")
def test_lists_are_made_changed_and_shown(run: Runner, own_films: Path) -> None:
    message = run.err("collection", "add", "best", "red.mp4", "--from", 1, "--to", 2.5, "--note", "the take")
    assert message == "added to best: red.mp4 0:01.0 to 0:02.5"
    run.out("collection", "add", "best", own_films / "blue.mp4")
    run.out("collection", "edit", "best", 2, "--place", 1, "--to", "0:02.0")
    run.check_refusal("collection add best red.mp4 --from 2 --to 1", 2, "moments must have 0 <= start < end, got 2")
    run.check_refusal("collection edit best 1 --place 3", 1, "a position in best, which has 2 moments, got 3")
    run.check_refusal("collection edit best 2 --from 1:x", 2, "must be a time, such as 1:30 or 90, got 1:x")
    lines = [line.split() for line in run.out("collection", "show", "best").splitlines()]
    assert [line[:3] for line in lines] == [
        ["rank", "start", "end"],
        ["1", "0:00.0", "0:02.0"],
        ["2", "0:01.0", "0:02.5"],
        ["the", "take"],
    ]
    (own_films / "red.mp4").unlink()
    run.out("index", own_films)
    code, out, err = run("collection", "show", "best")
    assert (code, "red.mp4  (not in the index)" in out) == (0, True)
    assert "left out: 1 moment of best, whose videos are not in the index" in err
    table = run.out("collection", "show", "best", "--format", "csv")
    assert [row.split(",")[2].rpartition("/")[2] for row in table.splitlines()[1:]] == ["blue.mp4"]
    run.out("collection", "remove", "best", 1)
    assert "best 1 moment" in " ".join(run.out("collection", "list").split())
    (kept,) = run.json("collection", "list")
    assert [moment["note"] for moment in kept["moments"]] == ["the take"], "what is missing stays"
    run.check_refusal("collection edit best 2", 1, "which has 1 moment, got 2")
    assert run.err("collection", "remove", "best") == "best is removed; videos stay"
    assert "There are no collections. To save a search: vidret search QUERY --save NAME" in run.err(
        "collection", "list"
    )
    run.check_refusal("collection show best", 1, "name must be that of a collection, got best")


@pytest.mark.usefixtures("ffmpeg")
def test_a_list_is_cut_into_files_and_a_film(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    (tmp_path / "films").mkdir()
    options = {"g": "25", "preset": "ultrafast"}
    run.out("index", write_video(tmp_path / "films" / "a.mp4", range(100), options=options, audio=True))
    for start in (1, 2.2):
        run.out("collection", "add", "best", "a.mp4", "--from", start, "--to", start + 1)
    err = run.err("cut", "best", tmp_path / "out")
    assert "01_a_1.00-2.00.mp4: copied as it is" in err
    assert "02_a_2.20-3.20.mp4: encoded again" in err
    assert [probe(path).num_frames for path in sorted((tmp_path / "out").iterdir())] == [25, 25]
    film = ("cut", "best", tmp_path / "best.mp4")
    assert "best.mp4: encoded again, 2 moments" in run.err(*film)
    assert probe(tmp_path / "best.mp4").num_frames == 50
    run.check_refusal(film, 1, "exists already")
    run.check_refusal(("cut", "best", tmp_path / "best.mov"), 2, "a film must end in .mp4, got ")
    assert run.err("cut", "best", tmp_path / "out", "--encode", "--overwrite").count("encoded again") == 2
    write_video(tmp_path / "films" / "a.mp4", range(0, 200, 2), options=options)
    changed = "a.mp4: has changed since it was indexed; index it again, or its moments may be wrong"
    for command in (
        ("cut", "best", tmp_path / "new"),
        ("collection", "show", "best", "--format", "edl"),
        ("locate", "red", "--format", "edl"),
        ("locate", "red", "--export", tmp_path / "found"),
    ):
        code, _, err = run(*command)
        assert (code, err.count(changed)) == (0, 1)
