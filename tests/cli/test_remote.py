"""Searches with --server, and commands without --index."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.runner import Runner, run_without
from tests.scripted_server import CURVE, HIT, MOMENT, Reply, Served, problem, serve
from vidret.cli import options as default_index
from vidret.encode.text_cache import locate_folder
from vidret.errors import VidretError
from vidret.store.consent import is_allowed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """Run a server where there is no index."""
    monkeypatch.chdir(tmp_path)
    with serve() as served:
        yield served


def test_search_asks_a_server(run: Runner, server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.replies = [Reply({"hits": [HIT]})]
    code, out, _ = run("search", "dog", "--server", server.url, "-k", 3, "--rerank", "none", "--after", "2026-01-31")
    assert (code, out.splitlines()[1].split()) == (0, ["1", "90", "%", "likely", "0:30.5", "/films/red.mp4"])
    body = server.asked[0].body
    assert (body["query"], body["k"], body["rerank"]) == ("dog", 3, "none")
    assert datetime.fromisoformat(body["after"]) == datetime(2026, 1, 31).astimezone()
    monkeypatch.setenv("VIDRET_TOKEN", "secret")
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "nowhere"))
    Image.new("RGB", (4, 3)).save(tmp_path / "black.png")
    (hit,) = run.json("search", "--image", "black.png", "--server", server.url)
    assert (hit["segment"]["number"], hit["copies"], hit["why"]) == (2, ["/films/copy.mp4"], {"frames": 0.75})
    assert server.asked[1].headers["authorization"] == "Bearer secret"
    assert {"image", "k"} <= server.asked[1].body.keys()
    assert "query" not in server.asked[1].body
    (tmp_path / "queries.jsonl").write_text('{"query": "red"}\n{"query": "blue"}\n')
    assert len(run("search", "--queries", "queries.jsonl", "--server", server.url)[1].splitlines()) == 2


def test_moments_of_a_server_may_be_located_in_ways_that_the_client_does_not_know(run: Runner, server: Served) -> None:
    server.replies = [Reply({"moments": [MOMENT | {"by": "ear"}]})]
    code, out, messages = run("locate", "dog", "--server", server.url)
    assert (code, "located by ear" in messages, "/films/red.mp4" in out) == (0, True, True)


def test_a_query_without_quotes_is_told_from_a_video_by_a_server_too(run: Runner, server: Served) -> None:
    server.replies = [Reply({"videos": [], "next": None})]
    rule = f"car: not in the index of {server.url}; a query of several words goes in quotes"
    run.check_refusal(f"locate red car --server {server.url}", 1, rule)


@pytest.mark.parametrize(
    ("command", "modules"),
    [
        (("search", "dog"), "torch numpy jaxtyping asyncio sqlite3 PIL fastapi pydantic rich"),
        (("locate", "dog"), "torch numpy jaxtyping asyncio sqlite3 PIL fastapi pydantic"),
        (("locate", "dog", "--curve", "curve.png"), "torch sqlite3"),
    ],
)
def test_a_client_imports_only_what_it_needs(server: Served, command: tuple[str, ...], modules: str) -> None:
    server.replies = [Reply({"hits": [HIT], "moments": [MOMENT]}), Reply(CURVE)]
    assert "/films/red.mp4" in run_without(modules, *command, "--server", server.url)


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(422, "usage", 2), (422, "failure", 1), (404, "failure", 1), (503, "failure", 1)]
)
def test_what_a_server_refuses_as_wrong_is_an_error_of_usage(
    run: Runner, server: Served, status: int, kind: str, code: int
) -> None:
    server.replies = [problem(status, "k must be at most 1000, got 5000", kind=kind)]
    run.check_refusal(f"search dog -k 5000 --server {server.url}", code, "k must be at most 1000")


def test_the_index_of_the_folder_comes_before_that_of_the_user(
    run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_index, "find_own_index", lambda: tmp_path / "own")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run.run_raw("index", films / "red.mp4")
    assert (code, err.splitlines()[0]) == (0, f"Index: {tmp_path / 'own'}")
    code, out, err = run("search", "red")
    assert (code, err) == (0, f"Index: {tmp_path / 'own'}")
    assert out.splitlines()[1].endswith("red.mp4")
    assert run("index", films / "blue.mp4", "--index", "vidret-index")[0] == 0
    code, out, err = run("search", "blue")
    assert (err, "red.mp4" in out, "blue.mp4" in out) == ("", False, True)
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "own"))
    assert run("search", "red")[2] == ""
    monkeypatch.delenv("VIDRET_INDEX")
    monkeypatch.chdir(tmp_path)
    assert "Index:" not in run("search", "red", "--server", "http://127.0.0.1:1")[2], "a server needs none"


def test_the_own_index_is_with_the_data_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("platformdirs")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # of Linux
    assert default_index.find_own_index().name == "index"
    assert "vidret" in default_index.find_own_index().parts


def test_a_user_without_a_home_folder_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without an entry in the passwd file
    with pytest.raises(VidretError, match="HOME or XDG_DATA_HOME must be set"):
        default_index.find_own_index()
    with pytest.raises(VidretError, match="HOME or XDG_STATE_HOME must be set"):
        is_allowed(tmp_path, "a model")
    with pytest.raises(VidretError, match="HOME or XDG_CACHE_HOME must be set"):
        locate_folder()


def test_several_indexes_are_not_the_path_of_one(
    run: Runner, films: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRET_INDEX", os.pathsep.join([str(index), str(tmp_path / "other")]))
    for command in (("index", films), ("info",), ("collection", "list"), ("merge", index)):
        run.check_refusal(command, 2, "--index: must be one index for this command; VIDRET_INDEX names several")
    run.check_refusal(
        ("duplicates", "--index", "a", f"--index={index}"), 2, "must be one index for this command, got 2"
    )
    assert run("info", "--index", index)[0] == 0
    monkeypatch.setenv("VIDRET_INDEX", str(index.rename(tmp_path / f"a{os.pathsep}b")))
    assert run("info")[0] == 0, "it is the name of a folder"
