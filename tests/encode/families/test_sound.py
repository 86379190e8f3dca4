"""Models of sounds: equal to the library's own forward, of sounds of any length, and what is said of others."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.encode.hf_models import load_theirs, save_tiny, save_tiny_sound, transformers
from vidret.encode.families.sound import FRAMES_AT_ONCE, SoundModel, SoundTagger, load_sound_model
from vidret.errors import EncoderError

TEXTS = ["applause", "a dog barks in the rain"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {kind: save_tiny_sound(kind, tmp_path_factory.mktemp(kind)) for kind in ("clap", "pe_audio", "ast")}


def draw_sound(model: SoundModel | SoundTagger, length_s: float) -> np.ndarray:
    rng = np.random.default_rng(round(100 * length_s))
    return rng.uniform(-0.5, 0.5, round(length_s * model.sample_rate)).astype(np.float32)


def load(folder: Path) -> SoundModel:
    model = load_sound_model(f"hf:{folder}")
    assert not isinstance(model, SoundTagger)
    return model


def load_inputs(folder: Path) -> tuple[Any, Any]:
    return transformers.AutoFeatureExtractor.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def test_clap_equals_the_library(folders: Mapping[str, Path]) -> None:
    model = load(folders["clap"])
    library_model, (extract, tokenize) = load_theirs(folders["clap"]), load_inputs(folders["clap"])
    tokens = tokenize(["This is a sound of applause.", TEXTS[1]], padding=True, return_tensors="pt")
    for length_s in (3.7, 10.0):
        sounds = [draw_sound(model, length_s), draw_sound(model, length_s)[::-1]]
        heard = extract(sounds, sampling_rate=800, truncation="rand_trunc", return_tensors="pt")["input_features"]
        assert heard.shape == (2, 1, 126, 8)
        output = library_model(input_features=heard, **tokens)
        ours = model.encode_sounds(sounds)[:, 0]
        np.testing.assert_allclose(ours, output.audio_embeds, atol=1e-5)
        np.testing.assert_allclose(model.encode_sounds(sounds[:1])[0, 0], ours[0], atol=1e-6)
        assert np.abs(ours[0] - ours[1]).max() > 0.01, "it hears a difference"
    np.testing.assert_allclose(model.encode_texts(TEXTS), output.text_embeds, atol=1e-5)


@torch.no_grad()
def test_pe_a_frame_equals_the_library(folders: Mapping[str, Path]) -> None:
    model = load(folders["pe_audio"])
    library_model = load_theirs(folders["pe_audio"], "PeAudioFrameLevelModel")
    extract, tokenize = load_inputs(folders["pe_audio"])
    tokens = tokenize(TEXTS, padding=True, return_tensors="pt")
    assert model.step_s == pytest.approx(0.4)
    for length_s in (0.02, 0.3, 4.05):
        sound = draw_sound(model, length_s)
        padded = np.pad(sound, (0, max(0, 5 - len(sound))))
        logits = library_model(**extract(padded, sampling_rate=100, return_tensors="pt"), **tokens).logits_audio_text
        ours = model.encode_sounds([sound])[0] @ model.encode_texts(TEXTS).T
        num_steps = max(logits.shape[2] // FRAMES_AT_ONCE, 1)
        means = [
            logits[0, :, step * FRAMES_AT_ONCE :][:, : FRAMES_AT_ONCE if step < num_steps - 1 else None].mean(1)
            for step in range(num_steps)
        ]
        np.testing.assert_allclose(ours, np.stack(means), atol=1e-4)


@torch.no_grad()
def test_ast_equals_the_library(folders: Mapping[str, Path]) -> None:
    model = load_sound_model(f"hf:{folders['ast']}")
    assert isinstance(model, SoundTagger)
    assert model.labels == ["dog", "music", "child speech, kid speaking"]
    assert model.window_s == model.hop_s == 2.04
    library_model, (extract, _) = load_theirs(folders["ast"], "ASTForAudioClassification"), load_inputs(folders["ast"])
    for length_s in (0.01, 0.3, 2.04):
        sounds = [draw_sound(model, length_s), draw_sound(model, length_s)[::-1]]
        padded = [np.pad(sound, (0, max(0, 400 - len(sound)))) for sound in sounds]
        logits = library_model(**extract(padded, sampling_rate=16_000, return_tensors="pt")).logits
        np.testing.assert_allclose(model.encode_sounds(sounds)[:, 0], 1 / (1 + np.exp(-logits.numpy())), atol=1e-5)


def test_other_models_are_refused(folders: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="sound model must be hf:org/name or hf:FOLDER, got clap"):
        load_sound_model("clap")
    with pytest.raises(
        EncoderError, match="of one of the types clap, pe_audio, audio-spectrogram-transformer, got clip"
    ):
        load_sound_model(f"hf:{save_tiny('clip', tmp_path / 'clip')}")
    fused = shutil.copytree(folders["clap"], tmp_path / "fused")
    config = json.loads((fused / "config.json").read_text())
    config["audio_config"]["enable_fusion"] = True
    (fused / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="must be a CLAP without fusion"):
        load_sound_model(f"hf:{fused}")
