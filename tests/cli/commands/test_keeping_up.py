"""Tests of ``vidret index --watch``."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import Runner
from tests.fakes import write_film
from vidret.cli.commands import index as command
from vidret.engine import Engine
from vidret.index.options import IndexReport
from vidret.search import collections
from vidret.store.store import Store

watchfiles = pytest.importorskip("watchfiles", reason="needs the extra watch")


def wait_for_videos(index: Path, count: int) -> None:
    """Wait until an index has so many videos."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if Store.exists(index):
            with Store.open(index) as store:
                if len(store.videos.find()) == count:
                    return
        time.sleep(0.02)
    pytest.fail(f"there are not {count} videos")


def test_an_index_follows_its_folder_until_ctrl_c(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SETTLE_MS", 100)
    monkeypatch.setattr(command, "BEGIN_MS", 100)
    monkeypatch.setattr(command, "LONGEST_MS", 300)  # this test opens the index all the time
    folder, index = tmp_path / "films", tmp_path / "films" / "index"  # whose files are no changes
    write_film(folder / "red.mp4", ("red", 1))
    ready = write_film(tmp_path / "ready" / "blue.mp4", ("blue", 1))
    seen, ended, run_once = [], threading.Semaphore(0), Engine.index

    def index_and_tell(engine: Engine, *args: Any, **options: Any) -> IndexReport:
        try:
            return run_once(engine, *args, **options)
        finally:
            ended.release()

    monkeypatch.setattr(Engine, "index", index_and_tell)

    def add_a_film_and_interrupt() -> None:
        try:
            wait_for_videos(index, 1)  # when the first run need not have ended
            ready.rename(folder / "blue.mp4")
            wait_for_videos(index, 2)
            seen.append("blue")
            assert all(ended.acquire(timeout=20) for _ in range(2))
            time.sleep(0.5)  # for a run that nothing should start
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=add_a_film_and_interrupt)
    thread.start()
    try:
        code, _, err = run("index", folder, "--index", index, "--watch")
    finally:
        thread.join()
        signal.signal(signal.SIGINT, old)
    assert (code, seen) == (0, ["blue"])
    assert err.count("1 encoded") == 2
    assert err.count("encoded") == 2, "its own files start no run"
    assert "Interrupt" not in err


def test_what_a_run_reports_ends_no_watching(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = tmp_path / "films", tmp_path / "index"
    write_film(folder / "blue.mp4", ("blue", 1))
    run("index", folder, "--index", index)
    run("watch", "add", "reds", "red", "--index", index)

    def change_files(_paths: Sequence[str], _ignored: Path) -> Iterator[None]:
        write_film(folder / "rose.mp4", ("red", 1))
        yield  # a match, which the webhook does not take
        write_film(folder / "poppy.mp4", ("red", 1), salt=1)
        yield
        (folder / "bad.mp4").write_text("no video")
        yield
        write_film(folder / "sky.mp4", ("blue", 1), salt=2)
        yield

    monkeypatch.setattr(command, "iterate_changes", change_files)
    monkeypatch.setattr(collections, "MIN_PROBABILITY", 0.1)  # so few films say little
    options = ("--watch", "--exit-code", "--fail-on-error", "--webhook", "http://127.0.0.1:9/found")
    code, _, err = run("index", folder, "--index", index, *options)
    assert (code, err.count("did not take the matches")) == (0, 4)
    assert err.count("1 encoded") == 3
    assert "bad.mp4" in err


def test_ctrl_c_during_a_run_ends_the_watching(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "films" / "blue.mp4", ("blue", 1))
    monkeypatch.setattr(command, "iterate_changes", lambda *_: iter([None] * 3))
    runs = []

    def interrupt(*_args: Any, **_options: Any) -> IndexReport:
        runs.append(1)
        return IndexReport(interrupted=True)

    monkeypatch.setattr(Engine, "index", interrupt)
    assert run("index", tmp_path / "films", "--index", tmp_path / "index", "--watch")[0] == 1
    assert len(runs) == 1


def test_what_cannot_be_watched_is_refused(run: Runner, films: Path) -> None:
    for path in ("https://host/films", films / "*.mp4"):
        run.check_refusal(("index", path, "--watch"), 2, "--watch: must be existing folders or files to watch, got")
