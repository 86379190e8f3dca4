"""Minimal pairs: a right and a wrong text for a video that differ in one respect, made from captions by plain rules.

References:
    Yuksekgonul et al. 2023, "When and why vision-language models behave like bags-of-words, and what to do about it".
    Tang et al. 2023, "When are Lemons Purple? The Concept Association Bias of Vision-Language Models".
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

ProbeKind = Literal[
    "attribute swap", "relation swap", "word order", "negation", "counting", "order in time", "background swap"
]
PROBE_KINDS: tuple[ProbeKind, ...] = get_args(ProbeKind)
Rewrite = Callable[[str], str | None]

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey")
# Each word of a pair replaces the other.
OPPOSITE_ATTRIBUTES = (
    *(("big", "small"), ("large", "tiny"), ("long", "short"), ("young", "old"), ("bright", "dark"), ("wet", "dry")),
    *(("empty", "crowded"), ("wooden", "metal"), ("round", "square"), ("narrow", "wide"), ("smooth", "rough")),
)
OPPOSITE_RELATIONS = (
    *(("left", "right"), ("above", "below"), ("over", "under"), ("inside", "outside"), ("in front of", "behind")),
    *(("into", "out of"), ("on top of", "underneath"), ("towards", "away from")),
)
OPPOSITE_ORDERS = (
    *(("before", "after"), ("opens", "closes"), ("enters", "leaves"), ("up", "down"), ("rises", "falls")),
    *(("picks up", "puts down"), ("appears", "disappears"), ("starts", "stops"), ("pushes", "pulls")),
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLACES = (
    *("kitchen", "street", "beach", "forest", "office", "desert", "stage", "garden", "classroom", "stadium", "factory"),
    *("living room", "field", "river", "mountains", "snow", "sea", "sky", "city", "road", "shop", "gym", "studio"),
)
# Everyday nouns, of which one that a caption has and one that it lacks make a pair about absence.
NOUNS = (
    *("man", "woman", "boy", "girl", "baby", "dog", "cat", "horse", "bird", "fish", "car", "truck", "bus", "train"),
    *("bicycle", "motorcycle", "boat", "ship", "plane", "tree", "flower", "table", "chair", "bed", "door", "window"),
    *("phone", "computer", "keyboard", "book", "ball", "guitar", "piano", "knife", "spoon", "bottle", "glass", "cup"),
    *("bowl", "bread", "cake", "meat", "soup", "fruit", "hat", "helmet", "umbrella", "camera", "microphone", "clock"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimalPair:
    """A right and a wrong text for a video.

    Attributes:
        kind: What the texts differ in.
        rule: How the wrong text was made.
        right: The right text.
        wrong: The wrong text.
        video: Index of the video.
    """

    kind: ProbeKind
    rule: str
    right: str
    wrong: str
    video: int


@dataclass(frozen=True, slots=True)
class PairRule:
    """A rule that makes a wrong text of a caption: its kind, its description, and the rewriting.

    The rewriting returns None where the rule does not apply.
    """

    kind: ProbeKind
    name: str
    rewrite: Rewrite


def replace_words(caption: str, words: dict[str, str]) -> str | None:
    """Return a caption with the first of some words replaced; None if it has none, or already has the other word."""
    found = re.search(rf"\b({'|'.join(map(re.escape, words))})\b", caption, re.IGNORECASE)
    if found is None:
        return None
    other = words[found[0].lower()]
    if re.search(rf"\b{re.escape(other)}\b", caption, re.IGNORECASE):
        return None
    return _put(caption, found, other)


def _put(caption: str, found: re.Match[str], word: str) -> str:
    """Return a caption with another word in the place of one, and the article before it that the word needs."""
    before = caption[: found.start()]
    before = re.sub(r"\b(a|A)n? $", rf"\1{'n' if word[0] in 'aeiou' else ''} ", before)
    return before + word + caption[found.end() :]


def exchange_colours(caption: str) -> str | None:
    """Return a caption with its first two different colours exchanged; None if it does not have two."""
    found = list(re.finditer(rf"\b({'|'.join(COLOURS)})\b", caption))
    pair = next(((one, two) for one, two in pairwise(found) if one[0] != two[0]), None)
    if pair is None:
        return None
    one, two = pair
    return _put(_put(caption, two, one[0]), one, two[0])  # the later one first, so that the other keeps its place


def shuffle_words(caption: str) -> str | None:
    """Return the words of a caption in another order, always the same one; None if it has fewer than four."""
    words = caption.split()
    if len(words) < 4 or len(set(words)) < 3:
        return None
    rng = np.random.default_rng(zlib.crc32(caption.encode()))
    while True:
        shuffled = " ".join(words[each] for each in rng.permutation(len(words)))
        if shuffled != caption:
            return shuffled


def exchange_clauses(caption: str) -> str | None:
    """Return a caption with what comes first and what comes then exchanged; None if it does not say so."""
    found = re.fullmatch(r"(?:first )?(.+?),? (?:and )?then (.+)", caption, re.IGNORECASE)
    return None if found is None else f"{found[2]} and then {found[1]}"


def _both_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {word: other for one, two in pairs for word, other in ((one, two), (two, one))}


def _next_of(words: Sequence[str], step: int) -> dict[str, str]:
    return {word: words[(index + step) % len(words)] for index, word in enumerate(words)}


def _replacing(words: dict[str, str]) -> Rewrite:
    return lambda caption: replace_words(caption, words)


RULES = (
    PairRule("attribute swap", "another colour", _replacing(_next_of(COLOURS, 4))),
    PairRule("attribute swap", "two colours exchanged", exchange_colours),
    PairRule("attribute swap", "the opposite attribute", _replacing(_both_ways(OPPOSITE_ATTRIBUTES))),
    PairRule("relation swap", "the opposite relation", _replacing(_both_ways(OPPOSITE_RELATIONS))),
    PairRule("word order", "the same words in another order", shuffle_words),
    PairRule("counting", "one more", _replacing(_next_of(NUMBERS, 1))),
    PairRule("order in time", "first and then exchanged", exchange_clauses),
    PairRule("order in time", "the opposite course", _replacing(_both_ways(OPPOSITE_ORDERS))),
    PairRule("background swap", "another place", _replacing(_next_of(PLACES, 7))),
)
ABSENCE = "what is there called absent"


def make_pairs(captions: Sequence[tuple[int, str]], kinds: Sequence[ProbeKind] = PROBE_KINDS) -> list[MinimalPair]:
    """Return the pairs that the rules make of captions, given with the index of their video."""
    pairs = [
        MinimalPair(kind=rule.kind, rule=rule.name, right=caption, wrong=wrong, video=video)
        for video, caption in captions
        for rule in RULES
        if rule.kind in kinds and (wrong := rule.rewrite(caption)) is not None
    ]
    return [*pairs, *make_absence_pairs(captions)] if "negation" in kinds else pairs


def make_absence_pairs(captions: Sequence[tuple[int, str]]) -> list[MinimalPair]:
    """Return a pair for each video of which a caption has a noun: another one, which no caption has, is absent."""
    by_video: dict[int, list[str]] = {}
    for video, caption in captions:
        by_video.setdefault(video, []).append(caption.lower())
    pairs = []
    for video, texts in by_video.items():
        present = [noun for noun in NOUNS if any(re.search(rf"\b{noun}s?\b", text) for text in texts)]
        absent = [noun for noun in NOUNS if not any(noun in text for text in texts)]
        if present and absent:
            other = absent[zlib.crc32(texts[0].encode()) % len(absent)]
            pairs.append(make_absence_pair(present[0], other, video))
    return pairs


def make_absence_pair(present: str, absent: str, video: int) -> MinimalPair:
    """Return a pair of texts that call what is absent and what is present absent."""
    right, wrong = f"there is no {absent} in the video", f"there is no {present} in the video"
    return MinimalPair(kind="negation", rule=ABSENCE, right=right, wrong=wrong, video=video)
