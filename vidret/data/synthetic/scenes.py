"""Scenes of synthetic videos, and the combinations of their parts reserved for each split.

A scene consists of colours, textures, shapes, verbs, counts and relations. Two kinds of combination belong to one split
each: a shape with a colour, and a shape with a kind of action. So every combination in val or test is new to a model
trained on the training split, while each of its parts is known.
"""

from dataclasses import dataclass
from typing import Literal, get_args

SplitName = Literal["train", "val", "test"]
Texture = Literal["plain", "striped", "dotted", "checked"]
Relation = Literal["left of", "above", "inside"]

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
TEXTURES: tuple[Texture, ...] = get_args(Texture)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
RELATIONS: tuple[Relation, ...] = get_args(Relation)
ROUND = ("circle", "ring")  # spinning is invisible
CONTAINERS = ("circle", "square", "ring", "heart")  # remain recognisable with another object inside
MAX_OBJECTS = 5

# The kind of action of each verb, and whether it plays forwards. A verb played backwards is its opposite.
VERBS = {
    "moves left": ("horizontal", False),
    "moves right": ("horizontal", True),
    "moves down": ("vertical", False),
    "moves up": ("vertical", True),
    "shrinks": ("size", False),
    "grows": ("size", True),
    "disappears": ("opacity", False),
    "appears": ("opacity", True),
    "spins": ("spin", True),
    "bounces": ("bounce", True),
}
ACTIONS = ("horizontal", "vertical", "size", "opacity", "spin", "bounce")
RESTS = "rests"
OPPOSITES = {
    verb: other
    for verb, (kind, forwards) in VERBS.items()
    for other, other_action in VERBS.items()
    if other_action == (kind, not forwards)
}

# The split that owns a combination, by the sum of its two indices in the lists above. This is a Latin square, so every
# part occurs in every split.
_APPEARANCE_OWNERS: tuple[SplitName, ...] = ("test", "test", "val", "train", "train", "train", "train", "train")
_ACTION_OWNERS: tuple[SplitName, ...] = ("test", "test", "val", "train", "train", "train")


@dataclass(frozen=True, slots=True)
class Appearance:
    """The appearance of an object."""

    colour: str
    texture: Texture
    shape: str


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An object in a frame of side length 1.

    Attributes:
        appearance: Colour, texture and shape.
        x: Centre, from the left.
        y: Centre, from the top.
        radius: Radius.
        tilt: Rotation in radians, clockwise.
    """

    appearance: Appearance
    x: float
    y: float
    radius: float
    tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class Action:
    """The action of objects during a shot.

    Attributes:
        verb: One of ``VERBS``, or ``RESTS``.
        amount: Distance of a move and height of a bounce, in sides of the frame; rotation of a spin in radians per
            frame, negative for anticlockwise. Unused by other verbs.
    """

    verb: str = RESTS
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Statement:
    """The content of a shot that captions may state. Shots with equal statements have equal captions."""

    num_objects: int
    appearance: Appearance
    verb: str
    relation: Relation | None = None
    other: Appearance | None = None


@dataclass(frozen=True, slots=True)
class SceneShot:
    """Consecutive frames in which objects of one appearance perform one action together.

    Attributes:
        num_frames: Length of the shot.
        objects: The objects; empty for the background only.
        action: Their action.
        relation: Relation of the object to ``other``.
        other: A resting object that the relation refers to.
    """

    num_frames: int
    objects: tuple[SceneObject, ...] = ()
    action: Action = Action()
    relation: Relation | None = None
    other: SceneObject | None = None

    @property
    def statement(self) -> Statement | None:
        """Return the statement of the shot; None if it shows no object."""
        if not self.objects:
            return None
        return Statement(
            num_objects=len(self.objects),
            appearance=self.objects[0].appearance,
            verb=self.action.verb,
            relation=self.relation,
            other=None if self.other is None else self.other.appearance,
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole video: shots in order, and the seed of their common background."""

    shots: tuple[SceneShot, ...]
    background: int

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Return the statements of the shots in order, without shots that show no object."""
        return tuple(shot.statement for shot in self.shots if shot.statement is not None)


def colours_of(split: SplitName, shape: str) -> list[str]:
    """Return the colours in which only this split may show a shape."""
    first, owners = SHAPES.index(shape), _APPEARANCE_OWNERS
    return [colour for index, colour in enumerate(COLOURS) if owners[(first + index) % len(owners)] == split]


def verbs_of(split: SplitName, shape: str) -> list[str]:
    """Return the verbs that only this split may show a shape perform, with their opposites. All may show it resting."""
    first, owners = SHAPES.index(shape), _ACTION_OWNERS
    return [
        verb
        for verb, (kind, _) in VERBS.items()
        if owners[(first + ACTIONS.index(kind)) % len(owners)] == split and (verb != "spins" or shape not in ROUND)
    ]
