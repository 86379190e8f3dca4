"""Tokens between the layers of the vision tower and after them, and which token belongs to which frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vidret.encode.clip.tempme import Step, apply_merge, move_mask, plan_merge
from vidret.types import LayerTokens


class Trunk(NamedTuple):
    """The state between layers: tokens, their sizes and mask, and the current index of each original token."""

    x: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"] | None
    mask: Bool[Tensor, "sequence token"] | None
    sources: Int[Tensor, "sequence source"] | None

    def cut(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, sizes and mask from ``start`` to ``stop``; padding has size 0 and mask False."""
        mask = torch.ones_like(self.x[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        sizes = mask.float() if self.sizes is None else self.sizes
        return self.x[:, start:stop], sizes[:, start:stop], mask[:, start:stop]


def merge_trunk(
    trunk: Trunk, metric: Float[Tensor, "sequence token channel"], num_merged: int, front: int, back: int
) -> Trunk:
    """Plan a merge by ``metric`` and apply it to the tokens, sizes, mask and sources."""
    plan = plan_merge(metric, num_merged, front=front, back=back, mask=trunk.mask)
    sizes = trunk.x.new_ones(trunk.x.shape[:2], dtype=torch.float32) if trunk.sizes is None else trunk.sizes
    if trunk.mask is not None:
        sizes = sizes * trunk.mask  # padding has size 0 even if it must merge with a real token
    x, sizes = apply_merge(plan, trunk.x, sizes)
    mask = None if trunk.mask is None else move_mask(plan, trunk.mask)
    sources = None if trunk.sources is None else plan.destinations().gather(1, trunk.sources)
    return Trunk(x, sizes, mask, sources)


class FrameTokens(NamedTuple):
    """The tokens of each frame's sequence after one layer, the frame's own class token first."""

    tokens: Float[Tensor, "video frame token width"]
    sizes: Float[Tensor, "video frame token"]
    mask: Bool[Tensor, "video frame token"]


class LayerOutput(NamedTuple):
    """The residual stream after one layer, before any norm or projection: class tokens first, without prompts.

    A sequence is one frame until merging joins several.

    Attributes:
        tokens: The tokens of each sequence.
        sizes: How many original tokens each token stands for; 0 where it is padding.
        mask: False where a token is padding.
        sequence: The sequence that each frame is in.
        class_index: The index of each frame's own class token in that sequence.
    """

    tokens: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"]
    mask: Bool[Tensor, "sequence token"]
    sequence: Int[Tensor, "video frame"]
    class_index: Int[Tensor, "video frame"]

    def by_frame(self) -> FrameTokens:
        """Return for each frame all tokens of its sequence: its own class token first, the others in order.

        Frames of one sequence have the same patches, and each other's class tokens among them.
        """
        own = rearrange(self.class_index, "video frame -> video frame 1")
        rank = torch.arange(self.tokens.shape[1], device=own.device)
        order = torch.where(rank == 0, own, rank - (rank <= own).long())  # own 2 of 5: 2 0 1 3 4
        sequence = rearrange(self.sequence, "video frame -> video frame 1")
        return FrameTokens(self.tokens[sequence, order], self.sizes[sequence, order], self.mask[sequence, order])


class VisionOutput(NamedTuple):
    """Class tokens and patches of videos, projected into the joint space and not normalised.

    Attributes:
        frames: Class tokens in time order.
        tokens: The patches that remain after merging, of all sequences of a video.
        sizes: How many original tokens each patch stands for.
        mask: False where a patch is padding.
        sources: For each original token of each frame (class token first), the index in [``frames`` | ``tokens``] of
            the token that it became part of.
        layers: Outputs of the last layers, earliest first; empty unless requested.
    """

    frames: Float[Tensor, "video frame dim"]
    tokens: Float[Tensor, "video token dim"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    mask: Bool[Tensor, "video token"] | None = None
    sources: Int[Tensor, "video frame patch"] | None = None
    layers: tuple[LayerOutput, ...] = ()


def join_images(chunks: Sequence[FrameTokens]) -> FrameTokens:
    """Return the tokens of images, given in chunks of videos of one frame, as those of one video."""
    joined = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return FrameTokens(*(rearrange(part, "image 1 ... -> 1 image ...") for part in joined))


def join_layers(segments: Sequence[LayerTokens]) -> LayerTokens:
    """Concatenate the layers of consecutive segments of a video; frames with fewer tokens get masked zeros."""
    if len(segments) == 1:
        return segments[0]
    times = np.concatenate([segment.times for segment in segments])
    layers = _join_each([segment.layers for segment in segments])
    sizes, masks = [segment.sizes or () for segment in segments], [segment.masks or () for segment in segments]
    return LayerTokens(layers, times, _join_each(sizes) or None, _join_each(masks) or None)


def _join_each(segments: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Concatenate each layer along frames, padded with zeros (False) to the longest segment's number of tokens."""
    joined = []
    for layer in zip(*segments, strict=True):
        most = max(segment.shape[1] for segment in layer)
        widths = [[(0, 0), (0, most - segment.shape[1]), *[(0, 0)] * (segment.ndim - 2)] for segment in layer]
        joined.append(np.concatenate([np.pad(segment, width) for segment, width in zip(layer, widths, strict=True)]))
    return tuple(joined)


def locate_class_tokens(
    step: Step, num_frames: int, num_videos: int, device: torch.device
) -> tuple[Int[Tensor, "video frame"], Int[Tensor, "video frame"]]:
    """Return each frame's sequence after a layer, and the index of its class token in that sequence."""
    frame = torch.arange(num_frames, device=device).expand(num_videos, -1)
    video = rearrange(torch.arange(num_videos, device=device), "video -> video 1")
    return video * step.clips + frame // step.front, frame % step.front


def join_sources(
    sources: Int[Tensor, "sequence source"], order: Int[Tensor, " token"], factor: int
) -> Int[Tensor, "joined sources"]:
    """Update sources when ``factor`` neighbouring sequences are concatenated and reordered by ``order``."""
    clip = rearrange(torch.arange(len(sources)).to(sources) % factor, "sequence -> sequence 1")
    index = torch.argsort(order)[sources + clip * (len(order) // factor)]
    return rearrange(index, "(joined clip) source -> joined (clip source)", clip=factor)


def index_sources(
    sources: Int[Tensor, "sequence source"], step: Step, num_frames: int, stop: int
) -> Int[Tensor, "video frame patch"]:
    """Turn indices in the last sequences, whose patches end at ``stop``, into indices in [frames | tokens]."""
    num_classes, num_patches = step.front * step.clips, stop - step.front
    clip = rearrange(torch.arange(len(sources)).to(sources) % step.clips, "sequence -> sequence 1")
    is_class = sources < step.front
    index = torch.where(is_class, sources + clip * step.front, num_classes + sources - step.front + clip * num_patches)
    index = rearrange(
        index, "(video clip) (front patch) -> video (clip front) patch", clip=step.clips, front=step.front
    )[:, :num_frames]
    return torch.where(index < num_classes, index, index - num_classes + num_frames)
