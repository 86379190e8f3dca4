"""Minimal pairs, a right and a wrong text for a video that differ in one respect, and corruptions of its frames.

References:
    Yuksekgonul et al. 2023, "When and why vision-language models behave like bags-of-words, and what to do about it".
    Tang et al. 2023, "When are Lemons Purple? The Concept Association Bias of Vision-Language Models".
"""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

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
# Everyday nouns: one that a caption has and one that it lacks make a pair about absence.
NOUNS = (
    *("man", "woman", "boy", "girl", "baby", "dog", "cat", "horse", "bird", "fish", "car", "truck", "bus", "train"),
    *("bicycle", "motorcycle", "boat", "ship", "plane", "tree", "flower", "table", "chair", "bed", "door", "window"),
    *("phone", "computer", "keyboard", "book", "ball", "guitar", "piano", "knife", "spoon", "bottle", "glass", "cup"),
    *("bowl", "bread", "cake", "meat", "soup", "fruit", "hat", "helmet", "umbrella", "camera", "microphone", "clock"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimalPair:
    """A right and a wrong text for the video at an index, what they differ in, and the rule that made the wrong one."""

    kind: ProbeKind
    rule: str
    right: str
    wrong: str
    video: int


@dataclass(frozen=True, slots=True)
class PairRule:
    """A rule that makes a wrong text from a caption: its kind, its description, and the rewriting.

    The rewriting returns None where the rule does not apply.
    """

    kind: ProbeKind
    name: str
    rewrite: Rewrite


def replace_words(caption: str, words: dict[str, str]) -> str | None:
    """Return a caption with the first of some words replaced; None if it has none, or already has the other word."""
    match = re.search(rf"\b({'|'.join(map(re.escape, words))})\b", caption, re.IGNORECASE)
    if match is None:
        return None
    other = words[match[0].lower()]
    if re.search(rf"\b{re.escape(other)}\b", caption, re.IGNORECASE):
        return None
    return _put(caption, match, other)


def _put(caption: str, found: re.Match[str], word: str) -> str:
    """Return a caption with a match replaced by a word, and the article before it adjusted."""
    before = caption[: found.start()]
    before = re.sub(r"\b(a|A)n? $", rf"\1{'n' if word[0] in 'aeiou' else ''} ", before)
    return before + word + caption[found.end() :]


def exchange_colours(caption: str) -> str | None:
    """Return a caption with its first two different colours exchanged; None if it does not have two."""
    matches = list(re.finditer(rf"\b({'|'.join(COLOURS)})\b", caption))
    pair = next(((one, two) for one, two in pairwise(matches) if one[0] != two[0]), None)
    if pair is None:
        return None
    one, two = pair
    return _put(_put(caption, two, one[0]), one, two[0])  # the later one first, so that the other keeps its place


def shuffle_words(caption: str) -> str | None:
    """Return the words of a caption in another, deterministic order; None if there are fewer than four."""
    words = caption.split()
    if len(words) < 4 or len(set(words)) < 3:
        return None
    rng = np.random.default_rng(zlib.crc32(caption.encode()))
    while True:
        shuffled = [words[position] for position in rng.permutation(len(words))]
        if shuffled != words:
            return " ".join(shuffled)


def exchange_clauses(caption: str) -> str | None:
    """Return a caption with its two events exchanged; None unless it reads "... then ..."."""
    match = re.fullmatch(r"(?:first )?(.+?),? (?:and )?then (.+)", caption, re.IGNORECASE)
    return None if match is None else f"{match[2]} and then {match[1]}"


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
    """Return the pairs that the rules make from captions, given with the index of their video."""
    pairs = [
        MinimalPair(kind=rule.kind, rule=rule.name, right=caption, wrong=wrong, video=video)
        for video, caption in captions
        for rule in RULES
        if rule.kind in kinds and (wrong := rule.rewrite(caption)) is not None
    ]
    return [*pairs, *make_absence_pairs(captions)] if "negation" in kinds else pairs


def make_absence_pairs(captions: Sequence[tuple[int, str]]) -> list[MinimalPair]:
    """Return a pair for each video with a known noun in its captions; the absent noun is in none of them."""
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
    """Return a pair of texts that deny an absent thing, which is right, and a present one, which is wrong."""
    right, wrong = f"there is no {absent} in the video", f"there is no {present} in the video"
    return MinimalPair(kind="negation", rule=ABSENCE, right=right, wrong=wrong, video=video)


NUM_STRENGTHS = 5
Pixels = UInt8[np.ndarray, "frame height width 3"]


@dataclass(frozen=True, slots=True)
class Corruption:
    """A corruption: what its five levels mean, the levels, and the function that applies one to frames."""

    meaning: str
    levels: tuple[float, float, float, float, float]
    apply: Callable[[Any, float], Any]


def corrupt(pixels: Pixels, name: str, strength: int) -> Pixels:
    """Return RGB frames corrupted by one of ``CORRUPTIONS`` at a strength from 1 to 5; equal frames give equal ones."""
    corruption = CORRUPTIONS[name]
    corrupted: Pixels = corruption.apply(pixels, corruption.levels[strength - 1])
    return corrupted


def _each(pixels: Any, change: Callable[[Image.Image], Image.Image]) -> Any:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in pixels])


def _blur(pixels: Any, share: float) -> Any:
    blur = ImageFilter.GaussianBlur(share * pixels.shape[1])
    return _each(pixels, lambda image: image.filter(blur))


def _add_noise(pixels: Any, deviation: float) -> Any:
    noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32) * np.float32(deviation)
    return np.clip(pixels + noise + 0.5, 0, 255).astype(np.uint8)


def _compress(pixels: Any, quality: float) -> Any:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file).convert("RGB")

    return _each(pixels, compress)


def _crop(pixels: Any, share: float) -> Any:
    height, width = pixels.shape[1:3]
    top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
    box = (left, top, width - left, height - top)
    return _each(pixels, lambda image: image.crop(box).resize((width, height), Image.Resampling.BICUBIC))


def _drop_frames(pixels: Any, num_held: float) -> Any:
    rows = np.arange(len(pixels))
    return pixels[rows - rows % int(num_held)]


def _speed_up(pixels: Any, factor: float) -> Any:
    rows = np.round(np.arange(len(pixels)) * factor).astype(np.int64)
    return pixels[np.minimum(rows, len(pixels) - 1)]


def _darken(pixels: Any, factor: float) -> Any:
    return (pixels * np.float32(factor) + 0.5).astype(np.uint8)


CORRUPTIONS: Mapping[str, Corruption] = {
    "blur": Corruption("radius, as a share of the height", (0.005, 0.01, 0.02, 0.04, 0.08), _blur),
    "noise": Corruption("standard deviation, of 255", (8, 16, 32, 64, 96), _add_noise),
    "compression": Corruption("quality of each frame as JPEG", (50, 30, 15, 8, 3), _compress),
    "crop": Corruption("share of each side that is kept", (0.9, 0.8, 0.65, 0.5, 0.35), _crop),
    "frame drop": Corruption("frames for which one is held", (2, 3, 4, 6, 1000), _drop_frames),
    "speed": Corruption("factor; the last frame is held at the end", (1.25, 1.5, 2, 3, 4), _speed_up),
    "brightness": Corruption("factor", (0.8, 0.6, 0.4, 0.2, 0.1), _darken),
}
