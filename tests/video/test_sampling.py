"""Proof for vidret/video/sampling.py."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vidret.types import Picture, Sampling
from vidret.video.sampling import (
    DEFAULT_SAMPLING,
    Cut,
    at_rate,
    at_seconds,
    choose_frames_of_whole,
    clip4clip,
    cut_segments,
    differs,
    nearest,
    share_pictures,
    uniform,
)


def cut_steadily(duration: float, sampling: Sampling = DEFAULT_SAMPLING, *, start: float = 0.0) -> list[Cut]:
    """Cut a video with 100 frames a second into segments."""
    times = start + np.arange(max(1, math.ceil(100 * (duration - start)))) / 100
    return cut_segments(duration, times, sampling, start=start)


def nearest_naively(times: list[float], wanted: float) -> int:
    best = 0
    for index, time in enumerate(times):
        if abs(time - wanted) < abs(times[best] - wanted):
            best = index
    return best


def clip4clip_naively(num_frames: int, rate: float, count: int) -> list[int]:
    seconds, candidates = 0, []
    while seconds * int(rate) < num_frames:
        candidates.append(seconds * int(rate))
        seconds += 1
    if len(candidates) <= count:
        return candidates
    return [candidates[int(i)] for i in np.linspace(0, len(candidates) - 1, num=count)]


def test_nearest_equals_its_naive_twin() -> None:
    generator = np.random.default_rng(0)
    times = np.unique(generator.integers(0, 50, 20)) / 4.0
    wanted = generator.integers(-8, 120, 200) / 8.0
    assert nearest(times, wanted).tolist() == [nearest_naively(times.tolist(), float(time)) for time in wanted]


@given(num_frames=st.integers(1, 1000), rate=st.floats(1, 61), count=st.integers(1, 64))
def test_clip4clip_equals_its_naive_twin(num_frames: int, rate: float, count: int) -> None:
    assert clip4clip(num_frames, rate, count).tolist() == clip4clip_naively(num_frames, rate, count)


@given(num_frames=st.integers(1, 1000), count=st.integers(2, 64))
def test_counts_are_kept_and_indices_lie_inside(num_frames: int, count: int) -> None:
    indices = uniform(num_frames, count)
    assert len(indices) == count
    assert (np.diff(indices) >= 0).all()
    assert (indices[[0, -1]] == [0, num_frames - 1]).all()


def test_steps_are_sampled_in_their_middle_or_at_their_start() -> None:
    assert at_rate(3.4, 1.0).tolist() == at_rate(3.0, 1.0).tolist() == [0.5, 1.5, 2.5]
    assert at_rate(3.6, 1.0).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert at_rate(0.1, 1.0).tolist() == [0.1]
    assert at_seconds(3.0, 1.0, 12).tolist() == [0, 1, 2]
    assert at_seconds(3.01, 1.0, 12).tolist() == [0, 1, 2, 3]
    assert at_seconds(3.0, 2.0, 12).tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert at_seconds(100.0, 1.0, 3).tolist() == [0, 49, 99]


@pytest.mark.parametrize(
    ("duration", "spans", "counts"),
    [
        (6.0, [(0, 6)], [12]),
        (12.0, [(0, 12)], [12]),
        (12.2, [(0, 12.2)], [12]),
        (24.4, [(0, 12), (12, 24.4)], [12, 12]),  # a small rest joins the segment before it
        (24.5, [(0, 12), (12, 24), (24, 24.5)], [12, 12, 1]),
        (30.0, [(0, 12), (12, 24), (24, 30)], [12, 12, 6]),
    ],
)
def test_a_video_is_cut_on_a_fixed_grid(duration: float, spans: list[tuple[float, float]], counts: list[int]) -> None:
    cuts = cut_steadily(duration)
    assert [(cut.number, cut.start, cut.end) for cut in cuts] == [
        (cut_index, *span) for cut_index, span in enumerate(spans)
    ]
    assert [len(cut.times) for cut in cuts] == counts
    step = min(1.0, duration / 12)
    assert all(cut.times == tuple(cut.start + (i + 0.5) * step for i in range(len(cut.times))) for cut in cuts)


@given(duration=st.floats(0, 1000), fps=st.floats(0.5, 3))
@example(duration=24.000001, fps=1.0)
@example(duration=35.999999, fps=1.0)
@example(duration=7200.3, fps=3.0)
def test_cuts_cover_a_video_without_gaps(duration: float, fps: float) -> None:
    cuts = cut_steadily(duration, Sampling(fps=fps))
    assert cuts[0].start == 0
    assert cuts[-1].end == duration
    assert [cut.number for cut in cuts] == list(range(len(cuts)))
    assert [cut.end for cut in cuts[:-1]] == [cut.start for cut in cuts[1:]]
    for cut in cuts:
        assert 1 <= len(cut.times) <= 12
        assert cut.start <= cut.times[0] <= cut.times[-1] <= cut.end


@pytest.mark.parametrize("duration", [0.0, 0.04, 12.0, 24.4, 24.6, 100.0])
@pytest.mark.parametrize("whole", [False, True])
def test_a_late_start_moves_all_segments_and_changes_no_choice(duration: float, *, whole: bool) -> None:
    late = cut_steadily(5.0 + duration, Sampling(whole=whole), start=5.0)
    for cut, early in zip(late, cut_steadily(duration, Sampling(whole=whole)), strict=True):
        assert (cut.number, cut.start) == (early.number, 5.0 + early.start)
        assert cut.end == pytest.approx(5.0 + early.end)
        assert cut.times == pytest.approx([5.0 + time for time in early.times])


@given(
    rate=st.sampled_from([1.0, 10.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94]),
    num_frames=st.integers(1, 1000),
    fps=st.sampled_from([0.5, 1.0]),
)
def test_of_a_steady_rate_every_span_is_a_segment(rate: float, num_frames: int, fps: float) -> None:
    times = 5 + np.arange(num_frames) / rate
    duration = 5 + num_frames / rate
    single = Sampling(1, fps)
    assert cut_segments(duration, times, single, start=5.0) == cut_steadily(duration, single, start=5.0)
    assert cut_segments(duration, times, start=5.0) == cut_steadily(duration, start=5.0)


def test_a_segment_lasts_while_a_frame_stands_still() -> None:
    cuts = cut_segments(320.0, np.array([0.0, 1.0, 30.0, 300.0, 301.0]))
    assert [(cut.number, cut.start, cut.end) for cut in cuts] == [(0, 0, 24), (1, 24, 300), (2, 300, 320)]
    assert cuts[1].times == cut_steadily(320.0)[2].times


def test_a_long_gap_is_of_no_segment() -> None:
    cuts = cut_segments(9e6 + 1, np.array([0.0, 1.0, 13.0, 620.0, 1e4, 9e6]))
    assert [(cut.start, cut.end) for cut in cuts] == [(0, 12), (12, 612), (612, 624), (9996, 10008), (9e6, 9e6 + 1)]
    assert [cut.number for cut in cuts] == [0, 1, 2, 3, 4]
    whole = cut_segments(9e6 + 1, np.array([0.0, 1.0, 2.0, 5.0, 9e6]), Sampling(3, whole=True))
    assert [(cut.start, cut.end, cut.times) for cut in whole] == [(0, 5, (0, 2, 4))]


@given(seed=st.integers(0, 9999))
def test_every_segment_shows_a_frame_of_its_own(seed: int) -> None:
    generator = np.random.default_rng(seed)
    times = np.unique(np.concatenate([[0.0], 10 ** generator.uniform(-1, 11, 50)]))
    cuts = cut_segments(float(times[-1]) + 0.04, times)
    chosen = [set(nearest(times, np.array(cut.times)).tolist()) for cut in cuts]
    inside = [set(np.flatnonzero((times >= cut.start - 1e-6) & (times < cut.end)).tolist()) for cut in cuts]
    assert len(cuts) <= len(times)
    assert all(some & its_own for some, its_own in zip(chosen[:-1], inside[:-1], strict=True))
    assert set.union(*inside) == set(range(len(times)))


@given(rate=st.integers(1, 60), seconds=st.integers(1, 120), more=st.integers(-1, 1))
def test_a_whole_video_is_seen_in_the_frames_that_clip4clip_reads(rate: int, seconds: int, more: int) -> None:
    num_frames = max(1, seconds * rate + more)
    times = np.arange(num_frames) / rate
    (cut,) = cut_segments(num_frames / rate, times, Sampling(whole=True))
    assert nearest(times, np.array(cut.times)).tolist() == clip4clip_naively(num_frames, rate, 12)
    assert (cut.number, cut.start, cut.end) == (0, 0.0, num_frames / rate)


def test_a_whole_video_is_one_segment_however_long() -> None:
    long, empty = (cut_steadily(duration, Sampling(whole=True)) for duration in (7200.3, 0.0))
    assert [(cut.times[0], cut.times[-1], len(cut.times)) for cut in long] == [(0, 7200, 12)]
    assert [(cut.end, cut.times) for cut in empty] == [(0.0, (0.0,))]


def test_wrong_numbers_are_named() -> None:
    for call in (
        lambda: uniform(0, 12),
        lambda: uniform(5, 0),
        lambda: at_seconds(3.0, 1.0, 0),
        lambda: cut_steadily(5, Sampling(fps=0)),
    ):
        with pytest.raises(ValueError, match="must be positive, got 0"):
            call()


def make_picture(seed: int = 0) -> Picture:
    """Return a picture of coarse blocks."""
    blocks = np.random.default_rng(seed).integers(40, 216, (8, 8, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((28, 28, 1), np.uint8))


def add_noise(picture: Picture, deviation: float, seed: int) -> Picture:
    noise = np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_a_still_with_noise_is_one_picture() -> None:
    still = make_picture()
    samples = [(float(index), add_noise(still, 0.5, index)) for index in range(12)]
    shared = share_pictures(samples)
    assert len(shared.pictures) == 1
    assert shared.rows.tolist() == [0] * 12
    assert shared.times.tolist() == list(range(12))
    assert (shared.repeat().pixels == samples[0][1]).all()


def test_a_word_that_changes_on_a_slide_is_another_picture() -> None:
    slide = np.full((224, 224, 3), 250, np.uint8)
    changed = slide.copy()
    changed[100:112, 60:100] = 20
    assert differs(slide, changed)
    shared = share_pictures([(0.0, slide), (1.0, changed), (2.0, changed), (3.0, slide)])
    assert shared.rows.tolist() == [0, 1, 1, 2]  # only with the last one kept is a picture compared


def test_slow_changes_do_not_add_up() -> None:
    start = make_picture().astype(np.int16)
    samples = [(float(index), np.clip(start + index // 2, 0, 255).astype(np.uint8)) for index in range(40)]
    shared = share_pictures(samples)
    assert len(shared.pictures) > 5
    for (_, picture), row in zip(samples, shared.rows, strict=True):
        assert not differs(shared.pictures.pixels[row], picture)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_pictures_differ_on_the_whole_or_in_a_block(height: int, width: int, seed: int) -> None:
    """By the mean absolute difference in grey levels, in floating point, of all pixels and of each block."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    changed, num, step = picture.astype(int), rng.integers(0, height * width + 1), rng.integers(1, 40)
    changed[rng.integers(0, height, num), rng.integers(0, width, num)] += rng.integers(-step, step + 1, (num, 3))
    other = np.clip(changed, 0, 255).astype(np.uint8)
    difference = np.abs(picture.astype(float) - other)
    num_rows, num_columns = max(height // 16, 1), max(width // 16, 1)
    down, across = height // num_rows, width // num_columns
    means = [
        difference[row * down : (row + 1) * down, column * across : (column + 1) * across].mean()
        for row in range(num_rows)
        for column in range(num_columns)
    ]
    assert differs(picture, other) == (difference.mean() > 1 or max(means) > 4)


@pytest.mark.parametrize("num_frames", [1, 15, 64, 65, 100, 2000])
def test_protocols_of_video_embedders_take_their_own_frames(num_frames: int) -> None:
    expected = list(range(num_frames)) if num_frames <= 64 else [i * num_frames // 64 for i in range(64)]
    assert choose_frames_of_whole("mmeb", num_frames, 25.0, 64).tolist() == expected
    wanted = min(max(1, int(num_frames / 25 * 2)), 64)
    stepped = list(range(0, num_frames, max(1, num_frames // wanted)))[:wanted]
    assert choose_frames_of_whole("mteb", num_frames, 25.0, 64, fps=2.0).tolist() == stepped
    assert num_frames < 2000 or stepped[-1] == 1953, "stepping loses the end of long videos"
