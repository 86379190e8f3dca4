"""Kaldi's filter banks, CAM++ and the loading of encoders of voices."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from torch import Tensor

from vidret.channels.speech import SAMPLE_RATE
from vidret.channels.voices.encoder import (
    BLOCKS,
    CamPlusPlus,
    CamPlusPlusEncoder,
    compute_fbank,
    find_voice_weights,
    load_voice_encoder,
)
from vidret.errors import MissingExtraError, VidretError

Shape = tuple[int, ...]


def make_sound(seconds: float = 0.5) -> Float32[np.ndarray, " sample"]:
    """Return a buzz whose pitch and loudness change, with noise."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(7 * times)) / SAMPLE_RATE
    buzz = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
    noise = np.random.default_rng(3).standard_normal(len(times))
    return (0.1 * (1 + 0.5 * np.sin(20 * times)) * buzz + 0.003 * noise).astype(np.float32)


def make_weights() -> dict[str, Tensor]:
    """Return weights of CAM++ that are drawn by their names in alphabetical order."""
    drawn, weights = np.random.default_rng(0), {}
    for name, shape in sorted(list_shapes()):
        fan_in = max(1, int(np.prod(shape[1:])))
        values = drawn.standard_normal(shape) / np.sqrt(fan_in)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            values = 1 + 0.1 * np.abs(values)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def list_shapes() -> Iterator[tuple[str, Shape]]:
    """Yield the names of the published weights with their shapes."""
    yield from _list_layer("head.conv1", (32, 1, 3, 3), "head.bn1")
    for layer in (1, 2):
        for block in (0, 1):
            name = f"head.layer{layer}.{block}"
            for sublayer in (1, 2):
                yield from _list_layer(f"{name}.conv{sublayer}", (32, 32, 3, 3), f"{name}.bn{sublayer}")
        name = f"head.layer{layer}.0.shortcut"
        yield from _list_layer(f"{name}.0", (32, 32, 1, 1), f"{name}.1")
    yield from _list_layer("head.conv2", (32, 32, 3, 3), "head.bn2")
    yield from _list_layer("xvector.tdnn.linear", (128, 320, 5), "xvector.tdnn.nonlinear.batchnorm")
    channels = 128
    for block, (num_layers, _) in enumerate(BLOCKS, 1):
        for layer in range(1, num_layers + 1):
            name = f"xvector.block{block}.tdnnd{layer}"
            yield from _list_norm(f"{name}.nonlinear1.batchnorm", channels)
            yield from _list_layer(f"{name}.linear1", (128, channels, 1), f"{name}.nonlinear2.batchnorm")
            yield f"{name}.cam_layer.linear_local.weight", (32, 128, 3)
            for sublayer, shape in ((1, (64, 128, 1)), (2, (32, 64, 1))):
                yield f"{name}.cam_layer.linear{sublayer}.weight", shape
                yield f"{name}.cam_layer.linear{sublayer}.bias", shape[:1]
            channels += 32
        yield from _list_norm(f"xvector.transit{block}.nonlinear.batchnorm", channels)
        yield f"xvector.transit{block}.linear.weight", (channels // 2, channels, 1)
        channels //= 2
    yield from _list_norm("xvector.out_nonlinear.batchnorm", channels)
    yield "xvector.dense.linear.weight", (192, 2 * channels, 1)
    yield from list(_list_norm("xvector.dense.nonlinear.batchnorm", 192))[:2]


def _list_layer(name: str, shape: Shape, norm: str) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield from _list_norm(norm, shape[0])


def _list_norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield from ((f"{name}.{part}", (channels,)) for part in ("running_mean", "running_var", "weight", "bias"))


def naive_bank(frame: Float32[np.ndarray, " sample"], bin_: int) -> float:
    """Return one log energy as Kaldi's documentation has it, one frequency at a time."""
    samples = [float(sample) - float(np.mean(frame, dtype=np.float64)) for sample in frame]
    samples = [value - 0.97 * samples[max(0, index - 1)] for index, value in enumerate(samples)]
    last = len(samples) - 1
    samples = [
        value * (0.5 - 0.5 * math.cos(2 * math.pi * index / last)) ** 0.85 for index, value in enumerate(samples)
    ]

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    width = (mel(8000) - mel(20)) / 81
    left = mel(20) + bin_ * width
    energy = 0.0
    for fft_bin in range(257):
        place = mel(fft_bin * SAMPLE_RATE / 512)
        if left < place < left + 2 * width:
            angles = 2 * math.pi * fft_bin / 512 * np.arange(len(samples))
            power = float(np.dot(samples, np.cos(angles)) ** 2 + np.dot(samples, np.sin(angles)) ** 2)
            energy += power * (1 - abs(place - left - width) / width)
    return math.log(max(energy, 2**-23))


def test_filter_banks_are_the_naive_ones() -> None:
    sound = make_sound()
    banks = compute_fbank(sound)
    assert banks.shape == (1 + (len(sound) - 400) // 160, 80)
    for frame, bin_ in ((0, 0), (3, 20), (17, 41), (47, 79)):
        assert banks[frame, bin_] == pytest.approx(naive_bank(sound[frame * 160 :][:400], bin_), abs=1e-5)


def test_filter_banks_are_those_of_kaldi() -> None:
    banks = compute_fbank(make_sound())
    centred = banks - banks.mean(0)
    golden = [
        [1.218623161315918, -1.9852395057678223, 0.2539023160934448, 0.4559617042541504],
        [0.43752288818359375, -0.21403002738952637, 0.9909631013870239, -0.19373321533203125],
        [2.1975464820861816, -0.18932342529296875, -0.5488020181655884, 0.32663679122924805],
    ]
    assert np.allclose(centred[[0, 5, -1]][:, [0, 10, 40, 79]], golden, atol=2e-4)
    assert np.allclose(compute_fbank(np.zeros(800, np.float32)), math.log(2**-23)), "silence has the lowest energy"


@pytest.mark.parametrize(
    ("num_frames", "first", "last"),
    [
        (40, [2.734814405, -0.824759364, -1.705960989, 1.820495963], [0.343423992, 0.522951543]),
        (148, [2.752713442, -0.814356267, -1.713438034, 1.748868227], [0.366815388, 0.512290180]),
        (331, [2.762119293, -0.811046124, -1.715487123, 1.736064911], [0.369151086, 0.508197367]),
    ],
)
def test_campplus_is_the_published_network(num_frames: int, first: list[float], last: list[float]) -> None:
    net = CamPlusPlus(make_weights())
    banks = np.random.default_rng(num_frames).standard_normal((2, num_frames, 80)).astype(np.float32)
    with torch.inference_mode():
        vectors = net(torch.from_numpy(banks)).numpy()
    assert np.allclose(vectors[0, :4], first, atol=1e-4)
    assert np.allclose(vectors[1, -2:], last, atol=1e-4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made.pt"
    torch.save(make_weights(), path)
    return path


def test_windows_of_any_length_are_encoded_in_their_order(weights: Path) -> None:
    encoder, sound = CamPlusPlusEncoder(weights), make_sound(1.0)
    windows = [sound[:8000], sound[:500], sound[3000:11000], sound[:16000]]
    vectors = encoder.encode(windows)
    assert vectors.shape == (4, 192)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for window, vector in zip(windows, vectors, strict=True):
        assert np.allclose(encoder.encode([window])[0], vector, atol=1e-5)
    assert np.allclose(encoder.encode([window * 3 for window in windows]), vectors, atol=1e-3)
    assert encoder.encode([]).shape == (0, 192)


def test_encoders_are_loaded_by_name(weights: Path, tmp_path: Path) -> None:
    assert isinstance(load_voice_encoder(str(weights)), CamPlusPlusEncoder)
    assert load_voice_encoder(str(weights)).digest != load_voice_encoder(__name__ + ":MadeEncoder").digest
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(1)}, other)
    for name in (str(other), str(tmp_path / "none.pt"), "vidret:Nothing", "no_such_module:Class", f"{__name__}:Fails"):
        with pytest.raises(VidretError, match=r"speaker model|cannot be (loaded|imported)|must have a class"):
            load_voice_encoder(name)
    (tmp_path / "harmful.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(VidretError, match="cannot be loaded"):
        load_voice_encoder(str(tmp_path / "harmful.pt"))


class Fails:
    """A class that cannot be made."""

    def __init__(self) -> None:
        raise OSError("no such device")


class MadeEncoder:
    """A class of the user."""

    digest, same_in_film, same_voice = "made", 0.5, 0.5

    def encode(self, windows: object) -> object:
        raise NotImplementedError


def test_bundled_weights_are_those_of_the_network() -> None:
    try:
        encoder = CamPlusPlusEncoder(find_voice_weights("campplus"))
    except MissingExtraError:
        pytest.skip("the weights are in a package of 81 MB, which is not installed")
    sound = make_sound(1.5)
    assert encoder.encode([sound])[0] @ encoder.encode([sound + 0.001])[0] > 0.99
