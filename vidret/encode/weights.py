"""Other people's checkpoints: their parameter names to ours, their shapes to a card.

A table a source, patterns of names on the left, ours on the right; ``*`` is a layer's number. Every parameter has to be
named by a table, or be listed as one that is left behind on purpose: an unknown key is an error, never skipped.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from vidret.encode.model import Card, ClipModel, load_exactly
from vidret.encode.prompt_switch import PromptShape
from vidret.encode.tempme import MergeSchedule
from vidret.encode.text import TextShape
from vidret.encode.vision import VisionShape
from vidret.errors import EncoderError
from vidret.types import Sampling

Weights = dict[str, Tensor]
Names = Mapping[str, str]
Heads = tuple[int, int]

PROMPT_KEY = "clip.vision_model.encoder.prompt_embedding"

_OPEN_BLOCK = {
    "attn.in_proj_weight": "attn.in_proj_weight",
    "attn.in_proj_bias": "attn.in_proj_bias",
    "attn.out_proj.weight": "attn.out_proj.weight",
    "attn.out_proj.bias": "attn.out_proj.bias",
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.c_fc.weight": "mlp.c_fc.weight",
    "mlp.c_fc.bias": "mlp.c_fc.bias",
    "mlp.c_proj.weight": "mlp.c_proj.weight",
    "mlp.c_proj.bias": "mlp.c_proj.bias",
}
_LORA = {"attn.TVPt_LoRA_a": "attn.lora.a", "attn.TVPt_LoRA_b": "attn.lora.b"}
OPEN_CLIP: Names = {
    "visual.conv1.weight": "vision.patches.weight",
    "visual.class_embedding": "vision.class_embedding",
    "visual.positional_embedding": "vision.positions",
    "visual.proj": "vision.proj",
    **{
        f"visual.{norm}.{part}": f"vision.{norm}.{part}"
        for norm in ("ln_pre", "ln_post")
        for part in ("weight", "bias")
    },
    **{f"visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{own}" for key, own in _OPEN_BLOCK.items()},
    "token_embedding.weight": "text.embedding.weight",
    "positional_embedding": "text.positions",
    "text_projection": "text.proj",
    "ln_final.weight": "text.ln_final.weight",
    "ln_final.bias": "text.ln_final.bias",
    **{f"transformer.resblocks.*.{key}": f"text.blocks.*.{own}" for key, own in _OPEN_BLOCK.items()},
    "logit_scale": "logit_scale",
}
TEMPME: Names = {
    **{f"clip.{key}": own for key, own in OPEN_CLIP.items()},
    **{f"clip.visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{own}" for key, own in _LORA.items()},
    **{f"clip.transformer.resblocks.*.{key}": f"text.blocks.*.{own}" for key, own in _LORA.items()},
    "clip.visual.transformer.resblocks.*.TVPt_Video_Positional_embedding": "vision.temporal.*",
}
_SHIFTED = {key: own for key, own in _OPEN_BLOCK.items() if key.startswith("attn.")}
UCOFIA: Names = {
    **{f"clip.{key}": own for key, own in OPEN_CLIP.items()},
    # The wrapper that shifts tokens renames the attention of the last two blocks.
    **{
        f"clip.visual.transformer.resblocks.*.{key.replace('attn.', 'attn.net.', 1)}": f"vision.blocks.*.{own}"
        for key, own in _SHIFTED.items()
    },
}
_HF_BLOCK = {
    **{f"self_attn.out_proj.{part}": f"attn.out_proj.{part}" for part in ("weight", "bias")},
    **{f"self_attn.qkv.{part}": f"attn.in_proj_{part}" for part in ("weight", "bias")},  # packed beforehand
    **{f"layer_norm{n}.{part}": f"ln_{n}.{part}" for n in (1, 2) for part in ("weight", "bias")},
    **{f"mlp.fc1.{part}": f"mlp.c_fc.{part}" for part in ("weight", "bias")},
    **{f"mlp.fc2.{part}": f"mlp.c_proj.{part}" for part in ("weight", "bias")},
}
PROMPT_SWITCH: Names = {
    "clip.vision_model.embeddings.class_embedding": "vision.class_embedding",
    "clip.vision_model.embeddings.patch_embedding.weight": "vision.patches.weight",
    "clip.vision_model.embeddings.position_embedding.weight": "vision.positions",
    **{f"clip.vision_model.pre_layrnorm.{part}": f"vision.ln_pre.{part}" for part in ("weight", "bias")},
    **{f"clip.vision_model.post_layernorm.{part}": f"vision.ln_post.{part}" for part in ("weight", "bias")},
    **{f"clip.vision_model.encoder.layers.*.{key}": f"vision.blocks.*.{own}" for key, own in _HF_BLOCK.items()},
    PROMPT_KEY: "vision.prompts.cube",
    "clip.vision_model.attn.in_proj_weight": "vision.prompts.aggregation.in_proj_weight",
    "clip.vision_model.attn.in_proj_bias": "vision.prompts.aggregation.in_proj_bias",
    **{
        f"clip.vision_model.attn.out_proj.{part}": f"vision.prompts.aggregation.out_proj.{part}"
        for part in ("weight", "bias")
    },
    "clip.visual_projection.weight": "vision.proj",
    "clip.text_model.embeddings.token_embedding.weight": "text.embedding.weight",
    "clip.text_model.embeddings.position_embedding.weight": "text.positions",
    **{f"clip.text_model.final_layer_norm.{part}": f"text.ln_final.{part}" for part in ("weight", "bias")},
    **{f"clip.text_model.encoder.layers.*.{key}": f"text.blocks.*.{own}" for key, own in _HF_BLOCK.items()},
    "clip.text_projection.weight": "text.proj",
    "clip.logit_scale": "logit_scale",
}
PROMPT_SWITCH_LEFT = re.compile(r"caption_|clip\.(text|vision)_model\.embeddings\.position_ids$")
NEVER_LEFT = re.compile(r"(?!)")


class Missing(NamedTuple):
    """What checkpoints do not hold: TempMe's schedule, Prompt Switch's prompts, and attention heads where unusual."""

    schedule: MergeSchedule
    prompts: PromptShape | None
    heads: Heads | None


def convert_state_dict(
    weights: Weights,
    source: str,
    *,
    schedule: MergeSchedule | None = None,
    prompts: PromptShape | None = None,
    heads: Heads | None = None,
) -> ClipModel:
    """Turn a published state dict into a model.

    Args:
        weights: The state dict, with the names of the method's own code.
        source: ``tempme``, ``promptswitch``, ``ucofia`` or ``glscl``.
        schedule: TempMe's, which its checkpoints do not hold; the published default unless given.
        prompts: Prompt Switch's, whose frames a clip are not in its checkpoints; as many as prompts unless given.
        heads: Attention heads of vision and text when they are not one for each 64 channels.

    Raises:
        EncoderError: Lists the keys that are missing or unknown.
    """
    if source not in SOURCES:
        raise EncoderError(f"source must be one of {', '.join(SOURCES)}, got {source}")
    return SOURCES[source](weights, Missing(schedule or MergeSchedule(), prompts, heads)).eval()


def convert_file(path: Path, source: str, *, schedule: MergeSchedule, clip_frames: int | None) -> ClipModel:
    """Convert a checkpoint file; the schedule is taken for TempMe, the frames a clip for Prompt Switch.

    Raises:
        EncoderError: The file cannot be read, or its keys are not the source's; the message names the file.
    """
    weights = read_weights(path)
    try:
        prompts = None
        if clip_frames is not None and PROMPT_KEY in weights:
            prompts = PromptShape(len(weights[PROMPT_KEY]), clip_frames)
        return convert_state_dict(weights, source, schedule=schedule, prompts=prompts)
    except (EncoderError, ValueError) as error:
        raise EncoderError(f"{path}: {error}") from error


def read_weights(path: Path, *, device: str = "cpu") -> Weights:
    """Read a state dict without running anything that the file holds; what wraps it is taken off.

    With ``device="meta"`` only the shapes are read.

    Raises:
        EncoderError: The file cannot be read, or holds more than tensors.
    """
    try:
        state: Any = (
            _read_safetensors(path, device)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location=device, weights_only=True)
        )
        for wrapper in ("state_dict", "model", "model_state_dict"):
            state = state[wrapper] if isinstance(state.get(wrapper), dict) else state
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it holds something else")
        return {name.removeprefix("module."): value for name, value in state.items()}
    except Exception as error:  # what a foreign file can break has no end, and torch.load gives no narrower promise
        raise EncoderError(f"{path}: must be a readable file of named tensors alone: {first_line(error)}") from error


def _read_safetensors(path: Path, device: str) -> Weights:
    if device != "meta":
        return load_file(path, device=device)
    with safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device=device) for name in file.keys()}  # noqa: SIM118


def first_line(error: Exception) -> str:
    """Cut an error down to a line: torch's fill a page, and advise to trust the file."""
    text = str(error)
    if refused := re.search(r"WeightsUnpickler error:\s*(.+?)(\. |\n|$)", text):
        text = refused[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    return " ".join(lines)[:300] or type(error).__name__


def rename(weights: Weights, names: Names, *, left: re.Pattern[str] = NEVER_LEFT) -> Weights:
    """Give weights our names.

    Raises:
        EncoderError: Lists the keys that no pattern names.
    """
    patterns = [(re.compile(re.escape(key).replace(r"\*", r"(\d+)") + "$"), own) for key, own in names.items()]
    renamed, unknown = {}, []
    for name, weight in weights.items():
        matches = ((pattern.match(name), own) for pattern, own in patterns)
        found = next(((match, own) for match, own in matches if match), None)
        if found is not None:
            match, own = found
            renamed[own.replace("*", match[1]) if match.groups() else own] = weight.float()
        elif not left.match(name):
            unknown.append(name)
    if unknown:
        raise EncoderError(f"{len(unknown)} weights unknown: {', '.join(sorted(unknown))}")
    return renamed


def measure_card(weights: Weights, *, method: str, heads: Heads | None, quick_gelu: bool) -> Card:
    """Read the towers' shapes off weights with our names.

    Raises:
        EncoderError: Weights that tell are missing.
    """
    needed = (
        "vision.patches.weight",
        "vision.positions",
        "vision.proj",
        "text.embedding.weight",
        "text.positions",
        "text.proj",
    )
    missing = [name for name in needed if name not in weights]
    if missing:
        raise EncoderError(f"{len(missing)} weights missing: {', '.join(missing)}")
    width, _, patch, _ = weights["vision.patches.weight"].shape
    side = round((len(weights["vision.positions"]) - 1) ** 0.5)
    vision = VisionShape(
        image_size=side * patch,
        patch=patch,
        width=width,
        layers=_depth(weights, "vision.blocks."),
        heads=heads[0] if heads else max(1, width // 64),
        dim=weights["vision.proj"].shape[1],
        quick_gelu=quick_gelu,
    )
    vocabulary, text_width = weights["text.embedding.weight"].shape
    text = TextShape(
        context=len(weights["text.positions"]),
        vocabulary=vocabulary,
        width=text_width,
        layers=_depth(weights, "text.blocks."),
        heads=heads[1] if heads else max(1, text_width // 64),
        dim=weights["text.proj"].shape[1],
        quick_gelu=quick_gelu,
    )
    return Card(method, f"ViT-{_letter(width)}-{patch}", vision, text)


def _from_tempme(weights: Weights, missing: Missing) -> ClipModel:
    own, schedule = rename(weights, TEMPME), missing.schedule
    for name in [name for name in own if name.startswith("vision.temporal.")]:
        own[name] = own[name].reshape(own[name].shape[1], -1)  # (1, clip, 1, width)
    card = measure_card(own, method="tempme", heads=missing.heads, quick_gelu=True)
    tables = {name: len(own[name]) for name in own if name.startswith("vision.temporal.")}
    expected = {f"vision.temporal.{layer}" for layer in schedule.layers}
    if set(tables) != expected:
        raise EncoderError(f"schedule must merge at {sorted(tables)} as the checkpoint does, got {sorted(expected)}")
    num_frames = tables[f"vision.temporal.{schedule.layers[0]}"] if schedule.layers else 12
    lora = next((len(own[name]) for name in own if name.endswith("lora.a")), 0)
    card = replace(card, merging=schedule, lora_rank=lora, sampling=Sampling(num_frames=num_frames))
    return _fill(card, own)


def _from_promptswitch(weights: Weights, missing: Missing) -> ClipModel:
    own = rename(pack_attention(weights), PROMPT_SWITCH, left=PROMPT_SWITCH_LEFT)
    for name in ("vision.proj", "text.proj"):
        if name in own:
            own[name] = own[name].T
    card = measure_card(own, method="promptswitch", heads=missing.heads, quick_gelu=True)
    if "vision.prompts.cube" not in own:
        raise EncoderError(f"1 weights missing: {PROMPT_KEY}")
    num_prompts = len(own["vision.prompts.cube"])
    return _fill(replace(card, prompts=missing.prompts or PromptShape(num_prompts, num_prompts)), own)


def _from_ucofia(weights: Weights, missing: Missing) -> ClipModel:
    own, card = _take_clip(weights, "ucofia", missing.heads)
    return _fill(replace(card, token_shift=True), own)


def _from_glscl(weights: Weights, missing: Missing) -> ClipModel:
    own, card = _take_clip(weights, "glscl", missing.heads)
    return _fill(card, own)


def _take_clip(weights: Weights, method: str, heads: Heads | None) -> tuple[Weights, Card]:
    """Return CLIP's weights alone, all of which must be known; the aligner's own are the aligner's business."""
    own = rename({name: weight for name, weight in weights.items() if name.startswith("clip.")}, UCOFIA)
    return own, measure_card(own, method=method, heads=heads, quick_gelu=True)


SOURCES: Mapping[str, Callable[[Weights, Missing], ClipModel]] = {
    "tempme": _from_tempme,
    "promptswitch": _from_promptswitch,
    "ucofia": _from_ucofia,
    "glscl": _from_glscl,
}


def from_open_clip(state: Weights, card: Card) -> ClipModel:
    """Build a model of a card from the state dict of an open_clip model."""
    return _fill(card, rename(state, OPEN_CLIP, left=re.compile(r"attn_mask$|logit_bias$")))


def pack_attention(weights: Weights) -> Weights:
    """Join separate query, key and value projections to one, in this order."""
    packed = dict(weights)
    for name in weights:
        if ".self_attn.q_proj." in name and name.startswith("clip."):
            parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            if all(part in packed for part in parts):
                packed[name.replace("q_proj", "qkv")] = torch.cat([packed.pop(part) for part in parts])
    return packed


def _fill(card: Card, weights: Weights) -> ClipModel:
    model = ClipModel(card)
    load_exactly(model, {name: weight.float() for name, weight in weights.items()}, card.method)
    return model


def _depth(weights: Weights, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _letter(width: int) -> str:
    return {768: "B", 1024: "L", 1280: "H"}.get(width, str(width))
