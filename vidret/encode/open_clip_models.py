"""Models of open_clip before loading: their names, configurations, preprocessing and files."""

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vidret.encode.clip.weights import first_line, read_weights
from vidret.encode.model_hub import check_reachable
from vidret.encode.names import FILE_SUFFIXES, FOLDER, HUB, OPEN_CLIP_SCHEMES, RANDOM, RECOMMENDED, STARTER, ModelName
from vidret.encode.open_clip_parts import import_part, read_configs
from vidret.errors import EncoderError, UnknownEncoderError
from vidret.types import Resize

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"  # in a repository or a folder


def read_resize(name: str, preprocess: dict[str, Any]) -> Resize:
    """Return the resizing of an open_clip preprocessing configuration.

    Raise EncoderError if the configuration is not a square crop with a supported mode and interpolation.
    """
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode, interpolation = preprocess.get("resize_mode", "shortest"), preprocess.get("interpolation", "bicubic")
    if height != width or mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"{name}: preprocessing must be a square crop, got {height}x{width}, {mode}, {interpolation}"
        )
    return Resize(shorter=height, crop=height, interpolation=interpolation, squash=mode == "squash")


def locate_clip(name: ModelName) -> ModelName:
    """Return the name of a model with its architecture, and with the absolute path of its file, if it has one.

    Raises:
        EncoderError: The name is unknown, its file does not exist, or its weights are missing and the hub is
            unreachable, which is reported at once, not after a minute of retries.
    """
    source = _find_source(name)
    if source.weights != RANDOM and source.scheme != FOLDER and not Path(source.weights).is_file():
        repository, files = list_weight_files(source.architecture, source.weights)
        if repository:
            check_reachable(name.base, repository, files)
    return source


def _find_source(name: ModelName) -> ModelName:
    if name.scheme == HUB:
        return name
    if name.scheme == FOLDER:
        return replace(name, base=f"{FOLDER}:{Path(name.rest).absolute()}")
    base, architecture, weights = name.base, name.architecture, name.weights
    architectures = list(read_configs())
    if Path(base).suffix in FILE_SUFFIXES and architecture not in architectures:
        if not Path(base).is_file():
            raise EncoderError(f"{base}: no such file")
        return replace(name, base=f"{infer_architecture(Path(base))}/{Path(base).absolute()}")
    if architecture not in architectures:
        similar = difflib.get_close_matches(architecture, [STARTER, *RECOMMENDED, *architectures], n=1, cutoff=0.75)
        advice = f"; did you mean {similar[0]}{f'/{weights}' if weights else ''}?" if similar else ""
        if base.endswith(".ckpt"):
            advice = "; vidret train export writes the model of a checkpoint"
        raise UnknownEncoderError(
            f"model must be {', '.join((STARTER, *RECOMMENDED))}, an open_clip name such as "
            "ViT-B-32/laion2b_s34b_b79k, hf-hub:org/name, hf:org/name, package.module:Class, "
            f"endpoint:URL?model=NAME or the path of a .safetensors or .pt file, got {base}{advice}"
        )
    tags = import_part("pretrained").list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in tags and not Path(weights).is_file():
        if Path(weights).suffix in FILE_SUFFIXES:
            raise EncoderError(f"{base}: no such file: {weights}")
        allowed = f"one of {', '.join(tags)} or a file" if tags else "a file"
        raise EncoderError(f"weights of {architecture} must be {allowed}, got {weights!r}")
    is_file = weights != RANDOM and weights not in tags
    return replace(name, base=f"{architecture}/{Path(weights).absolute()}") if is_file else name


def infer_architecture(path: Path) -> str:
    """Return the open_clip ViT whose parameters have the shapes in a file.

    Raise EncoderError if none or several fit (with and without QuickGELU, shapes are equal but outputs are not).
    """
    shapes = {name: tuple(weight.shape) for name, weight in read_weights(path, device="meta").items()}
    wanted = {key: shapes.get(key) for key in ("visual.conv1.weight", "visual.positional_embedding", "text_projection")}
    wanted |= {key: shapes.get(key) for key in ("token_embedding.weight", "positional_embedding")}
    depth = sum(key.endswith("ln_1.weight") for key in shapes)
    fitting = [name for name, config in read_configs().items() if _shapes_of(config) == (wanted, depth)]
    if len(fitting) == 1:
        return fitting[0]
    hint = f"write {fitting[0]}/{path} or the like" if fitting else "write ARCHITECTURE/PATH"
    raise EncoderError(f"{path}: fits {', '.join(fitting) or 'no CLIP ViT that open_clip knows'}; {hint}")


def _shapes_of(config: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
    """Return the shapes that identify an open_clip ViT, and its number of blocks; None for other architectures."""
    vision, text, dim = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    keys = ("layers", "width", "patch_size")
    if any(not isinstance(vision.get(key), int) for key in keys) or "hf_model_name" in text:
        return None
    size, patch, width = vision.get("image_size", 224), vision["patch_size"], vision["width"]
    if not isinstance(size, int) or not {"layers", "width", "context_length", "vocab_size"} <= text.keys():
        return None
    shapes = {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
        "text_projection": (text["width"], dim),
        "token_embedding.weight": (text["vocab_size"], text["width"]),
        "positional_embedding": (text["context_length"], text["width"]),
    }
    return shapes, vision["layers"] + text["layers"]


def list_weight_files(architecture: str, weights: str) -> tuple[str, list[str]]:
    """Return the repository of a pretrained open_clip model, and the possible files of its weights.

    The repository is empty if the weights are elsewhere.
    """
    if (name := ModelName(architecture)).scheme == HUB:
        return name.rest, [CONFIG]
    config = import_part("pretrained").get_pretrained_cfg(architecture, weights)
    repository, file = os.path.split(config.get("hf_hub", ""))
    return repository, [file] if file else [WEIGHTS, "open_clip_pytorch_model.bin"]


def find_tokenizer_files(text: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the repositories that a text tower's configuration needs from transformers, each with one file."""
    names = (("hf_tokenizer_name", "tokenizer_config.json"), ("hf_model_name", "config.json"))
    return [(str(text[key]), file) for key, file in names if text.get(key)]


def fetch_config(source: ModelName) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of a located model, and its preprocessing settings other than open_clip's defaults.

    For a model of the hub, the configuration is downloaded. Raise OSError or ValueError if it cannot be read.
    """
    pretrained = import_part("pretrained")
    if source.scheme not in OPEN_CLIP_SCHEMES:
        settings = pretrained.get_pretrained_cfg(source.architecture, source.weights)
        return read_configs()[source.architecture], settings
    path = Path(source.rest, CONFIG)
    if source.scheme == HUB:
        path = Path(pretrained.download_pretrained_from_hf(source.rest, filename=CONFIG))
    described: Any = json.loads(path.read_text("utf-8"))
    if not isinstance(described, dict) or not isinstance(described.get("model_cfg"), dict):
        raise ValueError(f"{path} must have the model_cfg of a model")
    return described["model_cfg"], described.get("preprocess_cfg") or {}


def fetch_weights(source: ModelName) -> Path | None:
    """Return the file with the weights of a located model, downloaded unless it is cached.

    Return None if the weights are random, or if it is uncertain which file of a folder open_clip loads. Raise OSError
    or RuntimeError if the file cannot be downloaded.
    """
    pretrained = import_part("pretrained")
    if source.weights == RANDOM:
        return None
    if source.scheme == HUB:
        return Path(pretrained.download_pretrained_from_hf(source.rest))
    if source.scheme == FOLDER:
        path = Path(source.rest, WEIGHTS)
        return path if path.is_file() else None
    settings = pretrained.get_pretrained_cfg(source.architecture, source.weights)
    return Path(pretrained.download_pretrained(settings)) if settings else Path(source.weights)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Convert errors of open_clip in the block to an EncoderError of one line with the name of the model."""
    try:
        yield
    except (RuntimeError, AssertionError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise EncoderError(f"{name} cannot be loaded: {first_line(error)}") from error
