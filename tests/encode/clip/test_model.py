"""Model files and cards: round trips, and errors of loading."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.encode.tiny import MERGING, TEXT, VISION, make_images, stir
from vidret.encode.clip.model import CLIP_MEAN, Card, ClipModel, fill_model, load_model, read_card, save_model
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
each_card = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.method)


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


@each_card
def test_loading_draws_no_random_number(card: Card) -> None:
    drawn = make_model(card)
    state = torch.random.get_rng_state()
    loaded = fill_model(card, drawn.state_dict(), "made")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, drawn.state_dict()[name]) for name, weight in loaded.state_dict().items())


@each_card
def test_a_card_round_trips(card: Card) -> None:
    assert Card.from_json(card.to_json()) == card


def test_a_card_is_the_text_that_it_was_before_prompts_could_spread() -> None:
    """The text is part of an encoder's fingerprint, so that indexes that exist would be refused."""
    assert "spread" not in CARDS[2].to_json()
    assert json.loads(CARDS[5].to_json())["prompts"] == {"num_prompts": 2, "num_frames": 2, "spread": True}


@torch.no_grad()
@each_card
def test_a_model_round_trips(card: Card, tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", make_model(card)
    save_model(model, path)
    read_back = read_card(path)
    assert read_back == card
    loaded = load_model(path, read_back)
    assert not loaded.training
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    images = make_images(12)
    frames = model.vision(images, num_frames=12).frames
    assert torch.equal(loaded.vision(images, num_frames=12).frames, frames)


def test_a_folded_model_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "folded.safetensors"
    save_model(make_model(CARDS[1]).folded(), path)
    card = read_card(path)
    assert card == replace(CARDS[1], lora_rank=0)
    load_model(path, card)


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


def test_a_newer_card_is_rejected(saved: Path) -> None:
    fields = json.loads(CARDS[1].to_json())
    rewrite(saved, json.dumps(fields | {"format": 2}))
    with pytest.raises(EncoderError, match="the card's format must be 1, got 2") as caught:
        read_card(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("spoil", ["text", "list", "lacks", "more", "nonsense"])
def test_an_invalid_card_is_rejected(spoil: str, saved: Path) -> None:
    fields: dict[str, Any] = json.loads(CARDS[1].to_json())
    if spoil == "lacks":
        del fields["merging"]
    elif spoil == "more":
        fields["colour"] = "red"
    elif spoil == "nonsense":
        fields["merging"]["r"] = -1
    rewrite(saved, {"text": "{", "list": "[1]"}.get(spoil, json.dumps(fields)))
    with pytest.raises(EncoderError) as caught:
        read_card(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("kind", ["gone", "noise", "empty", "torn"])
def test_an_unreadable_file_is_rejected(kind: str, saved: Path) -> None:
    if kind == "gone":
        saved.unlink()
    else:
        saved.write_bytes({"noise": b"\xff" * 100, "empty": b"", "torn": saved.read_bytes()[:-500]}[kind])
    with pytest.raises(EncoderError) as caught:
        read_card(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vision__proj": None, "text__proj": None}, "2 weights missing: text.proj, vision.proj"),
        ({"vision__extra": torch.zeros(1)}, "1 weights unknown: vision.extra"),
        (
            {"vision__temporal__2": torch.zeros(6, 32)},
            "1 weights of another shape: vision.temporal.2 (6, 32) for (12, 32)",
        ),
    ],
)
def test_mismatched_weights_are_listed(changes: dict[str, Tensor | None], reason: str, saved: Path) -> None:
    rewrite(saved, None, **changes)
    with pytest.raises(EncoderError) as caught:
        load_model(saved, CARDS[1])
    assert str(caught.value) == f"{saved}: {reason}"


@pytest.mark.parametrize("field", ["patch", "width", "heads"])
def test_a_card_of_no_model_is_refused(field: str, saved: Path) -> None:
    fields = json.loads(CARDS[1].to_json())
    fields["vision"][field] = 0
    card = read_card(rewrite(saved, json.dumps(fields)))
    assert card is not None
    with pytest.raises(EncoderError, match="the card must describe a model"):
        load_model(saved, card)


def test_weights_load_all_or_none() -> None:
    model = make_model(PLAIN)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights = {name: torch.zeros_like(weight) for name, weight in before.items()}
    with pytest.raises(VidretError, match="1 weights unknown: more"):
        load_exactly(model, weights | {"more": torch.zeros(1)})
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
