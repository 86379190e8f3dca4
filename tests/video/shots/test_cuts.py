"""Shot detection, on small grey pictures made here and on films that are encoded here."""

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
import pytest
from numpy.typing import NDArray

from vidret.video.grey import GREY_SHAPE, grey_from_luma
from vidret.video.shots.cuts import ShotDetector
from vidret.video.shots.gradual import Transition

Picture = NDArray[np.uint8]

MAX_LAG = 8  # frames
MAX_LAG_S = 0.4


def scene(seed: int, height: int = 36, width: int = 64, contrast: float = 50.0) -> Picture:
    """Draw a scene: smooth noise at two scales around a brightness of its own."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(height // 12 + 1, width // 12 + 1)), np.ones((12, 12)))[:height, :width]
    fine = np.kron(rng.normal(size=(height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[:height, :width]
    picture = rng.uniform(80, 170) + contrast * (0.7 * coarse + 0.5 * fine)
    return np.clip(picture, 0, 255).astype(np.uint8)


def shot(seed: int, num_frames: int, noise: float = 1.5) -> list[Picture]:
    """Return the frames of a shot that stands still but for noise."""
    rng = np.random.default_rng((seed, 1))
    still = scene(seed).astype(float)
    return [np.clip(still + rng.normal(0, noise, GREY_SHAPE), 0, 255).astype(np.uint8) for _ in range(num_frames)]


def detect(frames: Iterable[Picture], times: Sequence[float] | None = None, fps: float = 25.0) -> list[Transition]:
    """Return all transitions of a film."""
    return [transition for _, transitions in follow(list(frames), times, fps=fps) for transition in transitions]


def follow(
    frames: Sequence[Picture], times: Sequence[float] | None = None, fps: float = 25.0, at_once: Sequence[int] = (32,)
) -> list[tuple[int, list[Transition]]]:
    """Return the steps of detecting a film; frames are added by these numbers in turn."""
    times = [index / fps for index in range(len(frames))] if times is None else times
    detector, steps, first = ShotDetector(), [], 0
    for num_frames in cycle(at_once):
        if first >= len(frames):
            break
        steps += detector.add(np.stack(frames[first : first + num_frames]), times[first : first + num_frames])
        first += num_frames
    return [*steps, (len(frames), detector.finish())]


def cuts(frames: Iterable[Picture], fps: float = 25.0) -> list[int]:
    """Return the frames at which hard cuts are found."""
    return [change.frame for change in detect(frames, fps=fps) if change.kind == "cut"]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 30])
def test_a_cut_is_found_at_its_frame(length: int) -> None:
    film = shot(1, 20) + shot(2, length)
    assert detect(film) == [Transition(20, 20, "cut")]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_slides_of_few_frames_are_shots(length: int) -> None:
    film = [frame for seed in range(10) for frame in shot(seed, length)]
    assert cuts(film, fps=1.0) == list(range(length, 10 * length, length))
    pan = [np.roll(scene(1, width=256), 4 * index, axis=1)[:, :64] for index in range(20)]
    assert cuts(pan, fps=1.0) == [], "what moves all the time is one shot"


@pytest.mark.parametrize("num_frames", [0, 1, 2, 40])
def test_a_film_without_cuts_has_none(num_frames: int) -> None:
    assert detect(shot(3, num_frames)) == []
    assert detect([np.zeros(GREY_SHAPE, np.uint8)] * num_frames) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_cut(length: int) -> None:
    bright = [np.clip(frame.astype(int) + 150, 0, 255).astype(np.uint8) for frame in shot(4, length)]
    assert cuts(shot(4, 20) + bright + shot(4, 20)) == []
    assert cuts(shot(4, 20) + [np.full(GREY_SHAPE, 255, np.uint8)] * length + shot(4, 20)) == []


def blend(one: Sequence[Picture], other: Sequence[Picture]) -> list[Picture]:
    """Return the frames of a dissolve between two shots of one length."""
    shares = (np.arange(len(one)) + 1) / (len(one) + 1)
    mixed = [a * (1 - share) + b * share for a, b, share in zip(one, other, shares, strict=True)]
    return [np.rint(frame).astype(np.uint8) for frame in mixed]


@pytest.mark.parametrize("length", [10, 20, 35])
@pytest.mark.parametrize("kind", ["dissolve", "fade"])
def test_a_gradual_change_is_found_where_it_is(kind: str, length: int) -> None:
    before, after = shot(1, 50 + length), shot(2, 50 + length)
    middle = blend(before[50:], after[:length])
    if kind == "fade":
        black = [np.zeros(GREY_SHAPE, np.uint8)] * (length // 2)
        middle = blend(before[50 : 50 + length // 2], black) + blend(black, after[: length // 2])
    found = detect(before[:50] + middle + after[length:])
    assert [change.kind for change in found] == [kind]
    assert abs(found[0].start - 50) <= 5
    assert abs(found[0].frame - (50 + len(middle))) <= 5


def test_a_caption_that_appears_is_no_cut() -> None:
    film = shot(5, 40)
    for frame in film[20:]:
        frame[20:32, 8:50] = 250
    assert cuts(film) == []


@pytest.mark.parametrize("fps", [1.0, 10.0, 25.0, 60.0])
def test_every_frame_is_decided_soon(fps: float) -> None:
    detector = ShotDetector()
    film = shot(6, 15) + shot(7, 15)
    for index, frame in enumerate(film):
        detector.add(frame[None], [index / fps])
        undecided = range(detector.num_decided, index + 1)
        assert len(undecided) <= MAX_LAG
        assert all((index - waiting) / fps <= MAX_LAG_S for waiting in undecided)
    detector.finish()
    assert detector.num_decided == len(film)


@pytest.mark.parametrize("at_once", [(1,), (3, 1, 7), (8,), (100,)])
def test_frames_added_together_are_decided_as_one_by_one(at_once: Sequence[int]) -> None:
    film = shot(1, 40) + shot(2, 13) + blend(shot(2, 20), shot(3, 20)) + shot(3, 60) + shot(4, 2) + shot(3, 30)
    steps = follow(film, at_once=at_once)
    assert sum(len(transitions) for _, transitions in steps) >= 2
    assert steps == follow(film, at_once=(1,))


@pytest.mark.parametrize("shape", [(720, 1280), (2160, 3840), (480, 854), (48, 64), (36, 64), (20, 30), (640, 360)])
def test_a_grey_picture_is_what_the_plane_shows(shape: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    plane = (100 * rows / shape[0] + 100 * columns / shape[1]).astype(np.uint8)
    grey = grey_from_luma(plane)
    assert grey.shape == GREY_SHAPE
    want = 100 * (np.arange(36)[:, None] + 0.5) / 36 + 100 * (np.arange(64) + 0.5) / 64
    assert np.abs(grey - want).max() <= 12
