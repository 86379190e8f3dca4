"""Kaldi's filter banks, CAM++ and the loading of encoders of voices."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float32

from tests.channels.voices.made_voices import make_sound, make_weights
from vidret.channels.voices.campplus import CamPlusPlus
from vidret.channels.voices.encoder import CamPlusPlusEncoder, find_voice_weights, load_voice_encoder
from vidret.channels.voices.fbank import SAMPLE_RATE, compute_fbank
from vidret.errors import MissingExtraError, VidretError


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
    for number in range(257):
        place = mel(number * SAMPLE_RATE / 512)
        if left < place < left + 2 * width:
            angles = 2 * math.pi * number / 512 * np.arange(len(samples))
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


def test_silence_has_the_lowest_energy() -> None:
    assert np.allclose(compute_fbank(np.zeros(800, np.float32)), math.log(2**-23))


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
    louder = encoder.encode([window * 3 for window in windows])
    assert np.allclose(louder, vectors, atol=1e-3)
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


def test_bundled_weights_are_those_of_the_network() -> None:
    try:
        encoder = CamPlusPlusEncoder(find_voice_weights("campplus"))
    except MissingExtraError:
        pytest.skip("the weights are in a package of 81 MB, which is not installed")
    sound = make_sound(1.5)
    assert encoder.encode([sound])[0] @ encoder.encode([sound + 0.001])[0] > 0.99
