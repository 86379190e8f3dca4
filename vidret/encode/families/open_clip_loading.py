"""Loading open_clip models by name, from the model hub or from a file."""

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError

from vidret.encode.clip.weights import first_line, read_weights
from vidret.encode.model_hub import check_reachable
from vidret.encode.names import FILE_SUFFIXES, FOLDER, HUB, RANDOM, RECOMMENDED, STARTER, ModelName
from vidret.errors import EncoderError, MissingExtraError, UnknownEncoderError
from vidret.types import Resize


@dataclass(frozen=True, slots=True)
class ClipSource:
    """The origin of a CLIP model: an open_clip architecture (or hf-hub: name) and a tag, a file or ``random``."""

    architecture: str
    weights: str

    @property
    def name(self) -> str:
        """Return the name that loads the model again from any working directory."""
        return f"{self.architecture}/{self.weights}" if self.weights else self.architecture


def load_open_clip(name: ModelName) -> tuple[ClipSource, Any, Any]:
    """Load an open_clip model and its tokenizer; names are described at ``load_encoder``.

    Returns:
        The model's origin, the model and the tokenizer.

    Raises:
        EncoderError: The name is unknown, the weights cannot be downloaded, or they do not fit the architecture.
    """
    source = find_clip_source(name)
    model_name, weights = source.architecture, None if source.weights == RANDOM else source.weights
    _check_source(name.base, source)
    if Path(source.weights).is_file() and Path(source.weights).suffix not in (".npz", ".npy"):
        read_weights(Path(source.weights), device="meta")  # a short error before torch.load fails at length
    try:
        _check_tokenizer(name.base, source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" weights are the same each time, so that an index made with them opens again
            model = open_clip.create_model(
                model_name,
                pretrained=weights or None,
                require_pretrained=bool(weights),
                pretrained_hf=False,  # the checkpoint has the weights of the text tower
            )
        tokenizer = open_clip.get_tokenizer(model_name)
    except ImportError as error:  # a model of the hub whose configuration names a tokenizer of transformers
        raise MissingExtraError(f"the tokenizer of {name.base}", "hf") from error
    except (RuntimeError, AssertionError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise EncoderError(f"{name.base} cannot be loaded: {first_line(error)}") from error
    text = getattr(model, "text", model)
    if not hasattr(text, "ln_final") and not isinstance(text, open_clip.hf_model.HFTextEncoder):
        raise EncoderError(
            f"{name.base} must have a text tower of open_clip or transformers, got {type(text).__name__}"
        )
    return source, model, tokenizer


def read_resize(name: str, preprocess: dict[str, Any]) -> Resize:
    """Return the resizing of an open_clip preprocessing configuration.

    Raises:
        EncoderError: The configuration is not a square crop with a supported mode and interpolation.
    """
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode, interpolation = preprocess.get("resize_mode", "shortest"), preprocess.get("interpolation", "bicubic")
    if height != width or mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"{name}: preprocessing must be a square crop, got {height}x{width}, {mode}, {interpolation}"
        )
    return Resize(shorter=height, crop=height, interpolation=interpolation, squash=mode == "squash")


def find_clip_source(name: ModelName) -> ClipSource:
    """Return the origin of a model by its name; a file's path becomes absolute.

    Raises:
        EncoderError: The name is unknown or its file does not exist.

    >>> find_clip_source(ModelName("ViT-B-32/laion2b_s34b_b79k"))
    ClipSource(architecture='ViT-B-32', weights='laion2b_s34b_b79k')
    """
    if name.scheme == HUB:
        return ClipSource(name.base, "")
    if name.scheme == FOLDER:
        return ClipSource(f"{FOLDER}:{Path(name.rest).absolute()}", "")
    base, architecture, weights = name.base, name.architecture, name.weights
    if Path(base).suffix in FILE_SUFFIXES and architecture not in open_clip.list_models():
        if not Path(base).is_file():
            raise EncoderError(f"{base}: no such file")
        return ClipSource(infer_architecture(Path(base)), str(Path(base).absolute()))
    if architecture not in open_clip.list_models():
        similar = difflib.get_close_matches(
            architecture, [STARTER, *RECOMMENDED, *open_clip.list_models()], n=1, cutoff=0.75
        )
        advice = f"; did you mean {similar[0]}{f'/{weights}' if weights else ''}?" if similar else ""
        raise UnknownEncoderError(
            f"model must be {', '.join((STARTER, *RECOMMENDED))}, an open_clip name such as "
            "ViT-B-32/laion2b_s34b_b79k, hf-hub:org/name, hf:org/name, package.module:Class, "
            f"endpoint:URL?model=NAME or the path of a .safetensors or .pt file, got {base}{advice}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in tags and not Path(weights).is_file():
        if Path(weights).suffix in FILE_SUFFIXES:
            raise EncoderError(f"{base}: no such file: {weights}")
        known = f"one of {', '.join(tags)} or a file" if tags else "a file"
        raise EncoderError(f"weights of {architecture} must be {known}, got {weights!r}")
    is_file = weights != RANDOM and weights not in tags
    return ClipSource(architecture, str(Path(weights).absolute()) if is_file else weights)


def infer_architecture(path: Path) -> str:
    """Return the open_clip ViT whose parameters have the shapes in a file.

    Raises:
        EncoderError: None fits, or several do (with and without QuickGELU, shapes are equal but outputs are not).
    """
    shapes = {name: tuple(weight.shape) for name, weight in read_weights(path, device="meta").items()}
    wanted = {key: shapes.get(key) for key in ("visual.conv1.weight", "visual.positional_embedding", "text_projection")}
    wanted |= {key: shapes.get(key) for key in ("token_embedding.weight", "positional_embedding")}
    depth = sum(key.endswith("ln_1.weight") for key in shapes)
    fitting = []
    for architecture in open_clip.list_models():
        config = open_clip.get_model_config(architecture)
        if _shapes_of(config) == (wanted, depth):
            fitting.append(architecture)
    if len(fitting) == 1:
        return str(fitting[0])
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


def _check_tokenizer(name: str, source: ClipSource) -> None:
    """Check that the parts of the text tower that come from transformers are here or can be had."""
    config = open_clip.get_model_config(source.architecture) or {}
    for repository, file in find_tokenizer_files(config.get("text_cfg", {})):
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtraError(f"the tokenizer of {name}", "hf")
        if not Path(repository).is_dir():
            check_reachable(f"the tokenizer of {name}", repository, [file])


def _check_source(name: str, source: ClipSource) -> None:
    """Raise EncoderError at once, not after a minute of retries, if weights are missing and the hub is unreachable."""
    if source.weights == RANDOM or Path(source.weights).is_file() or ModelName(source.architecture).scheme == FOLDER:
        return
    repository, files = list_weight_files(source.architecture, source.weights)
    if repository:
        check_reachable(name, repository, files)


def list_weight_files(architecture: str, weights: str) -> tuple[str, list[str]]:
    """Return the repository of a pretrained open_clip model, and the files of which one holds the weights.

    The repository is empty if the weights are elsewhere.
    """
    if (name := ModelName(architecture)).scheme == HUB:
        return name.rest, ["open_clip_config.json"]
    config = open_clip.get_pretrained_cfg(architecture, weights)
    repository, file = os.path.split(config.get("hf_hub", ""))
    return repository, [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


def find_tokenizer_files(text: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the repositories that a text tower's configuration needs from transformers, each with a file of it."""
    names = (("hf_tokenizer_name", "tokenizer_config.json"), ("hf_model_name", "config.json"))
    return [(str(text[key]), file) for key, file in names if text.get(key)]
