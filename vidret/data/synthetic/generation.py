"""Random scenes, in pairs that differ in exactly one respect."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import numpy as np

from vidret.data.synthetic.scenes import (
    CONTAINERS,
    MAX_OBJECTS,
    OPPOSITES,
    RELATIONS,
    RESTS,
    SHAPES,
    SPLITS,
    TEXTURES,
    VERBS,
    Action,
    Appearance,
    Scene,
    SceneObject,
    SceneShot,
    SplitName,
    Statement,
    colours_of,
    verbs_of,
)
from vidret.errors import VidretError

PairKind = Literal["direction", "order", "relation", "count", "look"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

Random = np.random.Generator
Value = TypeVar("Value")

# Range of radii by number of objects.
RADII = {1: (0.17, 0.22), 2: (0.14, 0.17), 3: (0.125, 0.145), 4: (0.11, 0.125), 5: (0.105, 0.115)}
MIN_DISTANCE = 2.25  # between centres of objects, in radii
MOVE_DISTANCES, BOUNCE_HEIGHTS = (0.36, 0.46), (0.18, 0.26)
SPIN_RADIANS = 0.5  # per frame; above this, a star appears to spin in the other direction
MAX_TILT = 0.2
_MAX_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class ScenePair:
    """Two scenes that differ in exactly one respect, ``kind``."""

    kind: PairKind
    scenes: tuple[Scene, Scene]


def draw_pairs(split: SplitName, num_pairs: int, *, seed: int, num_frames: int = 12) -> list[ScenePair]:
    """Draw pairs of scenes, cycling through the kinds. A larger ``num_pairs`` only appends pairs.

    All scenes of val and of test have different statements, so that each caption matches one video. Training scenes may
    repeat with other positions and backgrounds.

    Raises:
        VidretError: Val or test do not have enough different statements.
    """
    pairs: list[ScenePair] = []
    used: set[tuple[Statement, ...]] = set()
    for pair_index in range(num_pairs):
        kind = PAIR_KINDS[pair_index % len(PAIR_KINDS)]
        random = np.random.default_rng((seed, 0, SPLITS.index(split), pair_index))
        for _ in range(_MAX_ATTEMPTS):
            background = int(random.integers(1 << 32))
            first, second = DRAW[kind](random, split, num_frames)
            scenes = (Scene(first, background), Scene(second, background))
            if split == "train" or used.isdisjoint(scene.statements for scene in scenes):
                break
        else:
            raise VidretError(
                f"num_{split} must be at most {2 * pair_index} for all scenes to differ, got {2 * num_pairs}"
            )
        used |= {scene.statements for scene in scenes}
        pairs.append(ScenePair(kind=kind, scenes=scenes if random.random() < 0.5 else scenes[::-1]))
    return pairs


SceneShots = tuple[SceneShot, ...]


def draw_direction(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw objects that perform an action, and the same played backwards."""
    appearance, verb = _draw_until(lambda: draw_actor(random, split), lambda actor: actor[1] in OPPOSITES)
    shot = draw_shot(random, appearance, verb, int(random.integers(1, 4)), num_frames)
    return (shot,), (replace(shot, action=replace(shot.action, verb=OPPOSITES[verb])),)


def draw_order(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw two shots, of the same or different objects, and the same in reverse order."""
    half = num_frames // 2
    first = draw_shot(random, *draw_actor(random, split), int(random.integers(1, 3)), half)
    appearance, num_objects = first.objects[0].appearance, len(first.objects)

    def draw_second() -> SceneShot:
        if random.random() < 0.5:
            return draw_shot(random, appearance, choose(random, verbs_of(split, appearance.shape)), num_objects, half)
        return draw_shot(random, *draw_actor(random, split), int(random.integers(1, 3)), half)

    second = _draw_until(draw_second, lambda shot: shot.statement != first.statement)
    return (first, second), (second, first)


def draw_relation(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw two objects side by side, one above the other or one inside the other, and the same with the two swapped."""
    relation = choose(random, RELATIONS)
    shapes = CONTAINERS if relation == "inside" else SHAPES
    one = draw_appearance(random, split, shapes)
    two = _draw_until(
        lambda: draw_appearance(random, split, shapes),
        lambda other: one.colour != other.colour and one.shape != other.shape,
    )
    if relation == "inside":
        x, y = random.uniform(0.45, 0.55, 2)
        circles = ((x, y, random.uniform(0.12, 0.14)), (x, y, random.uniform(0.36, 0.39)))
    else:
        near, far = random.uniform(0.2, 0.3), random.uniform(0.7, 0.8)
        level = random.uniform(0.35, 0.65)
        other_level = level + random.uniform(-0.06, 0.06)
        radii = random.uniform(0.13, 0.17, 2)
        circles = ((near, level, radii[0]), (far, other_level, radii[1]))
        if relation == "above":
            circles = ((level, near, radii[0]), (other_level, far, radii[1]))
    tilts = random.uniform(-MAX_TILT, MAX_TILT, 2)

    def arrange(first: Appearance, second: Appearance) -> SceneShots:
        subject, other = (
            SceneObject(appearance, float(x), float(y), float(radius), float(tilt))
            for appearance, (x, y, radius), tilt in zip((first, second), circles, tilts, strict=True)
        )
        return (SceneShot(num_frames, (subject,), relation=relation, other=other),)

    return arrange(one, two), arrange(two, one)


def draw_count(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw objects, and the same objects with one more."""
    appearance, verb = draw_actor(random, split)
    verb = RESTS if random.random() < 0.3 else verb
    shot = draw_shot(random, appearance, verb, int(random.integers(2, MAX_OBJECTS + 1)), num_frames)
    return (replace(shot, objects=shot.objects[:-1]),), (shot,)


def draw_appearance_change(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw objects, and the same objects with another colour, texture or shape."""
    appearance, verb = draw_actor(random, split)
    verb = RESTS if random.random() < 0.3 else verb

    def draw_other() -> Appearance:
        changed, drawn = choose(random, ("colour", "texture", "shape")), draw_appearance(random, split)
        if changed == "colour":
            return replace(appearance, colour=drawn.colour)
        if changed == "texture":
            return replace(appearance, texture=drawn.texture)
        return replace(appearance, shape=drawn.shape)

    def is_allowed(other: Appearance) -> bool:
        can_act = verb == RESTS or verb in verbs_of(split, other.shape)
        return other != appearance and can_act and other.colour in colours_of(split, other.shape)

    other = _draw_until(draw_other, is_allowed)
    shot = draw_shot(random, appearance, verb, int(random.integers(1, 4)), num_frames)
    changed_objects = tuple(replace(resting, appearance=other) for resting in shot.objects)
    return (shot,), (replace(shot, objects=changed_objects),)


DRAW: dict[PairKind, Callable[[Random, SplitName, int], tuple[SceneShots, SceneShots]]] = {
    "direction": draw_direction,
    "order": draw_order,
    "relation": draw_relation,
    "count": draw_count,
    "look": draw_appearance_change,
}


def draw_appearance(random: Random, split: SplitName, shapes: tuple[str, ...] = SHAPES) -> Appearance:
    """Draw an appearance that the split may show."""
    shape = choose(random, shapes)
    return Appearance(choose(random, colours_of(split, shape)), choose(random, TEXTURES), shape)


def draw_actor(random: Random, split: SplitName) -> tuple[Appearance, str]:
    """Draw an appearance and a verb that the split may show together."""
    appearance = draw_appearance(random, split)
    return appearance, choose(random, verbs_of(split, appearance.shape))


def draw_shot(random: Random, appearance: Appearance, verb: str, num_objects: int, num_frames: int) -> SceneShot:
    """Draw the positions, sizes and movements of objects. They never touch each other or the edge of the frame."""
    radius = random.uniform(*RADII[num_objects])
    kind = RESTS if verb == RESTS else VERBS[verb][0]
    amount = 0.0
    if kind in ("horizontal", "vertical"):
        amount = float(random.uniform(*MOVE_DISTANCES))
    elif kind == "bounce":
        amount = float(random.uniform(*BOUNCE_HEIGHTS))
    elif kind == "spin":
        amount = SPIN_RADIANS if random.random() < 0.5 else -SPIN_RADIANS
    margin_x = radius * 1.1 + (amount / 2 if kind == "horizontal" else 0.0)
    margin_y = radius * 1.1 + (amount / 2 if kind in ("vertical", "bounce") else 0.0)
    centres = scatter(random, num_objects, MIN_DISTANCE * radius, margin_x, margin_y)
    tilts = random.uniform(-MAX_TILT, MAX_TILT, num_objects)
    objects = tuple(
        SceneObject(appearance, float(x), float(y), float(radius), float(tilt))
        for (x, y), tilt in zip(centres, tilts, strict=True)
    )
    return SceneShot(num_frames, objects, Action(verb, amount))


def scatter(
    random: Random, num_points: int, min_distance: float, margin_x: float, margin_y: float
) -> list[tuple[float, float]]:
    """Draw points at least ``min_distance`` from each other, and at least the margins from the edges of the frame."""
    while True:
        points: list[tuple[float, float]] = []
        for _ in range(20 * num_points):
            x, y = random.uniform(margin_x, 1 - margin_x), random.uniform(margin_y, 1 - margin_y)
            if all((x - a) ** 2 + (y - b) ** 2 >= min_distance**2 for a, b in points):
                points.append((x, y))
            if len(points) == num_points:
                return points


def choose(random: Random, choices: Sequence[Value]) -> Value:
    """Return a random choice."""
    return choices[int(random.integers(len(choices)))]


def _draw_until(draw: Callable[[], Value], is_allowed: Callable[[Value], bool]) -> Value:
    """Draw until a value is allowed."""
    while True:
        value = draw()
        if is_allowed(value):
            return value
