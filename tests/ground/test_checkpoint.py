"""Head files: conversion of R2-Tuning checkpoints, round trips, cards, and errors."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.goldens import find_cases
from tests.ground.samples import make_head, make_inputs
from vidret.errors import VidretError
from vidret.ground.checkpoint import HeadCard, convert_head, load_head, read_head_card, save_head
from vidret.ground.head import GroundingHead

CASES = find_cases("r2tuning")
UNSEEN = ("adapter.v_map.bias", "loss._loss_sal.scale")


def published() -> dict[str, Tensor]:
    return dict(CASES[0].weights)


def highlights_alone() -> dict[str, Tensor]:
    """Return the weights of a head with one level, without temporal endpoint feature and boundaries."""
    prefixes = ("pyramid.", "coord_head.")
    state = {name: weight for name, weight in published().items() if not name.startswith(prefixes)}
    for name in ("adapter.video_map.0.weight", "adapter.video_map.0.bias"):
        state[name] = state[name][:24]
    state["adapter.video_map.2.weight"] = state["adapter.video_map.2.weight"][:, :24]
    return state | {"coef": torch.ones(1)}


def make_card(head: GroundingHead) -> HeadCard:
    rules: Any = {"suppression": "hard", "threshold": 0.7, "unit": 2.0, "similarity_weight": 0.5}
    return HeadCard.describe(head, backbone="ViT-B/32", fps=0.5, **rules)


def test_half_precision_and_missing_ignored_weights_convert() -> None:
    state = {name: weight.half() for name, weight in published().items() if name not in UNSEEN}
    assert {weight.dtype for weight in convert_head(state).parameters()} == {torch.float32}


def test_a_head_without_boundaries_is_inferred() -> None:
    head = convert_head(highlights_alone())
    assert head.boundaries is None
    assert head.reach is None
    assert (head.pyramid.strides, head.block.tef, head.cosine) == ((1,), False, False)
    state = highlights_alone()
    del state["coef"]
    assert convert_head(state).pyramid.strides == (1,)


def test_mismatches_are_listed_by_published_names() -> None:
    state = published()
    for name in ("adapter.gate", "pyramid.blocks.3.6.bias", "adapter.tem.cross_att.m.weight"):
        del state[name]
    state |= {"extra": torch.zeros(1), "pyramid.blocks.2.2.weight": torch.zeros(1)}
    state["coord_head.module.3.bias"] = torch.zeros(3)
    with pytest.raises(VidretError) as error:
        convert_head(state)
    assert str(error.value) == (
        "3 weights missing: adapter.gate, adapter.tem.cross_att.m.weight, pyramid.blocks.3.6.bias; "
        "2 weights unknown: extra, pyramid.blocks.2.2.weight; "
        "1 weight of another shape: coord_head.module.3.bias (3,) for (2,)"
    )


def test_missing_and_extra_levels_are_reported() -> None:
    state = {name: weight for name, weight in published().items() if not name.startswith("pyramid.blocks.2")}
    with pytest.raises(
        VidretError, match=r"8 weights missing: pyramid\.blocks\.2\.1\.bias, .*pyramid\.blocks\.2\.8\.weight$"
    ):
        convert_head(state)
    with pytest.raises(VidretError, match=r"1 weight of another shape: coef \(3,\) for \(4,\)"):
        convert_head(published() | {"coef": torch.ones(3)})


def test_invalid_widths_and_heads_are_rejected() -> None:
    state = published()
    state["adapter.video_map.0.weight"] = torch.zeros(27)
    with pytest.raises(VidretError, match=r"adapter\.video_map\.0\.weight must have a multiple of 8 elements.*got 27"):
        convert_head(state)
    with pytest.raises(VidretError, match="heads must divide dim 32, got 5"):
        convert_head(published(), heads=5)
    with pytest.raises(VidretError, match=r"weight of another shape: .*adapter\.query_map\.2\.weight \(16,\)"):
        convert_head(published() | {"adapter.query_map.2.weight": torch.zeros(16)})


@torch.no_grad()
@pytest.mark.parametrize(("boundaries", "motion"), [(True, 0), (False, 0), (True, 5)])
def test_a_head_round_trips(tmp_path: Path, boundaries: bool, motion: int) -> None:
    head = make_head(boundaries=boundaries, strides=(1, 2, 8) if boundaries else (1,), motion=motion).float()
    head.limit = 7
    save_head(head, make_card(head), tmp_path / "head.safetensors")
    again, card = load_head(tmp_path / "head.safetensors")
    assert card == make_card(head) == read_head_card(tmp_path / "head.safetensors")
    assert card.strides == ((1, 2, 8) if boundaries else (1,))
    inputs = make_inputs((9,), (4,))
    first, second = (made.decode(made(made.prepare(inputs.layers), inputs.query), fps=1.0)[0] for made in (head, again))
    assert (first.spans == second.spans).all()
    assert (first.saliency == second.saliency).all()
    assert len(second.spans) == (7 if boundaries else 0)


def test_a_card_round_trips() -> None:
    fields = json.loads(make_card(make_head()).to_json())
    assert fields == {
        "format": 1,
        "method": "r2tuning",
        "backbone": "ViT-B/32",
        "fps": 0.5,
        "strides": [1, 2, 4],
        "num_layers": 3,
        "heads": 8,
        "limit": 50,
        "tef": True,
        "cosine": True,
        "suppression": "hard",
        "threshold": 0.7,
        "unit": 2.0,
        "window": 75,
        "reads": "layers",
        "similarity_weight": 0.5,
    }
    assert HeadCard.from_json(json.dumps(fields)) == make_card(make_head())
    del fields["similarity_weight"], fields["window"]  # cards written before they existed
    card = HeadCard.from_json(json.dumps(fields))
    assert (card.similarity_weight, card.window) == (0, 75)


@pytest.mark.wrong_shapes
def test_invalid_files_are_rejected_with_their_path(tmp_path: Path) -> None:
    path, head = tmp_path / "head.safetensors", make_head().float()
    for read in (read_head_card, load_head):
        with pytest.raises(VidretError, match=str(path)):
            read(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(VidretError, match=str(path)):
        load_head(path)
    save_file({"one": torch.zeros(1)}, path)
    with pytest.raises(VidretError, match="must have the card of a grounding head, got a file without one"):
        load_head(path)
    texts = {
        '{"format": 2}': "format must be 1, got 2",
        '{"format": 1, "method": "tempme"}': "method must be r2tuning, got tempme",
        '{"format": 1, "method": "r2tuning"}': "not a head's card: 'strides'",
        '{"format": 1, "method": "r2tuning", "strides": [1], "odd": 1}': "not a head's card: .*odd",
        "[1]": r"not a head's card: \[1\]",
        "{": "Expecting",
    }
    for text, message in texts.items():
        save_file({"one": torch.zeros(1)}, path, metadata={"vidret": text})
        with pytest.raises(VidretError, match=message):
            read_head_card(path)
    save_head(head, make_card(head), path)
    weights = load_file(path)
    save_file({**weights, "odd": torch.zeros(1)}, path, metadata={"vidret": make_card(head).to_json()})
    with pytest.raises(VidretError, match=f"{path}: 1 weight unknown: odd"):
        load_head(path)
    cards = {
        "the card must describe the weights": replace(make_card(head), strides=(1, 2)),
        "heads must divide dim 16, got 0": replace(make_card(head), heads=0),
        "fps must be positive, got -1": replace(make_card(head), fps=-1),
        "threshold must be positive, got 0": replace(make_card(head), threshold=0),
        "unit must be at least 0, got -1": replace(make_card(head), unit=-1),
        "window must be an integer of at least 1, got 0": replace(make_card(head), window=0),
        "similarity_weight must be at least 0, got nan": replace(make_card(head), similarity_weight=math.nan),
        "suppression must be one of None, hard, linear, gaussian, got soft": replace(
            make_card(head), suppression="soft"
        ),
        "reads must be one of layers, vectors, got pixels": replace(make_card(head), reads="pixels"),
    }
    for message, card in cards.items():
        save_file(weights, path, metadata={"vidret": card.to_json()})
        with pytest.raises(VidretError, match=f"{path}: {message}"):
            load_head(path)


def test_a_card_of_another_head_is_rejected(tmp_path: Path) -> None:
    head = make_head()
    with pytest.raises(ValueError, match="card must describe the head"):
        save_head(head, replace(make_card(head), limit=3), tmp_path / "head.safetensors")
    assert not (tmp_path / "head.safetensors").exists()
