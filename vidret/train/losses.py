"""Retrieval losses: each text finds its video among all of a batch, and each video its text.

Pair i is text i with video i. A batch may hold several texts of one video: these are no negatives of each other, and
``find_same_videos`` says so. Every loss is computed in float32 at least, whatever autocast is on.

    TempMe, CLIP4Clip    pair_losses(texts, videos, logit_scale).total
    Prompt Switch        pair_losses(...).total + caption_loss(...)
    UCoFiA               retrieval_loss(aligner(texts, videos).mean)
    GLSCL                concept_losses(scale * aligner(texts, videos).total, texts.concepts, videos.concepts).total

With several processes give them what ``gather`` gives.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vidret.align.glscl import consistency_loss, diversity_loss
from vidret.train.mixup import mix


class PairLosses(NamedTuple):
    """The weighted terms, and their sum; ``mixed`` is 0 where nothing is mixed."""

    contrast: Float[Tensor, ""]
    mixed: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Give the loss to be trained on."""
        return self.contrast + self.mixed


class ConceptLosses(NamedTuple):
    """The weighted terms, and their sum."""

    contrast: Float[Tensor, ""]
    diversity: Float[Tensor, ""]
    consistency: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Give the loss to be trained on."""
        return self.contrast + self.diversity + self.consistency


def retrieval_loss(
    logits: Float[Tensor, "text video"], *, same: Bool[Tensor, "text video"] | None = None
) -> Float[Tensor, ""]:
    """Make each text find its video and each video its text (symmetric InfoNCE), the mean of both ways.

    Args:
        logits: Scores with their scale; those of pairs are on the diagonal.
        same: True where a text fits a video of another pair, which then is no negative. The diagonal does not matter.

    Raises:
        ValueError: The logits are not of at least one pair.

    Reference: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3.
    """
    return (contrast_rows(logits, same) + contrast_rows(logits.T, None if same is None else same.T)) / 2


def contrast_rows(
    logits: Float[Tensor, "pair pair"], same: Bool[Tensor, "pair pair"] | None = None
) -> Float[Tensor, ""]:
    """Make the diagonal stand out in each row: the mean of -log softmax there, one way alone.

    Raises:
        ValueError: The logits are not of at least one pair.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or not len(logits):
        raise ValueError(f"logits must be a square matrix of at least one pair, got {tuple(logits.shape)}")
    logits = at_least_single(logits)
    own = logits.diagonal()
    if same is not None:
        is_own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~is_own, -torch.inf)
    return (logits.logsumexp(dim=1) - own).mean()


def pair_losses(
    texts: Float[Tensor, "pair dim"],
    videos: Float[Tensor, "pair dim"],
    logit_scale: Float[Tensor, ""],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
    shares: Float[Tensor, " pair"] | None = None,
    mixed_weight: float = 1.0,
) -> PairLosses:
    """Contrast one vector of each text with one of each video by their cosine, and on request with mixtures.

    Args:
        texts: Of any length but 0.
        videos: The same.
        logit_scale: Logarithm of what cosines are multiplied by.
        same: As in ``retrieval_loss``.
        shares: The text's share in each pair's mixture, from ``draw_shares``; nothing is mixed without.
        mixed_weight: What the loss against mixtures is multiplied by.
    """
    with torch.autocast(texts.device.type, enabled=False):
        texts, videos = (functional.normalize(at_least_single(part), dim=-1) for part in (texts, videos))
        scale = at_least_single(logit_scale).exp()
        contrast = retrieval_loss(scale * texts @ videos.T, same=same)
        mixed = contrast.new_zeros(())
        if shares is not None:
            mixed = mixed_weight * mixed_loss(texts, videos, scale, shares, same=same)
    return PairLosses(contrast, mixed)


def mixed_loss(
    texts: Float[Tensor, "pair dim"],
    videos: Float[Tensor, "pair dim"],
    scale: Float[Tensor, ""],
    shares: Float[Tensor, " pair"],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
) -> Float[Tensor, ""]:
    """Make pairs stand out against points between the text and the video of each other pair (m2-Mix), both ways.

    Vectors are of unit length. Both ways see the same mixtures.

    Reference: Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", equation 4.
    """
    mixtures, own = mix(texts, videos, shares.to(texts)), (texts * videos).sum(dim=-1)
    is_own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
    against = [scale * torch.where(is_own, own, side @ mixtures.T) for side in (texts, videos)]
    # Rows are anchors, columns the pairs that mixtures are of, in both matrices.
    fits = (same, None if same is None else same.T)
    return (contrast_rows(against[0], fits[0]) + contrast_rows(against[1], fits[1])) / 2


def concept_losses(
    logits: Float[Tensor, "text video"],
    texts: Float[Tensor, "text concept dim"],
    videos: Float[Tensor, "video concept dim"],
    *,
    same: Bool[Tensor, "text video"] | None = None,
    diversity_weight: float = 1e-4,
    beta: float = 0.005,
) -> ConceptLosses:
    """Give GLSCL's loss: pairs find each other, a video's concepts differ, and they are its text's.

    Args:
        logits: Scores with their scale; those of pairs are on the diagonal.
        texts: The concepts of each text, of unit length.
        videos: The concepts of each video, of unit length.
        same: As in ``retrieval_loss``.
        diversity_weight: What the diversity is multiplied by.
        beta: As in ``consistency_loss``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        texts, videos = at_least_single(texts), at_least_single(videos)
        contrast = retrieval_loss(logits, same=same)
        diversity = diversity_weight * diversity_loss(videos)
        return ConceptLosses(contrast, diversity, consistency_loss(texts, videos, beta=beta))


def find_same_videos(videos: Int[Tensor, " pair"]) -> Bool[Tensor, "pair pair"]:
    """Say which pairs are of the same video, by a number for each pair's video."""
    return videos[:, None] == videos


def at_least_single(x: Tensor) -> Tensor:
    """Give float32 for half precision; the rest stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
