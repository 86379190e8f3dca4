"""Attention of texts to frames: each kind pools a video's frames for a text, and returns the cosine of both."""

import math
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.layers import EPS, mask_bias

UNIT_TEMPERATURE = 0.03  # for cosines; corresponds to 3 for CLIP's raw vectors, whose norms are about 10
DROPOUT = 0.3  # of X-Pool, as published

Pooled = tuple[Float[Tensor, "video text"], Float[Tensor, "video text frame"]]


class SoftmaxAttention(nn.Module):
    """Weighs frames by a softmax of their products with the text, as in GLSCL; subclasses may weigh differently."""

    def __init__(self, temperature: float = UNIT_TEMPERATURE) -> None:
        """Take the temperature of the softmax, 3 for the published heads.

        Raises:
            ValueError: The temperature is not positive.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__()
        self.temperature = temperature

    def describe(self) -> dict[str, Any]:
        """Return the settings that do not follow from weights."""
        return {"temperature": self.temperature}

    def prepare(self, frames: Float[Tensor, "video frame dim"]) -> tuple[Tensor, Tensor | None]:
        """Return the keys of frames, and their values if they differ from the keys."""
        return frames, None

    def weigh(self, logits: Float[Tensor, "video text frame"]) -> Float[Tensor, "video text frame"]:
        """Return the weights of frames; those of padding have no effect."""
        return logits.softmax(dim=-1)

    def forward(
        self,
        sentences: Float[Tensor, "text dim"],
        frames: Float[Tensor, "video frame dim"],
        mask: Bool[Tensor, "video frame"],
        values: Float[Tensor, "video frame dim"] | None,
        grams: Float[Tensor, "video frame frame"] | None,
    ) -> Pooled:
        """Return the cosines of sentences and of the frames pooled for them, and the logits of frames.

        Let w be the weights of frames and l their products with the sentence c. The pooled frame g = sum_f w_f v_f is
        not needed where there are Gram matrices: c.g = sum_f w_f l_f, and |g|^2 = w^T (v v^T) w. They pay off once
        there are as many texts as a video has frames. The published code masks after the softmax without normalizing
        again; the cosine is the same.
        """
        products = einsum(sentences, frames, "t d, v f d -> v t f")
        logits = products / self.temperature + mask_bias(frames, mask)[:, None]
        weights = self.weigh(logits) * mask[:, None]
        squares = ((weights @ frames).square() if grams is None else (weights @ grams) * weights).sum(dim=-1)
        lengths = squares.clamp_min(EPS).sqrt() * sentences.norm(dim=-1).clamp_min(EPS)
        return (weights * products).sum(dim=-1) / lengths, logits


class TopFrames(SoftmaxAttention):
    """Averages the directions of the frames that are most similar to the text."""

    def __init__(self, top: int) -> None:
        """Take the number of frames.

        Raises:
            ValueError: It is not positive.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        super().__init__()
        self.top = top

    def describe(self) -> dict[str, Any]:
        """Return the number of frames."""
        return {"top": self.top}

    def prepare(self, frames: Float[Tensor, "video frame dim"]) -> tuple[Tensor, Tensor | None]:
        """Return the directions of frames."""
        return functional.normalize(frames, dim=-1), None

    def weigh(self, logits: Float[Tensor, "video text frame"]) -> Float[Tensor, "video text frame"]:
        """Return ones for the frames with the highest logits."""
        kept = logits.topk(min(self.top, logits.shape[-1]), dim=-1).indices
        return torch.zeros_like(logits).scatter(-1, kept, 1.0)


class FrameAttention(nn.Module):
    """X-Pool's cross-attention of a single head, and a layer after it; projections start as identities, as published.

    Texts and frames keep the norms that the encoder gave them. Both are normalised by one layer norm.

    Reference: Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval", section 4.3.
    """

    def __init__(self, dim: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.norm, self.norm_pooled, self.norm_out = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.key, self.value, self.out, self.linear = (nn.Linear(dim, dim) for _ in range(5))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for layer in (self.query, self.key, self.value, self.out, self.linear):
                layer.weight.copy_(torch.eye(dim))
                layer.bias.zero_()

    def describe(self) -> dict[str, Any]:
        """Return the settings that do not follow from weights: that no frame is left out."""
        return {"top": 0}

    def prepare(self, frames: Float[Tensor, "video frame dim"]) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of frames, each (video, frame, dim).

        Values are projected to the output here, not after they are summed: weights add up to 1.
        """
        normed = self.norm(frames)
        return self.key(normed), self.out(self.value(normed))

    def forward(
        self,
        sentences: Float[Tensor, "text dim"],
        keys: Float[Tensor, "video frame dim"],
        mask: Bool[Tensor, "video frame"],
        values: Float[Tensor, "video frame dim"] | None,
        grams: None,
    ) -> Pooled:
        """Return the cosines of sentences and of the videos' vectors for them, and the weights of frames."""
        assert values is not None
        queries = self.query(self.norm(sentences))
        logits = queries @ keys.mT / math.sqrt(keys.shape[-1]) + mask_bias(keys, mask)[:, None]
        weights = logits.softmax(dim=-1)
        pooled = self.norm_pooled(weights @ values)
        vectors = self.norm_out(pooled + self.dropout(self.linear(pooled)))
        return functional.cosine_similarity(vectors, sentences, dim=-1) * mask.any(dim=1)[:, None], weights
