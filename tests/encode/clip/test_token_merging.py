"""Merging without training: names, budgets, identity, and frames that stay independent of each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.encode.tiny import MERGING, TEXT, VISION, draw_frames, load_clip
from vidret.encode.clip.model import MAX_MACS_RATIOS, Card, ClipModel, save_model
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.errors import EncoderError
from vidret.index.stages import repeat_frames
from vidret.types import Frames


def write_model(path: Path, **changes: Any) -> Path:
    """Write tiny towers with random weights and CLIP's vocabulary."""
    torch.manual_seed(0)
    card = Card("clip", "tiny", VISION, replace(TEXT, context=77, vocabulary=49408), **changes)
    save_model(ClipModel(card), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("towers") / "plain.safetensors")


def cut(frames: Frames, start: int, stop: int) -> Frames:
    return Frames(frames.pixels[start:stop], frames.times[start:stop])


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(EncoderError, match="must be followed by off, gentle, half, got double"):
        load_encoder("ViT-B-16/openai#merge=double")


def test_levels_are_different_encoders_that_load_again(model: Path) -> None:
    plain = load_clip(model)
    names = [f"{model}{suffix}" for suffix in ("#merge=gentle", "#merge=half", "#merge=half#whole")]
    merged = [load_clip(name) for name in names]
    assert [encoder.name for encoder in merged] == names
    assert len({plain.fingerprint, *(encoder.fingerprint for encoder in merged)}) == 4, "an index cannot mix them"
    assert load_clip(names[1]).fingerprint == merged[1].fingerprint
    assert load_clip(f"{model}#merge=off").fingerprint == plain.fingerprint
    sentence = plain.encode_text(["a dog"])[0].sentence
    np.testing.assert_array_equal(merged[1].encode_text(["a dog"])[0].sentence, sentence)


@pytest.mark.parametrize("level", MAX_MACS_RATIOS)
def test_a_level_meets_its_budget_with_the_fewest_merged_tokens(model: Path, level: Any) -> None:
    schedule = load_clip(f"{model}#merge={level}").card.merging
    assert schedule is not None
    size: dict[str, Any] = {
        "width": VISION.width,
        "num_frames": 12,
        "num_patches": VISION.num_patches,
        "num_layers": VISION.layers,
    }
    plain = MergeSchedule(layers=(), factors=(), r=0).macs(**size)
    assert schedule.macs(**size) <= MAX_MACS_RATIOS[level] * plain < replace(schedule, r=schedule.r - 1).macs(**size)


def test_merged_frames_depend_on_no_other_frame(model: Path) -> None:
    encoder, frames = load_clip(f"{model}#merge=half"), draw_frames(5)
    assert encoder.encodes_frames_alone
    first, second = encoder.encode_frames([cut(frames, 0, 3), cut(frames, 3, 5)], tokens=True, num_layers=2)
    alone = [encoder.encode_frames([cut(frames, index, index + 1)], tokens=True)[0] for index in range(5)]
    rows, tokens = (np.concatenate([getattr(frame, kind) for frame in alone]) for kind in ("frames", "tokens"))
    np.testing.assert_allclose(np.concatenate([first.frames, second.frames]), rows, atol=1e-6)
    assert first.tokens is not None
    assert second.tokens is not None
    np.testing.assert_allclose(np.concatenate([first.tokens, second.tokens]), tokens, atol=1e-6)
    assert first.sizes is not None
    np.testing.assert_array_equal(first.sizes.reshape(3, -1).sum(1), VISION.num_patches)

    layers = encoder.encode_layers(cut(frames, 0, 3), 2)
    assert first.layers is not None
    for own, separate in zip(first.layers.layers, layers.layers, strict=True):
        np.testing.assert_allclose(own, separate, atol=1e-5)
    for own, separate in zip(first.layers.sizes or (), layers.sizes or (), strict=True):
        np.testing.assert_array_equal(own, separate)
        np.testing.assert_array_equal(own.sum(1), 1 + VISION.num_patches)

    twice = repeat_frames(first, np.array([0, 0, 2]), np.arange(3.0))
    assert twice.layers is not None
    assert twice.layers.sizes is not None
    np.testing.assert_array_equal(twice.layers.sizes[0][1], first.layers.sizes[0][0] if first.layers.sizes else 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"merging": MERGING}, "merges already as it was trained"), ({"token_shift": True}, "shifts tokens")],
)
def test_models_that_cannot_merge_refuse(tmp_path: Path, changes: Any, reason: str) -> None:
    path = write_model(tmp_path / "model.safetensors", **changes)
    with pytest.raises(EncoderError, match=f"merge must be off for .*{reason}.*, got half"):
        load_clip(f"{path}#merge=half")
    with pytest.raises(EncoderError, match=r"merge must be off for starter, .*, got gentle"):
        load_encoder(f"{STARTER}#merge=gentle")
