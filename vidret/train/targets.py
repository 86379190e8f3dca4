"""What the grounding head is trained to say: which of its points answer, where the span ends, and one frame that fits.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding";
points, reaches and the choice near the middle after Zhang et al. 2022, "ActionFormer".
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

RADIUS = 1.5  # how far from the middle of a span its points may lie, in strides
NO_FRAME = -1  # stands for a positive frame where a sample has none


class PointTargets(NamedTuple):
    """Which points answer, and how far the span's two ends are from each, in strides; zeros where none answers."""

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
    """Give the targets of all points from labelled spans in seconds.

    Args:
        points: Centre, lowest and highest reach, stride, in frames; the highest reach may be inf.
        spans: Labelled start and end in seconds; a sample may have none.
        span_mask: True where a span is real. What padding holds does not matter, not even NaN.
        num_frames: How many real frames each sample has.
        fps: Frames a second, as the head sees them.
        radius: How far from the middle of a span its points may lie, in strides.

    Raises:
        ValueError: A real span is not finite, or ``fps`` is not above 0.
    """
    return match_points(points, spans_in_frames(spans, span_mask, num_frames, fps=fps), span_mask, radius=radius)


def spans_in_frames(
    spans: Float[Tensor, "sample span 2"],
    span_mask: Bool[Tensor, "sample span"],
    num_frames: Int[Tensor, " sample"],
    *,
    fps: float,
) -> Float[Tensor, "sample span 2"]:
    """Turn seconds into frames: cut to the video, put in order, and widened to one frame where shorter.

    A short span keeps its middle, except where the frame around it would stick out of the video. What is given for
    padding means nothing.

    Raises:
        ValueError: A real span is not finite, or ``fps`` is not above 0.
    """
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps must be above 0 and finite, got {fps}")
    if not bool(spans[span_mask].isfinite().all()):
        raise ValueError(f"spans must be finite where span_mask is True, got {spans[span_mask].tolist()}")
    end_of_video = num_frames[:, None].to(spans)
    ends = (spans * fps).clamp(min=0).minimum(end_of_video[..., None])
    first, last = ends.amin(dim=-1), ends.amax(dim=-1)
    is_short = last - first < 1
    middle = ((first + last) / 2).clamp(min=0.5).minimum(end_of_video - 0.5)
    return torch.stack([first.where(~is_short, middle - 0.5), last.where(~is_short, middle + 0.5)], dim=-1)


def match_points(
    points: Float[Tensor, "point 4"],
    spans: Float[Tensor, "sample span 2"],
    span_mask: Bool[Tensor, "sample span"],
    *,
    radius: float = RADIUS,
) -> PointTargets:
    """Give each point the shortest span that it may answer for; of equals, the first.

    It may where it lies in the span, at most ``radius`` strides from its middle, and its distance to the farther end is
    within the point's reach. All bounds are included. Spans, like points, are in frames.
    """
    # One more span of padding, so that there is always one to choose from.
    spans, span_mask = functional.pad(spans, (0, 0, 0, 1)), functional.pad(span_mask, (0, 1))
    place, lowest, highest, stride = points[:, :, None].unbind(dim=1)
    start, end = spans[:, None].unbind(dim=-1)
    before, after = place - start, end - place
    reach = before.maximum(after)
    fits = (
        span_mask[:, None]
        & (before.minimum(after) >= 0)
        & ((before - after).abs() <= 2 * radius * stride)  # twice the distance to the middle
        & (reach >= lowest)
        & (reach <= highest)
    )
    shortest = (end - start).expand(fits.shape).masked_fill(~fits, math.inf).argmin(dim=-1, keepdim=True)
    positive = fits.any(dim=-1)
    distances = torch.cat([before.gather(-1, shortest), after.gather(-1, shortest)], dim=-1) / stride
    return PointTargets(positive, distances.masked_fill(~positive[..., None], 0))


def draw_positive(
    saliency: Float[Tensor, "sample frame"],
    mask: Bool[Tensor, "sample frame"],
    generator: torch.Generator,
    *,
    above: float | Float[Tensor, " sample"] = 0.0,
) -> Int[Tensor, " sample"]:
    """Draw one real frame of each sample among those more salient than ``above``, all as likely; -1 where none is.

    Args:
        saliency: One label a frame.
        mask: True where a frame is real. What padding holds does not matter.
        generator: Decides; it may live on another device than the labels.
        above: One bound for all, or one for each sample, such as its median.
    """
    bound = torch.as_tensor(above, dtype=saliency.dtype, device=saliency.device)
    fits = (saliency > bound[..., None]) & mask
    keys = torch.rand(saliency.shape, generator=generator, device=generator.device).to(saliency.device)
    frames = keys.masked_fill(~fits, -1).argmax(dim=1)
    return frames.where(fits.any(dim=1), NO_FRAME)
