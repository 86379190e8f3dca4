"""Synthetic pictures: shapes against corners and circles, actions seen in pixels, and frames that tell no order."""

import math

import numpy as np
import pytest

from vidret.data.synthetic import render as drawing
from vidret.data.synthetic.generation import draw_films, draw_pairs
from vidret.data.synthetic.scenes import (
    COLOURS,
    OPPOSITES,
    SHAPES,
    TEXTURES,
    VERBS,
    Action,
    Appearance,
    Scene,
    SceneShot,
    Thing,
)

SIZE = 64


def inside_corners(corners: list[tuple[float, float]], x: float, y: float) -> bool:
    """Count how often a ray to the right crosses the edges."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            crossings += 1
    return crossings % 2 == 1


def on_circle(radius: float, turns: float) -> tuple[float, float]:
    """Give a corner, in turns with the clock from the top."""
    return radius * math.sin(2 * math.pi * turns), -radius * math.cos(2 * math.pi * turns)


def is_inside(shape: str, x: float, y: float) -> bool:
    """Say whether a point is in a shape, from what the shape is."""
    middle = math.hypot(x, y)
    if shape == "circle":
        return middle < 0.88
    if shape == "ring":
        return 0.46 < middle < 0.98
    if shape == "moon":
        return middle < 0.98 and math.hypot(x - 0.5, y) > 0.74
    if shape == "square":
        return inside_corners([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)], x, y)
    if shape == "cross":
        bars = [(0.98, 0.36), (0.36, 0.98)]
        return any(inside_corners([(-w, -h), (w, -h), (w, h), (-w, h)], x, y) for w, h in bars)
    if shape == "triangle":
        return inside_corners([on_circle(1.1, turn / 3) for turn in range(3)], x, y)
    if shape == "star":
        return inside_corners([on_circle(0.55 if turn % 2 else 1.14, turn / 10) for turn in range(10)], x, y)
    lobes = any(math.hypot(x - middle, y + 0.35) < 0.5 for middle in (-0.45, 0.45))
    # The tangents from the tip meet the lobes where the radius stands upright on them.
    length = math.sqrt(0.45**2 + 1.33**2 - 0.5**2)
    angle = math.atan2(0.45, 1.33) + math.atan2(0.5, length)
    touch = (length * math.sin(angle), 0.98 - length * math.cos(angle))
    return lobes or inside_corners([(0, 0.98), touch, (0, -0.5), (-touch[0], touch[1])], x, y)


def naive_cover(thing: Thing, size: int) -> np.ndarray:
    """Ask 5 x 5 points of each pixel whether they are inside."""
    cover = np.zeros((size, size))
    steps = (np.arange(5) + 0.5) / 5
    cos, sin = math.cos(thing.tilt), math.sin(thing.tilt)
    for row in range(size):
        for column in range(size):
            for down in steps:
                for along in steps:
                    x, y = (column + along) / size - thing.x, (row + down) / size - thing.y
                    x, y = (x * cos + y * sin) / thing.radius, (y * cos - x * sin) / thing.radius
                    cover[row, column] += is_inside(thing.look.shape, x, y) / 25
    return cover


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_what_they_are_called(shape: str) -> None:
    thing = Thing(Appearance("white", "plain", shape), 0.52, 0.47, 0.36, 0.3)
    canvas = np.zeros((1, 24, 24, 3), np.float32)
    drawing.draw_thing(canvas, thing, drawing.find_poses(Action(), 1))
    error = np.abs(canvas[0, ..., 0] / 250 - naive_cover(thing, 24))
    assert error.mean() < 0.006
    # Where a tip is thinner than a pixel, its two edges both cut that pixel, and the drawing knows of the nearer alone.
    assert error.max() < (0.4 if shape == "star" else 0.25)


def test_a_thing_does_not_move_when_its_picture_is_larger() -> None:
    thing = Thing(Appearance("white", "plain", "heart"), 0.3, 0.6, 0.2)
    areas, middles = [], []
    for size in (48, 96):
        canvas = np.zeros((1, size, size, 3), np.float32)
        drawing.draw_thing(canvas, thing, drawing.find_poses(Action(), 1))
        cover = canvas[0, ..., 0] / 250
        areas.append(cover.mean())
        places = (np.arange(size) + 0.5) / size
        middles.append([float((cover.sum(axis=axis) * places).sum() / cover.sum()) for axis in (0, 1)])
    assert areas[0] == pytest.approx(areas[1], rel=0.01)
    assert middles[0] == pytest.approx(middles[1], abs=0.002)


def see(thing: Thing, action: Action, num_frames: int, size: int = SIZE) -> np.ndarray:
    """Give how far each pixel of each frame is from the background."""
    shown = Scene((SceneShot(num_frames, (thing,), action),), 7)
    ground = drawing.render(Scene((SceneShot(num_frames),), 7), size)
    apart: np.ndarray = np.abs(drawing.render(shown, size).astype(float) - ground).sum(axis=-1)
    return apart


def measure(verb: str, shape: str = "heart") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Follow a thing through 12 frames: its middle, its area in pixels, and how strongly it shows."""
    amount = {"moves": 0.4, "bounces": 0.2, "spins": 0.5}.get(verb.split()[0], 0.0)
    seen = see(Thing(Appearance("red", "plain", shape), 0.5, 0.5, 0.18), Action(verb, amount), 12)
    inside = seen > 12
    rows, columns = np.mgrid[:SIZE, :SIZE]
    area = inside.sum(axis=(1, 2))
    x, y = ((inside * where).sum(axis=(1, 2)) / area / SIZE for where in (columns + 0.5, rows + 0.5))
    return x, y, area, seen.max(axis=(1, 2))


def test_pixels_do_what_the_verb_says() -> None:
    x, y, area, _ = measure("moves left")
    assert (np.diff(x) < -0.02).all()
    assert np.ptp(y) < 0.01
    assert np.ptp(area) < 0.1 * area.max()
    assert (np.diff(measure("moves right")[0]) > 0.02).all()
    assert (np.diff(measure("moves up")[1]) < -0.02).all()
    assert (np.diff(measure("moves down")[1]) > 0.02).all()
    assert (np.diff(measure("grows")[2]) > 0).all()
    assert measure("grows")[2][-1] > 4 * measure("grows")[2][0]
    assert (np.diff(measure("shrinks")[2]) < 0).all()
    assert (np.diff(measure("appears")[3]) > 5).all()
    assert (np.diff(measure("disappears")[3]) < -5).all()
    assert measure("appears")[3][0] > 12
    x, y, area, _ = measure("bounces")
    high = y < y.max() - 0.1
    assert (np.diff(high.astype(int)) == 1).sum() == 2  # two hops in 12 frames
    assert not high[[0, -1]].any()
    assert y.max() - y.min() > 0.15
    assert np.ptp(x) < 0.01


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("circle", "ring")])
def test_who_spins_never_looks_the_same_in_frames_that_follow(shape: str) -> None:
    thing = Thing(Appearance("red", "plain", shape), 0.5, 0.5, 0.18)
    frames = drawing.render(Scene((SceneShot(12, (thing,), Action("spins", 0.5)),), 7), SIZE).astype(float)
    assert (np.abs(np.diff(frames, axis=0)).sum(axis=(1, 2, 3)) > 2000).all()
    area = measure("spins", shape)[2]
    assert np.ptp(area) < 0.15 * area.max()


def test_a_rest_changes_nothing() -> None:
    frames = drawing.render(
        Scene((SceneShot(5, (Thing(Appearance("red", "plain", "star"), 0.5, 0.5, 0.2),)),), 1), SIZE
    )
    assert (frames == frames[0]).all()


@pytest.mark.parametrize("verb", sorted(OPPOSITES))
def test_the_opposite_is_the_same_played_backwards(verb: str) -> None:
    there, back = (drawing.find_poses(Action(each, 0.4), 13) for each in (verb, OPPOSITES[verb]))
    for one, other in zip(there, back, strict=True):
        assert np.array_equal(one, other[::-1])
    assert OPPOSITES[OPPOSITES[verb]] == verb


def test_every_verb_is_drawn_and_moves() -> None:
    for verb in VERBS:
        poses = drawing.find_poses(Action(verb, 0.4), 12)
        assert sum(np.ptp(each) > 0 for each in poses) == 1
        assert poses.scale.max() == poses.opacity.max() == 1
        assert poses.scale.min() > 0.3
        assert poses.opacity.min() > 0.1


@pytest.mark.parametrize("split", ["train", "test"])
def test_frames_of_direction_and_order_pairs_are_the_same_but_for_their_order(split: str) -> None:
    """Whatever is read off an unordered set of frames, or their mean, is equal for both videos: chance, by making."""
    kinds = []
    for pair in draw_pairs(split, 20, seed=4):  # type: ignore[arg-type]
        one, two = (drawing.render(scene, 48) for scene in pair.scenes)
        assert one.shape == two.shape == (12, 48, 48, 3)
        same = sorted(frame.tobytes() for frame in one) == sorted(frame.tobytes() for frame in two)
        assert same == (pair.kind in ("direction", "order"))
        assert not np.array_equal(one, two)
        if pair.kind == "direction":
            assert np.array_equal(one, two[::-1])
        if pair.kind == "order":
            assert np.array_equal(one, np.concatenate([two[6:], two[:6]]))
        kinds.append(pair.kind)
    assert len(set(kinds)) == 5


def test_looks_can_be_told_apart() -> None:
    looks = [Appearance(colour, texture, shape) for colour in COLOURS for texture in TEXTURES for shape in SHAPES]
    pictures = np.stack(
        [
            drawing.render(Scene((SceneShot(1, (Thing(look, 0.5, 0.5, 0.2),)),), 3), 64)[0].astype(np.float32)
            for look in looks
        ]
    ).reshape(len(looks), -1)
    lengths = (pictures**2).sum(axis=1)
    apart = np.sqrt(np.maximum(lengths[:, None] + lengths - 2 * pictures @ pictures.T, 0))
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 300


def test_backgrounds_differ_and_stay_dull() -> None:
    grounds = np.stack([drawing.paint_ground(number, 48) for number in range(40)])
    assert grounds.min() > 40
    assert grounds.max() < 215
    assert len({ground.tobytes() for ground in grounds}) == 40
    assert grounds.mean(axis=(1, 2, 3)).std() > 10


def test_rendering_is_the_same_twice() -> None:
    film = draw_films("test", 1, seed=9, fps=2)[0]
    assert np.array_equal(drawing.render(film, 32), drawing.render(film, 32))
