"""Text in images: boxes of what a detector marks, strips for the recogniser, and what it says step by step."""

import os
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from jaxtyping import Float32

from vidret.channels.texts import ocr
from vidret.channels.texts.images import bound, crop_box, find_boxes, make_strip
from vidret.channels.texts.ocr import TextModels, decode_characters
from vidret.errors import VidretError

CHARACTERS = ["", "a", "b", " "]
HEIGHT, WIDTH = 96, 160


def mark(*boxes: tuple[int, int, int, int], probability: float = 0.9) -> Float32[np.ndarray, "height width"]:
    """Return what a detector says of an image in which texts have these extents (left, top, right, bottom)."""
    marked = np.zeros((HEIGHT, WIDTH), np.float32)
    for left, top, right, bottom in boxes:
        marked[top:bottom, left:right] = probability
    return marked


def test_a_box_grows_by_its_area_over_its_outline() -> None:
    (box,) = find_boxes(mark((40, 30, 101, 41)))
    margin = 1.6 * 61 * 11 / (2 * (61 + 11))  # dilation adds a point, and a width counts the points between
    wanted = np.array([40 - margin, 30 - margin, 101 + margin, 41 + margin])
    assert np.array(bound(box)) * (WIDTH, HEIGHT, WIDTH, HEIGHT) == pytest.approx(wanted, abs=0.01)
    assert box[0].sum() < box[1].sum() < box[2].sum()
    assert box[0, 0] < box[1, 0]
    assert box[0, 1] < box[3, 1]


def test_what_is_small_or_improbable_is_no_text() -> None:
    assert find_boxes(mark((40, 30, 42, 90))) == []
    assert find_boxes(mark((40, 30, 100, 40), probability=0.29)) == []
    assert find_boxes(mark((40, 30, 100, 40), probability=0.4)) == []  # enough to be marked, too little in the mean
    assert len(find_boxes(mark((20, 10, 60, 20), (20, 50, 60, 60)))) == 2


@given(arrays.arrays(np.float32, (32, 64), elements=st.floats(0, 1, width=32)))
def test_boxes_stay_in_the_image(probabilities: Float32[np.ndarray, "height width"]) -> None:
    for box in find_boxes(probabilities):
        assert box.shape == (4, 2)
        assert box.min() >= 0
        assert box.max() < 1


def test_a_crop_is_upright() -> None:
    image = np.broadcast_to(np.linspace(0, 250, 100)[None, :, None], (50, 100, 3)).astype(np.uint8)  # a ramp
    crop = crop_box(image, np.array([(0.2, 0.2), (0.8, 0.2), (0.8, 0.6), (0.2, 0.6)]))
    assert crop.shape == (20, 60, 3)
    assert np.abs(crop.astype(int) - image[10:30, 20:80]).max() <= 1
    assert crop_box(image, np.array([(0.4, 0.0), (0.5, 0.0), (0.5, 1.0), (0.4, 1.0)])).shape == (10, 50, 3)
    assert crop_box(image, np.zeros((4, 2))).shape == (1, 1, 3)


def test_a_strip_has_a_margin_where_it_is_narrow() -> None:
    strip = make_strip(np.full((24, 40, 3), (255, 0, 0), np.uint8))
    assert strip.shape == (1, 3, 48, 160)
    assert strip[0, :, 0, 0].tolist() == [-1, -1, 1]  # blue, green and red
    assert not strip[..., 80:].any()
    assert make_strip(np.zeros((24, 200, 3), np.uint8)).shape == (1, 3, 48, 400)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_characters_are_read_as_step_by_step(best: list[int]) -> None:
    probabilities = np.full((len(best), 4), 0.1, np.float32)
    probabilities[np.arange(len(best)), best] = 0.5 + 0.1 * np.arange(len(best), dtype=np.float32) / len(best)
    letters, scores, last = "", [], 0
    for step, character in enumerate(best):
        if character not in (0, last):
            letters += CHARACTERS[character]
            scores.append(float(probabilities[step, character]))
        last = character
    text, score = decode_characters(probabilities, CHARACTERS)
    assert text == letters.strip()
    assert score == pytest.approx(np.mean(scores) if scores else 0.0)


@pytest.mark.skipif(find_spec("openvino") is None, reason='the extra "words" is not installed')
def test_missing_and_damaged_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "find_package", lambda _name: tmp_path)
    with pytest.raises(VidretError, match="install rapidocr again"):
        TextModels()
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "any_det_small.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(VidretError, match=f"{path.name}: cannot be loaded; install rapidocr again$"):
        TextModels()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are chosen on Linux only")
@pytest.mark.skipif(find_spec("openvino") is None, reason='the extra "words" is not installed')
def test_reading_may_run_on_any_core() -> None:
    """Several files are read at once, each in a process: all would share the core that each was bound to."""
    models, image = TextModels(), np.zeros((448, 448, 3), np.uint8)
    thread, cores, is_done = threading.get_native_id(), set[frozenset[int]](), threading.Event()

    def look() -> None:
        while not is_done.wait(0.001):
            cores.add(frozenset(os.sched_getaffinity(thread)))

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(3):
        models.detect(image)
    is_done.set()
    watcher.join()
    assert cores == {frozenset(os.sched_getaffinity(thread))}
