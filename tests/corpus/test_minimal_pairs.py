"""Minimal pairs from captions, and corruptions of frames."""

import numpy as np
import pytest

from vidret.corpus.minimal_pairs import (
    CORRUPTIONS,
    NOUNS,
    NUM_STRENGTHS,
    RULES,
    MinimalPair,
    corrupt,
    make_pairs,
    shuffle_words,
)

WRONG = {
    "two red dogs run": {"another colour": "two blue dogs run", "one more": "three red dogs run"},
    "a red car and a white van": {
        "two colours exchanged": "a white car and a red van",
        "another colour": "a blue car and a white van",
    },
    "a small cat left of a box": {
        "the opposite attribute": "a big cat left of a box",
        "the opposite relation": "a small cat right of a box",
    },
    "first a man opens a door, then he leaves": {
        "first and then exchanged": "he leaves and then a man opens a door",
        "the opposite course": "first a man closes a door, then he leaves",
    },
    "a man sings in a kitchen": {"another place": "a man sings in a garden"},
    "an orange and a red cup": {
        "two colours exchanged": "a red and an orange cup",
        "another colour": "a purple and a red cup",
    },
    "left or right": {},
}


@pytest.mark.parametrize("caption", WRONG)
def test_rules_change_one_respect(caption: str) -> None:
    made = {pair.rule: pair for pair in make_pairs([(3, caption)]) if pair.kind not in ("word order", "negation")}
    assert {rule: pair.wrong for rule, pair in made.items()} == WRONG[caption]
    assert all(pair.right == caption and pair.video == 3 for pair in made.values())
    assert {pair.kind for pair in made.values()} <= {rule.kind for rule in RULES}


@pytest.mark.parametrize("caption", ["a dog bites a man", "a train  drives home"])
def test_word_order_keeps_the_words(caption: str) -> None:
    shuffled = shuffle_words(caption)
    assert shuffled is not None
    assert shuffled.split() != caption.split()
    assert sorted(shuffled.split()) == sorted(caption.split())
    assert shuffle_words(caption) == shuffled
    assert shuffle_words("a a a b") is None
    assert shuffle_words("a dog") is None


def test_absence_names_what_no_caption_has() -> None:
    (pair,) = make_pairs([(0, "two dogs and a man"), (0, "a boy"), (1, "nothing")], ("negation",))
    assert isinstance(pair, MinimalPair)
    assert pair.wrong == "there is no man in the video"
    absent = pair.right.removeprefix("there is no ").removesuffix(" in the video")
    assert absent in set(NOUNS) - {"dog", "man", "boy"}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_their_strength(name: str) -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 256, (8, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    distances = []
    for strength in range(1, NUM_STRENGTHS + 1):
        changed = corrupt(steps, name, strength)
        assert (changed.shape, changed.dtype) == (steps.shape, steps.dtype)
        assert np.array_equal(changed, corrupt(steps, name, strength))
        distances.append(float(np.abs(changed.astype(float) - steps).mean()))
    assert distances[0] > 0
    assert distances[-1] > distances[0]
    if name not in ("crop", "frame drop", "speed"):  # on random frames these need not grow at each step
        assert distances == sorted(distances)


def test_frames_are_held_and_sped_up() -> None:
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    assert corrupt(frames, "frame drop", 1)[:, 0, 0, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert corrupt(frames, "frame drop", 5)[:, 0, 0, 0].tolist() == [0] * 8
    assert corrupt(frames, "speed", 3)[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 7, 7, 7, 7]
