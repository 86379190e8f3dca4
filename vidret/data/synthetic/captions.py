"""What people might say of a synthetic scene: one meaning in many wordings, none of which can mean another."""

from collections.abc import Sequence

import numpy as np

from vidret.data.synthetic.generation import Random, Value, pick
from vidret.data.synthetic.scenes import RESTS, Appearance, Relation, Statement

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
# One and several, the plain word first.
NOUNS = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("round shape", "round shapes")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"), ("three-sided shape", "three-sided shapes")),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
    "heart": (("heart", "hearts"), ("heart shape", "heart shapes")),
    "moon": (("moon", "moons"), ("crescent", "crescents")),
}
# Before the colour, or after the noun.
TEXTURES = {
    "plain": (("plain {}", "{}"), ("solid {}", "{}"), ("plain {}", "{}")),
    "striped": (("striped {}", "{}"), ("stripy {}", "{}"), ("{}", "{} with stripes")),
    "dotted": (("dotted {}", "{}"), ("spotted {}", "{}"), ("{}", "{} with dots")),
    "checked": (("checked {}", "{}"), ("chequered {}", "{}"), ("{}", "{} with a check pattern")),
}
# "(s)" is spoken of one thing alone. Opposites have their wordings in the same order.
PHRASES = {
    "moves left": ("move(s) left", "move(s) to the left", "slide(s) leftwards", "travel(s) from right to left"),
    "moves right": ("move(s) right", "move(s) to the right", "slide(s) rightwards", "travel(s) from left to right"),
    "moves down": ("move(s) down", "sink(s)", "slide(s) downwards", "travel(s) from top to bottom"),
    "moves up": ("move(s) up", "rise(s)", "slide(s) upwards", "travel(s) from bottom to top"),
    "shrinks": ("shrink(s)", "get(s) smaller", "become(s) smaller and smaller"),
    "grows": ("grow(s)", "get(s) bigger", "become(s) bigger and bigger"),
    "disappears": ("disappear(s)", "fade(s) away", "go(es) out of sight"),
    "appears": ("appear(s)", "fade(s) in", "come(s) into sight"),
    "spins": ("spin(s)", "turn(s) round and round", "rotate(s)"),
    "bounces": ("bounce(s)", "hop(s) up and down", "jump(s) up and down"),
    RESTS: ("stay(s) still", "rest(s)", "do(es) not move"),
}
# How the first thing stands to the second, and the second to the first.
RELATIONS: dict[Relation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left of": (("left of", "to the left of", "on the left of"), ("right of", "to the right of", "on the right of")),
    "above": (("above", "over", "higher than"), ("below", "under", "lower than")),
    "inside": (("inside", "within", "in the middle of"), ("around", "all around", "surrounding")),
}
ALONE = ("{what} {does}", "{what} {does}", "there {be} {what} that {does}", "a video of {what} that {does}")
RELATED = ("{one} is {stands} {two}", "{one} {stands} {two}", "there is {one} {stands} {two}")
# Which of the two is spoken of first, and how.
ORDERS = (
    (0, "first {0}, then {1}"),
    (0, "{0}, and then {1}"),
    (0, "at first {0}, later {1}"),
    (0, "after {0}, {1}"),
    (0, "{0} before {1}"),
    (1, "before {1}, {0}"),
    (1, "{1} after {0}"),
)


def word(statements: Sequence[Statement], key: Sequence[int], num_captions: int) -> tuple[str, ...]:
    """Say what a scene shows in different words each time; fewer times where there are not so many ways to say it.

    With equal keys, the captions of two scenes that differ in one respect differ in that alone, one by one: the same
    shots in another order, or things at changed places, are told in the same words.
    """
    captions: dict[str, None] = {}
    for number in range(10 * num_captions):
        captions[write_caption(statements, np.random.default_rng((*key, number)))] = None
        if len(captions) == num_captions:
            break
    return tuple(captions)


def write_caption(statements: Sequence[Statement], random: Random) -> str:
    """Say what is shown in one shot, or in two in this order."""
    if len(statements) == 1:
        return describe_one(statements[0], random)
    first, second = statements
    drawn = {
        each: (describe_things(each.look, each.num_things, random), say_verb(each, random))
        for each in _sorted(statements)
    }
    place, template = pick(random, ORDERS)
    named, again = statements[place], statements[1 - place]
    things = {each: drawn[each][0] for each in statements}
    if (first.look, first.num_things) == (second.look, second.num_things):
        things = {named: next(iter(drawn.values()))[0], again: "it" if first.num_things == 1 else "they"}
    return template.format(*(f"{things[each]} {drawn[each][1]}" for each in statements))


def describe_one(statement: Statement, random: Random) -> str:
    """Say what one shot shows."""
    if statement.relation is None or statement.other is None:
        what, does = describe_things(statement.look, statement.num_things, random), say_verb(statement, random)
        return pick(random, ALONE).format(what=what, does=does, be="is" if statement.num_things == 1 else "are")
    drawn = {look: describe_things(look, 1, random) for look in _sorted([statement.look, statement.other])}
    there, back = RELATIONS[statement.relation]
    flipped = random.random() < 0.4
    one, two = (statement.other, statement.look) if flipped else (statement.look, statement.other)
    stands = pick(random, back if flipped else there)
    return pick(random, RELATED).format(one=drawn[one], two=drawn[two], stands=stands)


def _sorted(values: Sequence[Value]) -> list[Value]:
    """Give values in an order that does not depend on how they were given."""
    return sorted(values, key=repr)


def describe_things(look: Appearance, num_things: int, random: Random) -> str:
    """Word how many there are and what they look like: ``a striped red star``, ``three blue rings with dots``."""
    before, after = pick(random, TEXTURES[look.texture])
    noun = pick(random, NOUNS[look.shape])[num_things > 1]
    words = after.format(f"{before.format(look.colour)} {noun}")
    if num_things > 1:
        return f"{NUMBERS[num_things]} {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def say_verb(statement: Statement, random: Random) -> str:
    """Word what the things do."""
    phrase = pick(random, PHRASES[statement.verb])
    if statement.num_things == 1:
        return phrase.replace("(", "").replace(")", "")
    return phrase.replace("(s)", "").replace("(es)", "")
