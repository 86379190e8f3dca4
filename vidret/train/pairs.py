"""Losses and scores of methods with one vector per text and per video."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.ucofia_temporal import pool_frames
from vidret.data.dataset import RetrievalBatch
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, mixed_loss, pair_losses, promote_half
from vidret.train.mixup import draw_mixing_weights
from vidret.train.model import RetrievalModel


def pair_terms(
    model: RetrievalModel,
    batch: RetrievalBatch,
    texts: TextBatch,
    videos: VideoBatch,
    *,
    mixup_weight: float,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, ""]]:
    """Return the loss terms that contrast the sentences of all processes with the mean frames of their videos.

    Args:
        model: Source of the logit scale.
        batch: Batch of this process.
        texts: Its texts.
        videos: Its videos.
        mixup_weight: Weight of geodesic mixtures as hard negatives; 0 for none.
        generator: Source of the mixing weights.
    """
    pooled = gather(pool_frames(videos.frames.float(), videos.frame_mask))
    sentences = gather(texts.sentences.float())
    mixing_weights = draw_mixing_weights(len(pooled), generator).to(pooled) if mixup_weight else None
    losses = pair_losses(
        sentences,
        pooled,
        model.encoder.logit_scale,
        same=same_videos(batch),
        mixing_weights=mixing_weights,
        mixed_weight=mixup_weight,
    )
    return {"contrast": losses.contrast} | ({"mixed": losses.mixed} if mixing_weights is not None else {})


def mixed_term(
    texts: TextBatch,
    videos: VideoBatch,
    logit_scale: Float[Tensor, ""],
    *,
    same: Bool[Tensor, "text video"],
    mixup_weight: float,
    generator: torch.Generator,
) -> dict[str, Float[Tensor, ""]]:
    """Return the loss term of geodesic mixtures for a method with an aligner; none for a weight of 0.

    An aligner compares many vectors of a video. The mixtures are of the two vectors that searches find candidates by:
    the sentence, and the mean of the frames.

    Args:
        texts: The texts of all processes.
        videos: The videos of all processes.
        logit_scale: Logarithm of the factor of the aligner's cosines.
        same: See ``retrieval_loss``.
        mixup_weight: Weight of the term.
        generator: Source of the mixing weights.
    """
    if not mixup_weight:
        return {}
    sentences = functional.normalize(promote_half(texts.sentences), dim=-1)
    pooled = pool_frames(promote_half(videos.frames), videos.frame_mask)
    mixing_weights = draw_mixing_weights(len(pooled), generator).to(pooled)
    scale = promote_half(logit_scale).exp()
    return {"mixed": mixup_weight * mixed_loss(sentences, pooled, scale, mixing_weights, same=same)}


def score_pairs(texts: TextBatch, videos: VideoBatch) -> Float[Tensor, "text video"]:
    """Return the cosines of sentences with the mean of videos' frames."""
    return functional.normalize(texts.sentences, dim=-1) @ pool_frames(videos.frames, videos.frame_mask).T


def same_videos(batch: RetrievalBatch) -> Bool[Tensor, "pair pair"]:
    """Return True where two pairs of all processes have the same video, and so are not negatives of each other."""
    return find_same_videos(gather(batch.videos))
