"""Conversion of published checkpoints: weights are renamed, and a card is derived from their shapes.

Every weight must be in its source's table of names, or be listed as ignored; an unknown name is an error.
"""

import logging
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from vidret.encode.clip.model import Card, ClipModel, fill_model
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import KEPT_POSITIONS, TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.errors import EncoderError
from vidret.model_files import count_layers, refuse_weights, rename_weights
from vidret.types import Sampling

logger = logging.getLogger(__name__)

Names = Mapping[str, str]

WRAPPERS = ("model_ema", "state_dict", "model", "model_state_dict")  # keys in a checkpoint, averages first
PROMPT_KEY = "clip.vision_model.encoder.prompt_embedding"

_PARTS = ("weight", "bias")
_OPEN_BLOCK = {
    name: name
    for part in _PARTS
    for name in (
        f"attn.in_proj_{part}",
        *(f"{layer}.{part}" for layer in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")),
    )
}
_LORA = {"attn.TVPt_LoRA_a": "attn.lora.a", "attn.TVPt_LoRA_b": "attn.lora.b"}
OPEN_CLIP: Names = {
    "visual.conv1.weight": "vision.patches.weight",
    "visual.class_embedding": "vision.class_embedding",
    "visual.positional_embedding": "vision.positions",
    "visual.proj": "vision.proj",
    **{f"visual.{norm}.{part}": f"vision.{norm}.{part}" for norm in ("ln_pre", "ln_post") for part in _PARTS},
    **{f"visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{name}" for key, name in _OPEN_BLOCK.items()},
    "token_embedding.weight": "text.embedding.weight",
    "positional_embedding": "text.positions",
    "text_projection": "text.proj",
    **{f"ln_final.{part}": f"text.ln_final.{part}" for part in _PARTS},
    **{f"transformer.resblocks.*.{key}": f"text.blocks.*.{name}" for key, name in _OPEN_BLOCK.items()},
    "logit_scale": "logit_scale",
}
TEMPME: Names = {
    **{f"clip.{key}": name for key, name in OPEN_CLIP.items()},
    **{f"clip.visual.transformer.resblocks.*.{key}": f"vision.blocks.*.{name}" for key, name in _LORA.items()},
    **{f"clip.transformer.resblocks.*.{key}": f"text.blocks.*.{name}" for key, name in _LORA.items()},
    "clip.visual.transformer.resblocks.*.TVPt_Video_Positional_embedding": "vision.temporal.*",
}
_SHIFTED = {key: name for key, name in _OPEN_BLOCK.items() if key.startswith("attn.")}
UCOFIA: Names = {
    **{f"clip.{key}": name for key, name in OPEN_CLIP.items()},
    # UCoFiA's token shift wraps the attention of the last two blocks, which renames it.
    **{
        f"clip.visual.transformer.resblocks.*.{key.replace('attn.', 'attn.net.', 1)}": f"vision.blocks.*.{name}"
        for key, name in _SHIFTED.items()
    },
}
_HF_BLOCK = {
    **{f"self_attn.out_proj.{part}": f"attn.out_proj.{part}" for part in _PARTS},
    **{f"self_attn.qkv.{part}": f"attn.in_proj_{part}" for part in _PARTS},  # packed by pack_attention
    **{f"layer_norm{n}.{part}": f"ln_{n}.{part}" for n in (1, 2) for part in _PARTS},
    **{f"mlp.fc1.{part}": f"mlp.c_fc.{part}" for part in _PARTS},
    **{f"mlp.fc2.{part}": f"mlp.c_proj.{part}" for part in _PARTS},
}
PROMPT_SWITCH: Names = {
    "clip.vision_model.embeddings.class_embedding": "vision.class_embedding",
    "clip.vision_model.embeddings.patch_embedding.weight": "vision.patches.weight",
    "clip.vision_model.embeddings.position_embedding.weight": "vision.positions",
    **{f"clip.vision_model.pre_layrnorm.{part}": f"vision.ln_pre.{part}" for part in _PARTS},
    **{f"clip.vision_model.post_layernorm.{part}": f"vision.ln_post.{part}" for part in _PARTS},
    **{f"clip.vision_model.encoder.layers.*.{key}": f"vision.blocks.*.{name}" for key, name in _HF_BLOCK.items()},
    PROMPT_KEY: "vision.prompts.cube",
    **{
        f"clip.vision_model.attn.{name}{part}": f"vision.prompts.aggregation.{name}{part}"
        for name in ("in_proj_", "out_proj.")
        for part in _PARTS
    },
    "clip.visual_projection.weight": "vision.proj",
    "clip.text_model.embeddings.token_embedding.weight": "text.embedding.weight",
    "clip.text_model.embeddings.position_embedding.weight": "text.positions",
    **{f"clip.text_model.final_layer_norm.{part}": f"text.ln_final.{part}" for part in _PARTS},
    **{f"clip.text_model.encoder.layers.*.{key}": f"text.blocks.*.{name}" for key, name in _HF_BLOCK.items()},
    "clip.text_projection.weight": "text.proj",
    "clip.logit_scale": "logit_scale",
}


Weights = dict[str, Tensor]
Heads = tuple[int, int]

PROMPT_SWITCH_IGNORED = re.compile(r"caption_|clip\.(text|vision)_model\.embeddings\.position_ids$")
LONG_POSITIONS = "positional_embedding_res"
LONG_IGNORED = re.compile(r"(input_resolution|context_length|vocab_size)$")
_LETTERS = {768: "B", 1024: "L", 1280: "H"}  # in the names of ViTs, by width
FRAME_MIXING = "frame_logit_weight"  # UCoFiA's matrix over its trained number of frames


@dataclass(frozen=True, slots=True)
class ConversionSettings:
    """Settings that checkpoints do not store: TempMe's schedule, Prompt Switch's prompts, numbers of heads."""

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
    """Convert a published state dict to a model, in evaluation mode.

    Args:
        weights: The state dict, with the names of the method's own code.
        source: ``tempme``, ``promptswitch``, ``ucofia``, ``glscl`` or ``longclip``.
        schedule: TempMe's merge schedule, which its checkpoints do not store; default: the published one.
        prompts: Prompt Switch's prompts and frames per clip; default: as many frames per clip as prompts.
        heads: Attention heads of the vision and the text tower; default: one per 64 channels.

    Raises:
        EncoderError: The source is unknown, or weights are missing or unknown; the message lists the first.
    """
    if source not in SOURCES:
        raise EncoderError(f"source must be one of {', '.join(SOURCES)}, got {source}")
    return SOURCES[source](
        weights, ConversionSettings(schedule=schedule or MergeSchedule(), prompts=prompts, heads=heads)
    )


def convert_file(path: Path, source: str, *, schedule: MergeSchedule, clip_frames: int | None) -> ClipModel:
    """Convert a checkpoint file; ``schedule`` applies to TempMe, ``clip_frames`` (per clip) to Prompt Switch.

    Raise EncoderError if the file cannot be read, or its weights are not the source's; the message has the path.
    """
    weights = read_weights(path)
    try:
        prompts = None
        if clip_frames is not None and PROMPT_KEY in weights:
            prompts = PromptShape(len(weights[PROMPT_KEY]), clip_frames)
        return convert_state_dict(weights, source, schedule=schedule, prompts=prompts)
    except (EncoderError, ValueError) as error:
        raise EncoderError(f"{path}: {error}") from error
    except (IndexError, TypeError, RuntimeError) as error:  # a weight has too few axes, or does not match others
        raise EncoderError(f"{path}: must have weights of the shapes of {source}: {first_line(error)}") from error


def read_weights(path: Path, *, device: str = "cpu") -> Weights:
    """Load a state dict without executing code from the file; wrapping dicts and ``module.`` prefixes are removed.

    Of several states in a file, the first of ``WRAPPERS`` is loaded, which is logged. With ``device="meta"``, only
    shapes are loaded. Raise EncoderError if the file cannot be read, or contains other values than named tensors.
    """
    try:
        state: Any = (
            _read_safetensors(path, device)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location=device, weights_only=True)
        )
        for wrapper in WRAPPERS:
            if isinstance(state.get(wrapper), dict):
                _note_state(path, wrapper, *(name for name in WRAPPERS if isinstance(state.get(name), dict)))
                state = state[wrapper]
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it contains something else")
        return {name.removeprefix("module."): value for name, value in state.items()}
    except Exception as error:  # torch.load documents no exceptions, and a corrupt file can raise any
        is_known = isinstance(error, OSError | RuntimeError | TypeError | SafetensorError | pickle.UnpicklingError)
        reason = first_line(error) if is_known else "neither PyTorch nor safetensors wrote it"
        raise EncoderError(f"{path}: must be a readable file of nothing but named tensors: {reason}") from error


@lru_cache(maxsize=16)
def _note_state(path: Path, taken: str, *states: str) -> None:
    """Log, once per file, which of several states is loaded."""
    if len(states) > 1:
        logger.warning("%s holds weights named %s: %s were taken", path, " and ".join(states), taken)


def _read_safetensors(path: Path, device: str) -> Weights:
    if device != "meta":
        return load_file(path, device=device)
    with safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device=device) for name in file.keys()}  # noqa: SIM118


def first_line(error: Exception) -> str:
    """Return the first line of an error; torch's errors fill a page and advise to trust the file."""
    text = getattr(error, "strerror", None) or str(error)
    if refused := re.search(r"WeightsUnpickler error:\s*(.+?)(\. |\n|$)", text):
        text = refused[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    return " ".join(lines)[:300] or type(error).__name__


def measure_card(weights: Weights, *, method: str, heads: Heads | None) -> Card:
    """Return a card with the tower sizes of weights under vidret's names.

    Raise EncoderError if weights that determine a size are missing.
    """
    needed = ["vision.patches.weight", "text.embedding.weight"]
    needed += [f"{tower}.{name}" for tower in ("vision", "text") for name in ("positions", "proj")]
    refuse_weights("missing", [name for name in needed if name not in weights], EncoderError)
    width, _, patch, _ = weights["vision.patches.weight"].shape
    side = round((len(weights["vision.positions"]) - 1) ** 0.5)
    vision = VisionShape(
        image_size=side * patch,
        patch=patch,
        width=width,
        layers=count_layers(weights, "vision.blocks."),
        heads=heads[0] if heads else max(1, width // 64),
        dim=weights["vision.proj"].shape[1],
        quick_gelu=True,
    )
    vocabulary, text_width = weights["text.embedding.weight"].shape
    text = TextShape(
        context=len(weights["text.positions"]),
        vocabulary=vocabulary,
        width=text_width,
        layers=count_layers(weights, "text.blocks."),
        heads=heads[1] if heads else max(1, text_width // 64),
        dim=weights["text.proj"].shape[1],
        quick_gelu=True,
    )
    return Card(method, f"ViT-{_LETTERS.get(width, width)}-{patch}", vision, text)


def _from_tempme(weights: Weights, settings: ConversionSettings) -> ClipModel:
    renamed, schedule = rename_weights(weights, TEMPME, error=EncoderError), settings.schedule
    for name in [name for name in renamed if name.startswith("vision.temporal.")]:
        renamed[name] = renamed[name].reshape(renamed[name].shape[1], -1)  # (1, clip, 1, width)
    card = measure_card(renamed, method="tempme", heads=settings.heads)
    tables = {name: len(renamed[name]) for name in renamed if name.startswith("vision.temporal.")}
    expected = {f"vision.temporal.{layer}" for layer in schedule.layers}
    if set(tables) != expected:
        raise EncoderError(f"schedule must merge at {sorted(tables)} as the checkpoint does, got {sorted(expected)}")
    num_frames = tables[f"vision.temporal.{schedule.layers[0]}"] if schedule.layers else 12
    lora = next((len(renamed[name]) for name in renamed if name.endswith("lora.a")), 0)
    card = replace(card, merging=schedule, lora_rank=lora, sampling=Sampling(num_frames, rule="tempme"))
    return fill_model(card, renamed, card.method)


def _from_promptswitch(weights: Weights, settings: ConversionSettings) -> ClipModel:
    renamed = rename_weights(pack_attention(weights), PROMPT_SWITCH, ignored=PROMPT_SWITCH_IGNORED, error=EncoderError)
    for name in ("vision.proj", "text.proj"):
        if name in renamed:
            renamed[name] = renamed[name].T
    card = measure_card(renamed, method="promptswitch", heads=settings.heads)
    if "vision.prompts.cube" not in renamed:
        raise EncoderError(f"1 weight missing: {PROMPT_KEY}")
    num_prompts = len(renamed["vision.prompts.cube"])
    sampling = Sampling(2 * num_prompts, rule="segments", num_segments=num_prompts)  # two clips, as published
    prompts = settings.prompts or PromptShape(num_prompts, num_prompts)
    return fill_model(replace(card, prompts=prompts, sampling=sampling), renamed, card.method)


def _from_ucofia(weights: Weights, settings: ConversionSettings) -> ClipModel:
    renamed, card = _take_clip(weights, "ucofia", settings.heads)
    num_frames = len(weights[FRAME_MIXING]) if FRAME_MIXING in weights else Sampling().num_frames
    sampling = Sampling(num_frames, rule="clip4clip")
    return fill_model(replace(card, token_shift=True, sampling=sampling), renamed, card.method)


def _from_glscl(weights: Weights, settings: ConversionSettings) -> ClipModel:
    renamed, card = _take_clip(weights, "glscl", settings.heads)
    return fill_model(replace(card, sampling=Sampling(rule="clip4clip")), renamed, card.method)


def _take_clip(weights: Weights, method: str, heads: Heads | None) -> tuple[Weights, Card]:
    """Return CLIP's weights and card; the aligner's weights are converted by ``vidret.align``."""
    renamed = rename_weights(
        {name: weight for name, weight in weights.items() if name.startswith("clip.")}, UCOFIA, error=EncoderError
    )
    return renamed, measure_card(renamed, method=method, heads=heads)


def _from_longclip(weights: Weights, settings: ConversionSettings) -> ClipModel:
    """Convert Long-CLIP; its two tables of positions are joined: CLIP's own for the first 20, the trained one after."""
    table = {name: weight for name, weight in weights.items() if name != LONG_POSITIONS}
    if LONG_POSITIONS not in weights:
        raise EncoderError(f"1 weight missing: {LONG_POSITIONS}")
    if "positional_embedding" in table:
        kept = table["positional_embedding"][:KEPT_POSITIONS]
        table["positional_embedding"] = torch.cat([kept, weights[LONG_POSITIONS][KEPT_POSITIONS:].to(kept.dtype)])
    renamed = rename_weights(table, OPEN_CLIP, ignored=LONG_IGNORED, error=EncoderError)
    return fill_model(measure_card(renamed, method="longclip", heads=settings.heads), renamed, "longclip")


SOURCES: Mapping[str, Callable[[Weights, ConversionSettings], ClipModel]] = {
    "tempme": _from_tempme,
    "promptswitch": _from_promptswitch,
    "ucofia": _from_ucofia,
    "glscl": _from_glscl,
    "longclip": _from_longclip,
}


def from_open_clip(state: Weights, card: Card) -> ClipModel:
    """Build the model of a card from the state dict of an open_clip model."""
    renamed = rename_weights(state, OPEN_CLIP, ignored=re.compile(r"attn_mask$|logit_bias$"), error=EncoderError)
    return fill_model(card, renamed, card.method)


def pack_attention(weights: Weights) -> Weights:
    """Return the weights with separate query, key and value projections packed into one, in this order."""
    packed = dict(weights)
    for name in weights:
        if ".self_attn.q_proj." in name and name.startswith("clip."):
            parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            if all(part in packed for part in parts):
                packed[name.replace("q_proj", "qkv")] = torch.cat([packed.pop(part) for part in parts])
    return packed
