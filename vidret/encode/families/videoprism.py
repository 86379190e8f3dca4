"""Conversion of VideoPrism's released video-text weights from JAX to a folder that ``hf:FOLDER`` loads.

Reference: google-deepmind/videoprism, "encoders.py" and "layers.py", whose names of parameters are used here.
"""

import importlib
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from vidret.encode.clip.weights import first_line
from vidret.encode.model_hub import hide_progress
from vidret.errors import EncoderError
from vidret.text import format_count

CONTEXT = 64  # tokens
STACK = "transformers_stack/x_layers"
STACKS = {
    f"vision_encoder/spatial_encoder/{STACK}": "video_model.vision_model.spatial_layers",
    f"vision_encoder/temporal_encoder/{STACK}": "video_model.vision_model.temporal_layers",
    f"auxiliary_encoder/{STACK}": "video_model.auxiliary_layers",
    "text_encoder/unimodal_transformer/x_layers": "text_model.layers",
}
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "post": "o_proj"}
ATTENTION = {
    f"{key}/{end}": f"{name}.{part}"
    for key, name in PROJECTIONS.items()
    for end, part in (("w", "weight"), ("b", "bias"))
}
LINEAR = {"kernel": "weight", "bias": "bias"}
NORM = {"scale": "weight", "bias": "bias"}
LAYER = {
    **{f"self_attention/{key}": f"attention.{name}" for key, name in ATTENTION.items()},
    **{f"ff_layer/ffn_layer{n}/linear/{key}": f"mlp.fc{n}.{name}" for n in (1, 2) for key, name in LINEAR.items()},
    **{f"layer_norm/{key}": f"layernorm_before.{name}" for key, name in NORM.items()},
    **{f"ff_layer/layer_norm/{key}": f"layernorm_after.{name}" for key, name in NORM.items()},
}
PATCHES, POOLER = "vision_encoder/patch_projection/linear", "contrastive_vision_pooler"
OTHERS = {
    f"{PATCHES}/kernel": "video_model.vision_model.spatial_embeddings.patch_embeddings.projection.weight",
    f"{PATCHES}/bias": "video_model.vision_model.spatial_embeddings.patch_embeddings.projection.bias",
    "vision_encoder/spatial_pos_emb/emb_var": "video_model.vision_model.spatial_embeddings.position_embeddings",
    "vision_encoder/temporal_pos_emb/emb_var": "video_model.vision_model.temporal_embeddings.position_embeddings",
    **{f"vision_encoder/spatial_ln/{end}": f"video_model.vision_model.layernorm1.{name}" for end, name in NORM.items()},
    **{
        f"vision_encoder/temporal_ln/{end}": f"video_model.vision_model.layernorm2.{name}" for end, name in NORM.items()
    },
    **{f"{POOLER}/pooling_attention/{end}": f"video_model.head.{name}" for end, name in ATTENTION.items()},
    f"{POOLER}/pooling_attention/per_dim_scale/per_dim_scale": "video_model.head.per_dim_scale",
    f"{POOLER}/pooling_attention_query": "video_model.head.pooling_attention_query",
    **{
        f"{POOLER}/pooling_attention_layer_norm/{end}": f"video_model.head_layernorm.{name}"
        for end, name in NORM.items()
    },
    "text_encoder/cls_emb": "text_model.embeddings.cls_emb",
    "text_encoder/token_emb/emb_var": "text_model.embeddings.token_embedding.weight",
    **{f"text_encoder/unimodal_ln/{end}": f"text_model.layernorm.{name}" for end, name in NORM.items()},
}
Parameters = Mapping[str, Float[np.ndarray, "..."]]


def convert_videoprism(weights: Path, vocabulary: Path, out: Path) -> None:
    """Write the model, its tokenizer and its processor to a folder.

    Args:
        weights: The released .npz of VideoPrism-LvT.
        vocabulary: The SentencePiece model c4_en (T5's ``spiece.model``), which is released separately.
        out: The folder, which may exist.

    Raises:
        EncoderError: A file cannot be read, or its weights are not those of VideoPrism-LvT.
    """
    transformers: Any = importlib.import_module("transformers")
    parameters = read_npz(weights)
    state = rename_parameters(parameters, weights)
    with hide_progress():
        model = transformers.VideoPrismClipModel(transformers.VideoPrismConfig(**measure_config(parameters)))
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise EncoderError(f"{weights}: {first_line(error)}") from error
    if missing := [name for name in missing if "position_embedding" not in name and "position_ids" not in name]:
        raise EncoderError(f"{weights}: {format_count(len(missing), 'weight')} missing: {', '.join(missing[:5])}")
    if unknown:
        raise EncoderError(f"{weights}: {format_count(len(unknown), 'weight')} unknown: {', '.join(unknown[:5])}")
    pieces, charsmap = read_pieces(vocabulary)
    if len(pieces) != model.config.text_config.vocab_size:
        wanted = model.config.text_config.vocab_size
        raise EncoderError(f"{vocabulary}: must have {wanted} pieces, as the weights, got {len(pieces)}")
    tokenizer = transformers.VideoPrismTokenizer(
        vocab=pieces, _spm_precompiled_charsmap=charsmap or None, extra_ids=0, model_max_length=CONTEXT
    )
    side = model.config.vision_config.image_size
    processor = transformers.LlavaOnevisionVideoProcessor(size={"height": side, "width": side}, do_normalize=False)
    for part in (model, transformers.VideoPrismProcessor(processor, tokenizer)):
        part.save_pretrained(out)


def read_npz(path: Path) -> dict[str, Float[np.ndarray, "..."]]:
    """Return the parameters of a .npz by their names without ``params/``; code in it is never run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name.removeprefix("params/"): file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise EncoderError(f"{path}: must be an .npz of arrays: {error}") from error


def rename_parameters(found: Parameters, path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters under the names of transformers, with stacks split into layers.

    Raise EncoderError if a name is unknown.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        stack = next((stack for stack in STACKS if name.startswith(f"{stack}/")), None)
        new_name = LAYER.get(name.removeprefix(f"{stack}/")) if stack else OTHERS.get(name)
        if new_name is None:
            raise EncoderError(f"{path}: must be of VideoPrism-LvT, got a weight named {name}")
        if stack is None:
            state[new_name] = turn_parameter(name, value)
            continue
        for index, layer in enumerate(value):
            state[f"{STACKS[stack]}.{index}.{new_name}"] = turn_parameter(name, layer)
    return state


def turn_parameter(name: str, value: Float[np.ndarray, "..."]) -> torch.Tensor:
    """Return a parameter of one layer in the shape of transformers."""
    if name == f"{PATCHES}/kernel":
        side = round((len(value) // 3) ** 0.5)
        value = rearrange(value, "(y x c) dim -> dim c 1 y x", y=side, x=side)
    elif name.endswith("pos_emb/emb_var"):
        value = value[None]
    elif name.endswith("pooling_attention_query"):
        value = value.reshape(1, 1, -1)
    elif name.endswith("/kernel"):
        value = value.T
    elif name.endswith(("query/w", "key/w", "value/w")):
        value = rearrange(value, "dim head width -> (head width) dim")
    elif name.endswith("post/w"):
        value = rearrange(value, "dim head width -> dim (head width)")
    elif name.endswith("/b"):
        value = value.reshape(-1)
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))


def measure_config(found: Parameters) -> dict[str, dict[str, Any]]:
    """Return the configuration, by the shapes of the parameters; raise EncoderError if a part is missing."""
    try:
        queries = {stack: found[f"{stack}/self_attention/query/w"].shape for stack in STACKS}
        layers, width, heads = zip(*(shape[:3] for shape in queries.values()), strict=True)
        mlp = [found[f"{stack}/ff_layer/ffn_layer1/linear/kernel"].shape[-1] for stack in STACKS]
        patch = round((len(found[f"{PATCHES}/kernel"]) // 3) ** 0.5)
        grid = round(len(found["vision_encoder/spatial_pos_emb/emb_var"]) ** 0.5)
        vision, words = (
            {"hidden_size": width[row], "num_attention_heads": heads[row], "intermediate_size": mlp[row]}
            for row in (0, len(STACKS) - 1)
        )
        vision |= {"num_spatial_layers": layers[0], "num_temporal_layers": layers[1], "num_auxiliary_layers": layers[2]}
        vision |= {"image_size": grid * patch, "tubelet_size": [1, patch, patch]}
        vision |= {"num_frames": len(found["vision_encoder/temporal_pos_emb/emb_var"])}
        words |= {"num_hidden_layers": layers[3], "vocab_size": len(found["text_encoder/token_emb/emb_var"])}
    except KeyError as error:
        raise EncoderError(f"the weights must be of VideoPrism-LvT, got none named {error.args[0]}") from error
    return {"vision_config": vision, "text_config": words | {"max_position_embeddings": CONTEXT}}


# Field numbers of SentencePiece's ModelProto, its pieces, and its NormalizerSpec.
PIECES, NORMALIZER, PIECE, SCORE, CHARSMAP = 1, 3, 1, 2, 2


def read_pieces(path: Path) -> tuple[list[tuple[str, float]], bytes]:
    """Return the pieces of a SentencePiece model with their scores, and its table of character replacements.

    Raise EncoderError if the file cannot be read, or is not a SentencePiece model.
    """
    try:
        fields = list(read_fields(path.read_bytes()))
        pieces = [dict(read_fields(value)) for field, value in fields if field == PIECES]
        normalizer = next((dict(read_fields(value)) for field, value in fields if field == NORMALIZER), {})
        scored = [(piece[PIECE].decode(), struct.unpack("<f", piece[SCORE])[0]) for piece in pieces]
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise EncoderError(f"{path}: must be a SentencePiece model, such as T5's spiece.model: {error}") from error
    return scored, normalizer.get(CHARSMAP, b"")


def read_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protocol buffers message by number; varints stay encoded."""
    position = 0

    def read_number() -> int:
        nonlocal position
        number = shift = 0
        while True:
            byte = data[position]
            position += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    while position < len(data):
        key = read_number()
        start, wire = position, key & 7
        if wire == 0:
            read_number()
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        elif wire == 2:
            length = read_number()
            start, position = position, position + length
        else:
            raise ValueError(f"wire type must be 0, 1, 2 or 5, got {wire}")
        if position > len(data):
            raise ValueError("the file is cut off")
        yield key >> 3, data[start:position]
