"""Model files and cards: round trips, and errors of loading."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.encode.tiny import MERGING, TEXT, VISION, make_images, stir
from vidret.encode.clip.model import CLIP_MEAN, Card, ClipModel, load_model, read_card, save_model
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.errors import EncoderError, VidretError
from vidret.model_files import CARD, load_exactly
from vidret.types import Resize, Sampling

PLAIN = Card("clip", "tiny", VISION, TEXT)
CARDS = [
    PLAIN,
    replace(PLAIN, method="tempme", merging=MERGING, lora_rank=4, sampling=Sampling(12, 2.0)),
    replace(PLAIN, method="promptswitch", prompts=PromptShape(2, 4), interpolation="bilinear"),
    replace(PLAIN, method="ucofia", token_shift=True, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    replace(PLAIN, method="both", merging=MERGING, prompts=PromptShape(2, 4)),
    replace(PLAIN, method="joint", merging=MERGING, prompts=PromptShape(2, 2, spread=True)),
]


def make_model(card: Card) -> ClipModel:
    torch.manual_seed(0)
    model = ClipModel(card).eval()
    stir(model)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(make_model(CARDS[1]), path)
    return path


def rewrite(path: Path, card: str | None = None, **changes: Tensor | None) -> Path:
    """Rewrite a file with another card, or with weights changed or removed (None)."""
    weights = {name.replace("__", "."): weight for name, weight in changes.items()}
    kept = {name: weight for name, weight in (load_file(path) | weights).items() if weight is not None}
    save_file(kept, path, metadata={CARD: card or CARDS[1].to_json()})
    return path


@torch.no_grad()
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.method)
def test_a_model_round_trips(card: Card, tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", make_model(card)
    save_model(model, path)
    read_back = read_card(path)
    assert read_back == card
    drawn = torch.random.get_rng_state()
    loaded = load_model(path, read_back)
    assert torch.equal(torch.random.get_rng_state(), drawn), "loading draws no random number"
    assert not loaded.training
    weights, other = model.state_dict(), loaded.state_dict()
    assert weights.keys() == other.keys()
    assert all(torch.equal(weights[name], other[name]) for name in weights)
    images = make_images(12)
    frames = model.vision(images, num_frames=12).frames
    assert torch.equal(loaded.vision(images, num_frames=12).frames, frames)
    if card.lora_rank:
        save_model(loaded.folded(), path)
        assert read_card(path) == replace(card, lora_rank=0)


def test_a_card_is_the_text_that_it_was_before_prompts_could_spread() -> None:
    """The text is part of an encoder's fingerprint, so that indexes that exist would be refused."""
    assert "spread" not in CARDS[2].to_json()
    assert json.loads(CARDS[5].to_json())["prompts"] == {"num_prompts": 2, "num_frames": 2, "spread": True}


def test_a_card_has_its_resize() -> None:
    assert PLAIN.resize == Resize(32, 32, "bicubic")
    assert CARDS[2].resize == Resize(32, 32, "bilinear")
    assert PLAIN.mean == CLIP_MEAN


def test_other_files_have_no_card(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        assert read_card(path) is None
    assert read_card(tmp_path / "weights.pt") is None


FIELDS: dict[str, Any] = json.loads(CARDS[1].to_json())


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (FIELDS | {"format": 2}, "the card's format must be 1, got 2"),
        ({name: value for name, value in FIELDS.items() if name != "merging"}, "merging"),
        (FIELDS | {"colour": "red"}, "colour"),
        (FIELDS | {"merging": FIELDS["merging"] | {"r": -1}}, "r must be at least 0"),
        ([1], ""),
        ("{", ""),
    ],
)
def test_an_invalid_card_is_rejected(card: object, reason: str, saved: Path) -> None:
    rewrite(saved, card if isinstance(card, str) else json.dumps(card))
    with pytest.raises(EncoderError, match=f"{saved}: .*{reason}"):
        read_card(saved)


@pytest.mark.parametrize("kind", ["gone", "noise", "empty", "torn"])
def test_an_unreadable_file_is_rejected(kind: str, saved: Path) -> None:
    if kind == "gone":
        saved.unlink()
    else:
        saved.write_bytes({"noise": b"\xff" * 100, "empty": b"", "torn": saved.read_bytes()[:-500]}[kind])
    with pytest.raises(EncoderError, match=str(saved)):
        read_card(saved)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vision__proj": None, "text__proj": None}, "2 weights missing: text.proj, vision.proj"),
        ({"vision__extra": torch.zeros(1)}, "1 weight unknown: vision.extra"),
        (
            {"vision__temporal__2": torch.zeros(6, 32)},
            "1 weight of another shape: vision.temporal.2 (6, 32) for (12, 32)",
        ),
    ],
)
def test_mismatched_weights_are_listed(changes: dict[str, Tensor | None], reason: str, saved: Path) -> None:
    rewrite(saved, None, **changes)
    with pytest.raises(EncoderError) as caught:
        load_model(saved, CARDS[1])
    assert str(caught.value) == f"{saved}: {reason}"


BROKEN_SCHEDULES = ({"r": 1.5}, {"layers": [0.5, 1, 2]}, {"factors": [1.5, 2, 2]})


@pytest.mark.parametrize(
    "changes",
    [
        *({tower: FIELDS[tower] | {"heads": heads}} for tower in ("vision", "text") for heads in (0, -1, 2.0, True)),
        *({"vision": FIELDS["vision"] | {field: 0}} for field in ("patch", "width", "image_size")),
        *({"merging": FIELDS["merging"] | changed} for changed in BROKEN_SCHEDULES),
        *({"sampling": FIELDS["sampling"] | {"num_frames": count}} for count in (0, -3, 2.5)),
        *({"sampling": FIELDS["sampling"] | {"fps": fps}} for fps in (0, -1.0, math.inf, math.nan, "a")),
        *({"sampling": FIELDS["sampling"] | changed} for changed in ({"rule": "all"}, {"num_segments": 0})),
        {"lora_rank": -1},
        *({name: value} for name in ("mean", "std") for value in ([0.5], 0.5, ["a", "b", "c"], None)),
    ],
)
def test_a_card_of_no_model_is_refused(changes: dict[str, Any], saved: Path) -> None:
    card = read_card(rewrite(saved, json.dumps(FIELDS | changes)))
    assert card is not None
    with pytest.raises(EncoderError, match="the card must describe a model"):
        load_model(saved, card)


def test_weights_load_all_or_none() -> None:
    model = make_model(PLAIN)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = {name: torch.zeros_like(weight) for name, weight in before.items()}
    with pytest.raises(VidretError, match="1 weight unknown: more"):
        load_exactly(model, weights | {"more": torch.zeros(1)})
    with pytest.raises(VidretError, match=r"30 weights unknown: more\.00, .*, more\.09, \.\.\.$"):
        load_exactly(model, weights | {f"more.{index:02}": torch.zeros(1) for index in range(30)})
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
