"""R2-Tuning's losses: points that answer, their spans, the frames that fit a query, and layers that speak alike.

Every loss is the mean over what is real. Where nothing is, as in a batch without a positive, it is 0 with a gradient of
0; the published code divides by nothing there. What padding holds never matters, not even NaN.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding".
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vidret.ground.head import HeadOutput
from vidret.train.targets import NO_FRAME, PointTargets

TEMPERATURE = 0.07


class GroundingLosses(NamedTuple):
    """The weighted terms, and their sum."""

    classes: Float[Tensor, ""]
    boundaries: Float[Tensor, ""]
    saliency: Float[Tensor, ""]
    video_calibration: Float[Tensor, ""]
    layer_calibration: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Give the loss to be trained on."""
        return torch.stack(tuple(self)).sum()


def grounding_loss(
    output: HeadOutput,
    *,
    targets: PointTargets | None,
    saliency: Float[Tensor, "sample frame"],
    positive: Int[Tensor, " sample"],
    class_weight: float = 1.0,
    boundary_weight: float = 0.2,
    saliency_weight: float = 0.1,
    video_calibration_weight: float = 0.1,
    layer_calibration_weight: float = 0.1,
    temperature: float = TEMPERATURE,
    across_samples: bool = True,
) -> GroundingLosses:
    """Give all terms of a batch, each sample a video and its query.

    A head that finds highlights alone has no distances and gets no targets: its logits, one a frame, are held against
    the saliency itself, and the boundary term is 0. Computed in float32 at least, whatever autocast is on. A sample
    without a positive frame takes no part in the last three terms, not as a negative either.

    Args:
        output: What the head says of the batch.
        targets: What ``find_targets`` gives for its points; None where the head finds highlights alone.
        saliency: Labels of the frames; within 0..1 where they are what logits are held against.
        positive: The frame that ``draw_positive`` chose for each sample, -1 where there is none.
        class_weight: What the mean of the class loss is multiplied by.
        boundary_weight: The same for the boundaries.
        saliency_weight: The same for the saliency.
        video_calibration_weight: The same for the calibration of each layer among samples.
        layer_calibration_weight: The same for the calibration of each sample among layers.
        temperature: What cosines are divided by.
        across_samples: Whether a sample's positive frame must also stand out among the samples.

    Raises:
        ValueError: A positive frame is padding, or there are targets but no distances, or the other way round.
    """
    if (output.distances is None) != (targets is None):
        has, gets = output.distances is not None, targets is not None
        raise ValueError(f"targets must be given where the head has boundaries, got {gets} where that is {has}")
    with torch.autocast(output.logits.device.type, enabled=False):
        logits, video, query, layer_videos, layer_queries = (
            part.to(torch.promote_types(part.dtype, torch.float32))
            for part in (output.logits, output.video, output.query, output.layer_videos, output.layer_queries)
        )
        if output.distances is None or targets is None:
            classes, boundaries = soft_saliency_loss(logits, saliency, output.point_mask), logits.new_zeros(())
        else:
            classes = focal_loss(logits, targets.positive, output.point_mask)
            boundaries = boundary_loss(output.distances, targets, output.point_mask)
        mask = output.frame_mask
        frames = saliency_loss(
            video, query, saliency, mask, positive, temperature=temperature, across_samples=across_samples
        )
        videos, queries = take_positive(layer_videos, layer_queries, mask, positive)
        among_samples = contrast(videos, queries, temperature=temperature)
        among_layers = contrast(videos.transpose(0, 1), queries.transpose(0, 1), temperature=temperature)
    return GroundingLosses(
        classes=class_weight * classes,
        boundaries=boundary_weight * boundaries,
        saliency=saliency_weight * frames,
        video_calibration=video_calibration_weight * among_samples,
        layer_calibration=layer_calibration_weight * among_layers,
    )


def focal_loss(
    logits: Float[Tensor, "sample point"], positive: Bool[Tensor, "sample point"], mask: Bool[Tensor, "sample point"]
) -> Float[Tensor, ""]:
    """Score points by cross-entropy times (1 - probability of the truth)^2, so that what is easy weighs little.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, with gamma = 2.
    """
    signed = logits.where(positive, -logits)[mask]
    return mean(-functional.logsigmoid(signed) * torch.sigmoid(-signed).square())


def boundary_loss(
    distances: Float[Tensor, "sample point 2"], targets: PointTargets, mask: Bool[Tensor, "sample point"]
) -> Float[Tensor, ""]:
    """Score the boundaries of the points that answer by how far off they are, in strides."""
    taken = targets.positive & mask
    return mean((distances[taken] - targets.distances[taken]).abs().flatten())


def soft_saliency_loss(
    logits: Float[Tensor, "sample frame"], saliency: Float[Tensor, "sample frame"], mask: Bool[Tensor, "sample frame"]
) -> Float[Tensor, ""]:
    """Score frames by cross-entropy with a saliency in 0..1: the head that finds highlights and no spans."""
    return mean(functional.binary_cross_entropy_with_logits(logits[mask], saliency[mask], reduction="none"))


def saliency_loss(
    video: Float[Tensor, "sample frame dim"],
    query: Float[Tensor, "sample dim"],
    saliency: Float[Tensor, "sample frame"],
    mask: Bool[Tensor, "sample frame"],
    positive: Int[Tensor, " sample"],
    *,
    temperature: float = TEMPERATURE,
    across_samples: bool = True,
) -> Float[Tensor, ""]:
    """Make each sample's positive frame stand out among its frames, and among the samples at the same place (NCE).

    A frame is scored by its cosine with its own video's query. Frames more salient than the positive one, and padding,
    are nobody's negatives. Only places of positive frames are compared among samples: one that is hidden in every
    sample is never looked at. Samples without a positive frame are left out.

    Raises:
        ValueError: A positive frame is padding.
    """
    rows, frames = find_rows(positive, mask)
    mask, saliency = mask[rows], saliency[rows]
    video = functional.normalize(video[rows].masked_fill(~mask[..., None], 0), dim=-1)
    scores = torch.einsum("s f d, s d -> s f", video, functional.normalize(query[rows], dim=-1)) / temperature
    hidden = ~mask | (saliency > saliency.gather(1, frames[:, None]))
    scores = scores.masked_fill(hidden, -torch.inf)
    at_places = scores[:, frames]
    own = at_places.diagonal()
    loss = mean(scores.logsumexp(dim=1) - own)
    return loss + mean(at_places.logsumexp(dim=0) - own) if across_samples else loss


def take_positive(
    videos: Float[Tensor, "layer sample frame dim"],
    queries: Float[Tensor, "layer sample dim"],
    mask: Bool[Tensor, "sample frame"],
    positive: Int[Tensor, " sample"],
) -> tuple[Float[Tensor, "layer taken dim"], Float[Tensor, "layer taken dim"]]:
    """Take the positive frame and the query of each sample that has one, for ``contrast``.

    Raises:
        ValueError: A positive frame is padding.
    """
    rows, frames = find_rows(positive, mask)
    return videos[:, rows, frames], queries[:, rows]


def contrast(
    videos: Float[Tensor, "group item dim"],
    queries: Float[Tensor, "group item dim"],
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Make each item's video and query find each other among the items of their group, both ways (InfoNCE).

    Groups of layers, items of samples calibrate each layer (video calibration); groups of samples, items of layers tell
    layers apart (layer calibration).

    Reference: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4.
    """
    units = functional.normalize(videos, dim=-1), functional.normalize(queries, dim=-1)
    scores = torch.einsum("g v d, g q d -> g v q", *units) / temperature
    own = scores.diagonal(dim1=1, dim2=2)
    return mean(((scores.logsumexp(dim=2) + scores.logsumexp(dim=1)) / 2 - own).flatten())


def find_rows(
    positive: Int[Tensor, " sample"], mask: Bool[Tensor, "sample frame"]
) -> tuple[Int[Tensor, " taken"], Int[Tensor, " taken"]]:
    """List the samples that have a positive frame, and these frames, which must be real."""
    rows = (positive != NO_FRAME).nonzero().flatten()
    frames = positive[rows]
    outside = (frames < 0) | (frames >= mask.shape[1])
    if bool(outside.any()) or not bool(mask[rows, frames].all()):
        raise ValueError(f"positive must be real frames or {NO_FRAME}, got {positive.tolist()}")
    return rows, frames


def mean(values: Float[Tensor, " value"]) -> Float[Tensor, ""]:
    """Give the mean; 0, with a gradient of 0, of nothing."""
    return values.sum() / max(len(values), 1)
