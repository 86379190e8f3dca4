"""Thumbnails are made once, and kept within a size."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from tests.colours import write_film
from vidret.errors import DecodeError
from vidret.serve import thumbnails
from vidret.serve.thumbnails import Kept, Thumbnails, draw_frame
from vidret.video.probe import VideoInfo


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "red.mp4", ("red", 3))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Note what is drawn: time and width."""
    seen: list[tuple[float, int]] = []

    def draw(info: VideoInfo, time: float, width: int) -> bytes:
        seen.append((time, width))
        return draw_frame(info, time, width)

    monkeypatch.setattr(thumbnails, "draw_frame", draw)
    return seen


def get(folder: Path, film: Path, time: float = 1.0, width: int = 64) -> bytes:
    return asyncio.run(Thumbnails(folder).get(str(film), time, width))


def test_each_is_made_once(tmp_path: Path, film: Path, drawn: list[tuple[float, int]]) -> None:
    first = get(tmp_path / "kept", film)
    assert get(tmp_path / "kept", film) == first, "by another server, too"
    assert drawn == [(1.0, 64)]
    get(tmp_path / "kept", film, 2.0)
    get(tmp_path / "kept", film, 1.0, 32)
    assert drawn[1:] == [(2.0, 64), (1.0, 32)]
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_changed_file_has_new_ones(tmp_path: Path, film: Path, drawn: list[tuple[float, int]]) -> None:
    old = get(tmp_path / "kept", film)
    write_film(film, ("blue", 3))
    os.utime(film, (1e9, 1e9))
    assert get(tmp_path / "kept", film) != old
    assert len(drawn) == 2


def test_those_who_ask_together_wait_for_one(tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun, seen = threading.Event(), threading.Semaphore(0), list[float]()

    def draw(_info: VideoInfo, time: float, _width: int) -> bytes:
        seen.append(time)
        begun.release()
        assert gate.wait(10)
        return b"a picture"

    monkeypatch.setattr(thumbnails, "draw_frame", draw)

    async def ask() -> list[bytes]:
        made = Thumbnails(tmp_path / "kept")
        hurried = asyncio.create_task(made.get(str(film), 1.0, 64))
        await asyncio.to_thread(begun.acquire)
        others = [asyncio.create_task(made.get(str(film), 1.0, 64)) for _ in range(5)]
        await asyncio.sleep(0)  # one turn of the loop: they wait now
        hurried.cancel()  # who asked first has gone; the others still get it
        gate.set()
        return await asyncio.gather(*others)

    assert asyncio.run(ask()) == [b"a picture"] * 5
    assert seen == [1.0]


def test_failures_are_not_kept(tmp_path: Path, film: Path) -> None:
    whole = film.read_bytes()
    film.write_bytes(b"no film")
    with pytest.raises(DecodeError, match="is not a video"):
        get(tmp_path / "kept", film)
    film.write_bytes(whole)
    assert get(tmp_path / "kept", film).startswith(b"\xff\xd8")


def test_the_oldest_go_when_it_is_too_much(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept", 1000)
    for number in range(10):
        kept.put(str(number), bytes(100))
        os.utime(tmp_path / "kept" / f"{number}.jpg", (number, number))
    assert all(kept.get(str(number)) is not None for number in (0, 9)), "all of them fit, and these two are fresh now"
    kept.put("new", bytes(100))
    there = {path.stem for path in (tmp_path / "kept").iterdir()}
    assert there == {"0", "9", "new", "3", "4", "5", "6", "7", "8"}
    again = Kept(tmp_path / "kept", 1000)
    again.put("more", bytes(150))
    assert len(list((tmp_path / "kept").iterdir())) < 10, "what was there before it counts"


def test_a_disk_that_refuses_is_told_of(tmp_path: Path, film: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert get(tmp_path / "kept", film).startswith(b"\xff\xd8")
    assert "thumbnails are not kept" in caplog.text
