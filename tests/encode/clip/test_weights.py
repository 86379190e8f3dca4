"""Conversion of published checkpoints: every weight is used, and unknown or missing ones are reported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.encode.tiny import TEXT, VISION, make_images, stir
from tests.goldens import find_cases
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.weights import (
    OPEN_CLIP,
    convert_file,
    convert_state_dict,
    from_open_clip,
    pack_attention,
    read_weights,
)
from vidret.errors import EncoderError
from vidret.model_files import translate
from vidret.types import Sampling

TEMPME, PROMPT_SWITCH = find_cases("tempme")[0], find_cases("promptswitch")[0]
HEADS = (2, 2)
BLOCK = "clip.visual.transformer.resblocks"


def make_ucofia() -> tuple[dict[str, Tensor], ClipModel]:
    """Return a checkpoint in UCoFiA's format, CLIP under ``clip.`` beside an aligner, and the expected weights."""
    torch.manual_seed(0)
    vision, text = replace(VISION, quick_gelu=True), replace(TEXT, quick_gelu=True)
    model = ClipModel(Card("ucofia", "ViT-32-8", vision, text, token_shift=True)).eval()
    stir(model)
    names = {name: f"clip.{published}" for published, name in OPEN_CLIP.items()}
    state = {translate(name, names) or name: weight.half() for name, weight in model.state_dict().items()}
    aligner = {"patch_selection.linear.weight": torch.zeros(3), "frame_position_embeddings.weight": torch.zeros(4, 2)}
    return {**state, **aligner}, model


def make_glscl() -> tuple[dict[str, Tensor], ClipModel]:
    """Return a checkpoint in GLSCL's format: unchanged CLIP beside an aligner."""
    state, shifted = make_ucofia()
    model = ClipModel(replace(shifted.card, method="glscl", token_shift=False)).eval()
    model.load_state_dict(shifted.state_dict())
    clip = {name: weight for name, weight in state.items() if name.startswith("clip.")}
    aligner = {"spatial_queries": torch.zeros(3, 2), "noun_queries": torch.zeros(3, 2)}
    return {**clip, **aligner, "transformerClip.resblocks.0.ln_1.bias": torch.zeros(2)}, model


ALIGNED = {"ucofia": make_ucofia, "glscl": make_glscl}


def convert_tempme(weights: dict[str, Tensor], schedule: MergeSchedule | None = None) -> ClipModel:
    return convert_state_dict(weights, "tempme", schedule=schedule, heads=(2, 1))


def test_tempme_weights_are_all_used() -> None:
    state = TEMPME.weights
    model = convert_tempme(state)
    assert not model.training
    assert len(model.state_dict()) == len(state)
    card = model.card
    assert (card.method, card.backbone, card.lora_rank) == ("tempme", "ViT-128-32", 8)
    assert (card.merging, card.sampling) == (MergeSchedule(), Sampling(12, rule="tempme"))
    vision, text = card.vision, card.text
    assert (vision.image_size, vision.patch, vision.layers, vision.heads, vision.quick_gelu) == (224, 32, 12, 2, True)
    assert (text.context, text.vocabulary, text.layers, text.heads, text.quick_gelu) == (77, 512, 4, 1, True)


def test_tempme_without_low_rank_updates_converts() -> None:
    state = {name: weight for name, weight in TEMPME.weights.items() if "LoRA" not in name}
    assert convert_tempme(state).card.lora_rank == 0


def test_prompt_switch_weights_are_all_used() -> None:
    state = PROMPT_SWITCH.weights
    model = convert_state_dict(state, "promptswitch", heads=(3, 2))
    assert model.card.prompts == PromptShape(6, 6)
    assert (model.card.method, model.card.vision.heads, model.card.text.heads) == ("promptswitch", 3, 2)
    assert convert_state_dict(
        state, "promptswitch", prompts=PromptShape(6, 12), heads=(3, 2)
    ).card.prompts == PromptShape(6, 12)


def test_packing_keeps_other_weights_and_takes_no_incomplete_attention() -> None:
    state = {"caption.self_attn.q_proj.weight": torch.ones(2, 2), "clip.a.self_attn.q_proj.weight": torch.ones(2, 2)}
    assert pack_attention(state).keys() == state.keys()
    key = "clip.text_model.encoder.layers.0.self_attn.k_proj.bias"
    state = {name: weight for name, weight in PROMPT_SWITCH.weights.items() if name != key}
    with pytest.raises(EncoderError, match=r"2 weights unknown: .*q_proj.bias, .*v_proj.bias"):
        convert_state_dict(state, "promptswitch", heads=(3, 2))


@torch.no_grad()
@pytest.mark.parametrize("source", ["ucofia", "glscl"])
def test_an_aligners_clip_converts_without_the_aligner(source: str) -> None:
    state, expected = ALIGNED[source]()
    if source == "ucofia":
        state["frame_logit_weight"] = torch.eye(64)  # of a checkpoint for paragraphs
    model = convert_state_dict(state, source, heads=HEADS)
    assert model.card == replace(expected.card, sampling=Sampling(64 if source == "ucofia" else 12, rule="clip4clip"))
    assert model.vision.token_shift == (source == "ucofia")
    weights = model.state_dict()
    assert weights.keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        assert torch.equal(weights[name], weight.half().float()), name
    images = make_images(6)
    frames = model.vision(images, num_frames=3).frames
    assert frames.dtype == torch.float32
    # Frames affect each other only where tokens are shifted.
    alone = model.vision(images, num_frames=1).frames
    assert torch.allclose(frames.flatten(0, 1), alone.flatten(0, 1), atol=1e-5) == (source == "glscl")


@torch.no_grad()
def test_open_clip_states_convert() -> None:
    state, expected = make_ucofia()
    clip_weights = {name.removeprefix("clip."): weight for name, weight in state.items() if name.startswith("clip.")}
    card = replace(expected.card, method="clip", token_shift=False)
    assert from_open_clip({**clip_weights, "attn_mask": torch.zeros(2)}, card).card == card
    with pytest.raises(EncoderError, match=r"2 weights unknown: other, visual.more"):
        from_open_clip({**clip_weights, "visual.more": torch.zeros(1), "other": torch.zeros(1)}, card)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("tempme", f"{BLOCK}.3.attn.TVPt_LoRA_c"),
        ("tempme", f"{BLOCK}.x.ln_1.weight"),
        ("tempme", "clip.visual.proj2"),
        ("tempme", "visual.proj"),
        ("promptswitch", "clip.vision_model.encoder.layers.1.self_attn.o_proj.weight"),
        ("promptswitch", "pool.weight"),
        ("ucofia", "clip.visual.extra"),
        ("glscl", "clip.visual.extra"),
    ],
)
def test_an_unknown_weight_is_reported(source: str, key: str) -> None:
    states = {"tempme": TEMPME.weights, "promptswitch": PROMPT_SWITCH.weights}
    states |= {aligned: make()[0] for aligned, make in ALIGNED.items()}
    with pytest.raises(EncoderError) as caught:
        convert_state_dict({**states[source], key: torch.zeros(1)}, source, heads=HEADS)
    assert str(caught.value) == f"1 weight unknown: {key}"


@pytest.mark.parametrize(
    ("source", "key", "named"),
    [
        ("tempme", "clip.ln_final.bias", "text.ln_final.bias"),
        ("tempme", f"{BLOCK}.3.attn.TVPt_LoRA_a", "vision.blocks.3.attn.lora.a"),
        ("tempme", "clip.visual.proj", "vision.proj"),
        ("promptswitch", "clip.vision_model.attn.in_proj_bias", "vision.prompts.aggregation.in_proj_bias"),
        ("promptswitch", "clip.text_projection.weight", "text.proj"),
        ("promptswitch", "clip.vision_model.encoder.prompt_embedding", "clip.vision_model.encoder.prompt_embedding"),
        ("ucofia", "clip.positional_embedding", "text.positions"),
        ("ucofia", "clip.visual.ln_pre.weight", "vision.ln_pre.weight"),
        ("glscl", "clip.visual.ln_post.bias", "vision.ln_post.bias"),
    ],
)
def test_a_missing_weight_is_reported(source: str, key: str, named: str) -> None:
    states = {"tempme": TEMPME.weights, "promptswitch": PROMPT_SWITCH.weights}
    state = states[source] if source in states else ALIGNED[source]()[0]
    heads = {"tempme": (2, 1), "promptswitch": (3, 2)}.get(source, HEADS)
    with pytest.raises(EncoderError, match="1 weight missing: ") as caught:
        convert_state_dict({name: weight for name, weight in state.items() if name != key}, source, heads=heads)
    assert str(caught.value).endswith(f"1 weight missing: {named}")


@pytest.mark.parametrize(
    ("source", "key", "shape"),
    [
        ("tempme", f"{BLOCK}.8.TVPt_Video_Positional_embedding", (3,)),
        ("tempme", "clip.visual.positional_embedding", ()),
        ("tempme", "clip.visual.proj", (3,)),
        ("promptswitch", "clip.text_model.encoder.layers.0.self_attn.k_proj.weight", (3, 5)),
    ],
)
def test_weights_of_other_axes_are_refused(source: str, key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = {"tempme": TEMPME.weights, "promptswitch": PROMPT_SWITCH.weights}[source]
    assert key in weights
    path = tmp_path / "odd.pt"
    torch.save({**weights, key: torch.zeros(shape)}, path)
    with pytest.raises(EncoderError, match=f"odd.pt: must have weights of the shapes of {source}: .") as caught:
        convert_file(path, source, schedule=MergeSchedule(), clip_frames=None)
    assert "\n" not in str(caught.value)


def test_an_unknown_source_is_rejected() -> None:
    with pytest.raises(
        EncoderError, match="source must be one of tempme, promptswitch, ucofia, glscl, longclip, got clip4clip"
    ):
        convert_state_dict({}, "clip4clip")


def test_a_schedule_that_does_not_match_is_rejected() -> None:
    with pytest.raises(
        EncoderError, match=r"schedule must merge at .*temporal.8'.* as the checkpoint does, got .*temporal.6'"
    ):
        convert_tempme(TEMPME.weights, MergeSchedule(layers=(6, 8, 10), factors=(2, 2, 3)))
    with pytest.raises(EncoderError, match="schedule must merge at"):
        convert_tempme(TEMPME.weights, MergeSchedule(layers=(), factors=()))
    with pytest.raises(
        EncoderError, match=r"2 weights of another shape: vision.temporal.10 \(3, 128\) for \(4, 128\), "
    ):
        convert_tempme(TEMPME.weights, MergeSchedule(factors=(3, 1, 4)))


def test_default_heads_are_one_per_64_channels() -> None:
    assert convert_state_dict(TEMPME.weights, "tempme").card.vision.heads == 2
    assert convert_state_dict(TEMPME.weights, "tempme", heads=(4, 2)).card.text.heads == 2
    with pytest.raises(EncoderError, match="heads must divide width 128, got 3"):
        convert_state_dict(TEMPME.weights, "tempme", heads=(3, 1))


# Files.

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
PARALLEL = {f"module.{name}": weight for name, weight in STATE.items()}
WRAPPED: dict[str, dict[str, Any]] = {
    "bare.pt": STATE,
    "state_dict.pt": {"epoch": 3, "state_dict": STATE},
    "model.pt": {"model": STATE, "optimizer": {"lr": 1.0}},
    "model_state_dict.pt": {"model_state_dict": STATE},
    "parallel.pt": PARALLEL,
    "parallel in state_dict.pt": {"state_dict": PARALLEL},
    "bare.safetensors": STATE,
    "parallel.safetensors": PARALLEL,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_is_unwrapped(name: str, tmp_path: Path) -> None:
    save: Callable[..., None] = save_file if name.endswith(".safetensors") else torch.save
    save(WRAPPED[name], tmp_path / name)
    loaded = read_weights(tmp_path / name)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)


def test_which_of_several_states_is_taken_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, other = tmp_path / "weights.pt", {name: weight + 1 for name, weight in STATE.items()}
    torch.save({"state_dict": other, "model_ema": STATE, "epoch": 3}, path)
    for _ in range(2):
        assert all(torch.equal(weight, STATE[name]) for name, weight in read_weights(path).items())
    assert caplog.messages == [f"{path} holds weights named model_ema and state_dict: model_ema were taken"]


@pytest.mark.parametrize("kind", ["gone", "folder"])
def test_what_holds_no_tensors_is_rejected(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(EncoderError, match=f"^{path}: must be a readable file of nothing but named tensors: [^[]+$"):
        read_weights(path)
