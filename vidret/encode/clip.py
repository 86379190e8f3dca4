"""CLIP over open_clip's models: an encoder for every name that open_clip can load, from its hub or from a file."""

import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from vidret.encode.encoder import choose_dtype, digest_weights, normalise_pixels
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

RANDOM = "random"
FILE_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
HUB_TIMEOUT = 3.0  # seconds; open_clip's own retries last most of a minute


@dataclass(frozen=True, slots=True)
class ClipSource:
    """Where a CLIP model comes from: an open_clip architecture (or hf-hub: name) and a tag, a file or ``random``."""

    architecture: str
    weights: str

    @property
    def name(self) -> str:
        """Name it so that it is found again from any folder."""
        return f"{self.architecture}/{self.weights}" if self.weights else self.architecture


class ClipEncoder:
    """Plain CLIP: a segment is the mean of its frames' class embeddings, its tokens the projected patches.

    Attributes as in ``Encoder``. The model is kept in ``dtype``; vectors come out as float32 of unit length.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        sampling: Sampling | None = None,
        batch_size: int = 64,
    ) -> None:
        """Take an open_clip model with its weights loaded, and the tokenizer that belongs to it."""
        picture = open_clip.get_model_preprocess_cfg(model)
        self.name = name
        self.resize = read_resize(name, picture)
        self.sampling = sampling or Sampling()
        self.fingerprint = digest_weights(model.state_dict().items(), picture, self.sampling)
        self._mean, self._std = picture["mean"], picture["std"]
        self._model = model.to(device, dtype).eval()
        self._tokenizer, self._device, self._dtype, self._batch_size = tokenizer, device, dtype, batch_size
        self._lock = Lock()
        self.dim = len(self.encode_text(["a video"])[0].sentence)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each stretch of video; its frames must have the size that ``resize`` gives."""
        pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
        parts = [self._encode_pictures(part, tokens=tokens) for part in torch.split(pixels, self._batch_size)]
        lengths = [len(frames) for frames in batch]
        pooled = torch.split(torch.cat([part[0] for part in parts]), lengths)
        patches = torch.split(torch.cat([part[1] for part in parts]), lengths) if tokens else None
        embeddings = []
        for number, frames in enumerate(batch):
            video = functional.normalize(pooled[number].mean(0), dim=0)
            patch = rearrange(patches[number], "frame token dim -> (frame token) dim").numpy() if patches else None
            embeddings.append(SegmentEmbedding(video.numpy(), pooled[number].numpy(), frames.times, patch))
        return embeddings

    def _encode_pictures(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode uint8 (frame, height, width, 3): class embeddings (frame, dim), patch tokens (frame, token, dim)."""
        pictures = normalise_pixels(pixels.to(self._device, non_blocking=True), self._mean, self._std, self._dtype)
        visual = self._model.visual
        if not tokens:
            return functional.normalize(self._model.encode_image(pictures).float(), dim=-1).cpu(), torch.empty(0)
        plain = isinstance(visual, open_clip.transformer.VisionTransformer) and visual.attn_pool is None
        if not plain or visual.proj is None:
            raise EncoderError(f"tokens must come from a ViT with a projection, got {self.name}")
        states = visual.forward_intermediates(pictures, indices=1, output_fmt="NLC", normalize_intermediates=True)
        patches = functional.normalize((states["image_intermediates"][-1] @ visual.proj).float(), dim=-1)
        return functional.normalize(states["image_features"].float(), dim=-1).cpu(), patches.cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; what lies beyond the model's context length is cut off."""
        ids = self._tokenizer(list(texts)).to(self._device)
        states: list[torch.Tensor] = []
        text_tower = getattr(self._model, "text", self._model)
        with self._lock:  # a hook hears every thread
            hook = text_tower.transformer.register_forward_hook(lambda _module, _inputs, output: states.append(output))
            try:
                sentences = functional.normalize(self._model.encode_text(ids).float(), dim=-1).cpu().numpy()
            finally:
                hook.remove()
        words = text_tower.ln_final(states[0])
        projection = text_tower.text_projection
        words = projection(words) if isinstance(projection, nn.Module) else words @ projection
        words = functional.normalize(words.float(), dim=-1).cpu().numpy()
        stretches = self._find_words(ids.cpu().numpy())
        for text, stretch in zip(texts, stretches, strict=True):
            if stretch.stop >= ids.shape[1] - 1:
                logger.warning("only the first %d tokens are read of: %.60s...", stretch.stop - stretch.start, text)
        return [
            TextEmbedding(text, sentence, row[stretch])
            for text, sentence, row, stretch in zip(texts, sentences, words, stretches, strict=True)
        ]

    def _find_words(self, ids: np.ndarray) -> list[slice]:
        """Find where each row's words are; an empty text has its end token instead.

        CLIP's rows are start, words, end, zeros, and the end has the highest id. SigLIP's are words and padding.
        """
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            return [slice(1, max(int(end), 2)) for end in ids.argmax(axis=1)]
        return [slice(0, max(int((row != inner.pad_token_id).sum()), 1)) for row in ids]


def read_resize(name: str, picture: dict[str, Any]) -> Resize:
    """Read an open_clip preprocessing description; say so when it is one that is not built here."""
    size = picture["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode, interpolation = picture.get("resize_mode", "shortest"), picture.get("interpolation", "bicubic")
    if height != width or mode not in ("shortest", "squash") or interpolation not in ("bilinear", "bicubic"):
        raise EncoderError(f"{name}: pictures must be square crops, got {height}x{width}, {mode}, {interpolation}")
    return Resize(shorter=height, crop=height, interpolation=interpolation, squash=mode == "squash")


def load_clip(name: str, *, device: torch.device, precision: str = "auto") -> ClipEncoder:
    """Load an open_clip model by the names that ``load_encoder`` describes.

    Raises:
        EncoderError: The name is unknown; the weights are not here and the hub cannot be reached; they do not fit.
    """
    source = parse_name(name)
    model_name, weights = source.architecture, None if source.weights == RANDOM else source.weights
    _check_reachable(name, source)
    if Path(source.weights).is_file() and Path(source.weights).suffix not in (".npz", ".npy"):
        _read_shapes(Path(source.weights))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # "random" gives the same weights each time: an index made with them can be opened
            model = open_clip.create_model(model_name, pretrained=weights or None, require_pretrained=bool(weights))
        tokenizer = open_clip.get_tokenizer(model_name)
    except (RuntimeError, AssertionError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise EncoderError(f"{name} cannot be loaded: {_reason(error)}") from error
    if not hasattr(getattr(model, "text", model), "ln_final"):
        raise EncoderError(f"{name} must have open_clip's own text tower, got {type(model.text).__name__}")
    return ClipEncoder(source.name, model, tokenizer, device=device, dtype=choose_dtype(precision, device))


def parse_name(name: str) -> ClipSource:
    """Split a model name into architecture and weights; a file's path becomes absolute.

    >>> parse_name("ViT-B-32/laion2b_s34b_b79k")
    ClipSource(architecture='ViT-B-32', weights='laion2b_s34b_b79k')
    """
    if name.startswith("hf-hub:"):
        return ClipSource(name, "")
    if name.startswith("local-dir:"):
        return ClipSource(f"local-dir:{Path(name.removeprefix('local-dir:')).absolute()}", "")
    if Path(name).suffix in FILE_SUFFIXES and name.split("/", 1)[0] not in open_clip.list_models():
        if not Path(name).is_file():
            raise EncoderError(f"{name}: no such file")
        return ClipSource(infer_architecture(Path(name)), str(Path(name).absolute()))
    architecture, _, weights = name.partition("/")
    if architecture not in open_clip.list_models():
        raise EncoderError(
            f"model must be starter, an open_clip name such as ViT-B-32/laion2b_s34b_b79k, hf-hub:org/name or the path "
            f"of a .safetensors or .pt file, got {name}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights != RANDOM and weights not in tags and not Path(weights).is_file():
        if Path(weights).suffix in FILE_SUFFIXES:
            raise EncoderError(f"{name}: no such file: {weights}")
        known = f"one of {', '.join(tags)} or a file" if tags else "a file"
        raise EncoderError(f"weights of {architecture} must be {known}, got {weights!r}")
    is_file = weights != RANDOM and weights not in tags
    return ClipSource(architecture, str(Path(weights).absolute()) if is_file else weights)


def infer_architecture(path: Path) -> str:
    """Find the one open_clip ViT whose parameters have the shapes in a file.

    Raises:
        EncoderError: None fits, or several do (the QuickGELU twins have equal shapes and unequal answers).
    """
    shapes = _read_shapes(path)
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
    """Predict the telling shapes of an open_clip ViT from its configuration; None for other architectures."""
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


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the parameter shapes of a weights file without running anything that it holds."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        state = torch.load(path, map_location="meta", weights_only=True)
        state = state.get("state_dict", state)
        return {key.removeprefix("module."): tuple(weight.shape) for key, weight in state.items()}
    except Exception as error:  # what a foreign file can break has no end, and torch.load gives no narrower promise
        raise EncoderError(f"{path}: must be a readable file of named tensors alone: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Cut an error down to a line: torch's fill a page, and advise to trust the file."""
    text = str(error)
    if refused := re.search(r"WeightsUnpickler error:\s*(.+?)(\. |\n|$)", text):
        text = refused[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    return " ".join(lines)[:300] or type(error).__name__


def _check_reachable(name: str, source: ClipSource) -> None:
    """Fail at once, not after a minute of retries, when weights must be fetched and the hub cannot be reached."""
    if source.weights == RANDOM or Path(source.weights).is_file() or source.architecture.startswith("local-dir:"):
        return
    if source.architecture.startswith("hf-hub:"):
        repository, files = source.architecture.removeprefix("hf-hub:"), ["open_clip_config.json"]
    else:
        config = open_clip.get_pretrained_cfg(source.architecture, source.weights)
        repository, file = os.path.split(config.get("hf_hub", ""))
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        if not repository:
            return
    cached = (huggingface_hub.try_to_load_from_cache(repository, file) for file in files)
    if any(isinstance(path, str) for path in cached):
        return
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    else:
        try:
            request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT):
                return
        except urllib.error.HTTPError:
            return  # it answers: whatever is wrong, the download says it better
        except OSError as error:
            reason = f"the model hub cannot be reached ({getattr(error, 'reason', error)})"
    raise EncoderError(
        f"{name}: its weights are not on this machine and {reason}; download them elsewhere and give the path of the "
        f"file, or use --model starter"
    )
