"""Shot detection on rendered films: pans, wipes, interlace, variable rates, noise, strobes and single frames."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.video.films import write_video
from vidret.types import Sampling
from vidret.video.grey import grey_from_luma
from vidret.video.probe import probe
from vidret.video.reader import open_reader
from vidret.video.shots.cuts import MAX_CUTS_PER_MINUTE, ShotDetector
from vidret.video.shots.gradual import Transition
from vidret.video.shots.segments import SegmentReader

Plane = NDArray[np.uint8]

HEIGHT, WIDTH = 180, 320
FPS = 25
TOLERANCE = 1  # frames


def paint(seed: int, width: int = WIDTH) -> NDArray[np.float64]:
    """Paint a scene: patches of three sizes around a brightness of its own."""
    rng = np.random.default_rng(seed)
    picture = np.full((HEIGHT, width), rng.uniform(80, 170))
    for size, contrast in ((60, 35.0), (20, 20.0), (5, 12.0)):
        patches = rng.normal(size=(HEIGHT // size + 1, width // size + 1))
        picture += contrast * np.kron(patches, np.ones((size, size)))[:HEIGHT, :width]
    return picture.clip(0, 255)


@lru_cache(maxsize=4)  # those of the next wipe are the same
def film(shot: int, num_frames: int, *, speed: float = 0.0) -> list[Plane]:
    """Return the frames of a shot, with noise; the camera pans by ``speed`` pixels a frame, and blurs what passes."""
    rng = np.random.default_rng((shot, 1))
    scene = paint(shot, WIDTH + int(abs(speed) * num_frames) + 1)
    frames = []
    for index in range(num_frames):
        starts = (abs(speed) * (index + np.arange(4) / 4 * 0.5)).astype(int)  # the shutter is open half the time
        views = [scene[:, start : start + WIDTH] for start in starts]
        view = np.mean(views, axis=0) if speed else views[0]
        frames.append(to_plane(view if speed >= 0 else view[:, ::-1], rng))
    return frames


def to_plane(picture: NDArray[np.float64], rng: np.random.Generator) -> Plane:
    noisy = rng.standard_normal(picture.shape, np.float32)  # half of the time of float64
    noisy *= 2
    noisy += picture
    return noisy.clip(0, 255, out=noisy).astype(np.uint8)


def detect(frames: Sequence[Plane], times: Sequence[float] | None = None) -> list[Transition]:
    """Return all transitions of a film."""
    detector = ShotDetector()
    greys = np.stack([grey_from_luma(frame) for frame in frames])
    steps = detector.add(greys, [index / FPS for index in range(len(frames))] if times is None else times)
    return [transition for _, transitions in steps for transition in transitions] + detector.finish()


def cuts(found: Sequence[Transition]) -> list[int]:
    return [change.frame for change in found if change.kind == "cut"]


def f1(true: Sequence[int], found: Sequence[int]) -> float:
    """Return the F1 score of cuts, each right within ``TOLERANCE`` of a true one that no other has."""
    remaining = list(true)
    for cut in found:
        near = [start for start in remaining if abs(start - cut) <= TOLERANCE]
        if near:
            remaining.remove(min(near, key=lambda start: abs(start - cut)))
    num_right = len(true) - len(remaining)
    return 2 * num_right / (len(true) + len(found))


def edit(shots: Sequence[Sequence[Plane]]) -> tuple[list[Plane], list[int]]:
    """Join shots by hard cuts; return the frames, and those at which shots begin."""
    starts = np.cumsum([len(shot) for shot in shots])[:-1].tolist()
    return [frame for shot in shots for frame in shot], starts


@pytest.mark.parametrize("speed", [2, 8, 16, 32, -32])
def test_a_pan_is_no_cut_however_fast(speed: int) -> None:
    assert cuts(detect(film(2, 30, speed=speed))) == []
    # It begins and ends at rest.
    scene, rng = paint(3, WIDTH + abs(speed) * 20), np.random.default_rng(0)
    lefts = [0] * 15 + [abs(speed) * index for index in range(20)] + [abs(speed) * 20] * 15
    assert cuts(detect([to_plane(scene[:, left : left + WIDTH], rng) for left in lefts])) == []


@pytest.mark.parametrize("speed", [2, 4, 8])  # at 8, a picture passes in 40 frames
def test_cuts_to_and_from_a_pan_are_found(speed: int) -> None:
    frames, starts = edit([film(1, 20), film(2, 30, speed=speed), film(4, 20), film(5, 20, speed=-speed)])
    assert f1(starts, cuts(detect(frames))) == 1


def wipe_masks(direction: str, length: int) -> list[NDArray[np.bool_]]:
    """Return, for each frame of a wipe, where the new shot is seen already."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = (y + 0.5) / HEIGHT, (x + 0.5) / WIDTH
    distance = {
        "right": x,
        "left": 1 - x,
        "down": y,
        "up": 1 - y,
        "diagonal": (x + y) / 2,
        "iris": np.hypot(x - 0.5, y - 0.5) / np.hypot(0.5, 0.5),
    }[direction]
    return [distance < (index + 1) / (length + 1) for index in range(length)]


@pytest.mark.parametrize("length", [12, 25])
@pytest.mark.parametrize("direction", ["right", "left", "down", "up", "diagonal", "iris"])
def test_a_wipe_is_found_in_every_direction(direction: str, length: int) -> None:
    before, after = film(5, 50 + length), film(6, 50 + length)
    masks = wipe_masks(direction, length)
    middle = [np.where(mask, after[k], before[50 + k]) for k, mask in enumerate(masks)]
    found = detect([*before[:50], *middle, *after[length:]])
    assert [change.kind for change in found] == ["dissolve"]
    # A corner or a centre covers little of the picture at first.
    assert abs(found[0].start - 50) <= 0.3 * length
    assert abs(found[0].frame - (50 + length)) <= 0.3 * length


def interlace(frames: Sequence[Plane]) -> list[Plane]:
    """Return a film of half the rate, whose frames have their odd rows from the frame after."""
    woven = []
    for first, second in zip(frames[::2], frames[1::2], strict=False):
        frame = first.copy()
        frame[1::2] = second[1::2]
        woven.append(frame)
    return woven


@pytest.mark.parametrize("speed", [0, 1, 3])
def test_an_interlaced_film_has_the_cuts_of_its_fields(speed: int) -> None:
    fields, starts = edit([film(shot, 60, speed=speed) for shot in range(10, 16)])
    assert f1([start // 2 for start in starts], cuts(detect(interlace(fields)))) == 1


def test_a_cut_between_the_fields_of_a_frame_is_a_cut_or_a_short_dissolve() -> None:
    fields, starts = edit([film(shot, 61) for shot in range(10, 16)])
    found = detect(interlace(fields))
    assert len(found) == len(starts)
    for start in starts:
        assert any(
            change.start - 1 <= start / 2 <= change.frame + 1 and change.frame - change.start <= 6 for change in found
        )


def test_cuts_of_a_telecined_film_are_found() -> None:
    frames, starts = edit([film(shot, 32, speed=2.0) for shot in range(20, 26)])
    fields = [frame for index, frame in enumerate(frames) for frame in [frame] * (2 + index % 2)]  # 2:3 pulldown
    true = [sum(2 + index % 2 for index in range(start)) // 2 for start in starts]
    assert f1(true, cuts(detect(interlace(fields)))) == 1


@pytest.mark.parametrize("seed", range(3))
def test_cuts_are_found_where_the_frame_rate_varies(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames, starts = edit([film(shot, 40, speed=float(rng.choice([0.0, 1.0, 2.0]))) for shot in range(30, 38)])
    is_kept = rng.random(len(frames)) < rng.uniform(0.5, 0.9)
    is_kept[[0, *starts]] = True
    kept = np.flatnonzero(is_kept)
    found = detect([frames[index] for index in kept], (kept / FPS).tolist())
    assert f1(np.searchsorted(kept, starts).tolist(), cuts(found)) == 1


def test_a_film_of_everything_has_an_f1_of_one() -> None:
    flash = [np.full((HEIGHT, WIDTH), 255, np.uint8)] * 2
    shots = [
        film(40, 30),
        film(41, 9, speed=6.0),
        film(42, 20)[:10] + flash + film(42, 20)[10:],
        film(43, 5),
        film(44, 40, speed=-6.0),
        interlace(film(45, 60, speed=2.0)),
        [frame for frame in film(46, 12) for _ in range(2)],  # each frame twice
        film(47, 25, speed=4.0),
        film(48, 3),
        film(49, 30),
    ]
    frames, starts = edit(shots)
    assert f1(starts, cuts(detect(frames))) == 1


def strobe(period: int) -> Callable[[int], Plane]:
    bright, dark = film(50, 1)[0], film(51, 1)[0]
    return lambda index: bright if index // period % 2 else dark


def noise(index: int) -> Plane:
    return np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.mark.parametrize(
    ("picture", "limit"), [(noise, 0), (strobe(1), 0), (strobe(2), 0), (strobe(4), 1), (strobe(12), 125)]
)
def test_noise_and_strobes_have_few_cuts(picture: Callable[[int], Plane], limit: int) -> None:
    found = cuts(detect([picture(index) for index in range(60 * FPS)]))
    assert len(found) <= min(limit, MAX_CUTS_PER_MINUTE)


@pytest.mark.parametrize("fps", [10, 25])
def test_no_minute_has_more_cuts_than_the_cap(fps: int) -> None:
    scenes = [grey_from_luma(film(shot, 1)[0]) for shot in range(60, 66)]
    detector, times = ShotDetector(), []
    for first in range(0, 100 * fps, 50):
        frames = np.arange(first, first + 50)
        steps = detector.add(np.stack([scenes[frame // 6 % len(scenes)] for frame in frames]), (frames / fps).tolist())
        times += [change.frame / fps for _, found in steps for change in found if change.kind == "cut"]
    for start in times:
        assert sum(start <= time_s < start + 60 for time_s in times) <= MAX_CUTS_PER_MINUTE
    assert detector.is_capped == (fps / 6 * 60 > MAX_CUTS_PER_MINUTE)


@pytest.mark.parametrize("num_frames", [1, 2])
def test_the_shortest_film_is_one_segment(tmp_path: Path, num_frames: int) -> None:
    info = probe(str(write_video(tmp_path / "short.mp4", list(range(num_frames)), rate=Fraction(25))))
    with open_reader(info, for_streaming=True) as reader:
        segments = list(SegmentReader(info, Sampling(), None, start_s=info.start).read(reader.stream()))
    assert [(segment.number, segment.start, segment.end, segment.shots) for segment in segments] == [
        (0, 0.0, info.duration, [])
    ]
    assert len(segments[0].frames) >= 1
