"""Prompt Switch: a cube of prompts through which the frames of a clip see each other, and its aggregation.

Every frame carries ``num_prompts`` learned tokens; over ``num_prompts`` neighbouring frames these form a cube (frame,
slot, channel). Before each self-attention frame and slot are exchanged, so that a frame attends to one prompt of every
frame. At the end the class tokens of a clip attend to all its prompts.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval", section 3.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vidret.layers import Attention


@dataclass(frozen=True, slots=True)
class PromptShape:
    """``num_prompts`` tokens a frame, in clips of ``num_frames`` frames that are aggregated together."""

    num_prompts: int = 6
    num_frames: int = 6

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.num_frames < 1 or self.num_frames % self.num_prompts:
            raise ValueError(
                f"num_frames must be a multiple of num_prompts, got {self.num_frames} and {self.num_prompts}"
            )

    def check(self, num_frames: int) -> None:
        """Refuse a number of frames that makes no whole clips."""
        if num_frames % self.num_frames:
            raise ValueError(f"num_frames must be a multiple of {self.num_frames}, got {num_frames}")


class PromptCube(nn.Module):
    """The prompts and their aggregation: the identity at first, since the output projection starts at zero."""

    def __init__(self, shape: PromptShape, width: int, heads: int) -> None:
        super().__init__()
        self.shape = shape
        self.cube = nn.Parameter(torch.randn(shape.num_prompts, shape.num_prompts, width) * 0.02 * width**-0.5)
        self.aggregation = Attention(width, heads)
        nn.init.zeros_(self.aggregation.out_proj.weight)

    def attach(
        self, tokens: Float[Tensor, "sequence token width"], num_frames: int
    ) -> Float[Tensor, "sequence more width"]:
        """Put each frame's prompts behind its tokens; sequences are frames, those of a video in a row."""
        self.shape.check(num_frames)
        rows = repeat(self.cube, "frame slot width -> (times frame) slot width", times=len(tokens) // len(self.cube))
        return torch.cat([tokens, rows.to(tokens.dtype)], dim=1)

    def mask(self, frames: Bool[Tensor, "video frame"]) -> Bool[Tensor, "sequence slot"]:
        """Say which prompts are real: both frames that they are exchanged between are."""
        chunks = rearrange(frames, "video (chunk frame) -> (video chunk) frame", frame=self.shape.num_prompts)
        return rearrange(chunks[:, :, None] & chunks[:, None], "chunk frame slot -> (chunk frame) slot")

    def aggregate(
        self,
        classes: Float[Tensor, "video frame width"],
        prompts: Float[Tensor, "video frame slot width"],
        *,
        mask: Bool[Tensor, "video frame slot"] | None = None,
    ) -> Float[Tensor, "video frame width"]:
        """Let the class tokens of each clip attend to all prompts of the clip that are real."""
        num_videos, size = len(classes), self.shape.num_frames
        queries = rearrange(classes, "video (clip frame) width -> (video clip) frame width", frame=size)
        memory = rearrange(prompts, "video (clip frame) slot width -> (video clip) (frame slot) width", frame=size)
        bias = None
        if mask is not None:
            real = rearrange(mask, "video (clip frame) slot -> (video clip) 1 1 (frame slot)", frame=size)
            bias = torch.zeros_like(real, dtype=memory.dtype).masked_fill(~real & real.any(-1, True), -torch.inf)
        seen = queries + self.aggregation.cross(queries, memory, bias=bias)
        return rearrange(seen, "(video clip) frame width -> video (clip frame) width", video=num_videos)


def switch(tokens: Float[Tensor, "sequence token width"], num_prompts: int) -> Float[Tensor, "sequence token width"]:
    """Exchange frame and slot of the prompts behind each ``num_prompts`` frames' tokens, into a new tensor."""
    kept, prompts = tokens[:, :-num_prompts], tokens[:, -num_prompts:]
    turned = rearrange(prompts, "(chunk frame) slot width -> (chunk slot) frame width", frame=num_prompts)
    return torch.cat([kept, turned], dim=1)


def interleave(num_frames: int, clip: int) -> list[int]:
    """Order frames so that each clip of ``clip`` frames covers the whole video.

    >>> interleave(6, 3)
    [0, 2, 4, 1, 3, 5]
    """
    if num_frames % clip:
        raise ValueError(f"num_frames must be a multiple of {clip}, got {num_frames}")
    step = num_frames // clip
    return [start + step * place for start in range(step) for place in range(clip)]
