"""Frames at several paces, and the points in time that a head speaks for.

Level s sees one row every s frames. Its rows are real where all their frames are; with masks given, a padded video has
the levels that it has alone, since every convolution sees zeros beyond the end.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding";
points after Zhang et al. 2022, "ActionFormer: Localizing Moments of Actions with Transformers".
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Pyramid(nn.Module):
    """Halve the pace of frames as often as each stride asks; every level has weights of its own, from the frames on."""

    def __init__(self, dim: int, strides: Sequence[int] = (1, 2, 4, 8)) -> None:
        """Take strides that are powers of 2 and rise from 1."""
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
        """Give the levels whose stride is at most the number of frames; level s has that number over s, rounded down.

        Padding is 0 in the frames, and in every level, where a mask is given.
        """
        levels = []
        for halvings in cast(list[nn.ModuleList], self.levels)[: count_levels(self.strides, frames.shape[1])]:
            x, pace = frames, 1
            for halving in halvings:
                pace *= 2
                x = blank(halving(x), reduce_mask(mask, pace))
            levels.append(x)
        return levels


class Halving(nn.Module):
    """One row of every two: a convolution of width and stride 2, a norm, and ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(dim, dim, 2, stride=2), nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "video row dim"]) -> Float[Tensor, "video half dim"]:
        """Halve the number of rows; an odd one at the end is left out."""
        rows = rearrange(self.conv(rearrange(x, "video row dim -> video dim row")), "video dim half -> video half dim")
        out: Tensor = self.norm(rows).relu()
        return out


class RowHead(nn.Module):
    """Say something about each row from the two beside it and theirs: two convolutions of width 3."""

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Conv1d(dim, dim, 3, padding=1), nn.Conv1d(dim, num_outputs, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "video row dim"], mask: Bool[Tensor, "video row"] | None = None
    ) -> Float[Tensor, "video row output"]:
        """Speak for each row; what it says of padding means nothing."""
        hidden = self.hidden(rearrange(x, "video row dim -> video dim row")).relu()
        if mask is not None:
            hidden = hidden.masked_fill(~mask[:, None], 0)
        out: Tensor = rearrange(self.out(hidden), "video output row -> video row output")
        return out


def count_levels(strides: Sequence[int], num_frames: int) -> int:
    """Count the levels that a number of frames fills at least once."""
    return sum(stride <= num_frames for stride in strides)


def make_points(
    num_frames: int, strides: Sequence[int] = (1, 2, 4, 8), *, device: torch.device | None = None
) -> Float[Tensor, "point 4"]:
    """Give the points of all levels, level after level: place, lowest and highest reach, and stride, in frames.

    The points of a level stand at 0, s, 2s, ... Its reach, how far the farther end of a span may be, is from s to the
    next level's s; from 0 in the first level, to infinity in the last.
    """
    ends = [*strides[1:], torch.inf]
    points = []
    for level, stride in enumerate(strides[: count_levels(strides, num_frames)]):
        place = torch.arange(num_frames // stride, device=device, dtype=torch.float32) * stride
        facts = place.new_tensor([stride if level else 0, ends[level], stride]).expand(len(place), -1)
        points.append(torch.cat([place[:, None], facts], dim=1))
    return torch.cat(points)


def reduce_mask(
    mask: Bool[Tensor, "video frame"] | None, stride: int, *, partly: bool = False
) -> Bool[Tensor, "video row"] | None:
    """Give the mask of a level: a row is real where all of its frames are, or with ``partly`` where one is."""
    if mask is None:
        return None
    rows = rearrange(
        mask[:, : mask.shape[1] // stride * stride], "video (row stride) -> video row stride", stride=stride
    )
    return rows.any(dim=-1) if partly else rows.all(dim=-1)


def blank(x: Float[Tensor, "video row dim"], mask: Bool[Tensor, "video row"] | None) -> Float[Tensor, "video row dim"]:
    """Make padding 0."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0)


def spread_rows(
    scores: Float[Tensor, " point"], points: Float[Tensor, "point 4"], num_frames: int
) -> Float[Tensor, " frame"]:
    """Give each of a video's ``num_frames`` frames the best score of its rows in all levels.

    A level's last row also stands for the frames after it, which fill no row of their own.
    """
    levels = []
    for stride in dict.fromkeys(points[:, 3].long().tolist()):
        rows = scores[points[:, 3] == stride][: num_frames // stride]
        if len(rows):
            spread = repeat(rows, "row -> (row stride)", stride=stride)
            levels.append(torch.cat([spread, rows[-1:].expand(num_frames - len(spread))]))
    return torch.stack(levels).amax(dim=0)


def decode_spans(
    scores: Float[Tensor, " point"],
    distances: Float[Tensor, "point 2"],
    points: Float[Tensor, "point 4"],
    fps: float,
) -> Float[Tensor, "point 3"]:
    """Give each point's span, start and end in seconds, and its score; best first, of equals the first."""
    place, stride = points[:, 0], points[:, 3]
    starts = (place - distances[:, 0] * stride) / fps
    ends = (place + distances[:, 1] * stride) / fps
    spans = torch.stack([starts, ends, scores], dim=1)
    return spans[scores.argsort(descending=True, stable=True)]
