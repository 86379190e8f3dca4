"""Decoding on a GPU: with a Decord that has none, and with one whose GPU is emulated on the CPU."""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.video.conftest import EVERY_FRAME, Film, numbers_of, stream_film
from tests.video.films import read_numbers
from vidret.video.decoders.base import SamplingMode
from vidret.video.reader import read_frames
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool, find_gpu_decoders

# Decord as it is installed, whose GPUs are the CPU: it notes who decodes what where, and fails as a file's name says.
EMULATED = """
import os
__path__ = [{real!r}]
exec(compile(open({real!r} + "/__init__.py").read(), {real!r} + "/__init__.py", "exec"))

class Gpu(int):
    pass

class VideoReader(VideoReader):
    def __init__(self, path, ctx, num_threads):
        self.on_gpu, self.path = isinstance(ctx, Gpu), path
        if self.on_gpu:
            with open({log!r}, "a") as file:
                file.write(f"{{os.getpid()}} {{ctx}}\\n")
            if "refused" in path:
                raise RuntimeError("NVDEC cannot decode it")
        super().__init__(path, ctx=cpu(0), num_threads=num_threads)

    def __getitem__(self, index):
        if self.on_gpu and "broken" in self.path and index > 50:
            raise RuntimeError("NVDEC lost it")
        return super().__getitem__(index)

gpu = Gpu
ndarray.empty = lambda shape, ctx: None
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    find_gpu_decoders.cache_clear()
    yield
    find_gpu_decoders.cache_clear()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give decoding processes a Decord with emulated GPUs; return where it notes process and GPU of every file."""
    spec = find_spec("decord")
    assert spec is not None
    assert spec.origin is not None
    (tmp_path / "path" / "decord").mkdir(parents=True)
    log, real = tmp_path / "log", str(Path(spec.origin).parent)
    (tmp_path / "path" / "decord" / "__init__.py").write_text(EMULATED.format(real=real, log=str(log)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")]))
    return log


def stream(pool: DecodePool, path: Path) -> tuple[OpenedVideo, list[int], Finished]:
    opened, segments, finished = stream_film(pool, path)
    return opened, numbers_of(segments), finished


def link(film: Film, path: Path) -> Path:
    path.symlink_to(film.path)
    return path


def test_a_decord_without_gpu_code_says_so_once(films: dict[str, Film], caplog: pytest.LogCaptureFixture) -> None:
    film = films["h264.mp4"]
    for _ in range(2):
        with DecodePool(3, sampling=EVERY_FRAME, devices=["cuda:1"]) as pool:
            _, numbers, finished = stream(pool, film.path)
            assert [process.device for process in pool.processes.processes] == ["cpu"] * 3
            assert all(process._memory for process in pool.processes.processes), "memory stays limited"
        assert (numbers, finished.fallback) == (film.numbers, "")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("Decord cannot decode on GPU 1, so the CPU decodes: ")


def test_a_file_that_the_gpu_refuses_or_loses_is_told_once_and_read_by_the_cpu(
    films: dict[str, Film], log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film = films["h264.mp4"]
    refused = link(film, tmp_path / "refused.mp4")
    with DecodePool(1, sampling=EVERY_FRAME, devices=["cuda"]) as pool:
        for path in (refused, link(film, tmp_path / "broken.mp4")):
            _, numbers, finished = stream(pool, path)
            assert numbers == film.numbers
            if path == refused:
                fallback = "Decord cannot decode it on GPU 0, using the CPU: NVDEC cannot decode it"
                assert finished.fallback == fallback
            else:
                assert finished.fallback == "decord gave up (GPU 0 decodes h264): NVDEC lost it"
    (record,) = caplog.records
    assert record.message == f"{refused}: {fallback} (further files are not reported)"


def test_several_gpus_decode_in_two_processes_each(films: dict[str, Film], log: Path) -> None:
    film = films["h264.mp4"]
    with DecodePool(5, sampling=EVERY_FRAME, devices=["cuda:0", "cuda:1"]) as pool:
        devices = [process.device for process in pool.processes.processes]
        assert devices == ["cpu", "cuda:0", "cuda:1", "cuda:0", "cuda:1"]
        opened, numbers, finished = stream(pool, film.path)
        assert (opened.decoder, numbers, finished) == ("decord", film.numbers, Finished(""))
        under_way = [pool.stream(film.path) for _ in range(5)]
        for messages in under_way:
            next(messages)
        for messages in under_way:
            messages.close()  # type: ignore[attr-defined]
    gpus = sorted(line.split()[1] for line in log.read_text().splitlines())
    assert gpus in (["0", "0", "0", "1", "1"], ["0", "0", "1", "1", "1"]), "two each, and the first film once"
    with DecodePool(3, devices=["cuda:0", "cuda:1"]) as pool:
        assert [process.device for process in pool.processes.processes] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.usefixtures("log")
def test_a_gpu_that_decodes_more_than_the_sampling_says_so(caplog: pytest.LogCaptureFixture) -> None:
    samplings: tuple[SamplingMode, ...] = ("exact", "balanced", "fast")
    for sampling in samplings:
        with DecodePool(2, devices=["cuda:1"], shot_sampling=sampling):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        f"GPU 1 decodes all frames of the files that it reads, although sampling is {sampling}"
        for sampling in samplings[1:]
    ]


def test_unsupported_films_need_no_warning(films: dict[str, Film], log: Path, caplog: pytest.LogCaptureFixture) -> None:
    with DecodePool(1, sampling=EVERY_FRAME, devices=["cuda"]) as pool:
        for name in ("vp9.webm", "hevc.mp4", "h264_10bit.mp4", "mpeg4.avi"):
            _, numbers, finished = stream(pool, films[name].path)
            assert (numbers, finished.fallback) == (films[name].numbers, "")
    assert not log.exists()
    assert not caplog.records


def test_only_frames_that_a_gpu_may_decode_say_why_the_cpu_read_them(
    films: dict[str, Film], caplog: pytest.LogCaptureFixture
) -> None:
    with DecodePool(1, decoder="pyav", sampling=EVERY_FRAME, devices=["cuda"]) as pool:
        assert stream(pool, films["h264.mp4"].path)[1] == films["h264.mp4"].numbers
    assert not caplog.records
    assert read_numbers(read_frames(str(films["h264.mp4"].path), indices=[9], device="cuda:1").pixels) == [9]
    assert "Decord cannot decode it on GPU 1, using the CPU" in caplog.text
