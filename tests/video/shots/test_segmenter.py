"""Segments that follow shots: against a twin that knows all frames from the start, and properties."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.video.shots.segments import Segmenter, Stretch
from vidret.video.timeline import LONGEST_STILL_S

Found = list[tuple[float, float, list[int]]]


@dataclass(frozen=True)
class Film:
    """Frame times, which frames begin a shot, and the end."""

    times: list[float]
    starts: list[bool]
    duration: float


@st.composite
def films(draw: st.DrawFn) -> Film:
    """Draw films of 1 to 400 frames at even or uneven rates, with shots of any length and sometimes a long gap."""
    gaps = draw(st.lists(st.sampled_from([1 / 60, 0.04, 0.04, 0.1, 0.5, 3.0, 30.0, 700.0]), min_size=1, max_size=60))
    repeats = draw(st.lists(st.integers(1, 12), min_size=len(gaps), max_size=len(gaps)))
    steps = np.repeat(gaps, repeats)
    times = (np.concatenate([[0.0], np.cumsum(steps[:-1])]) + draw(st.sampled_from([0.0, 1.25]))).tolist()
    starts = [draw(st.integers(0, 15)) == 0 for _ in times]
    return Film(times, starts, times[-1] + float(steps[-1] if steps[-1] < LONGEST_STILL_S else 0.04))


def cut(film: Film, *, step_s: float, num_frames: int) -> Found:
    """Cut a film in one pass."""
    segmenter: Segmenter[int, int] = Segmenter(lambda i: i, start_s=film.times[0], step_s=step_s, num_frames=num_frames)
    stretches: list[Stretch[int]] = []
    for index, (time, starts) in enumerate(zip(film.times, film.starts, strict=True)):
        stretches += segmenter.add(index, time, starts_shot=starts)
    stretches += segmenter.finish(film.duration)
    assert [stretch.number for stretch in stretches] == list(range(len(stretches)))
    return [(stretch.start, stretch.end, stretch.samples) for stretch in stretches]


def cut_naively(film: Film, *, step_s: float, num_frames: int) -> Found:
    """Cut a film that is known completely."""
    span = num_frames * step_s
    stretches: list[list[float]] = []  # start, end
    begin = film.times[0]
    after_gaps: list[float] = []
    for index in range(1, len(film.times)):
        time = film.times[index]
        if time - (begin + span) > LONGEST_STILL_S:
            stretches.append([begin, begin + span])
            begin = time
            after_gaps.append(begin)
        elif film.starts[index] and time > begin:
            stretches.append([begin, time])
            begin = time
        elif time >= begin + span - 1e-6:
            following = begin + math.floor((time - begin + 1e-6) / span) * span
            stretches.append([begin, following])
            begin = following
    stretches.append([begin, max(film.duration, begin)])
    found: Found = []
    carried: float | None = None
    was_unsampled = False
    times = np.array(film.times)
    for start, end in stretches:
        inside = np.flatnonzero((times >= start - 1e-6) & (times < end - 1e-6))
        samples: list[int] = []
        for step in range(num_frames):
            wanted = start + (step + 0.5) * step_s
            if wanted < end - 1e-6 and len(inside):
                distances = np.abs(times[inside] - wanted)
                nearest = int(inside[np.flatnonzero(distances <= distances.min() + 1e-6)[0]])
                samples += [] if nearest in samples else [nearest]
        if (was_unsampled or start in after_gaps) and not samples and len(inside):
            samples = [int(inside[-1])]
        was_unsampled = not samples
        if samples:
            found.append((start if carried is None else carried, end, samples))
            carried = None
        elif found and found[-1][1] == start and carried is None:
            found[-1] = (found[-1][0], end, found[-1][2])
        elif carried is None:
            carried = start
    return found


@given(films(), st.sampled_from([(1.0, 12), (0.5, 4), (0.1, 3)]))
def test_equals_a_twin_that_knows_all_frames(film: Film, lengths: tuple[float, int]) -> None:
    step_s, num_frames = lengths
    fast = cut(film, step_s=step_s, num_frames=num_frames)
    slow = cut_naively(film, step_s=step_s, num_frames=num_frames)
    assert [samples for _, _, samples in fast] == [samples for _, _, samples in slow]
    np.testing.assert_allclose([times[:2] for times in fast], [times[:2] for times in slow], atol=1e-5)


@given(films())
def test_segments_cover_the_film_without_overlap(film: Film) -> None:
    found = cut(film, step_s=1.0, num_frames=12)
    for (_, end, _), (start, _, _) in pairwise(found):
        assert start == end or start - end > LONGEST_STILL_S
    for start, end, samples in found:
        assert samples == sorted(set(samples))
        assert all(start - 1e-6 <= film.times[index] < end for index in samples)


@given(films(), st.integers(0, 30))
def test_an_interrupted_film_continues_as_it_would_have(film: Film, cut_at: int) -> None:
    whole = cut(film, step_s=1.0, num_frames=12)
    if not whole:
        return
    known = whole[: cut_at % len(whole)]
    if not known:
        return
    start_s = known[-1][1]
    rest: Segmenter[int, int] = Segmenter(
        lambda i: i, start_s=start_s, step_s=1.0, num_frames=12, first_number=len(known)
    )
    found = []
    for index, (time, starts) in enumerate(zip(film.times, film.starts, strict=True)):
        if time >= start_s - 1e-6:
            found += rest.add(index, time, starts_shot=starts)
    found += rest.finish(film.duration)
    assert [stretch.samples for stretch in found] == [samples for _, _, samples in whole[len(known) :]]
    assert [stretch.number for stretch in found] == list(range(len(known), len(whole)))


def test_a_shot_that_is_too_short_for_a_sample_belongs_to_the_segment_before() -> None:
    times = [index / 25 for index in range(100)]
    film = Film(times, [index in (50, 55) for index in range(100)], 4.0)
    assert [found[:2] for found in cut(film, step_s=1.0, num_frames=12)] == [(0.0, 2.2), (2.2, 4.0)]
    early = Film(times, [index == 5 for index in range(100)], 4.0)
    assert [found[:2] for found in cut(early, step_s=1.0, num_frames=12)] == [(0.0, 4.0)]
    short = Film(times, [index % 8 == 0 for index in range(100)], 4.0)  # all of it
    found = cut(short, step_s=1.0, num_frames=12)
    assert [round(end - start, 2) for start, end, _ in found] == [0.96, 0.64, 0.64, 0.64, 0.64, 0.48]
    assert [samples for _, _, samples in found] == [[15], [31], [47], [63], [79], [95]]


def test_a_frame_that_cannot_be_read_is_no_sample() -> None:
    segmenter: Segmenter[int, int] = Segmenter(
        lambda index: None if index < 25 else index, start_s=0.0, step_s=1.0, num_frames=12
    )
    for index in range(50):
        segmenter.add(index, index / 25, starts_shot=False)
    (segment,) = segmenter.finish(2.0)
    assert (segment.start, segment.end, segment.samples) == (0.0, 2.0, [37])


@pytest.mark.parametrize("values", [{"step_s": 0.0, "num_frames": 12}, {"step_s": 1.0, "num_frames": 0}])
def test_lengths_must_be_positive(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Segmenter(lambda index: index, start_s=0.0, **values)  # type: ignore[arg-type]
