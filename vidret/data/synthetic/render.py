"""Scenes -> pixels: each edge is as soft as one pixel, by the distance to it, so that nothing is drawn twice as big."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vidret.data.synthetic.scenes import RESTS, VERBS, Action, Scene, SceneShot, Thing

Field = Float32[np.ndarray, "frame row column"]

# Each colour, and what its stripes, dots and checks are drawn in.
PAINTS = {
    "red": ((214, 32, 36), (96, 8, 12)),
    "orange": ((245, 136, 24), (128, 58, 0)),
    "yellow": ((246, 226, 50), (140, 116, 0)),
    "green": ((40, 168, 60), (8, 74, 22)),
    "blue": ((44, 84, 226), (14, 24, 104)),
    "purple": ((152, 52, 190), (68, 12, 92)),
    "white": ((250, 250, 250), (66, 68, 76)),
    "black": ((14, 14, 16), (196, 196, 204)),
}
RIM = 0.014  # sides of the picture
SMALLEST, FAINTEST = 0.4, 0.15  # how small and how faint things get that still can be seen
FRAMES_A_HOP = 6


class Poses(NamedTuple):
    """How things differ from where they are drawn, frame by frame."""

    x: Float[np.ndarray, " frame"]
    y: Float[np.ndarray, " frame"]
    scale: Float[np.ndarray, " frame"]
    turn: Float[np.ndarray, " frame"]
    opacity: Float[np.ndarray, " frame"]


def find_poses(action: Action, num_frames: int) -> Poses:
    """Work out an action; its opposite has the same poses in reverse, bit for bit."""
    zeros, ones = np.zeros(num_frames), np.ones(num_frames)
    poses = Poses(x=zeros, y=zeros, scale=ones, turn=zeros, opacity=ones)
    if action.verb == RESTS:
        return poses
    kind, forwards = VERBS[action.verb]
    done = np.arange(num_frames) / max(num_frames - 1, 1)
    done = done if forwards else done[::-1]
    if kind == "across":
        return poses._replace(x=(done - 0.5) * action.amount)
    if kind == "upright":
        return poses._replace(y=(0.5 - done) * action.amount)
    if kind == "size":
        return poses._replace(scale=SMALLEST + (1 - SMALLEST) * done)
    if kind == "presence":
        return poses._replace(opacity=FAINTEST + (1 - FAINTEST) * done)
    if kind == "turn":
        return poses._replace(turn=np.arange(num_frames) * action.amount)
    hops = max(1, round(num_frames / FRAMES_A_HOP))
    height = np.abs(np.sin(math.pi * hops * done))
    return poses._replace(y=(0.5 - height) * action.amount)


def render(scene: Scene, size: int) -> UInt8[np.ndarray, "frame size size 3"]:
    """Draw all frames of a scene, ``size`` pixels high and wide."""
    ground = paint_ground(scene.background, size)
    return np.concatenate([render_shot(shot, ground) for shot in scene.shots])


def render_shot(shot: SceneShot, ground: Float32[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "frame size size 3"]:
    """Draw the frames of a shot; where nothing moves, all are one."""
    num_drawn = 1 if shot.action.verb == RESTS else shot.num_frames
    canvas = np.repeat(ground[None], num_drawn, axis=0)
    if shot.other is not None:
        draw_thing(canvas, shot.other, find_poses(Action(), num_drawn))
    poses = find_poses(shot.action, num_drawn)
    for thing in shot.things:
        draw_thing(canvas, thing, poses)
    drawn = (canvas + 0.5).astype(np.uint8)
    return np.repeat(drawn, shot.num_frames // num_drawn, axis=0)


def paint_ground(number: int, size: int) -> Float32[np.ndarray, "size size 3"]:
    """Paint a background: soft blotches of dull colours, and grain."""
    random = np.random.default_rng(number)
    level = random.uniform(95, 160) + random.uniform(-12, 12, 3)
    blotches = np.clip(level + random.uniform(-22, 22, (4, 4, 1)) + random.uniform(-8, 8, (4, 4, 3)), 0, 255)
    soft = Image.fromarray(blotches.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    grain = random.uniform(-4, 4, (size, size, 1)).astype(np.float32)
    return np.asarray(soft, dtype=np.float32) + grain


def draw_thing(canvas: Float32[np.ndarray, "frame size size 3"], thing: Thing, poses: Poses) -> None:
    """Draw a thing over what is there; only the part of the picture that it ever reaches is touched."""
    size = canvas.shape[1]
    x, y = (thing.x + poses.x) * size, (thing.y + poses.y) * size
    radius = thing.radius * size * poses.scale
    reach = 1.2 * float(radius.max()) + 1
    columns = np.arange(max(0, int(x.min() - reach)), min(size, math.ceil(x.max() + reach)))
    rows = np.arange(max(0, int(y.min() - reach)), min(size, math.ceil(y.max() + reach)))
    part = canvas[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    turn = thing.tilt + poses.turn
    along = ((columns + 0.5 - x[:, None]) / radius[:, None]).astype(np.float32)[:, None, :]
    down = ((rows + 0.5 - y[:, None]) / radius[:, None]).astype(np.float32)[:, :, None]
    cos, sin, pixels = (
        rearrange(each.astype(np.float32), "f -> f 1 1") for each in (np.cos(turn), np.sin(turn), radius)
    )
    u, v = along * cos + down * sin, down * cos - along * sin

    inside = -DISTANCES[thing.look.shape](u, v) * pixels
    cover = np.clip(inside + 0.5, 0, 1)
    cover *= rearrange(poses.opacity.astype(np.float32), "f -> f 1 1")
    paint, ink = np.array(PAINTS[thing.look.colour], dtype=np.float32)
    colour: np.ndarray = paint
    if thing.look.texture in PATTERNS:
        # A rim stays plain, so that the shape is seen, and which of its two colours is the thing's.
        inked = PATTERNS[thing.look.texture](u, v) * np.clip(inside - RIM * size + 0.5, 0, 1)
        colour = paint + inked[..., None] * (ink - paint)
    part += cover[..., None] * (colour - part)


def _circle(u: Field, v: Field) -> Field:
    distances: Field = np.hypot(u, v) - np.float32(0.88)
    return distances


def _square(u: Field, v: Field) -> Field:
    distances: Field = np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78)
    return distances


def _triangle(u: Field, v: Field) -> Field:
    slanted = np.abs(u) * np.float32(math.cos(math.pi / 6)) - v * np.float32(0.5)
    distances: Field = np.maximum(slanted, v) - np.float32(0.55)
    return distances


def _star(u: Field, v: Field) -> Field:
    """Fold all ten edges of the star onto one, which runs from a tip to the notch beside it."""
    fifth = 2 * math.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2)
    length = np.hypot(u, v)
    tip, notch = 1.14, 0.55
    edge = (notch * math.cos(fifth / 2) - tip, notch * math.sin(fifth / 2))
    across = np.float32(edge[1] / math.hypot(*edge)), np.float32(-edge[0] / math.hypot(*edge))
    distances: Field = (length * np.cos(angle) - np.float32(tip)) * across[0] + length * np.sin(angle) * across[1]
    return distances


def _cross(u: Field, v: Field) -> Field:
    u, v = np.abs(u), np.abs(v)
    distances: Field = np.maximum(np.maximum(u, v) - np.float32(0.98), np.minimum(u, v) - np.float32(0.36))
    return distances


def _ring(u: Field, v: Field) -> Field:
    distances: Field = np.abs(np.hypot(u, v) - np.float32(0.72)) - np.float32(0.26)
    return distances


def _heart(u: Field, v: Field) -> Field:
    """Join three discs and the wedge whose sides touch the outer two; the wedge ends between those."""
    beside = np.abs(u)
    x, y, radius, tip = 0.45, -0.35, 0.5, 0.98
    slope = math.asin(radius / math.hypot(x, tip - y)) + math.atan2(x, tip - y)
    discs = np.minimum(np.hypot(beside - np.float32(x), v - np.float32(y)), np.hypot(u, v)) - np.float32(radius)
    sides = beside * np.float32(math.cos(slope)) + (v - np.float32(tip)) * np.float32(math.sin(slope))
    distances: Field = np.minimum(discs, np.maximum(sides, np.float32(-0.14) - v))
    return distances


def _moon(u: Field, v: Field) -> Field:
    distances: Field = np.maximum(
        np.hypot(u, v) - np.float32(0.98), np.float32(0.74) - np.hypot(u - np.float32(0.5), v)
    )
    return distances


# How far a point is from a shape of about radius 1, below 0 inside; the picture's left and top are below 0.
DISTANCES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}


def _striped(u: Field, v: Field) -> Field:
    marks: Field = np.clip(0.3 + 2 * np.sin((u + v) * np.float32(2 * math.pi / 0.85)), 0, 1)
    return marks


def _dotted(u: Field, v: Field) -> Field:
    step = np.float32(0.6)
    apart = np.hypot(u - np.round(u / step) * step, v - np.round(v / step) * step)
    marks: Field = np.clip((np.float32(0.2) - apart) * 9 + 0.5, 0, 1)
    return marks


def _checked(u: Field, v: Field) -> Field:
    pace = np.float32(math.pi / 0.5)
    marks: Field = np.clip(0.5 + 3 * np.sin(u * pace) * np.sin(v * pace), 0, 1)
    return marks


# Where a thing shows its second colour: 0 nowhere to 1.
PATTERNS: dict[str, Callable[[Field, Field], Field]] = {"striped": _striped, "dotted": _dotted, "checked": _checked}
