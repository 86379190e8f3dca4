"""On-screen text: drawn texts are read exactly, followed, joined and split; nothing is read in texture."""

import copy
import itertools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tests.growth import assert_linear
from vidret.channels import screen
from vidret.channels.screen import (
    MAX_BOXES,
    MAX_CHARACTERS,
    MAX_COMPARED,
    MAX_MISSED,
    MAX_READ,
    ScreenReader,
    is_text,
    similar,
)
from vidret.channels.texts.images import Box, bound, cut, fit_image, likeness, overlap_boxes, shrink
from vidret.channels.texts.ocr import TextModels
from vidret.types import Picture, TimedText

SIZE = (480, 270)


def draw(*lines: tuple[str, int, int], size: int = 28, shade: int = 40) -> Picture:
    """Return an image with lines (text, left, top)."""
    image = Image.new("RGB", SIZE, (shade, shade, shade + 20))
    for text, left, top in lines:
        ImageDraw.Draw(image).text((left, top), text, fill=(255, 255, 255), font=ImageFont.load_default(size=size))
    return np.asarray(image, np.uint8)


class Counted:
    """Counts how often a reader looks for texts and reads one."""

    def __init__(self, reader: ScreenReader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_detected = self.num_recognised = 0
        models = reader._models
        detect, recognise = models.detect, models.read

        def count_detected(image: Picture) -> list[Box]:
            self.num_detected += 1
            return detect(image)

        def count_recognised(image: Picture, box: Box) -> tuple[str, float]:
            self.num_recognised += 1
            return recognise(image, box)

        monkeypatch.setattr(models, "detect", count_detected)
        monkeypatch.setattr(models, "read", count_recognised)


@pytest.fixture(scope="module")
def loaded() -> ScreenReader:
    if find_spec("openvino") is None:
        pytest.skip('the extra "words" is not installed')
    return ScreenReader()


@pytest.fixture
def reader(loaded: ScreenReader) -> ScreenReader:
    loaded.start()
    return loaded


def follow(reader: ScreenReader, images: Sequence[Picture], *, from_s: float = 0.0) -> list[TimedText]:
    """Read one image a second, from a time on."""
    for time_s, image in enumerate(images):
        if time_s >= from_s:
            reader.read(image, float(time_s))
    return reader.finish(float(len(images)))


def words(texts: Sequence[TimedText]) -> list[str]:
    """Return the words of texts."""
    return [text.text for text in texts]


EMPTY = draw()
SHOWN = draw(("Northern Express", 60, 120))


def test_a_text_over_moving_ground_is_read_once(reader: ScreenReader, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [draw(("Northern Express", 60, 120), shade=shade) for shade in range(20, 160, 20)]
    counted = Counted(reader, monkeypatch)
    assert words(follow(reader, images)) == ["Northern Express"]
    assert counted.num_recognised == 1


def test_a_moving_text_stays_one_entry(reader: ScreenReader) -> None:
    texts = follow(reader, [draw(("Slow train", 40 + 30 * step, 60 + 15 * step)) for step in range(5)])
    assert words(texts) == ["Slow train"]
    assert (texts[0].start, texts[0].end) == (0.0, 5.0)


def test_captions_in_one_place_are_told_apart(reader: ScreenReader) -> None:
    captions = ["Where is the bridge", "Over on the left", "Right by the river"]
    texts = follow(reader, [draw((caption, 60, 200)) for caption in captions for _ in range(2)])
    assert words(texts) == captions
    for caption_index, text in enumerate(texts):
        assert text.start == pytest.approx(2.0 * caption_index, abs=0.5)
        assert text.end == pytest.approx(2.0 * caption_index + 2, abs=0.5)


def test_lines_that_come_and_go_together_are_one_entry(reader: ScreenReader) -> None:
    both = draw(("Oskar Lindqvist", 60, 100), ("Clockmaker", 60, 140))
    assert words(follow(reader, [EMPTY, both, both, EMPTY])) == ["Oskar Lindqvist Clockmaker"]
    apart = draw(("Oskar Lindqvist", 10, 10), ("Clockmaker", 300, 220))
    assert sorted(words(follow(reader, [EMPTY, apart, EMPTY]))) == ["Clockmaker", "Oskar Lindqvist"]
    late = draw(("Oskar Lindqvist", 60, 100))
    assert len(follow(reader, [late, late, late, both, both])) == 2


def make_noise(rng: np.random.Generator) -> Picture:
    return rng.integers(0, 256, (270, 480, 3)).astype(np.uint8)


def make_stripes(rng: np.random.Generator) -> Picture:
    rows = np.arange(270)[:, None] + np.arange(480)[None]
    return np.repeat((rows // 6 % 2 * 200).astype(np.uint8)[..., None], 3, axis=2)


def make_letters(rng: np.random.Generator) -> Picture:
    return draw(("A", 40, 40), ("7", 200, 150), ("?", 380, 60), size=40)


@pytest.mark.parametrize("make", [make_noise, make_stripes, make_letters])
def test_nothing_is_read_in_texture_and_single_letters(
    reader: ScreenReader, make: Callable[[np.random.Generator], Picture]
) -> None:
    assert follow(reader, [make(np.random.default_rng(seed)) for seed in range(2)]) == []


def test_odd_shapes_are_no_error(reader: ScreenReader) -> None:
    for shape in ((1, 1), (5, 400), (400, 5), (30, 3000)):
        assert follow(reader, [np.full((*shape, 3), shade, np.uint8) for shade in (20, 200)]) == []


def test_unchanged_frames_are_not_read_again(reader: ScreenReader, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(reader, monkeypatch)
    (text,) = follow(reader, [EMPTY] * 3 + [SHOWN] * 30 + [EMPTY] * 3)
    assert (text.text, text.start, text.end, text.source) == ("Northern Express", 2.5, 32.5, "screen")
    assert text.confidence > 0.8
    assert (counted.num_detected, counted.num_recognised) == (5, 1), "what changes, and what stands still then"


@pytest.mark.parametrize("changing", [False, True])
def test_a_long_text_becomes_consecutive_entries(
    reader: ScreenReader, monkeypatch: pytest.MonkeyPatch, changing: bool
) -> None:
    monkeypatch.setattr(screen, "MAX_TRACK_S", 4.0)
    other = draw(("Northern Express", 60, 120), shade=90)
    texts = follow(reader, [SHOWN, other if changing else SHOWN] * 7)
    assert set(words(texts)) == {"Northern Express"}
    assert len(texts) == 4
    assert (texts[0].start, texts[-1].end) == (0.0, 14.0)
    assert all(before.end == after.start for before, after in itertools.pairwise(texts))


def test_lines_are_joined_whenever_texts_are_taken(reader: ScreenReader) -> None:
    """The second line ends a frame after the first: neither is returned before both are over."""
    both = draw(("Oskar Lindqvist", 60, 100), ("Clockmaker", 60, 140))
    images = [EMPTY, both, both, draw(("Clockmaker", 60, 140)), *[draw(shade=40 + 10 * step) for step in range(9)]]
    taken: list[TimedText] = []
    for time_s, image in enumerate(images):
        reader.read(image, float(time_s))
        taken += reader.take()[1]
    assert words(taken + reader.finish(20.0)) == ["Oskar Lindqvist Clockmaker"]


def test_small_texts_are_found_where_nothing_moves(reader: ScreenReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search at a lower resolution finds nothing here."""
    detect = reader._models.detect
    monkeypatch.setattr(reader._models, "detect", lambda image: detect(image) if image.shape[1] == SIZE[0] else [])
    small = draw(("harbour office", 60, 120), size=12)
    (text,) = follow(reader, [EMPTY, *[draw(shade=shade) for shade in (80, 120)], *[small] * 3, EMPTY])
    assert (text.text, text.start, text.end) == ("harbour office", 2.5, 5.5)


def test_texts_over_moving_ground_are_sought_every_other_frame(
    reader: ScreenReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What begins or ends between two of them is told by its strokes."""
    counted = Counted(reader, monkeypatch)
    for num_before in (3, 4):
        grounds = [draw(shade=40 + 12 * step) for step in range(12)]
        for step in range(num_before, num_before + 4):
            grounds[step] = draw(("Northern Express", 60, 120), shade=40 + 12 * step)
        (text,) = follow(reader, grounds)
        assert (text.text, text.start, text.end) == ("Northern Express", num_before - 0.5, num_before + 3.5)
        (text,) = follow(reader, grounds[: num_before + 1])  # the last frame is always searched
        assert (text.text, text.start, text.end) == ("Northern Express", num_before - 0.5, num_before + 1.0)
    assert counted.num_detected <= 22, "of 33 frames"


def test_a_text_of_one_frame_between_cuts_is_read(reader: ScreenReader) -> None:
    card = draw(("Northern Express", 60, 120), shade=150)
    assert words(follow(reader, [EMPTY, EMPTY, card, EMPTY, EMPTY])) == ["Northern Express"]


def test_a_text_may_go_undetected_for_a_moment(reader: ScreenReader) -> None:
    hidden = [draw(shade=100 + 12 * step) for step in range(MAX_MISSED + 1)]
    assert len(follow(reader, [SHOWN, *hidden[:MAX_MISSED], SHOWN])) == 1
    for gone in (hidden, [EMPTY] * len(hidden)):
        texts = follow(reader, [SHOWN, *gone, SHOWN])
        assert [(text.start, text.end) for text in texts] == [(0.0, 0.5), (MAX_MISSED + 1.5, MAX_MISSED + 3.0)]


class DensePage(TextModels):
    """Finds many texts on every page, and counts what it reads. Lower texts are larger."""

    def __init__(self, num_texts: int) -> None:
        self.num_texts, self.num_detected, self.num_read = num_texts, 0, 0

    def detect(self, image: Picture) -> list[Box]:
        self.num_detected += 1
        cells = [divmod(text_index, 20) for text_index in range(self.num_texts)]
        corners = [(x / 20, y / 50, x / 20 + 0.04, y / 50 + 0.01 + y / 10_000) for y, x in cells]
        return [np.array([(a, b), (c, b), (c, d), (a, d)], np.float32) for a, b, c, d in corners]

    def read(self, image: Picture, box: Box) -> tuple[str, float]:
        self.num_read += 1
        left, top = box[0]
        return f"{round(float(top) * 50):02}{chr(97 + round(float(left) * 20)) * 6}", 0.9


class DenseReader(ScreenReader):
    """Reads pages of many texts, and counts how many it reads in each frame."""

    def __init__(self, num_texts: int) -> None:
        self._models = self.page = DensePage(num_texts)
        self.read_in_frame: list[int] = []
        self.start()

    def read(self, image: Picture, time_s: float) -> None:
        num_read = self.page.num_read
        super().read(image, time_s)
        self.read_in_frame.append(self.page.num_read - num_read)


def test_a_dense_page_is_read_over_several_frames() -> None:
    reader = DenseReader(4 * MAX_READ)
    texts = follow(reader, [make_noise(np.random.default_rng(0))] * 6)
    assert reader.read_in_frame == [MAX_READ] * 4 + [0, 0]
    assert reader.page.num_detected == 1
    assert (texts[0].start, texts[-1].end) == (0.0, 6.0)
    assert {(text.start, text.end) for text in texts} == {(0.0, 6.0)}, "read late, but seen from the start"
    found = [word for text in texts for word in text.text.split()]
    assert len(set(found)) == len(found) == 4 * MAX_READ
    assert all(len(text.text) <= MAX_CHARACTERS for text in texts)
    assert reader.note == ""


def test_dense_pages_that_change_take_bounded_time_a_frame() -> None:
    reader = DenseReader(1000)
    texts = follow(reader, [make_noise(np.random.default_rng(seed)) for seed in range(4)])
    assert set(reader.read_in_frame) == {MAX_READ}
    first = {word[:2] for word in texts[0].text.split()}
    assert texts
    assert min(first) >= "35", "the largest texts are read first"
    assert reader.note.startswith(f"frames with more than {MAX_BOXES} texts, of which the largest are read: ")
    follow(reader, [EMPTY])
    reader.page.num_texts = 0
    assert follow(reader, [EMPTY]) == []
    assert reader.note == ""


@pytest.mark.parametrize("repeated", ["a", "ab", "a_", "1234567890"])
def test_comparing_takes_linear_time(repeated: str) -> None:
    assert_linear(lambda text: similar(text, text[::-1] + "x"), lambda length: repeated * (length // len(repeated)))
    assert_linear(lambda text: is_text(text, 1.0), lambda length: repeated * (length // len(repeated)))
    assert not similar("a" * MAX_COMPARED, "b" * MAX_COMPARED)


def test_readings_that_are_texts_and_those_that_are_alike() -> None:
    readings = {("A", 1.0): False, ("7!", 1.0): False, ("OK", 0.7): False, ("OK", 0.9): True, ("exit", 0.7): True}
    assert {reading: is_text(*reading) for reading in readings} == readings
    assert similar("BODYBUILDING.com", "BODYBULDING COM")
    assert similar("", "?!")
    assert not similar("Where is the bridge", "Over on the left")


def test_images_fit() -> None:
    for shape, fitting in {(2160, 3840): (720, 1280), (100, 50): (100, 50), (4000, 1): (1280, 1)}.items():
        assert fit_image(np.zeros((*shape, 3), np.uint8)).shape == (*fitting, 3)


def test_strokes_are_alike_over_another_ground() -> None:
    def look(text: str, shade: int) -> Any:
        return shrink(draw((text, 60, 120), shade=shade)[110:160, 50:300], (24, 192))

    assert likeness(look("Northern Express", 40), look("Northern Express", 180)) > screen.MIN_LIKENESS
    assert likeness(look("Northern Express", 40), look("Southern Reaches", 40)) < screen.MIN_LIKENESS
    assert likeness(look("", 40), look("", 40)) == 1.0
    assert likeness(look("", 40), look("", 90)) == 0.0


CORNER = st.tuples(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2))


@settings(max_examples=60)
@given(st.lists(CORNER, min_size=4, max_size=4), st.lists(CORNER, min_size=4, max_size=4))
def test_boxes(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> None:
    first, second = bound(np.array(one, np.float32)), bound(np.array(other, np.float32))
    assert 0 <= overlap_boxes(first, second) <= 1.001
    assert overlap_boxes(first, second) == overlap_boxes(second, first)
    assert overlap_boxes((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    inside = cut(np.zeros((20, 30, 3), np.uint8), first)
    assert inside.shape[0] >= 1
    assert inside.shape[1] >= 1


class BrightLines(TextModels):
    """Takes bright lines of grey images for texts, and reads how wide they are.

    It finds small ones only at the higher resolution.
    """

    def __init__(self) -> None:
        pass

    def detect(self, image: Picture) -> list[Box]:
        height, width = image.shape[:2]
        boxes, bright = [], image[..., 0] > 200
        for rows in np.split(np.arange(height), np.flatnonzero(np.diff(bright.any(axis=1))) + 1):
            columns = np.flatnonzero(bright[rows].any(axis=0))
            if len(columns) and (width == SIZE[0] or len(rows) / height > 0.05):
                left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
                corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
                boxes.append(np.array(corners, np.float32) / (width, height))
        return boxes

    def read(self, image: Picture, box: Box) -> tuple[str, float]:
        left, _, right, _ = bound(box)
        return f"{right - left:.4f}".translate(str.maketrans("0123456789.", "abcdefghijk")), 0.9


class BrightReader(ScreenReader):
    """Reads bright lines."""

    def __init__(self) -> None:
        self._models = BrightLines()
        self.start()


def draw_bars(step: int, *bars: tuple[int, int, int]) -> Picture:
    """Return a picture over ground that moves with each step, with bright stripes of (top, height, width)."""
    image = np.full((*SIZE[::-1], 3), 20 + 24 * (step % 7), np.uint8)
    for top, height, width in bars:
        for left in range(40, 40 + width, 8):
            image[top : top + height, left : left + 5] = 255
    return image


LARGE, BELOW, OTHER, SMALL = (60, 24, 201), (90, 24, 181), (160, 24, 333), (220, 8, 263)
MOVING = {4: (SMALL,), 5: (SMALL,), 6: (LARGE,), 7: (LARGE,), 8: (LARGE,), 13: (OTHER,), 16: (OTHER,), 17: (LARGE,)}
LINES = {2: (LARGE,), 3: (LARGE,), 4: (LARGE, BELOW), 5: (LARGE, BELOW), 9: (OTHER,), 10: (OTHER,), 11: (OTHER, LARGE)}


def check_resumptions(reader: ScreenReader, images: Sequence[Picture], whole: Sequence[TimedText]) -> None:
    """Interrupt reading after each frame: what is read until then, and from there on, must be the whole."""
    reader.start()
    for time_s, image in enumerate(images[:-1]):
        reader.read(image, float(time_s))
        interrupted = copy.deepcopy(reader)
        until_s, texts = interrupted.take()
        interrupted.start(until_s)
        repeated = [(known.start, known.end, known.text) for known in texts]
        for text in follow(interrupted, images, from_s=until_s):
            if not any(
                start <= text.start and text.end <= end and text.text == known for start, end, known in repeated
            ):
                texts.append(text)
        assert sorted({*texts}, key=repr) == sorted(whole, key=repr), (time_s, until_s)


@pytest.mark.parametrize("shown", [MOVING, {step + 1: bars for step, bars in MOVING.items()}, LINES])
def test_reading_resumes_in_a_moving_picture_as_if_never_stopped(
    shown: dict[int, tuple[tuple[int, int, int], ...]],
) -> None:
    """The same frames are searched, at the same resolution."""
    images = [draw_bars(step, *shown.get(step, ())) for step in range(24)]
    reader = BrightReader()
    whole = follow(reader, images)
    assert len(whole) >= 2
    check_resumptions(reader, images, whole)


class BrightGround(BrightLines):
    """Reads no text over dark ground, though its strokes look the same there."""

    def read(self, image: Picture, box: Box) -> tuple[str, float]:
        return super().read(image, box)[0], 0.9 if image[0, 0, 0] > 100 else 0.1


def test_reading_resumes_before_what_was_rejected_lately() -> None:
    """It would be read again too early otherwise."""
    images = [draw_bars(step, *([LARGE] if 2 <= step < 12 else [])) for step in range(16)]
    reader = BrightReader()
    reader._models = BrightGround()
    whole = follow(reader, images)
    assert [text.start for text in whole] == [5.5], "it was rejected for four seconds"
    check_resumptions(reader, images, whole)
