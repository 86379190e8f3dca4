"""Proof for vidret/video/workers/image_pool.py: what a hostile file does, it does to a process of its own."""

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video.conftest import Film
from tests.video.films import write_video
from vidret.errors import DecodeError, VidretError
from vidret.video.images import draw_frame, read_image
from vidret.video.probe import probe
from vidret.video.workers.image_pool import ImagePool

pytestmark = pytest.mark.usefixtures("fresh_processes")


@pytest.fixture(scope="module")
def shared() -> Iterator[ImagePool]:
    with closing(ImagePool(1)) as pool:
        yield pool


def draw(pool: ImagePool, path: Path, time_s: float = 0.0, width: int = 64) -> bytes:
    return pool.draw_frame(str(path), path.stat(), time_s, width)


def write_image(*size: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def test_a_process_gives_what_this_one_would(films: dict[str, Film], shared: ImagePool) -> None:
    path = films["h264.mp4"].path
    for time_s in (0.0, 2.5, 100.0):
        assert draw(shared, path, time_s) == draw_frame(probe(path), time_s, 64)
    content = write_image(30, 2000)
    assert (shared.read_image(content) == read_image(content)).all()
    assert len(shared.processes.pids()) == 1


def test_a_changed_file_is_probed_again(shared: ImagePool, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", range(25))
    old = draw(shared, path)
    write_video(path, range(100, 150))
    os.utime(path, (1e9, 1e9))
    assert draw(shared, path) == draw_frame(probe(path), 0.0, 64) != old


def test_refusals_cost_no_process(shared: ImagePool, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    shared.read_image(write_image(2, 2))
    before = shared.processes.pids()
    with pytest.raises(DecodeError, match="is not a video"):
        draw(shared, tmp_path / "text.mp4")
    with pytest.raises(VidretError, match="image must be a complete image file"):
        shared.read_image(b"no image")
    assert shared.processes.pids() == before


def test_memory_is_limited(tmp_path: Path) -> None:
    path = write_video(tmp_path / "huge.mp4", [5], size=(3000, 2000), codec="mpeg4")
    out = io.BytesIO()
    Image.new("L", (6000, 6000)).save(out, "PNG")
    with closing(ImagePool(1, memory=128 << 20)) as pool:
        with pytest.raises(DecodeError, match=r"memory|crashed|no frame") as caught:
            draw(pool, path)
        assert caught.value.path == str(path)
        with pytest.raises(VidretError, match=r"memory|crashed"):
            pool.read_image(out.getvalue())
        assert pool.read_image(write_image(2, 2)).shape == (2, 2, 3), "it goes on"
    assert draw_frame(probe(path), 0.0, 64).startswith(b"\xff\xd8"), "here there is memory for it"


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "killed"), (signal.SIGSTOP, "no answer .* for 0.5 s")])
def test_a_crash_or_silence_costs_one_image(number: signal.Signals, reason: str) -> None:
    with closing(ImagePool(1, timeout_s=0.5)) as pool:
        pool.read_image(write_image(2, 2))
        (pid,) = pool.processes.pids()
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.1, os.kill, (pid, number)).start()
        with pytest.raises(VidretError, match=f"image cannot be decoded: .*{reason}"):
            pool.read_image(write_image(2, 2))
        assert pool.read_image(write_image(3, 2)).shape == (3, 2, 3)
        assert pool.processes.pids() != [pid], "another process took its place"


def test_a_closed_pool_answers_no_more() -> None:
    pool = ImagePool(2)
    assert pool.processes.pids() == [], "nothing is started before it is needed"
    pool.read_image(write_image(2, 2))
    pool.close()
    assert pool.processes.pids() == []
    with pytest.raises(VidretError, match="the pool was closed"):
        pool.read_image(write_image(2, 2))
