"""Cached frames equal decoded ones exactly, interrupted builds resume, and failures are reported."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.captioned import RESIZE, write_numbered
from tests.video.films import read_numbers
from vidret.data.cache import frames
from vidret.data.cache.frames import CachedFrames, DecodedFrames, FramesCache, map_in_workers
from vidret.data.frames import FrameSampling, VideoSpan
from vidret.errors import VidretError
from vidret.types import Resize
from vidret.video.probe import probe

SAMPLINGS = [
    FrameSampling("tempme", 4),
    FrameSampling("clip4clip", 12),
    FrameSampling("segments", 6, 3),
    FrameSampling("segments", 6, 3, num_candidates=5),
]
LENGTHS = {"a": 40, "b": 7, "c": 100, "d": 2, "e": 61}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoSpan]:
    folder = tmp_path_factory.mktemp("videos")
    return {name: VideoSpan(str(write_numbered(folder / f"{name}.mp4", length))) for name, length in LENGTHS.items()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that collects the names of decoded files."""
    decoded: list[str] = []

    def record(path: str) -> object:
        decoded.append(Path(path).name)
        return probe(path)

    monkeypatch.setattr(frames, "probe", record)
    return decoded


def make_rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: f"{sampling.kind}-{sampling.num_candidates}")
def test_cached_frames_equal_decoded_frames(
    videos: dict[str, VideoSpan], sampling: FrameSampling, tmp_path: Path
) -> None:
    spans = videos | {"middle": VideoSpan(videos["c"].path, 2.0, 9.0)}
    decoded = DecodedFrames(spans, sampling, RESIZE, num_workers=0)
    cache = FramesCache(tmp_path, sampling, RESIZE)
    cache.build(list(spans.values()), num_workers=0)
    for cached in (CachedFrames(cache, spans), CachedFrames(FramesCache(tmp_path, sampling, RESIZE), spans)):
        assert cached.unreadable == cached.salvaged == {}
        for video in spans:
            for seed in range(4):
                expected = decoded.read(video, make_rng(seed))
                np.testing.assert_array_equal(cached.read(video, make_rng(seed)), expected)
    assert 10 <= min(read_numbers(decoded.read("middle", make_rng(0)))) <= 44
    drawn = {tuple(read_numbers(decoded.read("c", make_rng(seed)))) for seed in range(9)}
    assert (len(drawn) > 1) == sampling.is_random


def test_files_are_read_once_per_settings(videos: dict[str, VideoSpan], tmp_path: Path, reads: list[str]) -> None:
    def build(*names: str, sampling: FrameSampling = SAMPLINGS[0], resize: Resize = RESIZE) -> list[str]:
        reads.clear()
        FramesCache(tmp_path, sampling, resize).build([videos[name] for name in names], num_workers=0)
        return reads

    assert build("a", "b") == ["a.mp4", "b.mp4"]
    assert build("a", "b", "c") == ["c.mp4"]
    assert build("a", "b", "c") == []
    # Settings that change the frames have a cache of their own; settings that do not share one.
    assert build("a", sampling=FrameSampling("tempme", 5)) == ["a.mp4"]
    assert build("a", resize=Resize(32, 32, "bilinear")) == ["a.mp4"]
    assert build("a", sampling=FrameSampling("tempme", 4, 3, 7)) == []


def test_moved_file_is_found_and_changed_file_is_new(tmp_path: Path, videos: dict[str, VideoSpan]) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(videos["a"].path, path)
    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    cache.build([VideoSpan(str(path))], num_workers=0)
    size = (cache.entries.shards.folder / "00000.bin").stat().st_size
    moved = VideoSpan(str(path.rename(tmp_path / "moved.mp4")))
    cache.build([moved], num_workers=0)
    assert (cache.entries.shards.folder / "00000.bin").stat().st_size == size
    assert CachedFrames(cache, {"v": VideoSpan(str(path)), "w": moved}).unreadable == {"v": "does not exist"}

    changed = {"w": "is not in the cache: changed since it was read, or never read"}
    os.utime(moved.path, ns=(0, 0))  # it may have changed, so it is read again and found to be the same
    assert CachedFrames(cache, {"w": moved}).unreadable == changed
    cache.build([moved], num_workers=0)
    assert (cache.entries.shards.folder / "00000.bin").stat().st_size == size
    write_numbered(tmp_path / "moved.mp4", 33, first=100)
    assert CachedFrames(cache, {"w": moved}).unreadable == changed
    cache.build([moved], num_workers=0)
    assert read_numbers(CachedFrames(cache, {"w": moved}).read("w", make_rng(0)))[0] == 100


def test_failures_are_recorded_with_reason_and_read_once(
    videos: dict[str, VideoSpan], tmp_path: Path, reads: list[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    content = Path(videos["c"].path).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    names = {"text": "text.mp4", "empty": "empty.mp4", "cut": "cut.mp4", "gone": "gone.mp4"}
    spans = {name: VideoSpan(str(tmp_path / file)) for name, file in names.items()}
    spans |= {"late": VideoSpan(videos["b"].path, 5.0, 6.0), "b": videos["b"]}
    expected = {
        "text": "is not a video",
        "empty": "is empty",
        "cut": "its index is missing: truncated, or never finished",
        "gone": "does not exist",
        "late": "has no frame from 5 to 6 s",
    }
    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    cache.build(list(spans.values()), num_workers=0)
    assert CachedFrames(cache, spans).unreadable == expected
    assert DecodedFrames(spans, SAMPLINGS[0], RESIZE, num_workers=0).unreadable == expected
    reads.clear()
    cache.build(list(spans.values()), num_workers=0)
    assert reads == []


BUILD = """
import sys, time
from vidret.data.cache import frames as frames_cache
from vidret.data.frames import FrameSampling, VideoSpan
from vidret.types import Resize
from vidret.video.probe import probe

read_candidates = frames_cache.read_candidates

def read_slowly(span, **options):
    time.sleep(0.05)
    return read_candidates(span, **options)

frames_cache.read_candidates = read_slowly
cache = frames_cache.FramesCache(sys.argv[1], FrameSampling("tempme", 4), Resize(32, 32))
cache.build([VideoSpan(path) for path in sys.argv[2:]], num_workers=0)
"""


def test_killed_build_resumes(tmp_path: Path, reads: list[str]) -> None:
    videos = [VideoSpan(str(write_numbered(tmp_path / f"{number}.mp4", 12, first=number))) for number in range(12)]
    whole = FramesCache(tmp_path / "whole", SAMPLINGS[0], RESIZE)
    whole.build(videos, num_workers=0)
    paths = [span.path for span in videos]
    killed = FramesCache(tmp_path / "killed", SAMPLINGS[0], RESIZE).entries.shards.folder
    builder = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "killed"), *paths])
    index, deadline = killed / "index.jsonl", time.monotonic() + 60
    while not index.is_file() or index.read_bytes().count(b"\n") < 6:
        assert builder.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(builder.pid, signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    # The worst moment: a partly written array, and a partly written line.
    with (killed / "00000.bin").open("ab") as file:
        file.write(b"?" * 1000)
    with index.open("ab") as file:
        file.write(b'{"key": "video')

    reads.clear()
    resumed = FramesCache(tmp_path / "killed", SAMPLINGS[0], RESIZE)
    resumed.build(videos, num_workers=0)
    assert 1 <= len(reads) <= 10
    assert (killed / "00000.bin").read_bytes() == (whole.entries.shards.folder / "00000.bin").read_bytes()
    spans = {path: VideoSpan(path) for path in paths}
    one, two = CachedFrames(whole, spans), CachedFrames(resumed, spans)
    for path in paths:
        np.testing.assert_array_equal(two.read(path, make_rng(0)), one.read(path, make_rng(0)))


def fail_at_3(number: int) -> int:
    if number == 3:
        raise VidretError("three is too many")
    return number


def kill_at_2(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [0, 1])
def test_results_are_in_order_and_errors_keep_their_type(num_workers: int) -> None:
    with pytest.raises(VidretError, match="three is too many"):
        list(map_in_workers(fail_at_3, range(5), num_workers))
    assert list(map_in_workers(fail_at_3, range(2, -1, -1), num_workers)) == [2, 1, 0]
    assert list(map_in_workers(fail_at_3, [], num_workers)) == []


def test_dead_worker_is_reported_with_pending_items() -> None:
    with pytest.raises(VidretError, match=r"^a worker process died while reading one of these: [012, ]*2\b"):
        list(map_in_workers(kill_at_2, range(9), 1))
