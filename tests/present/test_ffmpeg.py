"""Tests of vidret/present/ffmpeg.py: what ffmpeg may take, with runs that would last as long as a film."""

import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.video.films import write_video
from vidret.present.ffmpeg import FfmpegError, Limits, run_ffmpeg

IN_REAL_TIME = ["-re"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(
        tmp_path_factory.mktemp("film") / "film.mp4", range(250), size=(640, 360), options={"preset": "ultrafast"}
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list["subprocess.Popen[str]"]:
    """Return the list of processes that are started."""
    processes: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **settings: Any) -> "subprocess.Popen[str]":
        processes.append(real(*arguments, **settings))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return processes


Run = Callable[..., dict[str, str]]


@pytest.fixture
def run(ffmpeg: str, film: Path, tmp_path: Path) -> Iterator[Run]:
    """Return a function that encodes the film within limits."""
    with film.open("rb") as file:

        def call(*before: str, is_left: Callable[[], bool] = lambda: False, **limits: Any) -> dict[str, str]:
            after = ["-y", "-c:v", "libx264", "-preset", "ultrafast", str(tmp_path / "out.mp4")]
            return run_ffmpeg(ffmpeg, file, before, after, Limits(**limits), is_left=is_left)

        yield call


def test_the_last_progress_is_returned(run: Run) -> None:
    progress = run()
    assert (progress["progress"], progress["frame"]) == ("end", "250")


@pytest.mark.parametrize(
    ("before", "limits", "reason"),
    [
        ([], {"memory_bytes": 40 << 20}, "needs more than 0.039 GiB of memory"),
        ([], {"out_bytes": 2000}, "(?i)file too large"),
        (IN_REAL_TIME, {"time_s": 0.4}, "takes longer than 0.4 s"),
    ],
)
def test_a_run_that_exceeds_a_limit_ends(
    run: Run, started: list["subprocess.Popen[str]"], before: list[str], limits: dict[str, float], reason: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(FfmpegError, match=reason):
        run(*before, **limits)
    assert time.monotonic() - begun < 5
    assert started[0].returncode not in (None, 0)


def test_a_run_that_nobody_waits_for_is_killed(run: Run, started: list["subprocess.Popen[str]"]) -> None:
    begun = time.monotonic()
    with pytest.raises(FfmpegError, match="nobody waits"):
        run(*IN_REAL_TIME, is_left=lambda: time.monotonic() > begun + 0.5)
    assert time.monotonic() - begun < 5
    assert started[0].returncode == -9


def test_a_flood_of_messages_is_cut_to_the_last_one(tmp_path: Path, film: Path) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\nyes '{'no such thing ' * 20}' | head -n 50000 >&2\necho 'all is lost' >&2\nexit 3\n")
    fake.chmod(0o700)
    tracemalloc.start()
    with film.open("rb") as file, pytest.raises(FfmpegError, match="all is lost"):
        run_ffmpeg(str(fake), file, [], ["out.mp4"], Limits())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20
