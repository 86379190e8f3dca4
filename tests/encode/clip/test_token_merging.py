"""Merging without training: names, budgets, identity, and frames that stay independent of each other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.encode.tiny import MERGING, VISION, draw_frames, load_clip, save_clip
from vidret.encode.clip.model import MAX_MACS_RATIOS
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.errors import EncoderError
from vidret.index.stages import repeat_frames


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("towers") / "plain.safetensors")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(EncoderError, match="must be followed by off, gentle, half, got double"):
        load_encoder("ViT-B-16/openai#merge=double")


def test_levels_are_different_encoders(model: Path) -> None:
    encoders = [load_clip(f"{model}{suffix}") for suffix in ("", "#merge=gentle", "#merge=half", "#merge=off")]
    plain, gentle, half, off = (encoder.fingerprint for encoder in encoders)
    assert len({plain, gentle, half}) == 3, "an index cannot mix them"
    assert off == plain
    one, other = (encoder.encode_text(["a dog"])[0].sentence for encoder in encoders[1:3])
    np.testing.assert_array_equal(one, other)


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


def test_merged_tokens_stand_for_all_patches_of_their_frame(model: Path) -> None:
    encoder = load_clip(f"{model}#merge=half")
    assert encoder.encodes_frames_alone
    (embedding,) = encoder.encode_frames([draw_frames(3)], tokens=True, num_layers=2)
    assert embedding.sizes is not None
    np.testing.assert_array_equal(embedding.sizes.reshape(3, -1).sum(1), VISION.num_patches)
    twice = repeat_frames(embedding, np.array([0, 0, 2]), np.arange(3.0))
    assert embedding.layers is not None
    assert twice.layers is not None
    for own, repeated in zip(embedding.layers.sizes or (), twice.layers.sizes or (), strict=True):
        np.testing.assert_array_equal(own.sum(1), 1 + VISION.num_patches)
        np.testing.assert_array_equal(repeated, own[[0, 0, 2]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"merging": MERGING}, "merges already as it was trained"), ({"token_shift": True}, "shifts tokens")],
)
def test_models_that_cannot_merge_refuse(tmp_path: Path, changes: Any, reason: str) -> None:
    path = save_clip(tmp_path / "model.safetensors", **changes)
    with pytest.raises(EncoderError, match=f"merge must be off for .*{reason}.*, got half"):
        load_clip(f"{path}#merge=half")
    with pytest.raises(EncoderError, match=r"merge must be off for starter, .*, got gentle"):
        load_encoder(f"{STARTER}#merge=gentle")
