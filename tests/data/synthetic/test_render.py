"""Rendering of synthetic scenes: shapes against naive geometry, and actions measured in pixels."""

import math

import numpy as np
import pytest

from vidret.data.synthetic import render as drawing
from vidret.data.synthetic.scenes import (
    COLOURS,
    OPPOSITES,
    SHAPES,
    TEXTURES,
    VERBS,
    Action,
    Appearance,
    Scene,
    SceneObject,
    SceneShot,
)

SIZE = 64


def inside_corners(corners: list[tuple[float, float]], x: float, y: float) -> bool:
    """Whether a point is in a polygon, by the crossings of a ray to the right."""
    crossings = 0
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
            crossings += 1
    return crossings % 2 == 1


def on_circle(radius: float, turns: float) -> tuple[float, float]:
    """Return a point on a circle, by its angle in clockwise turns from the top."""
    return radius * math.sin(2 * math.pi * turns), -radius * math.cos(2 * math.pi * turns)


def is_inside(shape: str, x: float, y: float) -> bool:
    """Whether a point is in a shape, from the definition of the shape."""
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
    # The tangents from the tip touch the lobes where the radius is perpendicular to them.
    length = math.sqrt(0.45**2 + 1.33**2 - 0.5**2)
    angle = math.atan2(0.45, 1.33) + math.atan2(0.5, length)
    touch = (length * math.sin(angle), 0.98 - length * math.cos(angle))
    return lobes or inside_corners([(0, 0.98), touch, (0, -0.5), (-touch[0], touch[1])], x, y)


def naive_cover(scene_object: SceneObject, size: int) -> np.ndarray:
    """Return the coverage of each pixel, by 5 x 5 supersampling."""
    cover = np.zeros((size, size))
    steps = (np.arange(5) + 0.5) / 5
    cos, sin = math.cos(scene_object.tilt), math.sin(scene_object.tilt)
    for row in range(size):
        for column in range(size):
            for down in steps:
                for along in steps:
                    x, y = (column + along) / size - scene_object.x, (row + down) / size - scene_object.y
                    x, y = (x * cos + y * sin) / scene_object.radius, (y * cos - x * sin) / scene_object.radius
                    cover[row, column] += is_inside(scene_object.appearance.shape, x, y) / 25
    return cover


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_match_naive_supersampling(shape: str) -> None:
    scene_object = SceneObject(Appearance("white", "plain", shape), 0.52, 0.47, 0.36, 0.3)
    canvas = np.zeros((1, 24, 24, 3), np.float32)
    drawing.draw_object(canvas, scene_object, drawing.compute_poses(Action(), 1))
    error = np.abs(canvas[0, ..., 0] / 250 - naive_cover(scene_object, 24))
    assert error.mean() < 0.006
    # Where a tip is thinner than a pixel, both of its edges cut that pixel, and the renderer considers the nearer only.
    assert error.max() < (0.4 if shape == "star" else 0.25)


def test_position_and_area_do_not_depend_on_frame_size() -> None:
    scene_object = SceneObject(Appearance("white", "plain", "heart"), 0.3, 0.6, 0.2)
    areas, centres = [], []
    for size in (48, 96):
        canvas = np.zeros((1, size, size, 3), np.float32)
        drawing.draw_object(canvas, scene_object, drawing.compute_poses(Action(), 1))
        cover = canvas[0, ..., 0] / 250
        areas.append(cover.mean())
        positions = (np.arange(size) + 0.5) / size
        centres.append([float((cover.sum(axis=axis) * positions).sum() / cover.sum()) for axis in (0, 1)])
    assert areas[0] == pytest.approx(areas[1], rel=0.01)
    assert centres[0] == pytest.approx(centres[1], abs=0.002)


def difference(scene_object: SceneObject, action: Action, num_frames: int, size: int = SIZE) -> np.ndarray:
    """Return the difference between each pixel of each frame and the background."""
    scene = Scene((SceneShot(num_frames, (scene_object,), action),), 7)
    background = drawing.render(Scene((SceneShot(num_frames),), 7), size)
    differences: np.ndarray = np.abs(drawing.render(scene, size).astype(float) - background).sum(axis=-1)
    return differences


def measure(verb: str, shape: str = "heart") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centre x, centre y, area in pixels and contrast of an object in each of 12 frames."""
    amount = {"moves": 0.4, "bounces": 0.2, "spins": 0.5}.get(verb.split()[0], 0.0)
    differences = difference(SceneObject(Appearance("red", "plain", shape), 0.5, 0.5, 0.18), Action(verb, amount), 12)
    inside = differences > 12
    rows, columns = np.mgrid[:SIZE, :SIZE]
    area = inside.sum(axis=(1, 2))
    x, y = ((inside * where).sum(axis=(1, 2)) / area / SIZE for where in (columns + 0.5, rows + 0.5))
    return x, y, area, differences.max(axis=(1, 2))


def test_verbs_are_visible_in_pixels() -> None:
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
    is_high = y < y.max() - 0.1
    assert (np.diff(is_high.astype(int)) == 1).sum() == 2  # two bounces in 12 frames
    assert not is_high[[0, -1]].any()
    assert y.max() - y.min() > 0.15
    assert np.ptp(x) < 0.01


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("circle", "ring")])
def test_spinning_is_visible_between_consecutive_frames(shape: str) -> None:
    scene_object = SceneObject(Appearance("red", "plain", shape), 0.5, 0.5, 0.18)
    frames = drawing.render(Scene((SceneShot(12, (scene_object,), Action("spins", 0.5)),), 7), SIZE).astype(float)
    assert (np.abs(np.diff(frames, axis=0)).sum(axis=(1, 2, 3)) > 2000).all()
    area = measure("spins", shape)[2]
    assert np.ptp(area) < 0.15 * area.max()


@pytest.mark.parametrize("verb", sorted(OPPOSITES))
def test_opposite_verb_is_the_same_played_backwards(verb: str) -> None:
    forwards, backwards = (drawing.compute_poses(Action(name, 0.4), 13) for name in (verb, OPPOSITES[verb]))
    for one, other in zip(forwards, backwards, strict=True):
        assert np.array_equal(one, other[::-1])
    assert OPPOSITES[OPPOSITES[verb]] == verb


def test_every_verb_changes_exactly_one_pose() -> None:
    for verb in VERBS:
        poses = drawing.compute_poses(Action(verb, 0.4), 12)
        assert sum(np.ptp(pose) > 0 for pose in poses) == 1
        assert poses.scale.max() == poses.opacity.max() == 1
        assert poses.scale.min() > 0.3
        assert poses.opacity.min() > 0.1


def test_appearances_are_distinguishable() -> None:
    appearances = [Appearance(colour, texture, shape) for colour in COLOURS for texture in TEXTURES for shape in SHAPES]
    images = np.stack(
        [
            drawing.render(Scene((SceneShot(1, (SceneObject(appearance, 0.5, 0.5, 0.2),)),), 3), 64)[0].astype(
                np.float32
            )
            for appearance in appearances
        ]
    ).reshape(len(appearances), -1)
    squared_norms = (images**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squared_norms[:, None] + squared_norms - 2 * images @ images.T, 0))
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 300


def test_backgrounds_differ_and_have_low_contrast() -> None:
    backgrounds = np.stack([drawing.paint_background(seed, 48) for seed in range(40)])
    assert backgrounds.min() > 40
    assert backgrounds.max() < 215
    assert len({background.tobytes() for background in backgrounds}) == 40
    assert backgrounds.mean(axis=(1, 2, 3)).std() > 10
