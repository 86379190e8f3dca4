"""Frame sampling: the published rules by loops, random draws, and frames that cannot be decoded."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.captioned import RESIZE, write_numbered
from tests.video.films import read_numbers, write_video
from vidret.data.frames import FrameSampling, find_candidate_frames, read_indices
from vidret.data.records import VideoSpan
from vidret.errors import DecodeError, VidretError
from vidret.types import Frames
from vidret.video.probe import probe
from vidret.video.reader import Reader


def naive_spread(values: list[int], count: int) -> list[int]:
    """Return ``count`` values of a list, evenly spaced from the first to the last, with indices rounded down."""
    if count == 1:
        return [values[0]]
    return [values[int(index * (len(values) - 1) / (count - 1))] for index in range(count)]


def naive_tempme(num_frames: int, rate: float, count: int) -> list[int]:
    step = max(1, round(rate))
    seconds = [index for index in range(num_frames) if index % step == 0]
    return naive_spread(seconds if len(seconds) >= count else list(range(num_frames)), count)


def naive_segments(num_frames: int, num_segments: int, num_chunks: int) -> list[int]:
    """Return the frames of Prompt Switch's test sampler, in order of time."""
    num_edges = min(num_segments, num_frames) + 1
    edges = [int(num_frames * edge / (num_edges - 1)) for edge in range(num_edges)]
    chosen = []
    for low, next_low in pairwise(edges):
        high = next_low - 1
        chosen += [low + (chunk + 1) * ((high - low) // (num_chunks + 1)) for chunk in range(num_chunks)]
    return chosen + chosen[-1:] * (num_segments * num_chunks - len(chosen))


@given(num_frames=st.integers(1, 1000), rate=st.floats(0.2, 61), count=st.integers(1, 64))
@example(num_frames=12, rate=24.6, count=12)
@example(num_frames=11, rate=0.4, count=12)
@example(num_frames=375, rate=25, count=12)
def test_tempme_samples_each_second_or_spreads_over_short_video(num_frames: int, rate: float, count: int) -> None:
    sampled = FrameSampling("tempme", count).candidates(num_frames, rate)
    assert sampled.tolist() == naive_tempme(num_frames, rate, count)


@given(num_frames=st.integers(1, 1000), segments=st.integers(1, 12), num_chunks=st.integers(1, 4))
@example(num_frames=5, segments=6, num_chunks=2)
def test_segments_are_sampled_at_fixed_positions(num_frames: int, segments: int, num_chunks: int) -> None:
    sampled = FrameSampling("segments", segments * num_chunks, segments).candidates(num_frames, 25)
    assert sampled.tolist() == naive_segments(num_frames, segments, num_chunks)


def test_clip4clip_yields_fewer_frames_of_short_video() -> None:
    sampling = FrameSampling("clip4clip", 12)
    assert sampling.candidates(100, 29.97).tolist() == [0, 29, 58, 87]  # steps by the integer part of the rate
    assert len(sampling.candidates(10_000, 25)) == 12


@pytest.mark.parametrize("count", [6, 12])
def test_random_draws_skip_the_last_frame_of_each_segment(count: int) -> None:
    sampling = FrameSampling("segments", count, 6, num_candidates=30)
    candidates = sampling.candidates(60, 25)
    assert set(candidates.tolist()) == {index for index in range(60) if index % 10 != 9}
    seen = set()
    for seed in range(200):
        drawn = candidates[sampling.draw(len(candidates), np.random.default_rng(seed))]
        assert np.bincount(drawn // 10, minlength=6).tolist() == [count // 6] * 6
        assert (np.diff(drawn) >= 0).all()
        seen |= set(drawn.tolist())
    assert seen == set(candidates.tolist())


@pytest.mark.parametrize("num_frames", [1, 3, 6, 8])
def test_draws_from_few_frames_repeat_the_last(num_frames: int) -> None:
    sampling = FrameSampling("segments", 12, 6, num_candidates=4)
    candidates = sampling.candidates(num_frames, 25)
    drawn = candidates[sampling.draw(len(candidates), np.random.default_rng(0))]
    assert len(drawn) == 12
    assert (np.diff(drawn) >= 0).all()
    assert drawn.max() < num_frames


def test_fixed_rules_are_not_random() -> None:
    for sampling in (FrameSampling("tempme"), FrameSampling("clip4clip"), FrameSampling("segments")):
        assert not sampling.is_random
        assert sampling.draw(7, np.random.default_rng(1)).tolist() == list(range(7))
    assert not FrameSampling("tempme", num_candidates=9).is_random


def test_invalid_numbers_are_refused() -> None:
    with pytest.raises(VidretError, match="num_frames must be a multiple of num_segments 6, got 8"):
        FrameSampling("segments", 8, 6)
    with pytest.raises(VidretError, match="num_frames must be at least 1 and num_candidates at least 0, got 0 and 0"):
        FrameSampling("tempme", 0)
    assert FrameSampling("tempme", 8, 6).num_frames == 8


def test_sampling_is_limited_to_the_span(tmp_path: Path) -> None:
    info = probe(write_numbered(tmp_path / "a.mp4", 50))
    sampling = FrameSampling("tempme", 4)
    for start, end, expected in [
        (0.0, 4.0, [0, 5, 10, 15]),
        (2.0, 5.0, [10, 14, 19, 24]),
        (9.0, 99.0, [45, 46, 47, 49]),
    ]:
        indices = find_candidate_frames(info, VideoSpan(info.path, start, end), sampling)
        assert indices.tolist() == expected
        assert read_numbers(read_indices(info, indices, RESIZE).pixels) == expected
    assert find_candidate_frames(info, VideoSpan(info.path), sampling).tolist() == [0, 15, 30, 45]
    with pytest.raises(DecodeError, match=r"a\.mp4: has no frame from 10 to 12 s"):
        find_candidate_frames(info, VideoSpan(info.path, 10, 12), sampling)
    assert [str(VideoSpan("a")), str(VideoSpan("a", 0, 31)), str(VideoSpan("a", 1.5))] == [
        "a",
        "a 0..31 s",
        "a 1.5..inf s",
    ]


def test_late_start_does_not_change_the_sampled_frames(tmp_path: Path) -> None:
    sampling = FrameSampling("tempme", 4)
    info = probe(write_video(tmp_path / "late.mp4", range(50), rate=5, shift=35, audio=True))
    assert info.start == 7.0
    assert find_candidate_frames(info, VideoSpan(info.path), sampling).tolist() == [0, 15, 30, 45]
    assert find_candidate_frames(info, VideoSpan(info.path, 9.0, 12.0), sampling).tolist() == [10, 14, 19, 24]


def test_frames_may_repeat_and_neighbours_replace_broken_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(write_numbered(tmp_path / "a.mp4", 20))
    frames = read_indices(info, np.array([3, 3, 8, 12]), RESIZE)
    assert (read_numbers(frames.pixels), frames.salvaged) == ([3, 3, 8, 12], "")
    read = Reader.read

    def read_without_8(reader: Reader, indices: np.ndarray) -> Frames:
        kept = read(reader, [index for index in indices.tolist() if index != 8])
        return Frames(kept.pixels, kept.times, "1 of 4 frames could be read")

    monkeypatch.setattr(Reader, "read", read_without_8)
    frames = read_indices(info, np.array([3, 8, 9, 12]), RESIZE)
    assert (read_numbers(frames.pixels), frames.salvaged) == ([3, 9, 9, 12], "1 of 4 frames could be read")
    with pytest.raises(DecodeError, match="no frame could be decoded"):
        read_indices(info, np.array([8]), RESIZE)
