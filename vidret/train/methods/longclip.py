"""Long-CLIP: CLIP for long texts, by stretched positions and a separate contrast for short texts.

Whole texts are contrasted with videos, and first sentences with videos reduced to a few principal components.

Reference: Zhang et al. 2024, "Long-CLIP: Unlocking the Long-Text Capability of CLIP", section 3.3.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.text import KEPT_POSITIONS, stretch_positions
from vidret.errors import VidretError
from vidret.layers import pool_frames
from vidret.train import optim
from vidret.train.gather import gather
from vidret.train.losses import Terms, promote_half, retrieval_loss
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, same_videos

NUM_COMPONENTS, SMOOTHING = 32, 0.1


def primary_losses(
    videos: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    first_sentences: Float[Tensor, "pair dim"],
    logit_scale: Float[Tensor, ""],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
    num_components: int = NUM_COMPONENTS,
) -> Terms:
    """Contrast whole texts with videos, and first sentences with videos reduced to a few principal components."""
    with torch.autocast(videos.device.type, enabled=False):
        videos, texts, firsts = (
            functional.normalize(promote_half(vectors), dim=-1) for vectors in (videos, texts, first_sentences)
        )
        scale = promote_half(logit_scale).exp()
        reduced = keep_components(videos, num_components)
        return {
            "whole": retrieval_loss(scale * texts @ videos.T, same=same, smoothing=SMOOTHING),
            "first": retrieval_loss(scale * firsts @ reduced.T, same=same, smoothing=SMOOTHING),
        }


def keep_components(vectors: Float[Tensor, "pair dim"], num_components: int) -> Float[Tensor, "pair dim"]:
    """Return vectors projected onto the first principal components of their batch; their lengths change a little.

    A batch of at most ``num_components`` + 1 vectors has no other components, and is returned unchanged.
    """
    if len(vectors) <= num_components + 1:
        return vectors
    mean = vectors.mean(dim=0)
    projection: Tensor = _Projection.apply(vectors - mean, num_components)  # type: ignore[no-untyped-call, unused-ignore]
    return mean + (vectors - mean) @ projection


class _Projection(torch.autograd.Function):
    """The projection onto the first principal components of centred vectors.

    Its gradient depends only on the differences of kept and dropped variances. That of the singular value decomposition
    itself divides by all differences, which gives NaN for a batch with several equal vectors, such as black videos.
    """

    @staticmethod
    def forward(ctx, centred: Tensor, num_components: int) -> Tensor:  # type: ignore[no-untyped-def]
        _, lengths, axes = torch.linalg.svd(centred, full_matrices=True)
        ctx.save_for_backward(centred, lengths, axes[:num_components], axes[num_components:])
        projection: Tensor = axes[:num_components].T @ axes[:num_components]
        return projection

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        centred, lengths, kept, dropped = ctx.saved_tensors
        variances = functional.pad(lengths.square(), (0, len(kept) + len(dropped) - len(lengths)))
        gaps = variances[: len(kept), None] - variances[len(kept) :]
        turn = kept @ (grad + grad.T) @ dropped.T / gaps.clamp_min(torch.finfo(gaps.dtype).tiny)
        turn = turn.where(gaps > torch.finfo(gaps.dtype).eps * variances[0], 0)
        change = kept.T @ turn @ dropped
        return centred @ (change + change.T), None


CLIP_CONTEXT, STRETCH = 77, 4
POSITIONS = "encoder.text.positions"


def _rule(name: str, *, lr: float = 1e-6) -> optim.Setting:
    """Train every weight at one rate. Positions do not decay, since the first ones must not change."""
    return optim.Setting("positions", lr, 0.0) if name == POSITIONS else optim.Setting("all", lr, 0.01)


@dataclass(frozen=True, slots=True)
class LongClip:
    """Stretched positions, and two contrasts: whole texts with videos, first sentences with their principal components.

    Attributes:
        stretch: Number of positions that replace each of CLIP's after the first 20; 1 keeps them. None for 4 if the
            towers have CLIP's 77 positions, else 1.
        num_components: Number of principal components for the contrast of first sentences.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, partial(optim.adamw_optimizer, eps=1e-8))
    stretch: int | None = None
    num_components: int = NUM_COMPONENTS

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers; if their positions are stretched, keep the first ones, and start at a scale of 100."""
        encoder = load(card)
        factor = self.stretch or (STRETCH if card.text.context == CLIP_CONTEXT else 1)
        if factor == 1:
            return RetrievalModel(encoder)
        encoder = _stretch(encoder, factor)
        with torch.no_grad():
            encoder.logit_scale.fill_(math.log(optim.MAX_SCALE))
        encoder.text.positions.register_hook(_keep_first)  # type: ignore[no-untyped-call]
        return RetrievalModel(encoder)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrasts of whole texts and of first sentences.

        Raises:
            VidretError: The batch has no first sentences.
        """
        if batch.first_sentences is None:
            raise VidretError("first_sentences of the data must be true for longclip, got false")
        texts, videos = model.gather(texts, videos)
        firsts = gather(model.encode_texts(batch.first_sentences).sentences.float())
        pooled = pool_frames(videos.frames, videos.frame_mask)
        return primary_losses(
            pooled,
            texts.sentences,
            firsts,
            model.logit_scale,
            same=same_videos(batch),
            num_components=self.num_components,
        )


def _stretch(encoder: ClipModel, factor: int) -> ClipModel:
    """Return towers with stretched positions."""
    state = encoder.state_dict()
    positions = stretch_positions(state["text.positions"], factor=factor)
    stretched = ClipModel(replace(encoder.card, text=replace(encoder.card.text, context=len(positions))))
    stretched.load_state_dict({**state, "text.positions": positions})
    return stretched


def _keep_first(gradient: Tensor) -> Tensor:
    """Return the gradient of the positions, with zeros for CLIP's own first ones."""
    kept = gradient.clone()
    kept[:KEPT_POSITIONS] = 0
    return kept


METHOD: type[Method] = LongClip
