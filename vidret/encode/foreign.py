"""Open_clip's other models (SigLIP, CoCa, convolutional towers ...), through open_clip's own forward."""

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import open_clip
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from vidret.encode.encoder import WHOLE, digest_weights, normalise_pixels
from vidret.encode.hub import read_resize
from vidret.errors import EncoderError
from vidret.types import Frames, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)


class ForeignEncoder:
    """Whatever open_clip loads: a segment is the mean of its frames' vectors, its tokens a ViT's projected patches.

    Attributes as in ``Encoder``, and ``device``. The model is kept in ``dtype``; vectors come out as float32 of unit
    length.
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
        self.name, self.device = name, str(device)
        self.resize = read_resize(name.removesuffix(WHOLE), picture)
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
        pictures = normalise_pixels(pixels.to(self._device), self._mean, self._std, self._dtype)
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
