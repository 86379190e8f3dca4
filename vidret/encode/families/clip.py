"""CLIP models by name: a vidret file, or a model of open_clip with the card derived from it."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch

from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import Card, ClipModel, load_model, merge_tokens, read_card
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.encoder import Encoder
from vidret.encode.families.open_clip import OpenClipEncoder, load_open_clip, read_resize
from vidret.encode.names import ModelName, refuse_marks
from vidret.encode.precision import DTYPES, MIN_COSINE, choose_float_precision, choose_precision
from vidret.errors import EncoderError
from vidret.types import Sampling

logger = logging.getLogger(__name__)

COMPILE_VARIABLE = "VIDRET_COMPILE"


def load_clip(name: ModelName, *, device: str, precision: str) -> Encoder:
    """Load a CLIP model from a vidret file or from open_clip; names are described at ``load_encoder``.

    The variable ``VIDRET_COMPILE`` names a backend of ``torch.compile``, such as ``inductor``, for the frames of ViTs
    with CLIP's standard blocks. Raise EncoderError if the backend is unknown; or the name is unknown, the weights
    cannot be downloaded, or they do not fit the architecture; or the precision is int8, and the device not the CPU or
    the model not a ViT with CLIP's standard blocks; or the model cannot merge tokens.
    """
    place = torch.device(device)
    chosen = choose_precision(precision, place)
    if precision == "auto":
        logger.info("precision auto is %s on %s", chosen, device)
    int8_cosine = None if chosen != "int8" else -1.0 if precision == "int8" else MIN_COSINE
    settings: dict[str, Any] = {
        "device": place,
        "dtype": DTYPES[chosen],
        "int8_cosine": int8_cosine,
        "compiler": read_compiler(),
        "cuts_texts": name.words is not None,
    }
    path = Path(name.base).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        tokenizer = open_clip.SimpleTokenizer(context_length=name.words or card.text.context)
        if card.text.vocabulary != tokenizer.vocab_size:
            size, own = tokenizer.vocab_size, card.text.vocabulary
            raise EncoderError(f"{path}: vocabulary must be CLIP's {size} word pieces, got {own}")
        model = load_model(path, replace(card, sampling=name.sample(card.sampling)))
        return ClipEncoder(
            str(replace(name, base=str(path))), merge_tokens(model, name.merge, name=name.base), tokenizer, **settings
        )
    source, other, tokenizer = load_open_clip(name)
    card = derive_card(other, source.architecture)
    if card is None or not isinstance(tokenizer, open_clip.SimpleTokenizer):
        refuse_marks(name)
        dtype = DTYPES[choose_float_precision(name.base, precision, place)]
        sampling = name.sample(Sampling())
        return OpenClipEncoder(str(source), other, tokenizer, device=place, dtype=dtype, sampling=sampling)
    card = replace(card, sampling=name.sample(card.sampling))
    if name.words is not None:
        tokenizer = open_clip.SimpleTokenizer(context_length=name.words)
    model = merge_tokens(from_open_clip(other.state_dict(), card), name.merge, name=name.base)
    return ClipEncoder(str(source), model, tokenizer, **settings)


def read_compiler() -> str | None:
    """Return the backend of ``torch.compile`` that ``VIDRET_COMPILE`` names; None if it is not set.

    Raise EncoderError if there is no such backend.
    """
    backend = os.environ.get(COMPILE_VARIABLE)
    if not backend:
        return None
    known: list[str] = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise EncoderError(f"{COMPILE_VARIABLE} must be one of {', '.join(known)}, got {backend}")
    return backend


def load_towers(name: str) -> ClipModel:
    """Load a model for training: in float32, with low-rank updates unfolded.

    Raise EncoderError as in ``load_clip``, or the model is not a ViT with CLIP's standard blocks.
    """
    path = Path(name).absolute()
    card = read_card(path) if path.is_file() else None
    if card is not None:
        return load_model(path, card)
    source, other, _ = load_open_clip(ModelName(name))
    card = derive_card(other, source.architecture)
    if card is None:
        raise EncoderError(f"{name}: a model to train must be a ViT with CLIP's standard blocks")
    return from_open_clip(other.float().state_dict(), card)


def derive_card(model: Any, architecture: str) -> Card | None:
    """Return the card of an open_clip model, or None if it is not a ViT with CLIP's standard blocks."""
    visual = model.visual
    plain = type(model) is open_clip.CLIP and type(visual) is open_clip.transformer.VisionTransformer
    if not plain or visual.attn_pool is not None or visual.proj is None or visual.pool_type != "tok":
        return None
    preprocess = open_clip.get_model_preprocess_cfg(model)
    resize = read_resize(architecture, preprocess)
    vision_block, text_block = visual.transformer.resblocks[0], model.transformer.resblocks[0]
    standard = all(type(block) is open_clip.transformer.ResidualAttentionBlock for block in (vision_block, text_block))
    scaled = any(hasattr(block.ls_1, "gamma") for block in (vision_block, text_block))
    odd = visual.final_ln_after_pool or not hasattr(visual.ln_pre, "weight") or visual.conv1.bias is not None
    if not standard or scaled or odd or resize.squash or model.text_pool_type != "argmax":
        return None
    quick = [type(block.mlp.gelu) is open_clip.transformer.QuickGELU for block in (vision_block, text_block)]
    hidden = [block.mlp.c_fc.out_features / block.mlp.c_fc.in_features for block in (vision_block, text_block)]
    width, text_width = visual.conv1.out_channels, model.token_embedding.embedding_dim
    vision = VisionShape(
        image_size=resize.crop,
        patch=visual.conv1.kernel_size[0],
        width=width,
        layers=len(visual.transformer.resblocks),
        heads=vision_block.attn.num_heads,
        dim=visual.proj.shape[1],
        quick_gelu=quick[0],
        mlp_ratio=hidden[0],
    )
    text = TextShape(
        context=model.positional_embedding.shape[0],
        vocabulary=model.token_embedding.num_embeddings,
        width=text_width,
        layers=len(model.transformer.resblocks),
        heads=text_block.attn.num_heads,
        dim=model.text_projection.shape[1],
        quick_gelu=quick[1],
        mlp_ratio=hidden[1],
    )
    mean, std = tuple(preprocess["mean"]), tuple(preprocess["std"])
    return Card("clip", architecture, vision, text, mean=mean, std=std, interpolation=resize.interpolation)
