"""Models of open_clip: loading, an encoder for those other than plain CLIP ViTs, and PE-Core for a grounding head."""

import importlib.util
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import open_clip
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.encode.clip.weights import read_weights
from vidret.encode.encoder import digest_weights, encode_each_frame, normalise_pixels
from vidret.encode.long_text import encode_clauses
from vidret.encode.model_hub import check_reachable
from vidret.encode.names import RANDOM, ModelName, drop_sampling
from vidret.encode.open_clip_models import find_tokenizer_files, locate_clip, one_line_errors, read_resize
from vidret.errors import EncoderError, MissingExtraError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

BATCH_SIZE = 64  # frames
FRAMES_AT_ONCE = 32  # encoded by a ``PerceptionEncoder``
GREY = (0.5,) * 3  # mean and deviation of its pixels


def load_open_clip(name: ModelName, source: ModelName) -> tuple[Any, Any]:
    """Load an open_clip model and its tokenizer, given its name and the result of ``locate_clip``.

    Raises:
        EncoderError: The weights cannot be downloaded, or they do not fit the architecture.
    """
    model_name, weights = source.architecture, None if source.weights == RANDOM else source.weights
    if Path(source.weights).is_file() and Path(source.weights).suffix not in (".npz", ".npy"):
        read_weights(Path(source.weights), device="meta")  # a short error before torch.load fails at length
    try:
        with one_line_errors(name.base):
            _check_tokenizer(name.base, source)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # "random" weights are always the same, so that their index opens again
                model = open_clip.create_model(
                    model_name,
                    pretrained=weights or None,
                    require_pretrained=source.weights != RANDOM,
                    pretrained_hf=False,  # the checkpoint has the weights of the text tower
                )
            tokenizer = open_clip.get_tokenizer(model_name)
    except ImportError as error:  # a hub model whose configuration names a tokenizer of transformers
        raise MissingExtraError(f"the tokenizer of {name.base}", "hf") from error
    text = getattr(model, "text", model)
    if not hasattr(text, "ln_final") and not isinstance(text, open_clip.hf_model.HFTextEncoder):
        raise EncoderError(
            f"{name.base} must have a text tower of open_clip or transformers, got {type(text).__name__}"
        )
    return model, tokenizer


def _check_tokenizer(name: str, source: ModelName) -> None:
    """Check that the parts of the text tower from transformers are cached or can be downloaded."""
    config = open_clip.get_model_config(source.architecture) or {}
    for repository, file in find_tokenizer_files(config.get("text_cfg", {})):
        if importlib.util.find_spec("transformers") is None:
            raise MissingExtraError(f"the tokenizer of {name}", "hf")
        if not Path(repository).is_dir():
            check_reachable(f"the tokenizer of {name}", repository, [file])


class OpenClipEncoder:
    """An open_clip model; a segment's vector is the mean of its frames' vectors, its tokens the projected patches.

    Attributes are those of ``Encoder``, and ``device``. The model is kept in ``dtype``; vectors are float32 of unit
    length.
    """

    encodes_frames_alone = True

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        sampling: Sampling | None = None,
    ) -> None:
        preprocess = open_clip.get_model_preprocess_cfg(model)
        self.name, self.device = name, str(device)
        self.resize = read_resize(drop_sampling(name), preprocess)
        self.sampling = sampling or Sampling()
        self.fingerprint = digest_weights(model.state_dict().items(), preprocess, self.sampling)
        self._mean, self._std = preprocess["mean"], preprocess["std"]
        self._model = fuse_branches(model.eval()).to(device, dtype)
        self._tokenizer, self._device, self._dtype = tokenizer, device, dtype
        self._lock, self._context = Lock(), int(tokenizer([""]).shape[1])
        self.dim = len(self.encode_text(["a video"])[0].sentence)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested from a tower that cannot pool single patches.
        """
        return encode_each_frame(batch, BATCH_SIZE, partial(self._encode_images, tokens=tokens))

    def _encode_images(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode uint8 (frame, height, width, 3): class embeddings (frame, dim), patch tokens (frame, token, dim)."""
        images = normalise_pixels(pixels.to(self._device), self._mean, self._std, self._dtype)
        if not tokens:
            return functional.normalize(self._model.encode_image(images).float(), dim=-1).cpu(), None
        vectors, patches = encode_with_patches(self.name, self._model.visual, images)
        return functional.normalize(vectors.float(), dim=-1).cpu(), functional.normalize(patches.float(), dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one beyond the model's length is split into clauses, with a warning."""
        return encode_clauses(texts, self._encode_short, self._fits, context=self._context, name=self.name)

    def _fits(self, text: str) -> bool:
        ids = self._tokenizer([text], context_length=self._context + 1)  # a longer row shows any more
        words = self._find_words(ids.numpy())[0]
        return bool(words.start + words.stop <= self._context)  # with the start and the end token, if there are any

    def _encode_short(self, texts: Sequence[str]) -> list[TextEmbedding]:
        ids = self._tokenizer(list(texts)).to(self._device)
        outputs: list[Any] = []
        text_tower = getattr(self._model, "text", self._model)
        with self._lock:  # the hook fires for every thread's forward
            hook = text_tower.transformer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
            try:
                sentences = functional.normalize(self._model.encode_text(ids).float(), dim=-1).cpu().numpy()
            finally:
                hook.remove()
        words = functional.normalize(project_words(text_tower, outputs[0]).float(), dim=-1).cpu().numpy()
        stretches = self._find_words(ids.cpu().numpy())
        return [
            TextEmbedding(text, sentence, row[stretch].copy())  # a view would keep the whole batch
            for text, sentence, row, stretch in zip(texts, sentences, words, stretches, strict=True)
        ]

    def _find_words(self, ids: np.ndarray) -> list[slice]:
        """Return the slice of words of each row of ids; an empty text is represented by its end token.

        CLIP's rows are start, words, end, zeros, and the end token has the highest id. SigLIP's are words and padding.
        """
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            return [slice(1, max(int(end), 2)) for end in ids.argmax(axis=1)]
        return [slice(0, max(int((row != inner.pad_token_id).sum()), 1)) for row in ids]


def fuse_branches(model: Any) -> Any:
    """Return a model in evaluation mode with the branches of each block fused to one convolution, as for MobileCLIP.

    Vectors stay equal up to rounding, frames are encoded faster. Models without branches are returned unchanged.
    """
    if not any(hasattr(module, "reparameterize") for module in model.modules()):
        return model
    from timm.utils.model import reparameterize_model

    return reparameterize_model(model, inplace=True)


def encode_with_patches(name: str, visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of images (frame, dim) and of their patches (frame, patch, dim), not normalised.

    Raise EncoderError if the tower is neither a ViT with a projection nor a trunk of timm, or it cannot pool single
    patches.
    """
    if isinstance(visual, open_clip.timm_model.TimmModel):
        return _encode_timm(name, visual, images)
    plain = isinstance(visual, open_clip.transformer.VisionTransformer) and visual.attn_pool is None
    if not plain or visual.proj is None:
        raise EncoderError(f"tokens must come from a ViT with a projection or a trunk of timm, got {name}")
    states = visual.forward_intermediates(images, indices=1, output_fmt="NLC", normalize_intermediates=True)
    return states["image_features"], states["image_intermediates"][-1] @ visual.proj


def _encode_timm(name: str, visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Encode by a trunk of timm: a patch's vector is the output of the trunk's pooling and head for it alone."""
    trunk = visual.trunk
    features = trunk.forward_features(images)
    vectors = visual.head(trunk.forward_head(features))
    if features.ndim == 4:  # a map: frame, width, row, column
        single = rearrange(features, "frame width row column -> (frame row column) width 1 1")
    else:  # class tokens first; a patch replaces them, too
        prefix = int(getattr(trunk, "num_prefix_tokens", 0))
        single = rearrange(features[:, prefix:], "frame patch width -> (frame patch) width")
        single = repeat(single, "patch width -> patch token width", token=prefix + 1)
    try:
        patches = visual.head(trunk.forward_head(single))
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"tokens must come from a tower that can pool single patches, got {name}") from error
    return vectors, rearrange(patches, "(frame patch) dim -> frame patch dim", frame=len(images))


def project_words(text_tower: Any, output: Any) -> Tensor:
    """Return the states of words in the joint space (text, word, dim), from the output of a text transformer."""
    if hasattr(text_tower, "proj"):  # a text tower of transformers
        projected: Tensor = text_tower.proj(output.last_hidden_state)
        return projected
    states, projection = text_tower.ln_final(output), text_tower.text_projection
    words: Tensor = projection(states) if isinstance(projection, nn.Module) else states @ projection
    return words


class PerceptionEncoder:
    """PE-Core for UniversalVTG: frames are squashed to a square, and vectors are not normalised."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Load the model; raise EncoderError if it cannot be loaded."""
        parsed = ModelName(name)
        self._model, self._tokenizer = load_open_clip(parsed, locate_clip(parsed))
        size = open_clip.get_model_preprocess_cfg(self._model)["size"]
        side = size if isinstance(size, int) else size[0]
        self.name, self._device = name, device
        self.resize = Resize(shorter=side, crop=side, interpolation="bilinear", squash=True)
        self._model.eval().to(device)

    @torch.inference_mode()
    def encode_frames(self, frames: Frames) -> Float[np.ndarray, "frame width"]:
        """Return the projected vectors of frames."""
        images = normalise_pixels(torch.from_numpy(frames.pixels).to(self._device), GREY, GREY, torch.float32)
        vectors = [self._model.encode_image(batch).float().cpu() for batch in torch.split(images, FRAMES_AT_ONCE)]
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def encode_words(self, text: str) -> Float[np.ndarray, "token width"]:
        """Return the projected vector of a text, then the states of its tokens from start to end.

        Longer texts are truncated to the model's length, which is logged.
        """
        ids, outputs = self._tokenizer([text]).to(self._device), list[Tensor]()
        tower: Any = getattr(self._model, "text", self._model)
        hook = tower.ln_final.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        try:
            sentence = self._model.encode_text(ids)
        finally:
            hook.remove()
        real = ids[0] != 0
        if bool(real.all()):
            logger.warning("the head reads the first %d tokens of %r", len(real), text)
        return torch.cat([sentence, outputs[0][0, real]]).float().cpu().numpy()
