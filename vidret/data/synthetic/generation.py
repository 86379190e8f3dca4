"""Scenes by chance: pairs that differ in one respect alone, and long films of several events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import numpy as np

from vidret.data.synthetic.scenes import (
    HOLLOW,
    MAX_THINGS,
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
    SceneShot,
    SplitName,
    Statement,
    Thing,
    colours_of,
    verbs_of,
)
from vidret.errors import VidretError

PairKind = Literal["direction", "order", "relation", "count", "look"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)

Random = np.random.Generator
Value = TypeVar("Value")

# Radii by how many things there are; more of them are smaller.
RADII = {1: (0.17, 0.22), 2: (0.14, 0.17), 3: (0.125, 0.145), 4: (0.11, 0.125), 5: (0.105, 0.115)}
APART = 2.25  # middles of things, in radii
CLIP_SECONDS = 2  # QVHighlights cuts its videos so
FILM_SECONDS = (40, 90)
WAYS, HEIGHTS = (0.36, 0.46), (0.18, 0.26)
TURN = 0.5  # radians a frame; more, and a star seems to turn the other way
TILT = 0.2
_MAX_TRIES = 1000


@dataclass(frozen=True, slots=True)
class ScenePair:
    """Two scenes that differ in one respect alone, named by ``kind``."""

    kind: PairKind
    scenes: tuple[Scene, Scene]


def draw_pairs(split: SplitName, num_pairs: int, *, seed: int, num_frames: int = 12) -> list[ScenePair]:
    """Draw pairs of scenes, the kinds by turns; the first stay the same when more are asked for.

    No two scenes of val or test say the same, so that each caption has one right video. In training the same may be
    shown twice, at other places and before other backgrounds.

    Raises:
        VidretError: There is not so much that can be said in val or test.
    """
    pairs: list[ScenePair] = []
    said: set[tuple[Statement, ...]] = set()
    for number in range(num_pairs):
        kind = PAIR_KINDS[number % len(PAIR_KINDS)]
        random = np.random.default_rng((seed, 0, SPLITS.index(split), number))
        for _ in range(_MAX_TRIES):
            background = int(random.integers(1 << 32))
            ways = DRAW[kind](random, split, num_frames)
            scenes = (Scene(ways[0], background), Scene(ways[1], background))
            if split == "train" or said.isdisjoint(scene.statements for scene in scenes):
                break
        else:
            raise VidretError(f"num_{split} must be at most what can be said, got more than {2 * number}")
        said |= {scene.statements for scene in scenes}
        pairs.append(ScenePair(kind, scenes if random.random() < 0.5 else scenes[::-1]))
    return pairs


SceneShots = tuple[SceneShot, ...]


def draw_direction(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw things that do something, and the same played backwards."""
    look, verb = _until(lambda: draw_deed(random, split), lambda deed: deed[1] in OPPOSITES)
    shot = draw_shot(random, look, verb, int(random.integers(1, 4)), num_frames)
    return (shot,), (turn_round(shot),)


def draw_order(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw two shots, of the same things or of others, and the same in the other order."""
    half = num_frames // 2
    first = draw_shot(random, *draw_deed(random, split), int(random.integers(1, 3)), half)
    look, count = first.things[0].look, len(first.things)

    def draw_second() -> SceneShot:
        if random.random() < 0.5:
            return draw_shot(random, look, pick(random, verbs_of(split, look.shape)), count, half)
        return draw_shot(random, *draw_deed(random, split), int(random.integers(1, 3)), half)

    second = _until(draw_second, lambda shot: shot.statement != first.statement)
    return (first, second), (second, first)


def draw_relation(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw two things side by side, one above the other or one in the other, and the same with their places changed."""
    relation = pick(random, RELATIONS)
    shapes = HOLLOW if relation == "inside" else SHAPES
    one = draw_look(random, split, shapes)
    two = _until(lambda: draw_look(random, split, shapes), lambda other: are_unlike(one, other))
    if relation == "inside":
        x, y = random.uniform(0.45, 0.55, 2)
        places = ((x, y, random.uniform(0.12, 0.14)), (x, y, random.uniform(0.36, 0.39)))
    else:
        near, far = random.uniform(0.2, 0.3), random.uniform(0.7, 0.8)
        middle = random.uniform(0.35, 0.65)
        aside = middle + random.uniform(-0.06, 0.06)
        radii = random.uniform(0.13, 0.17, 2)
        places = ((near, middle, radii[0]), (far, aside, radii[1]))
        if relation == "above":
            places = ((middle, near, radii[0]), (aside, far, radii[1]))
    tilts = random.uniform(-TILT, TILT, 2)

    def put(first: Appearance, second: Appearance) -> SceneShots:
        thing, other = (
            Thing(look, float(x), float(y), float(radius), float(tilt))
            for look, (x, y, radius), tilt in zip((first, second), places, tilts, strict=True)
        )
        return (SceneShot(num_frames, (thing,), relation=relation, other=other),)

    return put(one, two), put(two, one)


def draw_count(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw things, and the same with one more."""
    look, verb = draw_deed(random, split)
    verb = RESTS if random.random() < 0.3 else verb
    many = draw_shot(random, look, verb, int(random.integers(2, MAX_THINGS + 1)), num_frames)
    return (replace(many, things=many.things[:-1]),), (many,)


def draw_look_apart(random: Random, split: SplitName, num_frames: int) -> tuple[SceneShots, SceneShots]:
    """Draw things, and the same with another colour, texture or shape."""
    look, verb = draw_deed(random, split)
    verb = RESTS if random.random() < 0.3 else verb

    def draw_other() -> Appearance:
        changed, other = pick(random, ("colour", "texture", "shape")), draw_look(random, split)
        if changed == "colour":
            return replace(look, colour=other.colour)
        return replace(look, texture=other.texture) if changed == "texture" else replace(look, shape=other.shape)

    def fits(other: Appearance) -> bool:
        can_do = verb == RESTS or verb in verbs_of(split, other.shape)
        return other != look and can_do and other.colour in colours_of(split, other.shape)

    other = _until(draw_other, fits)
    shot = draw_shot(random, look, verb, int(random.integers(1, 4)), num_frames)
    return (shot,), (replace(shot, things=tuple(replace(thing, look=other) for thing in shot.things)),)


DRAW: dict[PairKind, Callable[[Random, SplitName, int], tuple[SceneShots, SceneShots]]] = {
    "direction": draw_direction,
    "order": draw_order,
    "relation": draw_relation,
    "count": draw_count,
    "look": draw_look_apart,
}


def draw_films(split: SplitName, num_films: int, *, seed: int, fps: int) -> list[Scene]:
    """Draw long videos of whole clips; the first stay the same when more are asked for."""
    films = []
    for number in range(num_films):
        random = np.random.default_rng((seed, 1, SPLITS.index(split), number))
        shortest, longest = (seconds // CLIP_SECONDS for seconds in FILM_SECONDS)
        num_clips = int(random.integers(shortest, longest + 1))
        films.append(draw_film(random, split, frames_per_clip=CLIP_SECONDS * fps, num_clips=num_clips))
    return films


def draw_film(random: Random, split: SplitName, *, frames_per_clip: int, num_clips: int) -> Scene:
    """Draw a long video: events of 3 to 7 clips with pauses of 1 to 3 between them, ``num_clips`` in all.

    Half of the later events take up an earlier one: as it was, or played backwards. In a third of the pauses something
    can be seen that does nothing.
    """
    shots: list[SceneShot] = []
    events: list[SceneShot] = []
    num_left = num_clips
    while True:
        pause, length = int(random.integers(1, 4)), int(random.integers(3, 8))
        if pause + length >= num_left:
            break
        shots.append(draw_pause(random, split, pause * frames_per_clip))
        events.append(draw_event(random, split, length * frames_per_clip, events))
        shots.append(events[-1])
        num_left -= pause + length
    shots.append(draw_pause(random, split, num_left * frames_per_clip))
    return Scene(tuple(shots), int(random.integers(1 << 32)))


def draw_event(random: Random, split: SplitName, num_frames: int, earlier: list[SceneShot]) -> SceneShot:
    """Draw what happens next: something new, or something that happened, or its opposite, at another place."""
    if earlier and random.random() < 0.5:
        again = pick(random, earlier)
        look, verb, count = again.things[0].look, again.action.verb, len(again.things)
        verb = OPPOSITES.get(verb, verb) if random.random() < 0.7 else verb
        if again.other is None:
            return draw_shot(random, look, verb, count, num_frames)
    if random.random() < 0.2:
        return draw_relation(random, split, num_frames)[0][0]
    return draw_shot(random, *draw_deed(random, split), int(random.integers(1, 4)), num_frames)


def draw_pause(random: Random, split: SplitName, num_frames: int) -> SceneShot:
    """Draw nothing, or a thing that rests."""
    if random.random() < 0.33:
        return draw_shot(random, draw_look(random, split), RESTS, 1, num_frames)
    return SceneShot(num_frames)


def draw_look(random: Random, split: SplitName, shapes: tuple[str, ...] = SHAPES) -> Appearance:
    """Draw what a thing looks like, out of what the split may show."""
    shape = pick(random, shapes)
    return Appearance(pick(random, colours_of(split, shape)), pick(random, TEXTURES), shape)


def draw_deed(random: Random, split: SplitName) -> tuple[Appearance, str]:
    """Draw a thing's look, and what it does."""
    look = draw_look(random, split)
    return look, pick(random, verbs_of(split, look.shape))


def draw_shot(random: Random, look: Appearance, verb: str, count: int, num_frames: int) -> SceneShot:
    """Draw where things are, how big, and how far they go; they never touch each other or the edge."""
    radius = random.uniform(*RADII[count])
    kind = RESTS if verb == RESTS else VERBS[verb][0]
    amount = 0.0
    if kind in ("across", "upright"):
        amount = float(random.uniform(*WAYS))
    elif kind == "bounce":
        amount = float(random.uniform(*HEIGHTS))
    elif kind == "turn":
        amount = TURN if random.random() < 0.5 else -TURN
    action = Action(verb, amount)
    way = amount / 2 if kind == "across" else 0.0
    high = amount / 2 if kind in ("upright", "bounce") else 0.0
    middles = scatter(random, count, APART * radius, radius * 1.1 + way, radius * 1.1 + high)
    tilts = random.uniform(-TILT, TILT, count)
    things = tuple(
        Thing(look, float(x), float(y), float(radius), float(tilt)) for (x, y), tilt in zip(middles, tilts, strict=True)
    )
    return SceneShot(num_frames, things, action)


def scatter(random: Random, count: int, apart: float, edge_x: float, edge_y: float) -> list[tuple[float, float]]:
    """Draw places at least ``apart`` from each other and so far from the edges."""
    while True:
        middles: list[tuple[float, float]] = []
        for _ in range(20 * count):
            x, y = random.uniform(edge_x, 1 - edge_x), random.uniform(edge_y, 1 - edge_y)
            if all((x - a) ** 2 + (y - b) ** 2 >= apart**2 for a, b in middles):
                middles.append((x, y))
            if len(middles) == count:
                return middles


def turn_round(shot: SceneShot) -> SceneShot:
    """Give the shot that is this one played backwards."""
    return replace(shot, action=replace(shot.action, verb=OPPOSITES[shot.action.verb]))


def are_unlike(one: Appearance, other: Appearance) -> bool:
    """Tell whether two looks differ in both colour and shape."""
    return one.colour != other.colour and one.shape != other.shape


def pick(random: Random, choices: Sequence[Value]) -> Value:
    """Draw one of several."""
    return choices[int(random.integers(len(choices)))]


def _until(draw: Callable[[], Value], fits: Callable[[Value], bool]) -> Value:
    """Draw until it fits."""
    while True:
        value = draw()
        if fits(value):
            return value
