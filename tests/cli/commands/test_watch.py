"""Tests of vidret watch, and of what vidret index reports: each new match once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from tests.scripted_server import Reply, serve
from vidret.endpoints.transport import post_json
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search import collections
from vidret.search.collections import add_watch, mark_reported
from vidret.store.rows_file import WATCHES
from vidret.store.store import Store
from vidret.types import UNLIKELY


@pytest.fixture(autouse=True)
def _report_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bar: of a few plain colours, nothing is certain."""
    monkeypatch.setattr(collections, "MIN_PROBABILITY", UNLIKELY)


@pytest.fixture
def films(own_films: Path) -> Path:
    return own_films


@pytest.fixture
def index(own_index: Path) -> Path:
    return own_index


def add_film(films: Path, name: str, colour: str) -> None:
    write_film(films / f"{name}.mp4", (colour, 3), salt=len(name))


def index_quietly(index: Path, films: Path) -> None:
    """Index films in another process, as it were, which reports nothing."""
    with Engine.open(index, encoder=ColourEncoder()) as engine:
        engine.index([films])


@pytest.mark.usefixtures("index")
def test_new_matches_are_reported_once(run: Runner, films: Path) -> None:
    run.out("watch", "add", "reds", "red")
    assert run.json("watch", "list") == [{"name": "reds", "query": "red"}]
    update = ("index", films, "--exit-code")
    assert "reds:" not in run.err(*update), "known videos are not new"
    add_film(films, "rose", "red")
    add_film(films, "sky", "blue")
    code, _, err = run(*update)
    assert (code, err.count("reds: "), "rose.mp4 0:00.0 to " in err) == (3, 1, True)
    run.out(*update)
    run.out("watch", "remove", "reds")
    assert "There are no watches. To add one: vidret watch add NAME QUERY" in run.err("watch", "list")


@pytest.mark.usefixtures("index")
def test_only_probable_matches_are_reported(run: Runner, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.out("watch", "add", "reds", "red")
    add_film(films, "rose", "red")
    monkeypatch.setattr(collections, "MIN_PROBABILITY", 0.999)
    run.out("index", films, "--exit-code")
    add_film(films, "tulip", "red")
    monkeypatch.setattr(collections, "MIN_PROBABILITY", UNLIKELY)
    code, _, err = run("index", films, "--exit-code")
    assert (code, "rose.mp4" in err, "tulip.mp4" in err) == (3, False, True), "what was improbable is not asked again"


@pytest.mark.usefixtures("index")
def test_many_watches_report_their_own_matches(run: Runner, films: Path) -> None:
    for colour in ("red", "blue", "green"):
        run.out("watch", "add", f"{colour}s", colour)
        add_film(films, f"{colour}s", colour)  # the watch that is added last has seen fewer new videos
        if colour == "red":
            run.out("index", films)
    out = run.out("index", films, "--json")
    rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"watch"')]
    found = [(row["watch"], Path(row["path"]).stem) for row in rows]
    assert sorted(found) == [("blues", "blues"), ("greens", "greens")]


@pytest.mark.usefixtures("index")
def test_matches_are_posted_and_kept_until_they_are_taken(run: Runner, films: Path) -> None:
    run.out("watch", "add", "reds", "red")
    add_film(films, "rose", "red")
    with serve() as server:
        server.replies = [Reply({}, 500), Reply({})]
        update = ("index", films, "--webhook", f"{server.url}/found")
        run.check_refusal(update, 1, "did not take the matches")
        out = run.out(*update, "--json")
        (match,) = server.asked[1].body["matches"]
        assert (match["watch"], match["query"], Path(match["path"]).name) == ("reds", "red", "rose.mp4")
        assert json.loads(out.splitlines()[-1]) == match
        run.out(*update)
        assert len(server.asked) == 2


def test_redirects_and_other_protocols_are_refused() -> None:
    with serve() as server:
        server.replies = [Reply({}, 307, headers={"Location": "/found"})]
        with pytest.raises(VidretError, match="did not take the matches"):
            post_json(f"{server.url}/found", {})
        assert len(server.asked) == 1
    for wrong in ("file:///etc/passwd", "http://", "ftp://host/a", "http://host:x/"):
        with pytest.raises(VidretError, match="webhook must be a URL like"):
            post_json(wrong, {})


def test_a_video_is_reported_once_it_is_complete(run: Runner, index: Path, films: Path) -> None:
    run.out("watch", "add", "early", "red")
    add_film(films, "rose", "red")
    index_quietly(index, films)
    with Store.open(index, write=True) as store:  # as an interrupted run leaves it
        (file,) = (file for file in store.files.find() if file.path.endswith("rose.mp4"))
        assert file.video is not None
        facts = store.videos.get(file.video).facts
        store.writer.begin_video(store.videos.fingerprints()[file.video], duration=3.0, facts=facts, num_segments=99)
        store.writer.set_file(file.path, state="pending")
    run.out("watch", "add", "late", "red")
    add_film(films, "tulip", "red")
    code, _, err = run("index", films / "tulip.mp4", "--exit-code")
    assert (code, "tulip.mp4" in err, "rose.mp4" in err) == (3, True, False)
    code, _, err = run("index", films, "--exit-code")
    assert (code, err.count("rose.mp4"), err.count("tulip.mp4")) == (3, 2, 0), "for both watches"
    run.out("index", films, "--exit-code")


def test_a_video_whose_drive_was_away_is_reported_when_it_is_back(run: Runner, index: Path, films: Path) -> None:
    run.out("watch", "add", "reds", "red")
    add_film(films, "rose", "red")
    index_quietly(index, films)
    away = (films / "rose.mp4").rename(films.parent / "away.mp4")
    add_film(films, "sky", "blue")
    run.out("index", films, "--exit-code")
    away.rename(films / "rose.mp4")
    assert run("index", films, "--exit-code")[0] == 3


def test_watches_that_are_added_at_once_are_all_kept(index: Path) -> None:
    with ThreadPoolExecutor(16) as threads, Store.open(index) as store:
        list(threads.map(lambda watch_index: add_watch(store, f"watch{watch_index}", "red"), range(16)))
        videos = store.videos.completeness()
    assert {watch.name for watch in WATCHES.read(index)} == {f"watch{watch_index}" for watch_index in range(16)}
    with ThreadPoolExecutor(8) as threads:
        removals = [threads.submit(WATCHES.remove, index, f"watch{watch_index}", "a watch") for watch_index in range(8)]
        reports = [threads.submit(mark_reported, index, videos, videos) for _ in range(8)]
        assert [job.result() for job in (*removals, *reports)] == [None] * 16
    assert {watch.name for watch in WATCHES.read(index)} == {f"watch{watch_index}" for watch_index in range(8, 16)}


@pytest.mark.usefixtures("index")
def test_a_watch_for_a_forgotten_concept_is_left_out_and_waits(
    run: Runner, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "MIN_PROBABILITY", 0.1)  # one example says little
    run.out("teach", "rosy", "--yes", films / "red.mp4")
    run.out("watch", "add", "rosies", "@rosy")
    run.out("watch", "add", "blues", "blue")
    run.out("forget", "rosy")
    add_film(films, "rose", "red")
    err = run.err("index", films, "--exit-code")
    assert "the watch rosies is left out: @rosy is not a taught concept" in err
    run.out("teach", "rosy", "--yes", films / "red.mp4")
    code, _, err = run("index", films, "--exit-code")
    assert (code, "rosies: " in err, "blues: " in err) == (3, True, False)


def test_wrong_watches_are_refused_in_one_sentence(run: Runner, index: Path, films: Path) -> None:
    run.out("watch", "add", "reds", "red")
    for name, query, rule in (
        ("reds", "blue", "name must be new, got reds, which looks for 'red'"),
        ("a/b", "red", "name must be up to 64 letters"),
        ("x", "...", "query must contain a word"),
        ("x", "a dog, no dog", "query must not exclude what it looks for"),
        ("x", "@mascot, then red", "@mascot: must be the name of a taught concept (none)"),
    ):
        code = 2 if rule.startswith(("query", "name must be up")) else 1
        run.check_refusal(("watch", "add", name, query), code, rule)
    run.check_refusal("watch remove x", 1, "name must be that of a watch, got x")
    run.check_refusal(("index", films, "--webhook", "nowhere"), 2, "webhook must be a URL")
    (index / "watches.json").write_text("[1]")
    run.check_refusal("watch list", 1, "cannot be read as watches")
