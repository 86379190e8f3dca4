"""Proof for vidret/video/workers/: what happens in a decoder stays in a decoder."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.decoders import use_processes
from tests.forking import ForkedPopen, run_code
from tests.video.conftest import EVERY_FRAME, Film, numbers_of, stream_film
from tests.video.films import read_numbers, write_video
from tests.waiting import is_running, wait_until
from vidret.errors import DecodeError
from vidret.types import Frames, Resize
from vidret.video.reader import read_frames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers import messages, worker
from vidret.video.workers.messages import Finished, ReadPlan
from vidret.video.workers.pool import DecodePool, start_processes
from vidret.video.workers.process import Process


@pytest.fixture(scope="module", autouse=True)
def ended_processes() -> Iterator[None]:
    """End processes with their pools, as outside of tests, but fork them: how they start matters to few tests."""
    with use_processes(Process, ForkedPopen):
        yield


@pytest.fixture
def started_processes() -> Iterator[None]:
    """Start and end processes as outside of tests."""
    with use_processes(Process, subprocess.Popen):
        yield


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, sampling=EVERY_FRAME) as pool:
        yield pool


def read(pool: DecodePool, path: Path) -> list[int]:
    return numbers_of(stream_film(pool, path)[1])


def test_a_file_arrives_in_order(films: dict[str, Film], pool: DecodePool) -> None:
    opened, segments, finished = stream_film(pool, films["h264.mp4"].path)
    assert opened.duration == 4.0
    assert opened.facts["codec"] == "h264"
    assert opened.facts["num_bytes"] == films["h264.mp4"].path.stat().st_size
    assert opened.decoder == "decord"
    assert finished == Finished("")
    assert [(segment.number, segment.start, segment.end) for segment in segments] == opened.cuts
    assert len(segments) == 9
    _, segments, _ = stream_film(pool, films["h264.mp4"].path, plan=lambda _: ReadPlan(range(7)))
    assert [segment.number for segment in segments] == [7, 8], "known segments are skipped"
    assert len(list(pool.stream(films["h264.mp4"].path, plan=lambda _: ReadPlan(range(9))))) == 2


def test_processes_that_started_ahead_are_used(films: dict[str, Film]) -> None:
    started = start_processes(1)
    with DecodePool(1, sampling=EVERY_FRAME, started=started) as pool:
        assert read(pool, films["h264.mp4"].path) == films["h264.mp4"].numbers
        assert pool.processes is started
        (pid,) = started.pids()
    assert not is_running(pid)


def test_every_frame_comes_through_whatever_the_path(films: dict[str, Film], pool: DecodePool, tmp_path: Path) -> None:
    for name in ("h264.mp4", "hevc.mp4", "edit_list.mp4", "mpeg4.avi", "one.webm"):
        link = tmp_path / os.fsdecode(b"caf\xe9\n" + name.encode())
        link.symlink_to(films[name].path)
        assert read(pool, link) == films[name].numbers


# Windows cannot wait for a pipe: it is asked what that holds, and says so where nobody writes to it any more.
ON_WINDOWS = """
import array, fcntl, select, subprocess, sys, termios, types
import faiss, jaxtyping, numpy, random, tempfile
ioctl, poll, hung_up = fcntl.ioctl, select.poll, select.POLLHUP
def peek(handle, num_bytes):
    held, waiting = array.array("i", [0]), poll()
    waiting.register(handle)
    ioctl(handle, termios.FIONREAD, held)
    if not held[0] and any(event & hung_up for _, event in waiting.poll(0)):
        raise BrokenPipeError(109, "The pipe has been ended")
    return held[0], 0
sys.modules |= {"_winapi": types.SimpleNamespace(PeekNamedPipe=peek), "fcntl": None, "select": None}
sys.modules["msvcrt"] = types.SimpleNamespace(get_osfhandle=int)
sys.platform = "win32"

import os, signal
from pathlib import Path
from tests.video.conftest import EVERY_FRAME, numbers_of, stream_film
from vidret.errors import DecodeError
from vidret.video.workers.pool import DecodePool
with DecodePool(1, sampling=EVERY_FRAME) as pool:
    print(*numbers_of(stream_film(pool, Path(sys.argv[1]))[1]))
    stream = pool.stream(sys.argv[1])
    next(stream)
    os.kill(pool.processes.pids()[0], signal.SIGSEGV)
    try:
        list(stream)
    except DecodeError as error:
        print(error.reason)
"""


def test_files_are_read_by_what_windows_has(films: dict[str, Film]) -> None:
    film = films["h264.mp4"]
    done = run_code(ON_WINDOWS, film.path, is_forked=False)
    assert done.stderr == ""
    numbers, reason = done.stdout.splitlines()
    assert [int(frame_number) for frame_number in numbers.split()] == film.numbers
    assert reason == "the decoder crashed (signal 11)"


def test_segments_start_with_the_frames(pool: DecodePool, tmp_path: Path) -> None:
    for start, audio in ((0.0, False), (5.0, True)):  # with no other stream the clock starts with the frames
        film = write_video(tmp_path / f"late{start}.mp4", range(20), shift=125, audio=audio)
        opened, segments, _ = stream_film(pool, film)
        assert opened.cuts == [(0, start, start + 0.48), (1, start + 0.48, start + 0.8)]
        for segment in segments:
            numbers = read_numbers(segment.frames.pictures.pixels)
            assert segment.frames.times == pytest.approx([start + frame_number / 25 for frame_number in numbers])
        assert read(pool, film) == list(range(20))


class Listener:
    """Stand in for the worker's parent: skip some segments, and count the signs of life before each message."""

    def __init__(self, skip: list[int]) -> None:
        self.skip = skip
        self.signs: list[int] = [0]

    def next_request(self) -> tuple[messages.Header, bytes]:
        return {"skip": self.skip}, b""

    def send(self, *parts: bytes | memoryview) -> None:
        self.signs.append(0)

    def send_frames(self, header: messages.Header, frames: Frames) -> None:
        self.send()

    def send_heartbeat(self) -> None:
        self.signs[-1] += 1


@pytest.mark.parametrize("name", ["h264.ts", "mpeg4.avi", "mpeg2.mpg", "h264.flv", "hevc.mp4"])
def test_decoding_skipped_segments_shows_signs_of_life(films: dict[str, Film], name: str) -> None:
    listener = Listener(skip=list(range(8)))
    sampling = {"num_frames": 12, "fps": 25.0, "whole": False}
    request: dict[str, Any] = {"sampling": sampling, "decoder": "auto", "device": "cpu", "resize": None}
    request |= {"gpu_decoders": [], "shot_sampling": None, "num_threads": 1}
    worker._serve(cast(Any, listener), request, os.fsencode(films[name].path))
    before_opening, before_the_segment = listener.signs[:2]
    assert before_opening >= 100
    assert before_the_segment >= (4 if name == "hevc.mp4" else 90)  # an MP4 is read from the last keyframe on


def test_pictures_are_resized_on_the_way(films: dict[str, Film]) -> None:
    path, resize = films["h264.mp4"].path, Resize(32, 32)
    with DecodePool(1, resize=resize) as pool:
        (segment,) = stream_film(pool, path)[1]
    expected = read_frames(str(path), times=segment.frames.times, resize=resize)
    assert (segment.frames.pictures.pixels == expected.pixels).all()
    assert (segment.frames.times == expected.times).all()


def test_a_bad_file_costs_no_process(films: dict[str, Film], pool: DecodePool, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    read(pool, films["one.mp4"].path)
    before = pool.processes.pids()
    with pytest.raises(DecodeError, match="is not a video"):
        list(pool.stream(tmp_path / "text.mp4"))
    assert read(pool, films["one.mp4"].path) == [5]
    assert pool.processes.pids() == before


def test_one_wrong_timestamp_makes_one_segment_more(tmp_path: Path) -> None:
    with DecodePool(1, timeout=10.0) as pool:
        for days in (104, 365):
            path = write_video(tmp_path / f"{days}.mkv", range(100), pts=[*range(99), days * 86400 * 25])
            opened, segments, finished = stream_film(pool, path)
            assert len(opened.cuts) == 2
            assert numbers_of(segments) == [12, 37, 62, 87, 98, 99]
            assert finished == Finished(f"shows no new frame from 4 s to {days * 86400} s")


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGSEGV, r"crashed \(signal 11\)"), (signal.SIGKILL, "memory")])
def test_a_crash_costs_one_file(
    films: dict[str, Film], long_film: Film, pool: DecodePool, number: signal.Signals, reason: str
) -> None:
    messages = pool.stream(long_film.path)
    next(messages)
    os.kill(pool.processes.pids()[0], number)
    with pytest.raises(DecodeError, match=reason) as caught:
        list(messages)
    assert caught.value.path == str(long_film.path)
    assert read(pool, films["h264.mp4"].path) == films["h264.mp4"].numbers


def test_a_crash_between_files_costs_none(films: dict[str, Film], pool: DecodePool) -> None:
    read(pool, films["one.mp4"].path)
    pid = pool.processes.pids()[0]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert read(pool, films["one.mp4"].path) == [5]


def test_a_hang_costs_one_file(films: dict[str, Film], long_film: Film) -> None:
    with DecodePool(1, sampling=EVERY_FRAME, timeout=1.0) as pool:
        messages = pool.stream(long_film.path)
        next(messages)
        pid = pool.processes.pids()[0]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DecodeError, match="no answer from the decoder for 1 s"):
            list(messages)
        assert not is_running(pid)
        assert read(pool, films["one.mp4"].path) == [5]


@pytest.mark.usefixtures("started_processes")
def test_a_swollen_decoder_costs_one_file(films: dict[str, Film], tmp_path: Path) -> None:
    huge = write_video(tmp_path / "huge.mp4", range(25), size=(1920, 1080), options={"preset": "ultrafast"})
    # Enough to decode frames, too little for a segment of them: with less, FFmpeg takes the file for damaged at times.
    with DecodePool(1, sampling=EVERY_FRAME, memory=140 << 20) as pool:
        with pytest.raises(DecodeError, match=r"memory|crashed"):
            list(pool.stream(huge))
        assert read(pool, films["one.mp4"].path) == [5]


def test_a_dropped_stream_leaves_a_clean_pool(films: dict[str, Film], long_film: Film, pool: DecodePool) -> None:
    messages = pool.stream(long_film.path)
    next(messages)
    next(messages)
    pid = pool.processes.pids()[0]
    messages.close()  # type: ignore[attr-defined]
    assert not is_running(pid)
    assert read(pool, films["h264.mp4"].path) == films["h264.mp4"].numbers


def test_threads_share_a_pool(films: dict[str, Film]) -> None:
    names = ["h264.mp4", "hevc.mp4", "vp9.webm", "h264.ts", "av1.mp4", "edit_list.mp4"]
    answers: dict[str, list[int]] = {}
    with DecodePool(2, sampling=EVERY_FRAME) as pool:
        threads = [
            threading.Thread(target=lambda name=name: answers.update({name: read(pool, films[name].path)}))
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(pool.processes.pids()) == 2
    assert answers == {name: films[name].numbers for name in names}


@pytest.mark.usefixtures("started_processes")
def test_memory_stays_flat(long_film: Film, pool: DecodePool) -> None:
    total = 0
    for message in pool.stream(long_film.path):
        total += message.frames.pictures.pixels.nbytes if isinstance(message, DecodedSegment) else 0
    status = Path(f"/proc/{pool.processes.pids()[0]}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) << 10
    assert total == 1000 * 512 * 384 * 3
    assert peak < 150 << 20 < total


@pytest.mark.usefixtures("started_processes")
def test_processes_can_be_started_before_the_first_file(films: dict[str, Film]) -> None:
    with DecodePool(2, sampling=EVERY_FRAME) as pool:
        pool.start()
        wait_until(lambda: len(pool.processes.pids()) == 2 and pool.processes._idle.qsize() == 2)
        started = set(pool.processes.pids())
        assert read(pool, films["h264.mp4"].path) == films["h264.mp4"].numbers
        assert set(pool.processes.pids()) == started
    assert not pool.processes.pids()


@pytest.mark.usefixtures("started_processes")
@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.1, 0.4])
def test_a_pool_that_closes_while_processes_start_runs_nothing(wait_s: float) -> None:
    before = set(threading.enumerate())
    with DecodePool(2) as pool:
        pool.start()
        time.sleep(wait_s)
    wait_until(lambda: not set(threading.enumerate()) - before)
    assert not pool.processes.pids()


def test_a_closed_pool_runs_nothing(films: dict[str, Film], long_film: Film) -> None:
    pool = DecodePool(1, sampling=EVERY_FRAME)
    messages = pool.stream(long_film.path)
    next(messages)
    (pid,) = pool.processes.pids()
    pool.close()
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        list(messages)
    with pytest.raises(RuntimeError, match="the pool is closed"):
        list(pool.stream(films["one.mp4"].path))


def test_a_worker_dies_with_its_parent(long_film: Film) -> None:
    program = (
        "import os, sys\n"
        "from vidret.video.workers.pool import DecodePool\n"
        "pool = DecodePool(1)\n"
        "messages = pool.stream(sys.argv[1])\n"
        "next(messages)\n"
        "print(pool.processes.pids()[0], flush=True)\n"
        "os._exit(0)\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program, str(long_film.path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=root)
    wait_until(lambda: not is_running(int(answer.stdout)))


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="num_workers must be positive, got 0"):
        DecodePool(0)
