"""The temporal transformer over a video's frames, and the pooling of frames to one vector."""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.layers import Block, mask_bias

HEAD_WIDTH = 64
EPS = 1e-12


class TemporalTransformer(nn.Module):
    """CLIP-like blocks over a video's frames, with learned positions and a residual connection around all blocks.

    Reference: Luo et al. 2022, "CLIP4Clip", section 3.3 (sequential type), which UCoFiA adopts.
    """

    def __init__(self, dim: int, *, layers: int = 4, heads: int | None = None, num_positions: int = 77) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(num_positions, dim) * 0.01)
        self.blocks = nn.ModuleList(
            Block(dim, heads or max(1, dim // HEAD_WIDTH), quick_gelu=True) for _ in range(layers)
        )
        for block in cast(list[Block], self.blocks):
            block.ln_1.eps = block.ln_2.eps = EPS

    def forward(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
    ) -> Float[Tensor, "video frame dim"]:
        """Return frames that have attended to the other frames of their video, padding excluded.

        Frames beyond the last learned position share it, so that positions do not depend on the padding of a batch.
        """
        positions = torch.arange(frames.shape[1], device=frames.device).clamp(max=len(self.positions) - 1)
        x = frames + self.positions[positions]
        bias = None if mask is None else rearrange(mask_bias(x, mask), "video frame -> video 1 1 frame")
        for block in self.blocks:
            x = block(x, bias=bias)
        return x + frames


def pool_frames(
    frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
) -> Float[Tensor, "video dim"]:
    """Return the mean direction of each video's real frames, of unit length; zeros for a video of padding only."""
    units = functional.normalize(frames, dim=-1)
    if mask is not None:
        units = units * mask[..., None]
    return functional.normalize(units.sum(dim=1), dim=-1)
