"""Captions of synthetic scenes: one meaning in many unambiguous wordings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidret.data.synthetic.generation import PairKind, Random, ScenePair, Value, choose
from vidret.data.synthetic.scenes import RESTS, SPLITS, Appearance, Relation, Scene, SplitName, Statement

CAPTION_STREAM = 2  # of random numbers; scenes use streams 0 and 1

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
# Singular and plural, the plainest word first.
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
# Templates for the words before the noun, and for the phrase. A texture is before the colour or after the noun.
TEXTURES = {
    "plain": (("plain {}", "{}"), ("solid {}", "{}"), ("plain {}", "{}")),
    "striped": (("striped {}", "{}"), ("stripy {}", "{}"), ("{}", "{} with stripes")),
    "dotted": (("dotted {}", "{}"), ("spotted {}", "{}"), ("{}", "{} with dots")),
    "checked": (("checked {}", "{}"), ("chequered {}", "{}"), ("{}", "{} with a check pattern")),
}
# "(s)" is for the singular. Opposites list their wordings in the same order.
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
# The relation of the first object to the second, and of the second to the first.
RELATIONS: dict[Relation, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "left of": (("left of", "to the left of", "on the left of"), ("right of", "to the right of", "on the right of")),
    "above": (("above", "over", "higher than"), ("below", "under", "lower than")),
    "inside": (("inside", "within", "in the middle of"), ("around", "all around", "surrounding")),
}
SHOT_TEMPLATES = ("{noun} {verb}", "{noun} {verb}", "there {be} {noun} that {verb}", "a video of {noun} that {verb}")
RELATION_TEMPLATES = ("{one} is {relation} {two}", "{one} {relation} {two}", "there is {one} {relation} {two}")
# Index of the shot that is mentioned first, and the template.
ORDER_TEMPLATES = (
    (0, "first {0}, then {1}"),
    (0, "{0}, and then {1}"),
    (0, "at first {0}, later {1}"),
    (0, "after {0}, {1}"),
    (0, "{0} before {1}"),
    (1, "before {1}, {0}"),
    (1, "{1} after {0}"),
)


@dataclass(frozen=True, slots=True)
class CaptionedScene:
    """A short video: its id, its scene, the kind of its pair, and its captions."""

    video: str
    split: SplitName
    kind: PairKind
    scene: Scene
    captions: tuple[str, ...]


def write_captions(statements: Sequence[Statement], key: Sequence[int], num_captions: int) -> tuple[str, ...]:
    """Return different captions of a scene, fewer than ``num_captions`` if there are not enough wordings.

    With equal keys, captions at the same index of two scenes that differ in one respect differ only in that: shots in
    another order, or swapped objects, are described in the same words. A scene has one or two shots.
    """
    captions: dict[str, None] = {}
    for attempt in range(10 * num_captions):
        captions[write_caption(statements, np.random.default_rng((*key, attempt)))] = None
        if len(captions) == num_captions:
            break
    return tuple(captions)


def write_caption(statements: Sequence[Statement], random: Random) -> str:
    """Return a caption of one shot, or of two in this order."""
    if len(statements) == 1:
        return write_shot_caption(statements[0], random)
    first, second = statements
    phrases = {
        statement: (noun_phrase(statement.appearance, statement.num_objects, random), verb_phrase(statement, random))
        for statement in _in_fixed_order(statements)
    }
    index, template = choose(random, ORDER_TEMPLATES)
    mentioned_first, mentioned_second = statements[index], statements[1 - index]
    nouns = {statement: phrases[statement][0] for statement in statements}
    if (first.appearance, first.num_objects) == (second.appearance, second.num_objects):
        pronoun = "it" if first.num_objects == 1 else "they"
        nouns = {mentioned_first: next(iter(phrases.values()))[0], mentioned_second: pronoun}
    return template.format(*(f"{nouns[statement]} {phrases[statement][1]}" for statement in statements))


def write_shot_caption(statement: Statement, random: Random) -> str:
    """Return a caption of one shot."""
    if statement.relation is None or statement.other is None:
        noun = noun_phrase(statement.appearance, statement.num_objects, random)
        verb = verb_phrase(statement, random)
        be = "is" if statement.num_objects == 1 else "are"
        return choose(random, SHOT_TEMPLATES).format(noun=noun, verb=verb, be=be)
    appearances = [statement.appearance, statement.other]
    nouns = {appearance: noun_phrase(appearance, 1, random) for appearance in _in_fixed_order(appearances)}
    forward, backward = RELATIONS[statement.relation]
    is_swapped = random.random() < 0.4
    one, two = reversed(appearances) if is_swapped else appearances
    relation = choose(random, backward if is_swapped else forward)
    return choose(random, RELATION_TEMPLATES).format(one=nouns[one], two=nouns[two], relation=relation)


def _in_fixed_order(values: Sequence[Value]) -> list[Value]:
    """Return the values in an order that does not depend on their given order."""
    return sorted(values, key=repr)


def noun_phrase(appearance: Appearance, num_objects: int, random: Random) -> str:
    """Return count and appearance in words: ``a striped red star``, ``three blue rings with dots``."""
    before, after = choose(random, TEXTURES[appearance.texture])
    noun = choose(random, NOUNS[appearance.shape])[num_objects > 1]
    phrase = after.format(f"{before.format(appearance.colour)} {noun}")
    if num_objects > 1:
        return f"{NUMBERS[num_objects]} {phrase}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def verb_phrase(statement: Statement, random: Random) -> str:
    """Return the action in words."""
    phrase = choose(random, PHRASES[statement.verb])
    if statement.num_objects == 1:
        return phrase.replace("(", "").replace(")", "")
    return phrase.replace("(s)", "").replace("(es)", "")


def caption_pairs(
    split: SplitName, pairs: Sequence[ScenePair], *, seed: int, num_captions: int
) -> list[CaptionedScene]:
    """Return the videos of a split, pair by pair. Captions of a pair have the same wording at the same index."""
    videos = []
    for pair_index, pair in enumerate(pairs):
        key = (seed, CAPTION_STREAM, SPLITS.index(split), pair_index)
        for half, scene in enumerate(pair.scenes):
            captions = write_captions(scene.statements, key, num_captions)
            videos.append(CaptionedScene(f"{split}{2 * pair_index + half}", split, pair.kind, scene, captions))
    return videos
