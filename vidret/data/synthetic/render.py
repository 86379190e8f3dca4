"""Rendering of scenes, with edges antialiased by signed distance instead of supersampling."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vidret.data.synthetic.scenes import RESTS, VERBS, Action, Scene, SceneObject, SceneShot

Field = Float32[np.ndarray, "frame row column"]

# RGB of each colour, and of its stripes, dots and checks.
RGB = {
    "red": ((214, 32, 36), (96, 8, 12)),
    "orange": ((245, 136, 24), (128, 58, 0)),
    "yellow": ((246, 226, 50), (140, 116, 0)),
    "green": ((40, 168, 60), (8, 74, 22)),
    "blue": ((44, 84, 226), (14, 24, 104)),
    "purple": ((152, 52, 190), (68, 12, 92)),
    "white": ((250, 250, 250), (66, 68, 76)),
    "black": ((14, 14, 16), (196, 196, 204)),
}
RIM_WIDTH = 0.014  # relative to the side of the frame
MIN_SCALE, MIN_OPACITY = 0.4, 0.15  # still visible
FRAMES_PER_BOUNCE = 6


class Poses(NamedTuple):
    """Offset, scale, rotation in radians and opacity of an object in each frame, relative to its own position."""

    x: Float[np.ndarray, " frame"]
    y: Float[np.ndarray, " frame"]
    scale: Float[np.ndarray, " frame"]
    turn: Float[np.ndarray, " frame"]
    opacity: Float[np.ndarray, " frame"]


def compute_poses(action: Action, num_frames: int) -> Poses:
    """Return the poses of an action. Those of its opposite are exactly the same in reverse order."""
    zeros, ones = np.zeros(num_frames), np.ones(num_frames)
    poses = Poses(x=zeros, y=zeros, scale=ones, turn=zeros, opacity=ones)
    if action.verb == RESTS:
        return poses
    kind, forwards = VERBS[action.verb]
    progress = np.arange(num_frames) / max(num_frames - 1, 1)
    progress = progress if forwards else progress[::-1]
    if kind == "horizontal":
        return poses._replace(x=(progress - 0.5) * action.amount)
    if kind == "vertical":
        return poses._replace(y=(0.5 - progress) * action.amount)
    if kind == "size":
        return poses._replace(scale=MIN_SCALE + (1 - MIN_SCALE) * progress)
    if kind == "opacity":
        return poses._replace(opacity=MIN_OPACITY + (1 - MIN_OPACITY) * progress)
    if kind == "spin":
        return poses._replace(turn=np.arange(num_frames) * action.amount)
    num_bounces = max(1, round(num_frames / FRAMES_PER_BOUNCE))
    height = np.abs(np.sin(math.pi * num_bounces * progress))
    return poses._replace(y=(0.5 - height) * action.amount)


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "frame size size 3"]:
    """Return all frames of a scene, ``size`` pixels high and wide."""
    background = paint_background(scene.background, size)
    return np.concatenate([render_shot(shot, background) for shot in scene.shots])


def render_shot(
    shot: SceneShot, background: Float32[np.ndarray, "size size 3"]
) -> UInt8[np.ndarray, "frame size size 3"]:
    """Return the frames of a shot. A resting shot is drawn once and repeated."""
    num_drawn = 1 if shot.action.verb == RESTS else shot.num_frames
    canvas = np.repeat(background[None], num_drawn, axis=0)
    if shot.other is not None:
        draw_object(canvas, shot.other, compute_poses(Action(), num_drawn))
    poses = compute_poses(shot.action, num_drawn)
    for scene_object in shot.objects:
        draw_object(canvas, scene_object, poses)
    drawn = (canvas + 0.5).astype(np.uint8)
    return np.repeat(drawn, shot.num_frames // num_drawn, axis=0)


def paint_background(seed: int, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Return a background of soft blotches in dull colours, with grain."""
    random = np.random.default_rng(seed)
    level = random.uniform(95, 160) + random.uniform(-12, 12, 3)
    blotches = np.clip(level + random.uniform(-22, 22, (4, 4, 1)) + random.uniform(-8, 8, (4, 4, 3)), 0, 255)
    soft = Image.fromarray(blotches.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    grain = random.uniform(-4, 4, (size, size, 1)).astype(np.float32)
    return np.asarray(soft, dtype=np.float32) + grain


def draw_object(canvas: Float32[np.ndarray, "frame size size 3"], scene_object: SceneObject, poses: Poses) -> None:
    """Draw an object onto the canvas, in place. Only the region that it ever covers is processed."""
    size = canvas.shape[1]
    x, y = (scene_object.x + poses.x) * size, (scene_object.y + poses.y) * size
    radius = scene_object.radius * size * poses.scale
    reach = 1.2 * float(radius.max()) + 1
    columns = np.arange(max(0, int(x.min() - reach)), min(size, math.ceil(x.max() + reach)))
    rows = np.arange(max(0, int(y.min() - reach)), min(size, math.ceil(y.max() + reach)))
    region = canvas[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    turn = scene_object.tilt + poses.turn
    along = ((columns + 0.5 - x[:, None]) / radius[:, None]).astype(np.float32)[:, None, :]
    down = ((rows + 0.5 - y[:, None]) / radius[:, None]).astype(np.float32)[:, :, None]
    cos, sin, pixels = (
        rearrange(axis.astype(np.float32), "f -> f 1 1") for axis in (np.cos(turn), np.sin(turn), radius)
    )
    u, v = along * cos + down * sin, down * cos - along * sin

    depth = -DISTANCES[scene_object.appearance.shape](u, v) * pixels
    cover = np.clip(depth + 0.5, 0, 1)
    cover *= rearrange(poses.opacity.astype(np.float32), "f -> f 1 1")
    base, pattern_rgb = np.array(RGB[scene_object.appearance.colour], dtype=np.float32)
    colour: np.ndarray = base
    if scene_object.appearance.texture in PATTERNS:
        # The rim stays plain, which keeps the shape visible and shows which colour is the base.
        pattern = PATTERNS[scene_object.appearance.texture](u, v) * np.clip(depth - RIM_WIDTH * size + 0.5, 0, 1)
        colour = base + pattern[..., None] * (pattern_rgb - base)
    region += cover[..., None] * (colour - region)


def _triangle(u: Field, v: Field) -> Field:
    slanted = np.abs(u) * np.float32(math.cos(math.pi / 6)) - v * np.float32(0.5)
    distances: Field = np.maximum(slanted, v) - np.float32(0.55)
    return distances


def _star(u: Field, v: Field) -> Field:
    """Fold the star's ten edges onto one, from a tip to the adjacent notch."""
    fifth = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2)
    length = np.hypot(u, v)
    tip, notch = 1.14, 0.55
    edge = (notch * math.cos(fifth / 2) - tip, notch * math.sin(fifth / 2))
    across = np.float32(edge[1] / math.hypot(*edge)), np.float32(-edge[0] / math.hypot(*edge))
    distances: Field = (length * np.cos(angle) - np.float32(tip)) * across[0] + length * np.sin(angle) * across[1]
    return distances


def _heart(u: Field, v: Field) -> Field:
    """Combine three discs and a wedge whose sides are tangent to the outer two discs."""
    beside = np.abs(u)
    x, y, radius, tip = 0.45, -0.35, 0.5, 0.98
    slope = math.asin(radius / math.hypot(x, tip - y)) + math.atan2(x, tip - y)
    discs = np.minimum(np.hypot(beside - np.float32(x), v - np.float32(y)), np.hypot(u, v)) - np.float32(radius)
    sides = beside * np.float32(math.cos(slope)) + (v - np.float32(tip)) * np.float32(math.sin(slope))
    distances: Field = np.minimum(discs, np.maximum(sides, np.float32(-0.14) - v))
    return distances


# Signed distance of a point (u to the right, v down) to a shape of about radius 1, negative inside.
DISTANCES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": lambda u, v: np.hypot(u, v) - np.float32(0.88),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda u, v: np.maximum(
        np.maximum(np.abs(u), np.abs(v)) - np.float32(0.98), np.minimum(np.abs(u), np.abs(v)) - np.float32(0.36)
    ),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - np.float32(0.72)) - np.float32(0.26),
    "heart": _heart,
    "moon": lambda u, v: np.maximum(
        np.hypot(u, v) - np.float32(0.98), np.float32(0.74) - np.hypot(u - np.float32(0.5), v)
    ),
}


def _dotted(u: Field, v: Field) -> Field:
    step = np.float32(0.6)
    distance = np.hypot(u - np.round(u / step) * step, v - np.round(v / step) * step)
    strength: Field = np.clip((np.float32(0.2) - distance) * 9 + 0.5, 0, 1)
    return strength


# Strength of the pattern's colour at a point, in 0..1.
PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "striped": lambda u, v: np.clip(0.3 + 2 * np.sin((u + v) * np.float32(2 * math.pi / 0.85)), 0, 1),
    "dotted": _dotted,
    "checked": lambda u, v: np.clip(
        0.5 + 3 * np.sin(u * np.float32(math.pi / 0.5)) * np.sin(v * np.float32(math.pi / 0.5)), 0, 1
    ),
}
