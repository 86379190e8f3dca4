"""What the vision tower gives: frames and patches in the joint space, or layers as they are; which token is whose."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vidret.encode.tempme import Step
from vidret.types import LayerTokens


class VisionOutput(NamedTuple):
    """What a vision tower sees in videos, projected into the joint space, not scaled to unit length.

    ``frames`` are class tokens in time order. ``tokens`` are the patches that are left (of all sequences), with
    ``sizes`` (how many original tokens each stands for) and ``mask`` (True = real). ``sources`` says, for each token of
    each original frame (class token first), which of [``frames`` | ``tokens``] it is part of at the end.
    """

    frames: Float[Tensor, "video frame dim"]
    tokens: Float[Tensor, "video token dim"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    mask: Bool[Tensor, "video token"] | None = None
    sources: Int[Tensor, "video frame patch"] | None = None


class FrameTokens(NamedTuple):
    """The tokens that each frame is among after one layer, its own class token first."""

    tokens: Float[Tensor, "video frame token width"]
    sizes: Float[Tensor, "video frame token"]
    mask: Bool[Tensor, "video frame token"]


class LayerOutput(NamedTuple):
    """The residual stream after one layer: no norm, no projection, class tokens in front, no prompts.

    A sequence is one frame, until merging joins several. ``sequence`` says in which one a frame is, ``place`` where in
    it the frame's own class token stands. ``sizes`` says how many original tokens each token stands for: 0 where it is
    padding, which ``mask`` (True = real) says too.
    """

    tokens: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"]
    mask: Bool[Tensor, "sequence token"]
    sequence: Int[Tensor, "video frame"]
    place: Int[Tensor, "video frame"]

    def by_frame(self) -> FrameTokens:
        """Give each frame all tokens of its sequence: its own class token, then the others in their order.

        Frames of one sequence share their patches, and see each other's class tokens among them.
        """
        own = rearrange(self.place, "video frame -> video frame 1")
        rank = torch.arange(self.tokens.shape[1], device=own.device)
        order = torch.where(rank == 0, own, rank - (rank <= own).long())  # own 2 of 5: 2 0 1 3 4
        sequence = rearrange(self.sequence, "video frame -> video frame 1")
        return FrameTokens(self.tokens[sequence, order], self.sizes[sequence, order], self.mask[sequence, order])


def join_layers(parts: Sequence[LayerTokens]) -> LayerTokens:
    """Join the layers of consecutive segments of a video; frames with fewer tokens are padded with masked zeros."""
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.times for part in parts])
    layers = _join_each([part.layers for part in parts])
    sizes, masks = [part.sizes or () for part in parts], [part.masks or () for part in parts]
    return LayerTokens(layers, times, _join_each(sizes) or None, _join_each(masks) or None)


def _join_each(parts: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Join each layer along the frames, padded with zeros (False) to the most tokens of a segment."""
    joined = []
    for layer in zip(*parts, strict=True):
        most = max(part.shape[1] for part in layer)
        widths = [[(0, 0), (0, most - part.shape[1]), *[(0, 0)] * (part.ndim - 2)] for part in layer]
        joined.append(np.concatenate([np.pad(part, width) for part, width in zip(layer, widths, strict=True)]))
    return tuple(joined)


def locate_class_tokens(
    step: Step, num_frames: int, num_videos: int, device: torch.device
) -> tuple[Int[Tensor, "video frame"], Int[Tensor, "video frame"]]:
    """Say for each frame in which sequence it is after a layer, and where in it its class token stands."""
    frame = torch.arange(num_frames, device=device).expand(num_videos, -1)
    video = rearrange(torch.arange(num_videos, device=device), "video -> video 1")
    return video * step.clips + frame // step.front, frame % step.front


def join_sources(
    sources: Int[Tensor, "sequence source"], order: Int[Tensor, " token"], factor: int
) -> Int[Tensor, "joined sources"]:
    """Follow tokens when ``factor`` sequences, laid end to end, become one in another order."""
    clip = rearrange(torch.arange(len(sources)).to(sources) % factor, "sequence -> sequence 1")
    place = torch.argsort(order)[sources + clip * (len(order) // factor)]
    return rearrange(place, "(joined clip) source -> joined (clip source)", clip=factor)


def name_sources(
    sources: Int[Tensor, "sequence source"], step: Step, num_frames: int, stop: int
) -> Int[Tensor, "video frame patch"]:
    """Count places in the last sequences, whose patches end at ``stop``, over a video's [all frames | all tokens]."""
    num_classes, left = step.front * step.clips, stop - step.front
    clip = rearrange(torch.arange(len(sources)).to(sources) % step.clips, "sequence -> sequence 1")
    is_class = sources < step.front
    place = torch.where(is_class, sources + clip * step.front, num_classes + sources - step.front + clip * left)
    place = rearrange(
        place, "(video clip) (front patch) -> video (clip front) patch", clip=step.clips, front=step.front
    )[:, :num_frames]
    return torch.where(place < num_classes, place, place - num_classes + num_frames)
