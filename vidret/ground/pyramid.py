"""The temporal feature pyramid, and the points in time that a head predicts spans for.

The level of stride s has one row per s frames; a row is real if all its frames are. With masks, a padded video has the
same levels as by itself, since every convolution reads zeros beyond its end.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding";
points after Zhang et al. 2022, "ActionFormer: Localizing Moments of Actions with Transformers".
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vidret.layers import zero_padding


class Pyramid(nn.Module):
    """A feature pyramid over time; each level halves the frames up to its stride, with weights of its own."""

    def __init__(self, dim: int, strides: Sequence[int]) -> None:
        """Build the levels of ``strides``, which must be rising powers of 2 from 1."""
        if not strides or strides[0] != 1 or list(strides) != sorted({1 << s.bit_length() - 1 for s in strides}):
            raise ValueError(f"strides must be powers of 2 that rise from 1, got {tuple(strides)}")
        super().__init__()
        self.strides = tuple(strides)
        self.levels = nn.ModuleList(
            nn.ModuleList(Halving(dim) for _ in range(stride.bit_length() - 1)) for stride in strides
        )

    def forward(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
    ) -> list[Float[Tensor, "video row dim"]]:
        """Return the levels whose stride is at most the number of frames; stride s has num_frames // s rows.

        With a mask, padding must be 0 in ``frames``, and is 0 in every level.
        """
        levels = []
        for halvings in cast(list[nn.ModuleList], self.levels)[: count_levels(self.strides, frames.shape[1])]:
            x, stride = frames, 1
            for halving in halvings:
                stride *= 2
                x = zero_padding(halving(x), reduce_mask(mask, stride))
            levels.append(x)
        return levels


class Halving(nn.Module):
    """A convolution of kernel size and stride 2, LayerNorm and ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(dim, dim, 2, stride=2), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "video row dim"]) -> Float[Tensor, "video half dim"]:
        """Return half the rows; the last of an odd number is dropped."""
        rows = rearrange(self.conv(rearrange(x, "video row dim -> video dim row")), "video dim half -> video half dim")
        out: Tensor = self.norm(rows).relu()
        return out


class RowHead(nn.Module):
    """A prediction for each row by two convolutions of kernel size 3."""

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv1d(dim, dim, 3, padding=1), nn.Conv1d(dim, num_outputs, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "video row dim"], mask: Bool[Tensor, "video row"] | None = None
    ) -> Float[Tensor, "video row output"]:
        """Return the outputs of each row; those of padding are meaningless."""
        hidden = self.hidden(rearrange(x, "video row dim -> video dim row")).relu()
        if mask is not None:
            hidden = hidden.masked_fill(~mask[:, None], 0)
        out: Tensor = rearrange(self.out(hidden), "video output row -> video row output")
        return out


def count_levels(strides: Sequence[int], num_frames: int) -> int:
    """Return the number of levels that have at least one row."""
    return sum(stride <= num_frames for stride in strides)


def make_points(
    num_frames: int, strides: Sequence[int], *, device: torch.device | None = None
) -> Float[Tensor, "point 4"]:
    """Return the points of all levels, level by level: position, minimum and maximum reach, and stride, in frames.

    The points of stride s are at 0, s, 2s, ... Their reach, the distance to the farther end of a span, is from s to the
    next level's stride; from 0 in the first level, to infinity in the last.
    """
    ends = [*strides[1:], torch.inf]
    points = []
    for level, stride in enumerate(strides[: count_levels(strides, num_frames)]):
        position = torch.arange(num_frames // stride, device=device, dtype=torch.float32) * stride
        constants = position.new_tensor([stride if level else 0, ends[level], stride]).expand(len(position), -1)
        points.append(torch.cat([position[:, None], constants], dim=1))
    return torch.cat(points)


def reduce_mask(
    mask: Bool[Tensor, "video frame"] | None, stride: int, *, partly: bool = False
) -> Bool[Tensor, "video row"] | None:
    """Return the mask of a level: a row is real if all its frames are, or with ``partly`` if any is."""
    if mask is None:
        return None
    rows = rearrange(
        mask[:, : mask.shape[1] // stride * stride], "video (row stride) -> video row stride", stride=stride
    )
    return rows.any(dim=-1) if partly else rows.all(dim=-1)


def spread_rows(
    scores: Float[Tensor, " point"], points: Float[Tensor, "point 4"], num_frames: int
) -> Float[Tensor, " frame"]:
    """Return the best score of each of ``num_frames`` frames over its rows in all levels.

    A level's last row also covers the remaining frames, which do not fill a row.
    """
    levels = []
    for stride in dict.fromkeys(points[:, 3].long().tolist()):
        rows = scores[points[:, 3] == stride][: num_frames // stride]
        if len(rows):
            spread = repeat(rows, "row -> (row stride)", stride=stride)
            levels.append(torch.cat([spread, rows[-1:].expand(num_frames - len(spread))]))
    return torch.stack(levels).amax(dim=0)


def decode_spans(
    scores: Float[Tensor, " point"], distances: Float[Tensor, "point 2"], points: Float[Tensor, "point 4"], fps: float
) -> Float[Tensor, "point 3"]:
    """Return each point's span as start and end in seconds and score, best first; ties keep their order."""
    position, stride = points[:, 0], points[:, 3]
    starts = (position - distances[:, 0] * stride) / fps
    ends = (position + distances[:, 1] * stride) / fps
    spans = torch.stack([starts, ends, scores], dim=1)
    return spans[scores.argsort(descending=True, stable=True)]
