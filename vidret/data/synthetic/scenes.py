"""What a synthetic video shows: things and what they do, shot by shot; and what is kept away from training.

Parts are colours, textures, shapes, verbs, numbers and relations. Two kinds of combination are dealt out to the splits,
each to one alone: a shape with a colour, and a shape with a kind of action. So whatever val or test shows was never
seen in training, yet each of its parts was.
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
ROUND = ("circle", "ring")  # nobody sees these spin
HOLLOW = ("circle", "square", "ring", "heart")  # another thing fits inside, and hides too little to be mistaken
MAX_THINGS = 5

# A verb, its kind of action, and whether it runs that kind forwards. Played backwards, a verb is its opposite.
VERBS = {
    "moves left": ("across", False),
    "moves right": ("across", True),
    "moves down": ("upright", False),
    "moves up": ("upright", True),
    "shrinks": ("size", False),
    "grows": ("size", True),
    "disappears": ("presence", False),
    "appears": ("presence", True),
    "spins": ("turn", True),
    "bounces": ("bounce", True),
}
ACTIONS = ("across", "upright", "size", "presence", "turn", "bounce")
RESTS = "rests"
OPPOSITES = {
    verb: other
    for verb, (kind, forwards) in VERBS.items()
    for other, told in VERBS.items()
    if told == (kind, not forwards)
}

# Who owns a combination, by the sum of its two places in the lists above: a Latin square, so that no part is left out.
_LOOK_OWNERS: tuple[SplitName, ...] = ("test", "test", "val", "train", "train", "train", "train", "train")
_DEED_OWNERS: tuple[SplitName, ...] = ("test", "test", "val", "train", "train", "train")


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a thing looks like."""

    colour: str
    texture: Texture
    shape: str


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing in a picture whose sides are 1: its middle from the left and the top, its radius, its tilt in radians."""

    look: Appearance
    x: float
    y: float
    radius: float
    tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class Action:
    """What things do during a shot.

    ``amount`` is the way of a move and the height of a bounce in sides of the picture, and the radians a frame of a
    spin, below 0 against the clock; of other verbs it means nothing.
    """

    verb: str = RESTS
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Statement:
    """What may be said of a shot, and all that may be said: two shots with equal statements have equal captions."""

    num_things: int
    look: Appearance
    verb: str
    relation: Relation | None = None
    other: Appearance | None = None


@dataclass(frozen=True, slots=True)
class SceneShot:
    """Some frames in which alike things do one thing together, perhaps in relation to another that rests.

    A shot without things shows the background alone.
    """

    num_frames: int
    things: tuple[Thing, ...] = ()
    action: Action = Action()
    relation: Relation | None = None
    other: Thing | None = None

    @property
    def statement(self) -> Statement | None:
        """Say what the shot shows; None where it shows nothing."""
        if not self.things:
            return None
        other = None if self.other is None else self.other.look
        return Statement(len(self.things), self.things[0].look, self.action.verb, self.relation, other)


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole video: shots in order, before one background, which a number names."""

    shots: tuple[SceneShot, ...]
    background: int

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Say what the shots show, in order; those that show nothing are left out."""
        return tuple(shot.statement for shot in self.shots if shot.statement is not None)


def owner_of_look(colour: str, shape: str) -> SplitName:
    """Name the split that alone may show this colour on this shape."""
    return _LOOK_OWNERS[(COLOURS.index(colour) + SHAPES.index(shape)) % len(_LOOK_OWNERS)]


def owner_of_deed(shape: str, verb: str) -> SplitName | None:
    """Name the split that alone may show this shape do this or its opposite; None for resting, which all may show."""
    if verb == RESTS:
        return None
    return _DEED_OWNERS[(SHAPES.index(shape) + ACTIONS.index(VERBS[verb][0])) % len(_DEED_OWNERS)]


def colours_of(split: SplitName, shape: str) -> list[str]:
    """List the colours that a split may show a shape in."""
    return [colour for colour in COLOURS if owner_of_look(colour, shape) == split]


def verbs_of(split: SplitName, shape: str) -> list[str]:
    """List what a split may show a shape do; to rest is not among it."""
    seen = [verb for verb in VERBS if verb != "spins" or shape not in ROUND]
    return [verb for verb in seen if owner_of_deed(shape, verb) == split]
