"""One vector of each text and of each video: the losses and scores of methods that need no more."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.ucofia_temporal import pool_frames
from vidret.data.dataset import RetrievalBatch
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, pair_losses
from vidret.train.mixup import draw_shares
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
    """Contrast the sentences of all processes with the mean of their videos' frames.

    Args:
        model: Has the scale.
        batch: The process's own.
        texts: Its texts.
        videos: Its videos.
        mixup_weight: Weight of geodesic mixtures as hard negatives; 0 leaves them out.
        generator: Decides the mixtures.
    """
    whole = gather(pool_frames(videos.frames.float(), videos.frame_mask))
    sentences = gather(texts.sentences.float())
    shares = draw_shares(len(whole), generator).to(whole) if mixup_weight else None
    losses = pair_losses(
        sentences,
        whole,
        model.encoder.logit_scale,
        same=same_videos(batch),
        shares=shares,
        mixed_weight=mixup_weight,
    )
    return {"contrast": losses.contrast} | ({"mixed": losses.mixed} if shares is not None else {})


def score_pairs(texts: TextBatch, videos: VideoBatch) -> Float[Tensor, "text video"]:
    """Return the cosines of sentences with the mean of videos' frames."""
    return functional.normalize(texts.sentences, dim=-1) @ pool_frames(videos.frames, videos.frame_mask).T


def same_videos(batch: RetrievalBatch) -> Bool[Tensor, "pair pair"]:
    """Tell which pairs of all processes are of the same video, and so no negatives of each other."""
    return find_same_videos(gather(batch.videos))
