"""The tokens between and after the layers of the vision tower, and their assignment to frames."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from vidret.encode.clip.tempme import Step, apply_merge, plan_merge
from vidret.types import LayerTokens


class Trunk(NamedTuple):
    """The state between layers: tokens, the number of patches merged into each, and a mask, False for padding."""

    x: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"] | None
    mask: Bool[Tensor, "sequence token"] | None

    def cut(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, sizes and mask from ``start`` to ``stop``; padding has size 0 and mask False."""
        mask = torch.ones_like(self.x[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        sizes = mask.float() if self.sizes is None else self.sizes
        return self.x[:, start:stop], sizes[:, start:stop], mask[:, start:stop]


def merge_trunk(
    trunk: Trunk, metric: Float[Tensor, "sequence token channel"], num_merged: int, front: int, back: int
) -> Trunk:
    """Plan a merge by ``metric`` and apply it to the tokens, sizes and mask."""
    plan = plan_merge(metric, num_merged, front=front, back=back, mask=trunk.mask)
    sizes = trunk.x.new_ones(trunk.x.shape[:2], dtype=torch.float32) if trunk.sizes is None else trunk.sizes
    if trunk.mask is not None:
        sizes = sizes * trunk.mask  # padding has size 0 even if it must merge with a real token
    x, sizes = apply_merge(plan, trunk.x, sizes)
    return Trunk(x, sizes, None if trunk.mask is None else sizes > 0)


class FrameTokens(NamedTuple):
    """The residual stream after one layer, before any norm or projection: the tokens of each frame, without prompts.

    Frames that are joined to one sequence share their patches and class tokens.

    Attributes:
        tokens: The tokens of each frame's sequence, the frame's own class token first, the others in order.
        sizes: Number of original tokens merged into each token; 0 for padding.
        mask: False for padding tokens.
    """

    tokens: Float[Tensor, "video frame token width"]
    sizes: Float[Tensor, "video frame token"]
    mask: Bool[Tensor, "video frame token"]


def split_frames(trunk: Trunk, step: Step, num_frames: int, stop: int) -> FrameTokens:
    """Return the tokens of each frame after a layer; ``stop`` is the end of a sequence without its prompts."""
    device = trunk.x.device
    frame = rearrange(torch.arange(num_frames, device=device), "frame -> frame 1")
    video = rearrange(torch.arange(len(trunk.x) // step.clips, device=device), "video -> video 1 1")
    position, rank = frame % step.front, torch.arange(stop, device=device)
    order = torch.where(rank == 0, position, rank - (rank <= position).long())  # position 2 of 5: 2 0 1 3 4
    sequence = video * step.clips + frame // step.front
    return FrameTokens(*(values[sequence, order] for values in trunk.cut(0, stop)))


class VisionOutput(NamedTuple):
    """Class tokens and patches of videos, projected into the joint space and not normalised.

    Attributes:
        frames: Class tokens in time order.
        tokens: The patches left after merging, of all sequences of a video.
        sizes: Number of original tokens merged into each patch.
        mask: False for padding patches.
        layers: Outputs of the last layers, earliest first; empty unless requested.
    """

    frames: Float[Tensor, "video frame dim"]
    tokens: Float[Tensor, "video token dim"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    mask: Bool[Tensor, "video token"] | None = None
    layers: tuple[FrameTokens, ...] = ()


def join_images(chunks: Sequence[FrameTokens]) -> FrameTokens:
    """Return the tokens of images, which are chunks of one-frame videos, as the tokens of one video."""
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
