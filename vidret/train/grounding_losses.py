"""R2-Tuning's training targets and losses: points, boundaries, saliency of frames, and calibration of layers."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from vidret.data.grounding import GroundingBatch
from vidret.ground.head import GroundingHead, HeadOutput
from vidret.train.losses import Terms, promote_half

RADIUS = 1.5  # maximum distance of positive points from the centre of their span, in strides
NO_FRAME = -1  # in place of the positive frame of a sample without one
TEMPERATURE = 0.07  # divisor of cosines
BOUNDARY_WEIGHT, CALIBRATION_WEIGHT = 0.2, 0.1  # the weight of classification is 1


class PointTargets(NamedTuple):
    """Positive points, and their distances to the start and end of their span in strides; 0 for negative points."""

    positive: Bool[Tensor, "sample point"]
    distances: Float[Tensor, "sample point 2"]


def find_targets(
    points: Float[Tensor, "point 4"],
    spans: Float[Tensor, "sample span 2"],
    span_mask: Bool[Tensor, "sample span"],
    num_frames: Int[Tensor, " sample"],
    *,
    fps: float,
) -> PointTargets:
    """Assign to each point the shortest labelled span that it matches; ties go to the first.

    A point matches a span if it is in the span, at most ``RADIUS`` strides from its centre, and its distance to the
    farther boundary is within the point's reach. All bounds are inclusive.

    Args:
        points: Position, minimum and maximum reach, and stride, in frames; the maximum reach may be inf.
        spans: Labelled start and end in seconds; a sample may have none.
        span_mask: False where a span is padding, whose values have no effect, not even NaN.
        num_frames: Number of real frames of each sample.
        fps: Frames per second of the head's input.

    Raises:
        ValueError: ``fps`` is not positive.
    """
    # An additional padding span, so that argmin has at least one.
    spans = functional.pad(spans_in_frames(spans, num_frames, fps=fps), (0, 0, 0, 1))
    span_mask = functional.pad(span_mask, (0, 1))
    position, min_reach, max_reach, stride = points[:, :, None].unbind(dim=1)
    start, end = spans[:, None].unbind(dim=-1)
    before, after = position - start, end - position
    reach = before.maximum(after)
    matches = (
        span_mask[:, None]
        & (before.minimum(after) >= 0)
        & ((before - after).abs() <= 2 * RADIUS * stride)  # twice the distance to the centre
        & (reach >= min_reach)
        & (reach <= max_reach)
    )
    shortest = (end - start).expand(matches.shape).masked_fill(~matches, math.inf).argmin(dim=-1, keepdim=True)
    positive = matches.any(dim=-1)
    distances = torch.cat([before.gather(-1, shortest), after.gather(-1, shortest)], dim=-1) / stride
    return PointTargets(positive, distances.masked_fill(~positive[..., None], 0))


def spans_in_frames(
    spans: Float[Tensor, "sample span 2"], num_frames: Int[Tensor, " sample"], *, fps: float
) -> Float[Tensor, "sample span 2"]:
    """Convert spans from seconds to frames: clipped to the video, sorted, and at least one frame long.

    A span that is too short is widened around its centre, within the video. Rows of padding are arbitrary.
    """
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    end_of_video = num_frames[:, None].to(spans)
    boundaries = (spans * fps).clamp(min=0).minimum(end_of_video[..., None])
    start, end = boundaries.amin(dim=-1), boundaries.amax(dim=-1)
    is_short = end - start < 1
    centre = ((start + end) / 2).clamp(min=0.5).minimum(end_of_video - 0.5)
    return torch.stack([start.where(~is_short, centre - 0.5), end.where(~is_short, centre + 0.5)], dim=-1)


def find_positive(
    saliency: Float[Tensor, "sample frame"], mask: Bool[Tensor, "sample frame"], *, highlights: bool = False
) -> Bool[Tensor, "sample frame"]:
    """Return True for real frames with a saliency above 0.

    For ``highlights``, it must be above the median of the video's frames, as published for TVSum, where hardly any is
    0; unless none is, as where most clips are labelled as highlights.
    """
    is_positive = (saliency > 0) & mask
    if not highlights:
        return is_positive
    medians = saliency.masked_fill(~mask, math.nan).nanmedian(dim=1, keepdim=True).values
    stands_out = is_positive & (saliency > medians)
    return stands_out.where(stands_out.any(dim=1, keepdim=True), is_positive)


def draw_positive(
    saliency: Float[Tensor, "sample frame"],
    mask: Bool[Tensor, "sample frame"],
    generator: torch.Generator,
    *,
    highlights: bool = False,
) -> Int[Tensor, " sample"]:
    """Draw one frame per sample, uniformly among its positive ones; -1 if there is none.

    Args:
        saliency: One label per frame.
        mask: False where a frame is padding, whose values have no effect.
        generator: Source of randomness; it may be on another device than the labels.
        highlights: See ``find_positive``.
    """
    is_candidate = find_positive(saliency, mask, highlights=highlights)
    keys = torch.rand(saliency.shape, generator=generator, device=generator.device).to(saliency.device)
    frames = keys.masked_fill(~is_candidate, -1).argmax(dim=1)
    return frames.where(is_candidate.any(dim=1), NO_FRAME)


def predict(head: GroundingHead, batch: GroundingBatch) -> HeadOutput:
    """Return the output of a head for a batch."""
    projected = head.prepare(batch.layers, mask=batch.frame_mask, token_masks=batch.token_masks, sizes=batch.sizes)
    output: HeadOutput = head(projected, batch.words, word_mask=batch.word_mask)
    return output


def head_losses(
    head: GroundingHead, batch: GroundingBatch, generator: torch.Generator, *, fps: float, **weights: Any
) -> Terms:
    """Compute all terms of a head for a batch; for the weights see ``grounding_losses``."""
    output, targets = predict(head, batch), None
    if output.distances is not None:
        num_frames = batch.frame_mask.sum(dim=1)
        targets = find_targets(output.points, batch.spans, batch.span_mask, num_frames, fps=fps)
    labels = batch.saliency.cpu(), batch.frame_mask.cpu()
    positive = draw_positive(*labels, generator, highlights=targets is None).to(output.logits.device)
    return grounding_losses(output, targets=targets, saliency=batch.saliency, positive=positive, **weights)


def grounding_losses(
    output: HeadOutput,
    *,
    targets: PointTargets | None,
    saliency: Float[Tensor, "sample frame"],
    positive: Int[Tensor, " sample"],
    saliency_weight: float = 0.1,
    across_samples: bool = True,
) -> Terms:
    """Compute all terms for a batch, in which each sample is a video with its query.

    A head for highlights only has no distances and no targets: its logits, one per frame, are compared with the
    saliency, and the boundary term is 0; elsewhere, it is the mean absolute error in strides. Everything is computed in
    float32 or better, even under autocast. A sample without a positive frame is left out of the last three terms, as a
    negative, too.

    Args:
        output: Output of the head.
        targets: Targets of its points, from ``find_targets``; None for a head for highlights only.
        saliency: Labels of the frames; in 0..1 for a head for highlights only.
        positive: Positive frame of each sample, from ``draw_positive``; -1 for none.
        saliency_weight: Weight of the saliency.
        across_samples: Whether a sample's positive frame is also contrasted with the frames of other samples.
    """
    with torch.autocast(output.logits.device.type, enabled=False):
        logits, video, query, layer_videos, layer_queries = map(
            promote_half, (output.logits, output.video, output.query, output.layer_videos, output.layer_queries)
        )
        if output.distances is None or targets is None:
            labels, boundaries = saliency[output.point_mask], logits.new_zeros(())
            logits = logits[output.point_mask]
            classes = mean_or_zero(functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        else:
            classes = focal_loss(logits, targets.positive, output.point_mask)
            near = targets.positive & output.point_mask
            boundaries = mean_or_zero((output.distances[near] - targets.distances[near]).abs().flatten())
        frames = saliency_loss(video, query, saliency, output.frame_mask, positive, across_samples=across_samples)
        rows = (positive != NO_FRAME).nonzero().flatten()
        videos, queries = layer_videos[:, rows, positive[rows]], layer_queries[:, rows]
        return {
            "classes": classes,
            "boundaries": BOUNDARY_WEIGHT * boundaries,
            "saliency": saliency_weight * frames,
            "video_calibration": CALIBRATION_WEIGHT * contrast(videos, queries),
            "layer_calibration": CALIBRATION_WEIGHT * contrast(videos.transpose(0, 1), queries.transpose(0, 1)),
        }


def focal_loss(
    logits: Float[Tensor, "sample point"], positive: Bool[Tensor, "sample point"], mask: Bool[Tensor, "sample point"]
) -> Float[Tensor, ""]:
    """Compute the focal loss of points: cross-entropy times (1 - probability of the label)^2.

    Reference: Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 4, with gamma = 2.
    """
    signed = logits.where(positive, -logits)[mask]
    return mean_or_zero(-functional.logsigmoid(signed) * torch.sigmoid(-signed).square())


def saliency_loss(
    video: Float[Tensor, "sample frame dim"],
    query: Float[Tensor, "sample dim"],
    saliency: Float[Tensor, "sample frame"],
    mask: Bool[Tensor, "sample frame"],
    positive: Int[Tensor, " sample"],
    *,
    across_samples: bool = True,
) -> Float[Tensor, ""]:
    """Contrast each sample's positive frame with its other frames, and with other samples at the same position (NCE).

    A frame is scored by its cosine with the query of its video. Frames more salient than the positive one, and padding,
    are not negatives. Samples are compared at the positions of positive frames only, so that no position is masked in
    every sample. Samples without a positive frame are left out.
    """
    rows = (positive != NO_FRAME).nonzero().flatten()
    mask, saliency, frames = mask[rows], saliency[rows], positive[rows]
    video = functional.normalize(video[rows].masked_fill(~mask[..., None], 0), dim=-1)
    scores = torch.einsum("s f d, s d -> s f", video, functional.normalize(query[rows], dim=-1)) / TEMPERATURE
    is_ignored = ~mask | (saliency > saliency.gather(1, frames[:, None]))
    scores = scores.masked_fill(is_ignored, -torch.inf)
    at_positives = scores[:, frames]
    positive_scores = at_positives.diagonal()
    loss = mean_or_zero(scores.logsumexp(dim=1) - positive_scores)
    return loss + mean_or_zero(at_positives.logsumexp(dim=0) - positive_scores) if across_samples else loss


def contrast(videos: Float[Tensor, "group item dim"], queries: Float[Tensor, "group item dim"]) -> Float[Tensor, ""]:
    """Compute the symmetric InfoNCE loss of videos and queries within each group.

    With layers as groups and samples as items, it calibrates each layer (video calibration). With samples as groups and
    layers as items, it separates the layers (layer calibration).

    Reference: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", equation 4.
    """
    units = functional.normalize(videos, dim=-1), functional.normalize(queries, dim=-1)
    scores = torch.einsum("g v d, g q d -> g v q", *units) / TEMPERATURE
    positive_scores = scores.diagonal(dim1=1, dim2=2)
    return mean_or_zero(((scores.logsumexp(dim=2) + scores.logsumexp(dim=1)) / 2 - positive_scores).flatten())


def mean_or_zero(values: Float[Tensor, " value"]) -> Float[Tensor, ""]:
    """Return the mean, or 0 with a gradient of 0 for an empty tensor."""
    return values.sum() / max(len(values), 1)
