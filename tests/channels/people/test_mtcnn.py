"""Tests of MTCNN: naive twins of its steps, and goldens of facenet-pytorch 2.6.0."""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float, Float32
from torch.nn import functional

from vidret.channels.people import mtcnn
from vidret.channels.people.mtcnn import MTCNN, make_square, read_arrays, shift, suppress
from vidret.errors import VidretError
from vidret.model_files import find_package
from vidret.types import Picture

LAYERS = {  # the kernel, inputs and outputs of the convolutions; the inputs and outputs of the dense layer; the heads
    "pnet": ([(3, 3, 10), (3, 10, 16), (3, 16, 32)], None, (4, 2)),
    "rnet": ([(3, 3, 28), (3, 28, 48), (2, 48, 64)], (576, 128), (4, 2)),
    "onet": ([(3, 3, 32), (3, 32, 64), (3, 64, 64), (2, 64, 128)], (1152, 256), (4, 10, 2)),
}
BOX = st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 40), st.floats(1, 40))


def make_arrays(name: str) -> list[Float32[np.ndarray, "..."]]:
    """Return random weights in the order of the package: kernel, bias and slopes of each layer, then the heads."""
    convolutions, dense, heads = LAYERS[name]
    shapes: list[tuple[int, ...]] = []
    for side, num_in, num_out in convolutions:
        shapes += [(side, side, num_in, num_out), (num_out,), (1, 1, num_out)]
    if dense is not None:
        shapes += [dense, dense[1:], dense[1:]]
    for num_out in heads:
        shapes += [(1, 1, 32, num_out) if dense is None else (dense[1], num_out), (num_out,)]
    rng = np.random.default_rng(ord(name[0]))
    return [rng.normal(0, 1 / np.sqrt(math.prod(shape[:-1])), shape).astype(np.float32) for shape in shapes]


def run_slowly(name: str, image: Float32[np.ndarray, "side side 3"]) -> list[Float[np.ndarray, " out"]]:
    """Run a network on one image by loops over the places of its output."""
    arrays, maps = make_arrays(name), image.astype(np.float64)
    for pool in mtcnn._POOLS[name]:
        kernel, bias, slopes, *arrays = arrays
        size = len(kernel)
        rows, columns = maps.shape[0] - size + 1, maps.shape[1] - size + 1
        out = np.empty((rows, columns, len(bias)))
        for row in range(rows):
            for column in range(columns):
                patch = maps[row : row + size, column : column + size]
                out[row, column] = np.tensordot(patch, kernel, 3) + bias
        maps = np.where(out > 0, out, out * slopes.reshape(-1))
        if pool is not None:
            size, step = pool
            num = -(-(len(maps) - size) // step) + 1
            maps = np.array(
                [[maps[r * step :, c * step :][:size, :size].max(axis=(0, 1)) for c in range(num)] for r in range(num)]
            )
    values = maps.reshape(-1)
    if arrays[0].ndim == 2:
        weight, bias, slopes, *arrays = arrays
        values = np.concatenate([maps[:, column].reshape(-1) for column in range(maps.shape[1])]) @ weight + bias
        values = np.where(values > 0, values, values * slopes)
    heads = [values @ w.reshape(-1, w.shape[-1]) + b for w, b in zip(arrays[::2], arrays[1::2], strict=True)]
    classes = np.exp(heads[-1])
    return [*heads[:-1], classes[1:] / classes.sum()]


@pytest.mark.parametrize("name", LAYERS)
def test_networks_do_what_loops_do(name: str) -> None:
    side = {"pnet": 12, "rnet": 24, "onet": 48}[name]
    image = np.random.default_rng(3).normal(0, 1, (side, side, 3)).astype(np.float32)
    net = mtcnn._Net(make_arrays(name), mtcnn._POOLS[name]).eval()
    with torch.inference_mode():
        found = net(torch.from_numpy(image).permute(2, 0, 1)[None])
    for output, expected in zip(found, run_slowly(name, image), strict=True):
        np.testing.assert_allclose(output.numpy().reshape(-1), expected, atol=1e-4)


@given(boxes=st.lists(BOX, max_size=12), threshold=st.floats(0.1, 0.9), over=st.sampled_from(["union", "smaller"]))
def test_boxes_that_better_ones_overlap_are_left_out(
    boxes: list[tuple[float, float, float, float]], threshold: float, over: str
) -> None:
    corners = np.array([(x, y, x + width, y + height) for x, y, width, height in boxes]).reshape(-1, 4)
    scores = np.random.default_rng(len(boxes)).permutation(len(boxes)).astype(float)
    extra, kept = (1 if over == "smaller" else 0), list[int]()
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        left, top, right, bottom = corners[row]
        area = (right - left + extra) * (bottom - top + extra)
        for other in kept:
            a, b, c, d = corners[other]
            shared = max(min(right, c) - max(left, a) + extra, 0) * max(min(bottom, d) - max(top, b) + extra, 0)
            area_other = (c - a + extra) * (d - b + extra)
            if shared > threshold * (min(area, area_other) if extra else area + area_other - shared):
                break
        else:
            kept.append(row)
    assert suppress(corners, scores, threshold, over=over).tolist() == kept  # type: ignore[arg-type]


def test_boxes_are_shifted_by_parts_of_their_size_and_made_square() -> None:
    boxes = np.array([(10.0, 20.0, 30.0, 60.0)])
    np.testing.assert_allclose(shift(boxes, np.array([(0.1, 0.1, -0.1, 0.0)]), extra=0), [(12, 24, 28, 60)])
    np.testing.assert_allclose(shift(boxes, np.array([(1.0, 1.0, 0.0, 0.0)]), extra=1), [(31, 61, 30, 60)])
    np.testing.assert_allclose(make_square(boxes), [(0, 20, 40, 60)])


def test_areas_beyond_the_image_are_not_seen() -> None:
    image = np.arange(60 * 50 * 3, dtype=np.uint32).reshape(60, 50, 3).astype(np.uint8)
    boxes = np.array([(-9.5, -3.0, 20.0, 30.0), (70.0, 10.0, 90.0, 30.0), (10.0, 5.0, 34.0, 29.0)])
    images, kept = mtcnn._crop(image, boxes, 24)
    np.testing.assert_allclose(kept, boxes[[0, 2]])
    expected = torch.from_numpy(image[0:30, 0:20].astype(np.float32)).permute(2, 0, 1)[None]
    np.testing.assert_allclose(
        images[0], (functional.interpolate(expected, size=(24, 24), mode="area")[0] - 127.5) / 128, atol=1e-6
    )


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pnet.lz4").write_bytes(b"no weights")
    for path in (tmp_path / "pnet.lz4", tmp_path / "none.lz4"):
        with pytest.raises(VidretError, match="not the weights of MTCNN"):
            read_arrays(path)


@pytest.mark.skipif(find_spec("mtcnn") is None, reason='the extra "people" is not installed')
def test_a_face_is_found_where_facenet_pytorch_finds_it(carphone: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    package = find_package("mtcnn")
    assert package is not None
    detector = MTCNN(package / "assets" / "weights")
    points = [(77.549255, 61.4581), (98.199066, 56.14811), (91.40951, 68.78273), (85.46765, 83.25786)]
    defaults = (mtcnn.HALVE_BELOW, mtcnn.MIN_SCORES)
    for (halve_below, min_scores), tolerance in (((0.0, (0.6, 0.7, 0.7)), 1e-2), (defaults, 2.0)):
        monkeypatch.setattr(mtcnn, "HALVE_BELOW", halve_below)
        monkeypatch.setattr(mtcnn, "MIN_SCORES", min_scores)
        (face,) = detector.find(carphone, min_size=24)
        np.testing.assert_allclose(face.box, (65.93606, 38.0577, 109.62476, 95.08786), atol=tolerance)
        np.testing.assert_allclose(face.points, [*points, (101.574951, 79.1214)], atol=tolerance)
        assert face.score == pytest.approx(0.9992426, abs=tolerance / 100)
    assert detector.find(carphone[:20, :20], min_size=24) == []
