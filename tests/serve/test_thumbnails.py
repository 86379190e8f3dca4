"""Tests of thumbnails: each is made once, and the cache has a limited size."""

import asyncio
import os
import threading
from pathlib import Path

import anyio.to_thread
import pytest

from tests.fakes import write_film
from vidret.errors import DecodeError
from vidret.serve import thumbnails
from vidret.serve.problems import RefusedError
from vidret.serve.thumbnails import ThumbnailCache, Thumbnails
from vidret.video.files import FileStat
from vidret.video.images import draw_frame
from vidret.video.probe import probe
from vidret.video.workers.image_pool import ImagePool

Drawn = list[tuple[float, int]]


class LocalPool(ImagePool):
    """Draws in this process, and records times and widths."""

    def __init__(self, drawn: Drawn) -> None:
        super().__init__(1)
        self.drawn = drawn

    def draw_frame(self, path: str, file_stat: FileStat, time_s: float, width: int) -> bytes:
        self.drawn.append((time_s, width))
        return draw_frame(probe(path), time_s, width)


class SlowPool(ImagePool):
    """Waits at a gate instead of drawing."""

    def __init__(self) -> None:
        super().__init__(1)
        self.gate, self.begun, self.times = threading.Event(), threading.Semaphore(0), list[float]()

    def draw_frame(self, path: str, file_stat: FileStat, time_s: float, width: int) -> bytes:
        self.times.append(time_s)
        self.begun.release()
        assert self.gate.wait(10)
        return b"an image"


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_film(tmp_path / "red.mp4", ("red", 3))


@pytest.fixture
def drawn() -> Drawn:
    """Return the list of drawn times and widths."""
    return []


def get(folder: Path, film: Path, time: float = 1.0, width: int = 64, drawn: Drawn | None = None) -> bytes:
    pool = LocalPool([] if drawn is None else drawn)
    return asyncio.run(Thumbnails(folder, pool=pool).get(str(film), time, width))


def test_each_thumbnail_of_a_file_is_made_once(tmp_path: Path, film: Path, drawn: Drawn) -> None:
    first = get(tmp_path / "kept", film, drawn=drawn)
    assert get(tmp_path / "kept", film, drawn=drawn) == first, "also by another server"
    get(tmp_path / "kept", film, 2.0, drawn=drawn)
    get(tmp_path / "kept", film, 1.0, 32, drawn=drawn)
    assert drawn == [(1.0, 64), (2.0, 64), (1.0, 32)]
    assert len(list((tmp_path / "kept").iterdir())) == 3
    write_film(film, ("blue", 3))
    os.utime(film, (1e9, 1e9))
    assert get(tmp_path / "kept", film, drawn=drawn) != first, "the file has changed"
    assert len(drawn) == 4


def test_an_index_that_was_deleted_does_not_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ThumbnailCache(tmp_path / "index" / "thumbnails", 1 << 20)
    cache.put("0" * 32, b"an image")
    assert not list(tmp_path.iterdir())
    assert "the index is gone" in caplog.text
    (tmp_path / "index").mkdir()
    cache.put("0" * 32, b"an image")
    assert cache.get("0" * 32) == b"an image"


@pytest.mark.anyio
async def test_concurrent_requests_share_one_computation_and_cached_ones_wait_for_none(
    tmp_path: Path, film: Path
) -> None:
    pool = SlowPool()
    made = Thumbnails(tmp_path / "kept", pool=pool)
    hurried = asyncio.create_task(made.get(str(film), 1.0, 64))
    await asyncio.to_thread(pool.begun.acquire)
    others = [asyncio.create_task(made.get(str(film), 1.0, 64)) for _ in range(5)]
    await asyncio.sleep(0.1)  # until they wait
    hurried.cancel()  # the others still get it
    pool.gate.set()
    assert await asyncio.gather(*others) == [b"an image"] * 5
    assert pool.times == [1.0]
    pool.gate.clear()
    slow = [asyncio.create_task(made.get(str(film), float(time), 64)) for time in range(2, 7)]
    await asyncio.to_thread(pool.begun.acquire)
    assert await made.get(str(film), 1.0, 64) == b"an image"
    assert not any(task.done() for task in slow)
    pool.gate.set()
    await asyncio.gather(*slow)


@pytest.mark.anyio
async def test_number_of_pending_thumbnails_is_limited(
    tmp_path: Path, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MAX_WAITING", 3)
    pool = SlowPool()
    made = Thumbnails(tmp_path / "kept", pool=pool)
    waiting = [asyncio.create_task(made.get(str(film), float(time), 64)) for time in range(3)]
    for _ in range(2):
        await asyncio.to_thread(pool.begun.acquire)
    await asyncio.sleep(0.1)
    with pytest.raises(RefusedError, match="3 frames are pending"):
        await made.get(str(film), 9.0, 64)
    pool.gate.set()
    await asyncio.gather(*waiting)


@pytest.mark.anyio
@pytest.mark.parametrize("slow_s", [0.0, 60.0])
async def test_only_a_slow_failure_is_remembered_and_only_until_the_file_changes(
    tmp_path: Path, film: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    monkeypatch.setattr(thumbnails, "SLOW_S", slow_s)
    content = film.read_bytes()
    made = Thumbnails(tmp_path / "kept", pool=LocalPool(drawn))
    film.write_bytes(b"no film")
    for time in (1.0, 2.0):
        with pytest.raises(DecodeError, match="is not a video"):
            await made.get(str(film), time, 64)
    assert drawn == [(1.0, 64), (2.0, 64)][: 1 if slow_s == 0 else 2]
    film.write_bytes(content)
    assert (await made.get(str(film), 2.0, 64)).startswith(b"\xff\xd8")


@pytest.mark.anyio
async def test_hanging_storage_does_not_block_other_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def look(path: str) -> FileStat:
        gate.wait(10)
        raise DecodeError(path, "its store cannot be reached")

    monkeypatch.setattr(thumbnails, "stat_file", look)
    made = Thumbnails(tmp_path / "kept", pool=LocalPool([]))
    waiting = [asyncio.create_task(made.get(f"s3://bucket/{index}.mp4", 1.0, 64)) for index in range(60)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await anyio.to_thread.run_sync(lambda: "answered") == "answered"
    gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, DecodeError) for outcome in outcomes)


def test_least_recently_used_thumbnails_are_dropped(tmp_path: Path) -> None:
    kept = ThumbnailCache(tmp_path / "kept", 1000)
    keys = [f"{index:032x}" for index in range(11)]
    for key_index, key in enumerate(keys[:10]):
        kept.put(key, bytes(100))
        os.utime(tmp_path / "kept" / f"{key}.jpg", (key_index, key_index))
    assert all(kept.get(keys[index]) is not None for index in (0, 9)), "all of them fit, and these two were used last"
    kept.put(keys[10], bytes(100))
    assert {path.stem for path in (tmp_path / "kept").iterdir()} == {*keys} - {keys[1], keys[2]}
    draft = tmp_path / "kept" / f"{keys[1]}.jpg.0123456789abcdef.part"
    draft.write_bytes(bytes(500))
    os.utime(draft, (1, 1))
    ThumbnailCache(tmp_path / "kept", 1000).put("f" * 32, bytes(150))
    assert not draft.exists(), "a server was killed while it wrote this"
    assert len(list((tmp_path / "kept").iterdir())) == 8, "existing files count"


def test_other_files_in_its_folder_are_left_alone_and_write_errors_are_logged(
    tmp_path: Path, film: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "holiday.jpg").write_bytes(bytes(2000))
    kept = ThumbnailCache(tmp_path / "kept", 1000)
    for index in range(20):
        kept.put(f"{index:032x}", bytes(100))
    assert (tmp_path / "kept" / "holiday.jpg").stat().st_size == 2000
    target = tmp_path / "target"
    target.touch()
    assert get(target, film).startswith(b"\xff\xd8"), "a file is where the folder should be"
    failing = ThumbnailCache(target, 1000)
    for key in ("a", "b"):
        failing.put(key * 32, b"")
    assert [text.startswith("thumbnails are not cached") for text in caplog.messages] == [True] * 2, "one a cache"
