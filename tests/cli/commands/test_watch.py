"""Tests of vidret watch, and of what vidret index reports: each new match once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from tests.http_servers import QuietHandler, run_handler
from vidret.endpoints.transport import post_json
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search import watches
from vidret.search.watches import add_watch, mark_reported, remove_watch
from vidret.store.rows_file import WATCHES
from vidret.store.store import Store
from vidret.types import UNLIKELY


@pytest.fixture(autouse=True)
def _report_what_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the bar: of a few plain colours, nothing is certain."""
    monkeypatch.setattr(watches, "MIN_PROBABILITY", UNLIKELY)


@contextmanager
def listen(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """Serve on a loopback port; yield its URL and the bodies that are posted."""
    bodies: list[Any] = []

    class Handler(QuietHandler):
        def answer(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(status, {"Location": self.path}, b"")

    with run_handler(Handler) as url:
        yield f"{url}/found", bodies


def add_film(films: Path, name: str, colour: str) -> None:
    write_film(films / f"{name}.mp4", (colour, 3), salt=len(name))


def test_new_matches_are_reported_once(run: Runner, index: Path, films: Path) -> None:
    assert run("watch", "add", "reds", "red", "--index", index)[0] == 0
    assert json.loads(run("watch", "list", "--index", index, "--json")[1]) == [{"name": "reds", "query": "red"}]
    update = ("index", films, "--index", index, "--exit-code")
    code, _, err = run(*update)
    assert (code, "reds:" in err) == (0, False), "known videos are not new"
    add_film(films, "rose", "red")
    add_film(films, "sky", "blue")
    code, _, err = run(*update)
    assert code == 3
    assert err.count("reds: ") == 1
    assert "rose.mp4 0:00.0 to " in err
    assert run(*update)[0] == 0
    assert run("watch", "remove", "reds", "--index", index)[0] == 0
    assert "There are no watches." in run("watch", "list", "--index", index)[2]


def test_only_probable_matches_are_reported(
    run: Runner, index: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("watch", "add", "reds", "red", "--index", index)
    add_film(films, "rose", "red")
    update = ("index", films, "--index", index, "--exit-code")
    monkeypatch.setattr(watches, "MIN_PROBABILITY", 0.999)
    assert run(*update)[0] == 0
    add_film(films, "tulip", "red")
    monkeypatch.setattr(watches, "MIN_PROBABILITY", UNLIKELY)
    code, _, err = run(*update)
    assert (code, "rose.mp4" in err, "tulip.mp4" in err) == (3, False, True), "what was improbable is not asked again"


def test_many_watches_report_their_own_matches(run: Runner, index: Path, films: Path) -> None:
    for name in ("reds", "blues", "greens"):
        run("watch", "add", name, name.removesuffix("s"), "--index", index)
        add_film(films, name, name.removesuffix("s"))  # the watch that is added last has seen fewer new videos
        if name == "reds":
            run("index", films, "--index", index)
    code, out, _ = run("index", films, "--index", index, "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"watch"')]
    found = [(row["watch"], Path(row["path"]).stem) for row in rows]
    assert sorted(found) == [("blues", "blues"), ("greens", "greens")]


def test_matches_are_posted_and_kept_until_they_are_taken(run: Runner, index: Path, films: Path) -> None:
    run("watch", "add", "reds", "red", "--index", index)
    add_film(films, "rose", "red")
    with listen(500) as (url, _):
        run.check_refusal(("index", films, "--index", index, "--webhook", url), 1, "did not take the matches")
    with listen() as (url, bodies):
        code, out, _ = run("index", films, "--index", index, "--json", "--webhook", url)
        assert code == 0
        (match,) = bodies[0]["matches"]
        assert (match["watch"], match["query"], Path(match["path"]).name) == ("reds", "red", "rose.mp4")
        assert json.loads(out.splitlines()[-1]) == match
        run("index", films, "--index", index, "--webhook", url)
        assert len(bodies) == 1


def test_redirects_and_other_protocols_are_refused() -> None:
    with listen(307) as (url, bodies):
        with pytest.raises(VidretError, match="did not take the matches"):
            post_json(url, {})
        assert len(bodies) == 1
    for wrong in ("file:///etc/passwd", "http://", "ftp://host/a", "http://host:x/"):
        with pytest.raises(VidretError, match="webhook must be a URL like"):
            post_json(wrong, {})


def test_a_video_is_reported_once_it_is_complete(run: Runner, index: Path, films: Path) -> None:
    run("watch", "add", "early", "red", "--index", index)
    add_film(films, "rose", "red")
    with Engine.open(index, encoder=ColourEncoder()) as engine:
        engine.index([films])
        (rose,) = (video.id for video in engine.videos() if video.paths[0].endswith("rose.mp4"))
    with Store.open(index, write=True) as store:  # as an interrupted run leaves it
        facts = store.videos.get(rose).facts
        store.writer.begin_video(store.videos.fingerprints()[rose], duration=3.0, facts=facts, num_segments=99)
        store.writer.set_file(str(films / "rose.mp4"), state="pending")
    run("watch", "add", "late", "red", "--index", index)
    add_film(films, "tulip", "red")
    code, _, err = run("index", films / "tulip.mp4", "--index", index, "--exit-code")
    assert (code, "tulip.mp4" in err, "rose.mp4" in err) == (3, True, False)
    code, _, err = run("index", films, "--index", index, "--exit-code")
    assert (code, err.count("rose.mp4"), err.count("tulip.mp4")) == (3, 2, 0), "for both watches"
    assert run("index", films, "--index", index, "--exit-code")[0] == 0


def test_a_video_whose_drive_was_away_is_reported_when_it_is_back(run: Runner, index: Path, films: Path) -> None:
    run("watch", "add", "reds", "red", "--index", index)
    add_film(films, "rose", "red")
    with Engine.open(index, encoder=ColourEncoder()) as engine:
        engine.index([films])
    away = (films / "rose.mp4").rename(films.parent / "away.mp4")
    add_film(films, "sky", "blue")
    assert run("index", films, "--index", index, "--exit-code")[0] == 0
    away.rename(films / "rose.mp4")
    assert run("index", films, "--index", index, "--exit-code")[0] == 3


def test_watches_that_are_added_at_once_are_all_kept(index: Path) -> None:
    with ThreadPoolExecutor(16) as threads, Store.open(index) as store:
        list(threads.map(lambda number: add_watch(store, f"watch{number}", "red"), range(16)))
        videos = store.videos.completeness()
    assert {watch.name for watch in WATCHES.read(index)} == {f"watch{number}" for number in range(16)}
    with ThreadPoolExecutor(8) as threads:
        removals = [threads.submit(remove_watch, index, f"watch{number}") for number in range(8)]
        reports = [threads.submit(mark_reported, index, videos, videos) for _ in range(8)]
        assert [job.result() for job in (*removals, *reports)] == [None] * 16
    assert {watch.name for watch in WATCHES.read(index)} == {f"watch{number}" for number in range(8, 16)}


def test_a_watch_for_a_forgotten_concept_is_left_out_and_waits(run: Runner, index: Path, films: Path) -> None:
    run("teach", "rosy", "--yes", films / "red.mp4", "--index", index)
    run("watch", "add", "rosies", "@rosy", "--index", index)
    run("watch", "add", "blues", "blue", "--index", index)
    run("forget", "rosy", "--index", index)
    add_film(films, "rose", "red")
    code, _, err = run("index", films, "--index", index, "--exit-code")
    assert (code, "the watch rosies is left out: @rosy is no taught concept" in err) == (0, True)
    run("teach", "rosy", "--yes", films / "red.mp4", "--index", index)
    code, _, err = run("index", films, "--index", index, "--exit-code")
    assert (code, "rosies: " in err, "blues: " in err) == (3, True, False)


def test_wrong_watches_are_refused_in_one_sentence(run: Runner, index: Path, films: Path) -> None:
    run("watch", "add", "reds", "red", "--index", index)
    for name, query, rule in (
        ("reds", "blue", "name must be new, got reds, which looks for 'red'"),
        ("a/b", "red", "name must be up to 64 letters"),
        ("x", "...", "query must contain a positive word"),
        ("x", "a dog, no dog", "query must not exclude what it looks for"),
        ("x", "@mascot, then red", "@mascot: must be the name of a taught concept (none)"),
    ):
        code, _, err = run("watch", "add", name, query, "--index", index)
        assert code == 1
        assert rule in err
    assert "name must be that of a watch, got x" in run("watch", "remove", "x", "--index", index)[2]
    run.check_refusal(("index", films, "--index", index, "--webhook", "nowhere"), 2, "webhook must be a URL")
    (index / "watches.json").write_text("[1]")
    run.check_refusal(("watch", "list", "--index", index), 1, "cannot be read as watches")
