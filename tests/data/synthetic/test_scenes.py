"""Synthetic scenes and captions: a naive parser compares each caption with its scene."""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from tests.tool_loading import load_tool
from vidret.data.synthetic import scenes
from vidret.data.synthetic.captions import write_captions
from vidret.data.synthetic.generation import PAIR_KINDS, ScenePair, draw_pairs
from vidret.data.synthetic.scenes import SPLITS, Scene, SceneObject, SceneShot, SplitName
from vidret.errors import VidretError

draw_films = load_tool("make_synthetic").draw_films
SIZES: dict[SplitName, int] = {"train": 200, "val": 75, "test": 150}

# The vocabulary, independent of the implementation.
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
VERB_WORDS = {
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
RELATION_WORDS = {
    "left": r"(to the |on the )?left of",
    "right": r"(to the |on the )?right of",
    "above": r"above|over|higher than",
    "below": r"below|under|lower than",
    "inside": r"inside|within|in the middle of",
    "around": r"(all )?around|surrounding",
}
INVERSE_RELATIONS = {"right": "left", "below": "above", "around": "inside"}
OBJECTS = re.compile(
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


class Objects(NamedTuple):
    """Objects as described by a caption."""

    number: int
    texture: str
    colour: str
    shape: str


class Clause(NamedTuple):
    """One statement of a caption; ``verb`` is a verb or a relation to ``other``."""

    objects: Objects
    verb: str
    other: Objects | None = None


def meaning_of(table: dict[str, str], words: str) -> str:
    (meaning,) = [meaning for meaning, pattern in table.items() if re.fullmatch(pattern, words)]
    return meaning


def read_objects(match: re.Match[str]) -> Objects:
    texture = ((match["before"] or "") + (match["after"] or "")).strip()
    count = COUNT_WORDS[match["count"]]
    assert (match["shape"][-1] == "s" and match["shape"] != "cross") == (count > 1)
    return Objects(count, meaning_of(TEXTURE_WORDS, texture), match["colour"], meaning_of(SHAPE_WORDS, match["shape"]))


def read_clause(clause: str, named: Objects | None) -> Clause:
    described = [read_objects(match) for match in OBJECTS.finditer(clause)]
    rest = OBJECTS.sub("#", clause)
    rest = re.sub(r"^a video of ", "", rest)
    rest = re.sub(r"^there (is|are) ", "", rest).replace("# that ", "# ").replace("# is ", "# ")
    if len(described) == 2:
        match = re.fullmatch("# (.*) #", rest)
        assert match, clause
        relation = meaning_of(RELATION_WORDS, match[1])
        one, two = described if relation not in INVERSE_RELATIONS else described[::-1]
        return Clause(one, INVERSE_RELATIONS.get(relation, relation), two)
    match = re.fullmatch(r"(#|it|they) (.*)", rest)
    assert match, clause
    objects = described[0] if described else named
    assert objects, clause
    assert described or match[1] == ("it" if objects.number == 1 else "they")
    return Clause(objects, meaning_of(VERB_WORDS, match[2]))


def read_caption(caption: str) -> tuple[Clause, ...]:
    """Return the statements of a caption, in temporal order."""
    for pattern, is_reversed in SEQUENCES:
        match = re.fullmatch(pattern, caption)
        if match:
            first = next(iter(OBJECTS.finditer(caption)))
            assert not re.search(r"\b(it|they)\b", caption[: first.start()]), caption  # the noun precedes its pronoun
            clauses = [read_clause(clause, read_objects(first)) for clause in match.groups()]
            return tuple(clauses[::-1] if is_reversed else clauses)
    return (read_clause(caption, None),)


def describe_object(scene_object: SceneObject, count: int) -> Objects:
    appearance = scene_object.appearance
    return Objects(count, appearance.texture, appearance.colour, appearance.shape)


def describe_shot(shot: SceneShot) -> Clause:
    """Return what a shot shows, from the positions of its objects and not from its relation."""
    subject = shot.objects[0]
    assert all(thing.appearance == subject.appearance for thing in shot.objects)
    described = describe_object(subject, len(shot.objects))
    if shot.other is None:
        return Clause(described, shot.action.verb)
    other = shot.other
    right, down = other.x - subject.x, other.y - subject.y
    assert shot.action.verb == "rests"
    if other.radius > 2 * subject.radius:
        assert np.hypot(right, down) + subject.radius < other.radius
        relation = "inside"
    elif abs(right) > abs(down):
        relation = "left" if right > 0 else "right"
    else:
        relation = "above" if down > 0 else "below"
    return Clause(described, relation, describe_object(other, 1))


def describe_scene(scene: Scene) -> tuple[Clause, ...]:
    return tuple(describe_shot(shot) for shot in scene.shots if shot.objects)


@pytest.fixture(scope="module")
def drawn() -> dict[SplitName, list[ScenePair]]:
    return {split: draw_pairs(split, num_pairs, seed=5) for split, num_pairs in SIZES.items()}


@pytest.mark.parametrize("split", SPLITS)
def test_captions_describe_their_scene(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    wordings = set()
    for pair_index, pair in enumerate(drawn[split]):
        for scene in pair.scenes:
            captions = write_captions(scene.statements, (5, pair_index), 4)
            assert len(set(captions)) == 4
            wordings |= set(captions)
            for caption in captions:
                assert read_caption(caption) == describe_scene(scene), caption
    assert len(wordings) > 4 * len(drawn[split])


@pytest.mark.parametrize("split", ["val", "test"])
def test_each_caption_describes_one_scene_only(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    counts = Counter(describe_scene(scene) for pair in drawn[split] for scene in pair.scenes)
    assert set(counts.values()) == {1}


def test_combinations_belong_to_one_split_and_parts_occur_in_training(drawn: dict[SplitName, list[ScenePair]]) -> None:
    combinations: dict[SplitName, set[tuple[str, str]]] = {}
    parts: dict[SplitName, set[object]] = {}
    for split, pairs in drawn.items():
        combinations[split], parts[split] = set(), set()
        films = draw_films(split, 10, seed=5, fps=2)
        for shot in [shot for scene in [*(s for p in pairs for s in p.scenes), *films] for shot in scene.shots]:
            for appearance in [thing.appearance for thing in (*shot.objects, shot.other) if thing]:
                combinations[split].add((appearance.colour, appearance.shape))
                parts[split] |= {appearance.colour, appearance.shape, appearance.texture}
            if shot.objects:
                verb, shape = shot.action.verb, shot.objects[0].appearance.shape
                parts[split] |= {verb, len(shot.objects), shot.relation}
                # The opposite of an action seen in training is not new either.
                kinds = {"left": "horizontal", "right": "horizontal", "up": "vertical", "down": "vertical"}
                kinds |= {"shrinks": "size", "grows": "size", "appears": "fade", "disappears": "fade"}
                if verb != "rests":
                    combinations[split].add((shape, kinds.get(verb.split()[-1], verb)))
    assert not combinations["train"] & combinations["test"]
    assert not combinations["train"] & combinations["val"]
    assert not combinations["val"] & combinations["test"]
    assert parts["train"] >= parts["test"] | parts["val"]
    all_parts = {*scenes.COLOURS, *scenes.SHAPES, *scenes.TEXTURES, *scenes.VERBS, *scenes.RELATIONS, "rests", None}
    assert parts["train"] == all_parts | {1, 2, 3, 4, 5}
    assert parts["test"] == all_parts | {1, 2, 3, 4, 5}


def test_every_split_has_verbs_and_colours_for_every_shape() -> None:
    for shape in scenes.SHAPES:
        verbs = [verb for split in SPLITS for verb in scenes.verbs_of(split, shape)]
        assert sorted(verbs) == sorted(set(scenes.VERBS) - ({"spins"} if shape in scenes.ROUND else set()))
        assert sorted(c for split in SPLITS for c in scenes.colours_of(split, shape)) == sorted(scenes.COLOURS)
        assert all(scenes.verbs_of(split, shape) and scenes.colours_of(split, shape) for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_differ_in_one_respect(drawn: dict[SplitName, list[ScenePair]], split: SplitName) -> None:
    assert [pair.kind for pair in drawn[split][:7]] == [*PAIR_KINDS, *PAIR_KINDS[:2]]
    for pair_index, pair in enumerate(drawn[split]):
        one, two = (describe_scene(scene) for scene in pair.scenes)
        assert pair.scenes[0].background == pair.scenes[1].background
        assert one != two
        captions = [write_captions(scene.statements, (5, pair_index), 1)[0] for scene in pair.scenes]
        words = [Counter(re.findall(r"[\w-]+", caption)) for caption in captions]
        if pair.kind == "order":
            assert one == two[::-1]
            assert words[0] == words[1]
        elif pair.kind == "relation":
            assert one == ((Clause(two[0].other, two[0].verb, two[0].objects),) if two[0].other else ())
            assert words[0] == words[1]
        elif pair.kind == "direction":
            assert one[0].objects == two[0].objects
            assert scenes.OPPOSITES[one[0].verb] == two[0].verb
            assert pair.scenes[0].shots[0].objects == pair.scenes[1].shots[0].objects
        elif pair.kind == "count":
            assert abs(one[0].objects.number - two[0].objects.number) == 1
            assert one[0].objects[1:] == two[0].objects[1:]
            assert one[0].verb == two[0].verb
        else:
            assert sum(a != b for a, b in zip(one[0].objects, two[0].objects, strict=True)) == 1
            assert one[0].objects.number == two[0].objects.number
            assert one[0].verb == two[0].verb
        if pair.kind in ("direction", "count", "look"):
            assert sum(((words[0] - words[1]) | (words[1] - words[0])).values()) <= 8


def test_objects_neither_touch_nor_leave_the_frame(drawn: dict[SplitName, list[ScenePair]]) -> None:
    for pair in drawn["test"]:
        for shot in [shot for scene in pair.scenes for shot in scene.shots]:
            for index, thing in enumerate(shot.objects):
                reach_x = shot.action.amount / 2 if shot.action.verb in ("moves left", "moves right") else 0
                reach_y = shot.action.amount / 2 if shot.action.verb in ("moves up", "moves down", "bounces") else 0
                assert reach_x + thing.radius <= thing.x <= 1 - reach_x - thing.radius
                assert reach_y + thing.radius <= thing.y <= 1 - reach_y - thing.radius
                for other in shot.objects[:index]:
                    assert np.hypot(thing.x - other.x, thing.y - other.y) > thing.radius + other.radius


def test_larger_numbers_extend_scenes_up_to_a_limit() -> None:
    few, many = draw_pairs("test", 10, seed=2), draw_pairs("test", 30, seed=2)
    assert few == many[:10]
    assert few != draw_pairs("test", 10, seed=3)
    assert draw_films("val", 2, seed=2, fps=2) == draw_films("val", 4, seed=2, fps=2)[:2]
    with pytest.raises(VidretError, match=r"num_val must be at most \d{3} for all scenes to differ, got 800$"):
        draw_pairs("val", 400, seed=0)
