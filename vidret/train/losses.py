"""Retrieval losses: contrastive losses between the texts and the videos of a batch, and their geodesic mixtures.

Mixtures are points on the sphere between a text and its video, which are harder negatives than either. CLIP keeps texts
and videos in two distant regions of the sphere. Points between the regions are close to both, and pushing them away
closes the gap.

Reference: Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", section 4 (m2-Mix).
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vidret.align.glscl import consistency_loss, diversity_loss

Terms = dict[str, Float[Tensor, ""]]  # the weighted terms of a loss, by name

NEAR = 1e-4  # 1 - cosine below which the series is used, since the sine of the angle is too small to divide by
OPPOSITE = -1 + 1e-6  # lowest cosine; opposite points have no unique shortest arc


def mix(
    texts: Float[Tensor, "pair dim"], videos: Float[Tensor, "pair dim"], mixing_weights: Float[Tensor, " pair"]
) -> Float[Tensor, "pair dim"]:
    """Interpolate between the text and the video of each pair along their shortest arc (slerp).

    (sin(w angle) text + sin((1 - w) angle) video) / sin(angle): a mixing weight w of 1 is the text, 0 the video. The
    result has unit length, vectors any length but 0. For exactly opposite vectors it is finite but arbitrary, since no
    shortest arc is unique.

    Reference: equation 3; Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3.
    """
    texts, videos = functional.normalize(texts, dim=-1), functional.normalize(videos, dim=-1)
    cosines = (texts * videos).sum(dim=-1)
    return (
        slerp_factor(mixing_weights, cosines)[:, None] * texts
        + slerp_factor(1 - mixing_weights, cosines)[:, None] * videos
    )


def slerp_factor(weights: Float[Tensor, " pair"], cosines: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Compute sin(weight angle) / sin(angle) for the angle of a cosine.

    Short arcs use the series in angle^2 = 2 (1 - cosine), in which neither the value nor its gradient divides by 0.
    """
    is_near = cosines > 1 - NEAR
    angles = cosines.masked_fill(is_near, 0).clamp(min=OPPOSITE).acos()  # the gradient of acos at 1 is infinite
    series = weights * (1 + (1 - weights.square()) * (1 - cosines) / 3)
    return torch.where(is_near, series, (weights * angles).sin() / angles.sin())


def draw_mixing_weights(num_pairs: int, generator: torch.Generator) -> Float[Tensor, " pair"]:
    """Draw the weights of the texts from Beta(1/2, 1/2), which favours weights near 0 and 1.

    Processes that mix the same gathered pairs must draw from the same seed.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(0.5, 0.5, num_pairs)).float()


def add_terms(terms: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """Return the loss to minimise."""
    return torch.stack(list(terms.values())).sum()


def retrieval_loss(
    logits: Float[Tensor, "text video"], *, same: Bool[Tensor, "text video"] | None = None, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Compute the symmetric InfoNCE loss: the mean of text to video and video to text.

    Args:
        logits: Scaled scores; those of pairs are on the diagonal.
        same: True where a text matches the video of another pair, which then is not a negative. The diagonal is
            ignored.
        smoothing: See ``contrast_rows``.

    Raises:
        ValueError: The logits are not a square matrix of at least one pair.

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
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or not len(logits):
        raise ValueError(f"logits must be a square matrix of at least one pair, got {tuple(logits.shape)}")
    logits = promote_half(logits)
    own = logits.diagonal()
    target = own
    is_used = None if same is None else ~same | torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if smoothing:
        used = torch.ones_like(logits) if is_used is None else is_used.to(logits)
        target = own.lerp((logits * used).sum(dim=1) / used.sum(dim=1), smoothing)
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

    Vectors have any length but 0. ``logit_scale`` is the logarithm of the factor of the cosines. For ``same`` see
    ``retrieval_loss``.
    """
    with torch.autocast(texts.device.type, enabled=False):
        texts, videos, scale = _to_units(texts, videos, logit_scale)
        return retrieval_loss(scale * texts @ videos.T, same=same)


def mixed_loss(
    texts: Float[Tensor, "pair dim"],
    videos: Float[Tensor, "pair dim"],
    logit_scale: Float[Tensor, ""],
    mixing_weights: Float[Tensor, " pair"],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
) -> Float[Tensor, ""]:
    """Contrast pairs with the mixtures of the text and the video of each other pair (m2-Mix), in both directions.

    Both directions use the same mixtures; for their weights see ``draw_mixing_weights``, for the rest ``pair_loss``.

    Reference: Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", equation 4.
    """
    with torch.autocast(texts.device.type, enabled=False):
        texts, videos, scale = _to_units(texts, videos, logit_scale)
        mixtures, own = mix(texts, videos, mixing_weights.to(texts)), (texts * videos).sum(dim=-1)
        is_own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
        text_logits, video_logits = (
            scale * torch.where(is_own, own, anchors @ mixtures.T) for anchors in (texts, videos)
        )
        # In both matrices, rows are anchors and columns are the pairs of the mixtures.
        same_columns = None if same is None else same.T
        return (contrast_rows(text_logits, same) + contrast_rows(video_logits, same_columns)) / 2


def _to_units(texts: Tensor, videos: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors of unit length and the factor of their cosines, in full precision."""
    texts, videos = (functional.normalize(promote_half(vectors), dim=-1) for vectors in (texts, videos))
    return texts, videos, promote_half(logit_scale).exp()


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
