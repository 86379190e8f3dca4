"""Cached frames equal decoded ones exactly, interrupted builds resume, and failures are reported."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.captioned import RESIZE, write_numbered
from tests.noting import note_calls
from tests.video.films import read_numbers
from vidret.data import frames
from vidret.data.cache_entries import Entry
from vidret.data.frames import CachedFrames, DecodedFrames, FrameSampling, FramesCache, map_in_workers, read_candidates
from vidret.data.records import VideoSpan
from vidret.errors import VidretError
from vidret.types import Resize

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
    return note_calls(monkeypatch, frames, "probe", lambda path: Path(path).name)


def make_rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: f"{sampling.kind}-{sampling.num_candidates}")
def test_cached_frames_are_decoded_ones(videos: dict[str, VideoSpan], sampling: FrameSampling, tmp_path: Path) -> None:
    spans = videos | {"middle": VideoSpan(videos["c"].path, 2.0, 9.0)}
    decoded = DecodedFrames(spans, sampling, RESIZE, num_workers=0)
    cache = FramesCache(tmp_path, sampling, RESIZE)
    cache.build(list(spans.values()), num_workers=0)
    for cached in (CachedFrames(cache, spans), CachedFrames(FramesCache(tmp_path, sampling, RESIZE), spans)):
        assert cached.unreadable == cached.salvaged == {}
        for video in spans:
            for seed in range(4):
                np.testing.assert_array_equal(cached.read(video, make_rng(seed)), decoded.read(video, make_rng(seed)))
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
    assert build("a", sampling=FrameSampling("segments", 12, 6)) == ["a.mp4"]
    assert build("a", sampling=FrameSampling("segments", 6, 6, 4)) == ["a.mp4"]
    assert build("a", sampling=FrameSampling("segments", 12, 6, 4)) == []


def test_changed_file_is_read_again(tmp_path: Path, videos: dict[str, VideoSpan], reads: list[str]) -> None:
    path = tmp_path / "a.mp4"
    shutil.copy(videos["a"].path, path)
    cache, spans = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE), {"v": VideoSpan(str(path))}
    cache.build([*spans.values()], num_workers=0)
    write_numbered(path, 33, first=100)
    changed = {"v": "is not in the cache: changed since it was read, or never read"}
    assert CachedFrames(cache, spans).unreadable == changed
    cache.build([*spans.values()], num_workers=0)
    assert reads == ["a.mp4", "a.mp4"]
    assert read_numbers(CachedFrames(cache, spans).read("v", make_rng(0)))[0] == 100


def test_failures_are_kept_with_reason_and_read_once(
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


def test_files_that_go_away_meanwhile_are_read_when_they_are_back(
    tmp_path: Path, videos: dict[str, VideoSpan], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drive, away = tmp_path / "drive", tmp_path / "away"
    drive.mkdir()
    spans = {name: VideoSpan(str(shutil.copy(videos[name].path, drive))) for name in "abd"}

    def unmount(span: VideoSpan, **options: Any) -> Entry:
        if span == spans["b"]:
            drive.rename(away)
        return read_candidates(span, **options)

    cache = FramesCache(tmp_path / "cache", SAMPLINGS[0], RESIZE)
    monkeypatch.setattr(frames, "read_candidates", unmount)
    cache.build(list(spans.values()), num_workers=0)
    away.rename(drive)
    monkeypatch.setattr(frames, "read_candidates", read_candidates)
    reads.clear()
    cache.build(list(spans.values()), num_workers=0)
    assert reads == ["b.mp4", "d.mp4"]
    assert CachedFrames(cache, spans).unreadable == {}


def test_interrupted_build_resumes(
    tmp_path: Path, videos: dict[str, VideoSpan], reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(span: VideoSpan, **options: Any) -> Entry:
        if span == videos["c"]:
            raise KeyboardInterrupt
        return read_candidates(span, **options)

    cache = FramesCache(tmp_path, SAMPLINGS[0], RESIZE)
    monkeypatch.setattr(frames, "read_candidates", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.build(list(videos.values()), num_workers=0)
    monkeypatch.setattr(frames, "read_candidates", read_candidates)
    assert set(CachedFrames(cache, videos).unreadable) == {"c", "d", "e"}
    reads.clear()
    FramesCache(tmp_path, SAMPLINGS[0], RESIZE).build(list(videos.values()), num_workers=0)
    assert reads == ["c.mp4", "d.mp4", "e.mp4"]
    assert CachedFrames(cache, videos).unreadable == {}


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
