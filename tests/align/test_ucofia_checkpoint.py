"""Conversion of UCoFiA checkpoints: errors list the weights that do not fit, and files hold all weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.goldens import find_cases
from tests.rankers import save_aligner
from vidret.align.files import CARD, convert_aligner, load_aligner
from vidret.align.ucofia import Aligner
from vidret.errors import AlignerError

CASE = find_cases("ucofia")[0]
UNUSED = ("word_logit_weight", "frame_mat_weight", "frame_mat_weight2", "word_mat_weight_for_pixel")


def published() -> dict[str, Tensor]:
    return dict(CASE.weights)


def test_half_precision_and_missing_unused_matrices_are_accepted() -> None:
    state = {name: weight.half() for name, weight in published().items() if name not in UNUSED}
    assert {weight.dtype for weight in convert_aligner(state).parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["extra.weight", "global_mat_weight_2", "transformerClip.resblocks.0.attn.q.weight"])
def test_unknown_weights_are_listed(name: str) -> None:
    with pytest.raises(AlignerError, match=rf"2 weights unknown: another, {name}"):
        convert_aligner(published() | {name: torch.zeros(1), "another": torch.zeros(1)})


@pytest.mark.parametrize(
    "name",
    [
        "clip.logit_scale",
        "global_mat_weight",
        "pixel_mat_weight2",
        "frame_position_embeddings.weight",
        "transformerClip.resblocks.1.mlp.c_fc.bias",
        "visual_token_selector.score_predictor.out_conv.2.weight",
    ],
)
def test_missing_weights_are_listed_by_their_published_names(name: str) -> None:
    state = published()
    del state[name]
    with pytest.raises(AlignerError, match=rf"1 weight missing: {name}$"):
        convert_aligner(state)


def test_other_shapes_are_listed() -> None:
    with pytest.raises(AlignerError, match=r"weight of another shape: local_mat_weight \(3, 3\) for \(64, 64\)"):
        convert_aligner(published() | {"local_mat_weight": torch.eye(3)})
    with pytest.raises(AlignerError, match="1 weight not square: word_mat_weight"):
        convert_aligner(published() | {"word_mat_weight": torch.zeros(3, 4)})
    # Another published program has a different score net.
    name = "visual_token_selector.score_predictor.in_conv.1.weight"
    with pytest.raises(AlignerError, match=f"{name}.*128"):
        convert_aligner(published() | {name: torch.zeros(64, 128)})


def test_files_without_aligner_are_rejected_with_their_path(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(AlignerError, match=str(path)):
        load_aligner(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(AlignerError, match=str(path)):
        load_aligner(path)
    save_aligner(Aligner(), path)
    with pytest.raises(AlignerError, match=r"10 weights missing: .*mixing\.sentence"):
        load_aligner(path)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ([], "not an aligner that this version"),
        ({"format": 1, "aligner": []}, "not an aligner that this version"),
        ({"format": 1, "aligner": "glscl", "top": "3"}, "not an aligner that this version"),
        ({"format": 1, "aligner": "glscl", "temperature": 3.0, "heads": 0, "share": 0.5}, "heads must divide 4, got 0"),
    ],
)
def test_any_card_is_read_or_refused(card: object, reason: str, tmp_path: Path) -> None:
    path, weights = tmp_path / "card.safetensors", {"temporal.positions": torch.zeros(2, 4)}
    weights |= {"finder.seeds": torch.zeros(1, 4), "finder.decoder.0.linear1.weight": torch.zeros(4, 4)}
    save_file(weights, path, {CARD: json.dumps(card)})
    with pytest.raises(AlignerError, match=f"{path}: {reason}"):
        load_aligner(path)
