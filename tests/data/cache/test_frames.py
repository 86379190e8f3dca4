"""Frames from the disk are frames from the decoder, bit for bit; a build that is killed goes on; nothing is hidden."""

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
from vidret.data.cache import entries
from vidret.data.cache.frames import CachedFrames, DecodedFrames, FramesCache
from vidret.data.frames import FrameSampling, VideoSpan
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
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VideoSpan]:
    folder = tmp_path_factory.mktemp("films")
    return {name: VideoSpan(str(write_numbered(folder / f"{name}.mp4", length))) for name, length in LENGTHS.items()}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the files that are decoded."""
    seen: list[str] = []

    def note(path: str) -> object:
        seen.append(Path(path).name)
        return probe(path)

    monkeypatch.setattr(entries, "probe", note)
    return seen


def chance(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: f"{sampling.kind}-{sampling.num_candidates}")
def test_the_cache_is_the_decoder_bit_for_bit(
    films: dict[str, VideoSpan], sampling: FrameSampling, tmp_path: Path
) -> None:
    parts = films | {"middle": VideoSpan(films["c"].path, 2.0, 9.0)}
    decoded = DecodedFrames(parts, sampling, RESIZE, num_workers=0)
    cache = FramesCache(tmp_path, sampling, RESIZE)
    cache.build(list(parts.values()), num_workers=0)
    for cached in (CachedFrames(cache, parts), CachedFrames(FramesCache(tmp_path, sampling, RESIZE), parts)):
        assert cached.unreadable == cached.salvaged == {}
        for video in parts:
            for seed in range(4):
                expected = decoded.read(video, chance(seed))
                np.testing.assert_array_equal(cached.read(video, chance(seed)), expected)
    assert 10 <= min(read_numbers(decoded.read("middle", chance(0)))) <= 44
    drawn = {tuple(read_numbers(decoded.read("c", chance(seed)))) for seed in range(9)}
    assert (len(drawn) > 1) == sampling.is_random


def test_workers_build_the_same_cache(films: dict[str, VideoSpan], tmp_path: Path) -> None:
    for num_workers in (0, 2):
        FramesCache(tmp_path / str(num_workers), SAMPLINGS[0], RESIZE).build(list(films.values()), num_workers)
    one, two = (sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in "02")
    assert [path.name for path in one] == [path.name for path in two] == ["00000.bin", "index.jsonl", "lock"]
    assert all(left.read_bytes() == right.read_bytes() for left, right in zip(one, two, strict=True))


def test_nothing_is_read_twice(films: dict[str, VideoSpan], tmp_path: Path, reads: list[str]) -> None:
    def build(*names: str, sampling: FrameSampling = SAMPLINGS[0], resize: Resize = RESIZE) -> list[str]:
        reads.clear()
        FramesCache(tmp_path, sampling, resize).build([films[name] for name in names], num_workers=0)
        return reads

    assert build("a", "b") == ["a.mp4", "b.mp4"]
    assert build("a", "b", "c") == ["c.mp4"]
    assert build("a", "b", "c") == []
    # Other settings are other frames; settings that change nothing are not.
    assert build("a", sampling=FrameSampling("tempme", 5)) == ["a.mp4"]
    assert build("a", resize=Resize(32, 32, "bilinear")) == ["a.mp4"]
    assert build("a", sampling=FrameSampling("tempme", 4, 3, 7)) == []


def test_a_moved_file_is_the_same_and_a_changed_one_is_not(tmp_path: Path, films: dict[str, VideoSpan]) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(films["a"].path, path)
    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    cache.build([VideoSpan(str(path))], num_workers=0)
    size = (cache.shards.folder / "00000.bin").stat().st_size
    moved = VideoSpan(str(path.rename(tmp_path / "moved.mp4")))
    cache.build([moved], num_workers=0)
    assert (cache.shards.folder / "00000.bin").stat().st_size == size
    assert CachedFrames(cache, {"v": VideoSpan(str(path)), "w": moved}).unreadable == {"v": "does not exist"}

    changed = {"w": "is not in the cache: changed since it was read, or never read"}
    os.utime(moved.path, ns=(0, 0))  # it may have changed: it is looked into, and found to be the same
    assert CachedFrames(cache, {"w": moved}).unreadable == changed
    cache.build([moved], num_workers=0)
    assert (cache.shards.folder / "00000.bin").stat().st_size == size
    write_numbered(tmp_path / "moved.mp4", 33, first=100)
    assert CachedFrames(cache, {"w": moved}).unreadable == changed
    cache.build([moved], num_workers=0)
    assert read_numbers(CachedFrames(cache, {"w": moved}).read("w", chance(0)))[0] == 100


def test_what_cannot_be_read_is_known_with_its_reason_and_read_once(
    films: dict[str, VideoSpan], tmp_path: Path, reads: list[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    content = Path(films["c"].path).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    names = {"text": "text.mp4", "empty": "empty.mp4", "cut": "cut.mp4", "gone": "gone.mp4"}
    parts = {name: VideoSpan(str(tmp_path / file)) for name, file in names.items()}
    parts |= {"late": VideoSpan(films["b"].path, 5.0, 6.0), "b": films["b"]}
    expected = {
        "text": "is not a video",
        "empty": "is empty",
        "cut": "its index is missing: truncated, or never finished",
        "gone": "does not exist",
        "late": "has no frame from 5 to 6 s",
    }
    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    cache.build(list(parts.values()), num_workers=0)
    assert CachedFrames(cache, parts).unreadable == expected
    assert DecodedFrames(parts, SAMPLINGS[0], RESIZE, num_workers=0).unreadable == expected
    reads.clear()
    cache.build(list(parts.values()), num_workers=0)
    assert reads == []


def test_a_film_that_breaks_off_is_read_as_far_as_it_goes_and_told(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mkv", 100)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    parts = {"cut": VideoSpan(str(tmp_path / "cut.mkv"))}
    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    cache.build(list(parts.values()), num_workers=0)
    cached, decoded = CachedFrames(cache, parts), DecodedFrames(parts, SAMPLINGS[0], RESIZE, num_workers=0)
    assert cached.unreadable == decoded.unreadable == {}
    assert cached.salvaged == decoded.salvaged
    assert "could be read: truncated" in cached.salvaged["cut"]
    np.testing.assert_array_equal(cached.read("cut", chance(0)), decoded.read("cut", chance(0)))


BUILD = """
import sys, time
from vidret.data.cache import frames as frames_cache
from vidret.data.frames import FrameSampling, VideoSpan
from vidret.data.cache.entries import read_span
from vidret.types import Resize
from vidret.video.probe import probe

def read_slowly(span, **options):
    time.sleep(0.05)
    return read_span(span, **options)

frames_cache.read_span = read_slowly
cache = frames_cache.FramesCache(sys.argv[1], FrameSampling("tempme", 4), Resize(32, 32))
cache.build([VideoSpan(path) for path in sys.argv[2:]], num_workers=0)
"""


def test_a_build_that_is_killed_goes_on_from_there(tmp_path: Path, reads: list[str]) -> None:
    films = [VideoSpan(str(write_numbered(tmp_path / f"{number}.mp4", 12, first=number))) for number in range(12)]
    whole = FramesCache(tmp_path / "whole", SAMPLINGS[0], RESIZE)
    whole.build(films, num_workers=0)
    paths = [part.path for part in films]
    killed = FramesCache(tmp_path / "killed", SAMPLINGS[0], RESIZE).shards.folder
    builder = subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "killed"), *paths])
    index, deadline = killed / "index.jsonl", time.monotonic() + 60
    while not index.is_file() or index.read_bytes().count(b"\n") < 6:
        assert builder.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(builder.pid, signal.SIGKILL)
    assert builder.wait() == -signal.SIGKILL
    # The worst moment: an array half written, and a line.
    with (killed / "00000.bin").open("ab") as file:
        file.write(b"?" * 1000)
    with index.open("ab") as file:
        file.write(b'{"key": "video')

    reads.clear()
    resumed = FramesCache(tmp_path / "killed", SAMPLINGS[0], RESIZE)
    resumed.build(films, num_workers=0)
    assert 1 <= len(reads) <= 10
    assert (killed / "00000.bin").read_bytes() == (whole.shards.folder / "00000.bin").read_bytes()
    parts = {path: VideoSpan(path) for path in paths}
    one, two = CachedFrames(whole, parts), CachedFrames(resumed, parts)
    for path in paths:
        np.testing.assert_array_equal(two.read(path, chance(0)), one.read(path, chance(0)))
