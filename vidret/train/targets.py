"""Training targets of the grounding head: positive points, their distances to the boundaries, and a positive frame.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding";
points, reaches and centre sampling follow Zhang et al. 2022, "ActionFormer".
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

RADIUS = 1.5  # maximum distance of positive points from the centre of their span, in strides
NO_FRAME = -1  # positive frame of a sample that has none


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
    radius: float = RADIUS,
) -> PointTargets:
    """Compute the targets of all points from labelled spans in seconds.

    Args:
        points: Position, minimum and maximum reach, and stride, in frames; the maximum reach may be inf.
        spans: Labelled start and end in seconds; a sample may have none.
        span_mask: False where a span is padding, whose values have no effect, not even NaN.
        num_frames: Number of real frames of each sample.
        fps: Frames per second of the head's input.
        radius: Maximum distance of positive points from the centre of their span, in strides.

    Raises:
        ValueError: A real span is not finite, or ``fps`` is not positive.
    """
    return match_points(points, spans_in_frames(spans, span_mask, num_frames, fps=fps), span_mask, radius=radius)


def spans_in_frames(
    spans: Float[Tensor, "sample span 2"],
    span_mask: Bool[Tensor, "sample span"],
    num_frames: Int[Tensor, " sample"],
    *,
    fps: float,
) -> Float[Tensor, "sample span 2"]:
    """Convert spans from seconds to frames: clipped to the video, sorted, and at least one frame long.

    A span that is too short is widened around its centre, within the video. Rows of padding are arbitrary.
    """
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps must be positive and finite, got {fps}")
    if not bool(spans[span_mask].isfinite().all()):
        raise ValueError(f"spans must be finite where span_mask is True, got {spans[span_mask].tolist()}")
    end_of_video = num_frames[:, None].to(spans)
    boundaries = (spans * fps).clamp(min=0).minimum(end_of_video[..., None])
    start, end = boundaries.amin(dim=-1), boundaries.amax(dim=-1)
    is_short = end - start < 1
    centre = ((start + end) / 2).clamp(min=0.5).minimum(end_of_video - 0.5)
    return torch.stack([start.where(~is_short, centre - 0.5), end.where(~is_short, centre + 0.5)], dim=-1)


def match_points(
    points: Float[Tensor, "point 4"],
    spans: Float[Tensor, "sample span 2"],
    span_mask: Bool[Tensor, "sample span"],
    *,
    radius: float = RADIUS,
) -> PointTargets:
    """Assign to each point the shortest span that it matches; ties go to the first.

    A point matches a span if it lies in the span, at most ``radius`` strides from its centre, and its distance to the
    farther boundary is within the point's reach. All bounds are inclusive. Spans are in frames, like points.
    """
    # One more span of padding, so that argmin has at least one.
    spans, span_mask = functional.pad(spans, (0, 0, 0, 1)), functional.pad(span_mask, (0, 1))
    position, min_reach, max_reach, stride = points[:, :, None].unbind(dim=1)
    start, end = spans[:, None].unbind(dim=-1)
    before, after = position - start, end - position
    reach = before.maximum(after)
    matches = (
        span_mask[:, None]
        & (before.minimum(after) >= 0)
        & ((before - after).abs() <= 2 * radius * stride)  # twice the distance to the centre
        & (reach >= min_reach)
        & (reach <= max_reach)
    )
    shortest = (end - start).expand(matches.shape).masked_fill(~matches, math.inf).argmin(dim=-1, keepdim=True)
    positive = matches.any(dim=-1)
    distances = torch.cat([before.gather(-1, shortest), after.gather(-1, shortest)], dim=-1) / stride
    return PointTargets(positive, distances.masked_fill(~positive[..., None], 0))


def draw_positive(
    saliency: Float[Tensor, "sample frame"],
    mask: Bool[Tensor, "sample frame"],
    generator: torch.Generator,
    *,
    above: float | Float[Tensor, " sample"] = 0.0,
) -> Int[Tensor, " sample"]:
    """Draw one frame per sample, uniformly among those with a saliency above ``above``; -1 if there is none.

    Args:
        saliency: One label per frame.
        mask: False where a frame is padding, whose values have no effect.
        generator: Source of randomness; it may be on another device than the labels.
        above: One threshold for all samples or one per sample, such as its median.
    """
    threshold = torch.as_tensor(above, dtype=saliency.dtype, device=saliency.device)
    is_candidate = (saliency > threshold[..., None]) & mask
    keys = torch.rand(saliency.shape, generator=generator, device=generator.device).to(saliency.device)
    frames = keys.masked_fill(~is_candidate, -1).argmax(dim=1)
    return frames.where(is_candidate.any(dim=1), NO_FRAME)
