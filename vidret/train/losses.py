"""Retrieval losses: contrastive losses between the texts and the videos of a batch."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vidret.align.glscl import consistency_loss, diversity_loss

Terms = dict[str, Float[Tensor, ""]]  # the weighted terms of a loss, by name


def add_terms(terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Return the loss to minimise, the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def retrieval_loss(
    logits: Float[Tensor, "pair pair"], *, same: Bool[Tensor, "pair pair"] | None = None, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Compute the symmetric InfoNCE loss: the mean of text to video and video to text.

    Args:
        logits: Scaled scores; those of pairs are on the diagonal.
        same: True where a text matches the video of another pair, which then is not a negative. The diagonal is
            ignored.
        smoothing: See ``contrast_rows``.

    Reference: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3.
    """
    columns = None if same is None else same.T
    return (contrast_rows(logits, same, smoothing) + contrast_rows(logits.T, columns, smoothing)) / 2


def contrast_rows(
    logits: Float[Tensor, "pair pair"], same: Bool[Tensor, "pair pair"] | None = None, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Compute the InfoNCE loss in one direction: the mean of -log softmax of each row at the diagonal.

    With ``smoothing``, that share of each row's target is spread evenly over the row (label smoothing).
    """
    logits = promote_half(logits)
    positives = logits.diagonal()
    target = positives
    is_used = None if same is None else ~same | torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if smoothing:
        used = torch.ones_like(logits) if is_used is None else is_used.to(logits)
        target = positives.lerp((logits * used).sum(dim=1) / used.sum(dim=1), smoothing)
    if is_used is not None:
        logits = logits.masked_fill(~is_used, -torch.inf)
    return (logits.logsumexp(dim=1) - target).mean()


def pair_loss(
    texts: Float[Tensor, "pair dim"],
    videos: Float[Tensor, "pair dim"],
    logit_scale: Float[Tensor, ""],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
) -> Float[Tensor, ""]:
    """Contrast one vector per text with one per video by their cosines, in full precision.

    Vectors need no unit length, but must not be 0. ``logit_scale`` is the logarithm of the factor of the cosines. For
    ``same`` see ``retrieval_loss``.
    """
    with torch.autocast(texts.device.type, enabled=False):
        texts, videos = (functional.normalize(promote_half(vectors), dim=-1) for vectors in (texts, videos))
        return retrieval_loss(promote_half(logit_scale).exp() * texts @ videos.T, same=same)


def concept_losses(
    logits: Float[Tensor, "text video"],
    texts: Float[Tensor, "text concept dim"],
    videos: Float[Tensor, "video concept dim"],
    *,
    same: Bool[Tensor, "text video"] | None = None,
    diversity_weight: float = 1e-4,
    beta: float = 0.005,
) -> Terms:
    """Compute GLSCL's loss: contrast of pairs, diversity of a video's concepts, and consistency with its text.

    Concepts have unit length. For logits and ``same`` see ``retrieval_loss``, for ``beta`` ``consistency_loss``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        texts, videos = promote_half(texts), promote_half(videos)
        return {
            "contrast": retrieval_loss(logits, same=same),
            "diversity": diversity_weight * diversity_loss(videos),
            "consistency": consistency_loss(texts, videos, beta=beta),
        }


def find_same_videos(videos: Int[Tensor, " pair"]) -> Bool[Tensor, "pair pair"]:
    """Return True where two pairs have the same video, given the video index of each pair."""
    return videos[:, None] == videos


def promote_half(x: Tensor) -> Tensor:
    """Convert half precision to float32; other types stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
