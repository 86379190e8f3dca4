"""Losses and scores of methods with one vector per text and per video."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.ucofia_temporal import pool_frames
from vidret.data.dataset import RetrievalBatch
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, pair_losses
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


def score_pairs(texts: TextBatch, videos: VideoBatch) -> Float[Tensor, "text video"]:
    """Return the cosines of sentences with the mean of videos' frames."""
    return functional.normalize(texts.sentences, dim=-1) @ pool_frames(videos.frames, videos.frame_mask).T


def same_videos(batch: RetrievalBatch) -> Bool[Tensor, "pair pair"]:
    """Return True where two pairs of all processes have the same video, and so are not negatives of each other."""
    return find_same_videos(gather(batch.videos))
