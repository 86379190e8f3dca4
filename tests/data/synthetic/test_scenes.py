"""Synthetic scenes and captions: a naive reader of English holds each caption against the values of its scene."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from vidret.data.synthetic import scenes as scenes
from vidret.data.synthetic.captions import word
from vidret.data.synthetic.generation import PAIR_KINDS, ScenePair, draw_films, draw_pairs
from vidret.data.synthetic.scenes import SPLITS, Scene, SceneShot, SplitName, Thing
from vidret.errors import VidretError

SIZES: dict[SplitName, int] = {"train": 200, "val": 75, "test": 150}

# What words mean, written down here once more.
COUNT_WORDS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
TEXTURE_WORDS = {
    "plain": r"plain|solid",
    "striped": r"striped|stripy|with stripes",
    "dotted": r"dotted|spotted|with dots",
    "checked": r"checked|chequered|with a check pattern",
}
SHAPE_WORDS = {
    "circle": r"circles?|discs?|round shapes?",
    "square": r"squares?|box|boxes",
    "triangle": r"triangles?|three-sided shapes?",
    "star": r"five-pointed stars?|stars?",
    "cross": r"crosses|cross|plus signs?",
    "ring": r"rings?|hoops?",
    "heart": r"heart shapes?|hearts?",
    "moon": r"moons?|crescents?",
}
COLOUR_WORDS = r"red|orange|yellow|green|blue|purple|white|black"
DEED_WORDS = {
    "moves left": r"(moves?|slides?) (to the )?left(wards)?|travels? from right to left",
    "moves right": r"(moves?|slides?) (to the )?right(wards)?|travels? from left to right",
    "moves down": r"(moves?|slides?) down(wards)?|sinks?|travels? from top to bottom",
    "moves up": r"(moves?|slides?) up(wards)?|rises?|travels? from bottom to top",
    "shrinks": r"shrinks?|(gets?|becomes?) smaller( and smaller)?",
    "grows": r"grows?|(gets?|becomes?) bigger( and bigger)?",
    "disappears": r"disappears?|fades? away|go(es)? out of sight",
    "appears": r"appears?|fades? in|comes? into sight",
    "spins": r"spins?|turns? round and round|rotates?",
    "bounces": r"bounces?|hops? up and down|jumps? up and down",
    "rests": r"stays? still|rests?|do(es)? not move",
}
PLACE_WORDS = {
    "left": r"(to the |on the )?left of",
    "right": r"(to the |on the )?right of",
    "above": r"above|over|higher than",
    "below": r"below|under|lower than",
    "inside": r"inside|within|in the middle of",
    "around": r"(all )?around|surrounding",
}
TURNED = {"right": "left", "below": "above", "around": "inside"}
THINGS = re.compile(
    rf"\b(?P<count>{'|'.join(COUNT_WORDS)}) (?P<before>(?:{'|'.join(TEXTURE_WORDS.values())}) )?"
    rf"(?P<colour>{COLOUR_WORDS}) (?P<shape>{'|'.join(SHAPE_WORDS.values())})"
    rf"(?P<after> (?:{'|'.join(TEXTURE_WORDS.values())}))?(?= |,|$)"
)
SEQUENCES = (
    (r"first (.*), then (.*)", False),
    (r"at first (.*), later (.*)", False),
    (r"after (.*), (.*)", False),
    (r"before (.*), (.*)", True),
    (r"(.*), and then (.*)", False),
    (r"(.*) before (.*)", False),
    (r"(.*) after (.*)", True),
)


class Seen(NamedTuple):
    """Things as a caption tells of them."""

    number: int
    texture: str
    colour: str
    shape: str


class Told(NamedTuple):
    """One thing that a caption tells."""

    things: Seen
    deed: str
    other: Seen | None = None


def meaning_of(table: dict[str, str], words: str) -> str:
    (meaning,) = [meaning for meaning, pattern in table.items() if re.fullmatch(pattern, words)]
    return meaning


def read_things(match: re.Match[str]) -> Seen:
    texture = ((match["before"] or "") + (match["after"] or "")).strip()
    count = COUNT_WORDS[match["count"]]
    assert (match["shape"][-1] == "s" and match["shape"] != "cross") == (count > 1)
    return Seen(count, meaning_of(TEXTURE_WORDS, texture), match["colour"], meaning_of(SHAPE_WORDS, match["shape"]))


def read_clause(clause: str, named: Seen | None) -> Told:
    found = [read_things(match) for match in THINGS.finditer(clause)]
    rest = THINGS.sub("#", clause)
    rest = re.sub(r"^a video of ", "", rest)
    rest = re.sub(r"^there (is|are) ", "", rest).replace("# that ", "# ").replace("# is ", "# ")
    if len(found) == 2:
        match = re.fullmatch("# (.*) #", rest)
        assert match, clause
        place = meaning_of(PLACE_WORDS, match[1])
        one, two = found if place not in TURNED else found[::-1]
        return Told(one, TURNED.get(place, place), two)
    match = re.fullmatch(r"(#|it|they) (.*)", rest)
    assert match, clause
    things = found[0] if found else named
    assert things, clause
    assert found or match[1] == ("it" if things.number == 1 else "they")
    return Told(things, meaning_of(DEED_WORDS, match[2]))


def read_caption(caption: str) -> tuple[Told, ...]:
    """Say what a caption tells, in the order in which it happens."""
    for pattern, turned in SEQUENCES:
        match = re.fullmatch(pattern, caption)
        if match:
            first = next(iter(THINGS.finditer(caption)))
            assert not re.search(r"\b(it|they)\b", caption[: first.start()]), caption  # a name comes before its pronoun
            told = [read_clause(clause, read_things(first)) for clause in match.groups()]
            return tuple(told[::-1] if turned else told)
    return (read_clause(caption, None),)


def see_thing(thing: Thing, count: int) -> Seen:
    return Seen(count, thing.look.texture, thing.look.colour, thing.look.shape)


def look_at(shot: SceneShot) -> Told:
    """Say what there is to see, by where things are and not by what the shot calls it."""
    thing = shot.things[0]
    assert all(each.look == thing.look for each in shot.things)
    seen = see_thing(thing, len(shot.things))
    if shot.other is None:
        return Told(seen, shot.action.verb)
    other = shot.other
    aside, down = other.x - thing.x, other.y - thing.y
    assert shot.action.verb == "rests"
    if other.radius > 2 * thing.radius:
        assert np.hypot(aside, down) + thing.radius < other.radius
        place = "inside"
    elif abs(aside) > abs(down):
        place = "left" if aside > 0 else "right"
    else:
        place = "above" if down > 0 else "below"
    return Told(seen, place, see_thing(other, 1))


def look_at_scene(scene: Scene) -> tuple[Told, ...]:
    return tuple(look_at(shot) for shot in scene.shots if shot.things)


@pytest.fixture(scope="module")
def drawn() -> dict[SplitName, list[ScenePair]]:
    return {split: draw_pairs(split, number, seed=5) for split, number in SIZES.items()}


def test_the_naive_reader_reads() -> None:
    red = Seen(1, "striped", "red", "star")
    assert read_caption("a red five-pointed star with stripes slides leftwards") == (Told(red, "moves left"),)
    assert read_caption("before a stripy red star spins, it sinks") == (Told(red, "moves down"), Told(red, "spins"))
    assert read_caption("a striped red star fades in after it hops up and down")[0].deed == "bounces"
    box = Seen(1, "plain", "black", "square")
    told = (Told(box, "left", red),)
    assert read_caption("a stripy red star is on the right of a solid black box") == told
    assert read_caption("there is a plain black square to the left of a red star with stripes") == told


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true_of_their_scene(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    wordings = set()
    for number, pair in enumerate(drawn[split]):
        for scene in pair.scenes:
            captions = word(scene.statements, (5, number), 4)
            assert len(set(captions)) == 4
            wordings |= set(captions)
            for caption in captions:
                assert read_caption(caption) == look_at_scene(scene), caption
    assert len(wordings) > 4 * len(drawn[split])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_caption_is_true_of_one_scene_alone(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    seen = Counter(look_at_scene(scene) for pair in drawn[split] for scene in pair.scenes)
    assert set(seen.values()) == {1}


def test_no_combination_is_in_two_splits_and_each_part_is_in_training(drawn: dict[SplitName, list[ScenePair]]) -> None:
    combinations: dict[SplitName, set[tuple[str, str]]] = {}
    parts: dict[SplitName, set[object]] = {}
    for split, pairs in drawn.items():
        combinations[split], parts[split] = set(), set()
        films = draw_films(split, 10, seed=5, fps=2)
        for shot in [shot for scene in [*(s for p in pairs for s in p.scenes), *films] for shot in scene.shots]:
            for thing in [*shot.things, *([shot.other] if shot.other else [])]:
                combinations[split].add((thing.look.colour, thing.look.shape))
                parts[split] |= {thing.look.colour, thing.look.shape, thing.look.texture}
            if shot.things:
                verb, shape = shot.action.verb, shot.things[0].look.shape
                parts[split] |= {verb, len(shot.things), shot.relation}
                # The opposite of what was seen in training must not be measured either.
                kinds = {"left": "aside", "right": "aside", "up": "high", "down": "high", "shrinks": "size"}
                kinds |= {"grows": "size", "appears": "fade", "disappears": "fade"}
                if verb != "rests":
                    combinations[split].add((shape, kinds.get(verb.split()[-1], verb)))
    assert not combinations["train"] & combinations["test"]
    assert not combinations["train"] & combinations["val"]
    assert not combinations["val"] & combinations["test"]
    assert parts["train"] >= parts["test"] | parts["val"]
    every = {*scenes.COLOURS, *scenes.SHAPES, *scenes.TEXTURES, *scenes.VERBS, *scenes.RELATIONS, "rests", None}
    assert parts["train"] == every | {1, 2, 3, 4, 5}
    assert parts["test"] == every | {1, 2, 3, 4, 5}


def test_every_split_can_show_every_shape_doing_something() -> None:
    for shape in scenes.SHAPES:
        owned = [verb for split in SPLITS for verb in scenes.verbs_of(split, shape)]
        assert sorted(owned) == sorted(set(scenes.VERBS) - ({"spins"} if shape in scenes.ROUND else set()))
        assert sorted(c for split in SPLITS for c in scenes.colours_of(split, shape)) == sorted(scenes.COLOURS)
        assert all(scenes.verbs_of(split, shape) and scenes.colours_of(split, shape) for split in SPLITS)


def count_words(caption: str) -> Counter[str]:
    return Counter(re.findall(r"[\w-]+", caption))


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_differ_in_one_respect(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    assert [pair.kind for pair in drawn[split][:7]] == [*PAIR_KINDS, *PAIR_KINDS[:2]]
    for number, pair in enumerate(drawn[split]):
        one, two = (look_at_scene(scene) for scene in pair.scenes)
        assert pair.scenes[0].background == pair.scenes[1].background
        assert one != two
        words = [count_words(word(scene.statements, (5, number), 1)[0]) for scene in pair.scenes]
        if pair.kind == "order":
            assert one == two[::-1]
            assert words[0] == words[1]
        elif pair.kind == "relation":
            assert one == ((Told(two[0].other, two[0].deed, two[0].things),) if two[0].other else ())
            assert words[0] == words[1]
        elif pair.kind == "direction":
            assert one[0].things == two[0].things
            assert scenes.OPPOSITES[one[0].deed] == two[0].deed
            assert pair.scenes[0].shots[0].things == pair.scenes[1].shots[0].things
        elif pair.kind == "count":
            assert abs(one[0].things.number - two[0].things.number) == 1
            assert one[0].things[1:] == two[0].things[1:]
            assert one[0].deed == two[0].deed
        else:
            assert sum(a != b for a, b in zip(one[0].things, two[0].things, strict=True)) == 1
            assert one[0].things.number == two[0].things.number
            assert one[0].deed == two[0].deed
        if pair.kind in ("direction", "count", "look"):
            assert sum(((words[0] - words[1]) | (words[1] - words[0])).values()) <= 8


def test_things_keep_apart_and_inside_the_picture(drawn: dict[SplitName, list[ScenePair]]) -> None:
    for pair in drawn["test"]:
        for shot in [shot for scene in pair.scenes for shot in scene.shots]:
            for number, thing in enumerate(shot.things):
                way = shot.action.amount / 2 if shot.action.verb in ("moves left", "moves right") else 0
                high = shot.action.amount / 2 if shot.action.verb in ("moves up", "moves down", "bounces") else 0
                assert way + thing.radius <= thing.x <= 1 - way - thing.radius
                assert high + thing.radius <= thing.y <= 1 - high - thing.radius
                for other in shot.things[:number]:
                    assert np.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius


def test_more_may_be_asked_for_later_but_not_more_than_can_be_said() -> None:
    few, many = draw_pairs("test", 10, seed=2), draw_pairs("test", 30, seed=2)
    assert few == many[:10]
    assert few != draw_pairs("test", 10, seed=3)
    assert draw_films("val", 2, seed=2, fps=2) == draw_films("val", 4, seed=2, fps=2)[:2]
    with pytest.raises(VidretError, match=r"num_val must be at most what can be said, got more than \d{3}$"):
        draw_pairs("val", 400, seed=0)
