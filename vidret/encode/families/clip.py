"""Loading of CLIP models by name: a vidret file, or a model of open_clip, from which a card is derived."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import CLIP_MEAN, CLIP_STD, Card, ClipModel, load_model, merge_tokens, read_card
from vidret.encode.clip.text import NUM_PIECES, TextShape, clip_words
from vidret.encode.clip.vision import VisionShape
from vidret.encode.clip.weights import from_open_clip, read_weights
from vidret.encode.encoder import Encoder
from vidret.encode.names import ModelName, refuse_marks
from vidret.encode.open_clip_models import fetch_config, fetch_weights, locate_clip, one_line_errors, read_resize
from vidret.encode.precision import DTYPES, MIN_COSINE, choose_float_precision, choose_precision
from vidret.errors import EncoderError
from vidret.types import Sampling

logger = logging.getLogger(__name__)

COMPILE_VARIABLE = "VIDRET_COMPILE"


def load_clip(name: ModelName, *, device: str, precision: str) -> Encoder:
    """Load a CLIP model from a vidret file or from open_clip; names are described at ``load_encoder``.

    The variable ``VIDRET_COMPILE`` names a backend of ``torch.compile``, such as ``inductor``, for the vision towers of
    ViTs with CLIP's standard blocks. Raise EncoderError if the backend or the name is unknown; the weights cannot be
    downloaded or do not fit the architecture; the precision is int8, and the device not the CPU or the model not a ViT
    with CLIP's standard blocks; or the model cannot merge tokens.
    """
    torch_device = torch.device(device)
    chosen = choose_precision(precision, torch_device)
    if precision == "auto":
        logger.info("precision auto is %s on %s", chosen, device)
    int8_cosine = None if chosen != "int8" else -1.0 if precision == "int8" else MIN_COSINE
    settings: dict[str, Any] = {
        "device": torch_device,
        "dtype": DTYPES[chosen],
        "int8_cosine": int8_cosine,
        "compiler": read_compiler(),
        "cuts_texts": name.words is not None,
    }
    path = Path(name.base).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        if card.text.vocabulary != NUM_PIECES:
            raise EncoderError(
                f"{path}: vocabulary must be CLIP's {NUM_PIECES} word pieces, got {card.text.vocabulary}"
            )
        source = replace(name, base=str(path))
        towers = load_model(path, card)  # with the trained number of temporal positions
        towers.card = replace(card, sampling=name.sample(card.sampling))
        model: ClipModel | None = towers
    else:
        source = locate_clip(name)
        model = _load_standard(name, source)
    if model is None:
        return _load_foreign(name, source, torch_device, precision)
    tokenizer = partial(clip_words, context_length=name.words or model.card.text.context)
    return ClipEncoder(str(source), merge_tokens(model, name.merge, name=name.base), tokenizer, **settings)


def _load_foreign(name: ModelName, source: ModelName, device: torch.device, precision: str) -> Encoder:
    """Load a model that open_clip itself runs; importing it takes seconds."""
    from vidret.encode.families.open_clip import OpenClipEncoder, load_open_clip

    model, tokenizer = load_open_clip(name, source)
    refuse_marks(name)
    dtype = DTYPES[choose_float_precision(name.base, precision, device)]
    sampling = name.sample(Sampling())
    return OpenClipEncoder(str(source), model, tokenizer, device=device, dtype=dtype, sampling=sampling)


def read_compiler() -> str | None:
    """Return the backend of ``torch.compile`` in ``VIDRET_COMPILE``; None if it is not set.

    Raise EncoderError if there is no such backend.
    """
    backend = os.environ.get(COMPILE_VARIABLE)
    if not backend:
        return None
    backends: list[str] = torch.compiler.list_backends(exclude_tags=())
    if backend not in backends:
        raise EncoderError(f"{COMPILE_VARIABLE} must be one of {', '.join(backends)}, got {backend}")
    return backend


def load_towers(name: str) -> ClipModel:
    """Load a model for training: in float32, with low-rank updates unfolded.

    Raise EncoderError as in ``load_clip``, or if the model is not a ViT with CLIP's standard blocks.
    """
    path = Path(name).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        return load_model(path, card)
    parsed = ModelName(name)
    model = _load_standard(parsed, locate_clip(parsed))
    if model is None:
        raise EncoderError(f"{name}: a model to train must be a ViT with CLIP's standard blocks")
    return model


def _load_standard(name: ModelName, source: ModelName) -> ClipModel | None:
    """Load a model of open_clip, located at ``source``; None if it is not a ViT with CLIP's standard blocks.

    open_clip itself draws random weights, and loads weights that do not fit: it resizes positions, and reports missing
    weights.
    """
    with one_line_errors(name.base):
        config, preprocess = fetch_config(source)
        card = derive_card(source.architecture, config, preprocess)
        if card is None:
            return None
        if not source.scheme and preprocess and bool(preprocess.get("quick_gelu")) != card.vision.quick_gelu:
            facts = ("without", "has") if card.vision.quick_gelu else ("with", "lacks")
            logger.warning("%s: its weights were trained %s QuickGELU, which its architecture %s", name.base, *facts)
        card = replace(card, sampling=name.sample(card.sampling))
        path = fetch_weights(source)
        if path is not None:
            weights = read_weights(path)
            try:
                return from_open_clip(weights, card)
            except EncoderError as error:
                logger.info("open_clip loads %s: %s", name.base, error)
    from vidret.encode.families.open_clip import load_open_clip

    return from_open_clip(load_open_clip(name, source)[0].state_dict(), card)


# open_clip's defaults for the configuration of a tower
VISION_SIZES = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "head_width": 64, "mlp_ratio": 4.0}
TEXT_SIZES = {"context_length": 77, "vocab_size": NUM_PIECES, "width": 512, "layers": 12, "heads": 8, "mlp_ratio": 4.0}
# Settings of CLIP's standard blocks, and settings without effect on our vectors. All others must be off.
STANDARD = {"pool_type": ("tok", "argmax"), "block_type": ("default",), "proj_type": ("linear",)}
WITHOUT_EFFECT = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "pad_id", "eos_id"}


def derive_card(architecture: str, config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> Card | None:
    """Return the card of an open_clip model, or None if it is not a ViT with CLIP's standard blocks.

    Args:
        architecture: Its name.
        config: Its configuration.
        preprocess: Its preprocessing settings; missing ones have open_clip's defaults.

    Raises:
        EncoderError: Images are not cropped to a square.
    """
    vision, text = _read_sizes(config["vision_cfg"], VISION_SIZES), _read_sizes(config["text_cfg"], TEXT_SIZES)
    if vision is None or text is None or any(config.get(key) for key in ("custom_text", "nonscalar_logit_scale")):
        return None
    preprocess = {key: value for key, value in preprocess.items() if value is not None}
    resize = read_resize(architecture, {**preprocess, "size": vision["image_size"]})
    if resize.squash:
        return None
    quick_gelu, dim = bool(config.get("quick_gelu")), config["embed_dim"]
    return Card(
        "clip",
        architecture,
        VisionShape(
            image_size=resize.crop,
            patch=vision["patch_size"],
            width=vision["width"],
            layers=vision["layers"],
            heads=vision["width"] // vision["head_width"],
            dim=dim,
            quick_gelu=quick_gelu,
            mlp_ratio=vision["mlp_ratio"],
        ),
        TextShape(
            context=text["context_length"],
            vocabulary=text["vocab_size"],
            width=text["width"],
            layers=text["layers"],
            heads=text["heads"],
            dim=dim,
            quick_gelu=quick_gelu,
            mlp_ratio=text["mlp_ratio"],
        ),
        mean=tuple(preprocess.get("mean", CLIP_MEAN)),
        std=tuple(preprocess.get("std", CLIP_STD)),
        interpolation=resize.interpolation,
    )


def _read_sizes(tower: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, Any] | None:
    """Return the sizes of a tower, with an MLP ratio that gives whole channels; None if it is not a CLIP tower."""
    others = {key: value for key, value in tower.items() if value and key not in defaults.keys() | WITHOUT_EFFECT}
    sizes = {key: tower.get(key, default) for key, default in defaults.items()}
    is_standard = all(value in STANDARD.get(key, ()) for key, value in others.items())
    if not is_standard or not isinstance(sizes["layers"], int):
        return None
    return sizes | {"mlp_ratio": int(sizes["width"] * sizes["mlp_ratio"]) / sizes["width"]}
