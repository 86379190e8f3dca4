"""UniversalVTG: a pyramid of state space blocks over the frames of a video, fused with a sentence; and its files.

    levels = network(frames, words)      # one video, one sentence; with early fusion nothing is shared by sentences
    spans = decode_levels(levels, duration=...)

Written from a description of the authors' code; it has no published licence, so no line of it is here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vidret.errors import VidretError
from vidret.ground.postprocess import gaussian, soft_nms
from vidret.ground.spans import Span, overlap
from vidret.ground.universalvtg_layers import (
    BranchScale,
    ConvStack,
    Heads,
    Hydra,
    LocalEncoder,
    Mask,
    MaskedConv,
    Rows,
    TextFusion,
    apply_stack,
)
from vidret.model_files import CARD, load_exactly, read_metadata, save_tensors
from vidret.text import parse_json

FORMAT = 1
METHOD = "universalvtg"
BACKBONE = "PE-Core-L-14-336/meta"
NUM_LEVELS = 8
MULTIPLE = 2 ** (NUM_LEVELS - 1)  # of frames: the rest is padding, which the published results depend on
WINDOW, NUM_NEAR = 5, 5  # rows that the first levels attend to, and how many levels those are
FPS = 2.0  # frames per second that the head reads
LEAST_SCORE, LEAST_FRAMES = 1e-3, 0.1
MOST_POINTS, NUM_SPANS = 2000, 5
SIGMA, AGREEING = 0.9, 0.95
POSITIONS = 4608  # frames of the longest videos in training; positions of longer ones are interpolated


class Level(NamedTuple):
    """Predictions of one level of the pyramid, whose rows are ``stride`` frames apart.

    Attributes:
        stride: In frames.
        logits: Foreground logit of each row.
        offsets: Distance of each row to the start and the end of its span, in strides.
    """

    stride: int
    logits: Float[Tensor, " row"]
    offsets: Float[Tensor, "row 2"]


class UniversalVtg(nn.Module):
    """The head, with the published names of parameters."""

    def __init__(self, frame_width: int = 1024, text_width: int = 1024, width: int = 512) -> None:
        super().__init__()
        self.text_net = _TextNet(text_width, width)
        self.vid_proj = MaskedConv(frame_width, width)
        self.vid_net = _VideoNet(width)
        self.fusion = TextFusion(width)
        self.cls_head = _LogitHead(width)
        self.reg_head = _OffsetHead(width)

    @property
    def widths(self) -> tuple[int, int]:
        """The widths of frames and words that it reads."""
        return self.vid_proj.conv.in_channels, self.text_net.embd_fc.conv.in_channels

    def forward(self, frames: Float[Tensor, "frame width"], words: Float[Tensor, "token text_width"]) -> list[Level]:
        """Return the predictions of each level for a sentence in a video.

        Args:
            frames: Vectors of two frames per second by PE-Core, not normalised.
            words: The vector of the sentence by PE-Core, not normalised, then the states of its tokens.
        """
        length = -(-len(frames) // MULTIPLE) * MULTIPLE
        mask = torch.arange(length, device=frames.device) < len(frames)
        text = self.text_net(words.T)
        padded = functional.pad(frames, (0, 0, 0, length - len(frames))).T
        x = self.fusion(self.vid_proj(padded, mask), mask, text)
        levels = []
        for index, (rows, real) in enumerate(self.vid_net(x, mask)):
            fused = self.fusion(rows, real, text)
            count = int(real.sum())
            logits, offsets = self.cls_head(fused, real), self.reg_head(fused, real, index)
            levels.append(Level(2**index, logits[0, :count], offsets.T[:count]))
        return levels


class _TextNet(nn.Module):
    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.embd_fc = MaskedConv(text_width, width)
        self.attn_pool = nn.ModuleDict({"attn": Heads(width, 4)})

    def forward(self, words: Float[Tensor, "width token"]) -> Float[Tensor, "channel token_and_one"]:
        """Return projected words after a token for the whole text."""
        x = self.embd_fc(words)
        with_mean = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        every = torch.ones(with_mean.shape[1], dtype=torch.bool, device=x.device)
        pooled = self.attn_pool["attn"](with_mean, with_mean, with_mean, every)[:, :1]
        return torch.cat([pooled, x], dim=1)


class _VideoNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embd_fc = MaskedConv(width, width)
        stem = ConvStack(width)
        self.embd_convs, self.embd_norms = stem.convs, stem.norms
        self.branch = nn.ModuleList(_Block(width, WINDOW if index < NUM_NEAR else 0) for index in range(NUM_LEVELS))

    def forward(
        self, x: Rows, mask: Mask
    ) -> list[tuple[Float[Tensor, "channel _row_of_level"], Bool[Tensor, " _row_of_level"]]]:
        """Return the rows and masks of all levels."""
        x = apply_stack(self.embd_convs, self.embd_norms, self.embd_fc(x, mask), mask)
        x = x + make_positions(x.shape[1], len(x)).to(x) * mask
        levels = []
        for block in self.branch:
            rows, x = block(x, mask)
            levels.append((rows, mask))
            mask = functional.pad(mask, (0, len(mask) % 2)).unfold(0, 2, 2).any(dim=-1)
        return levels


class _Block(nn.Module):
    """A block that returns a level's rows, and half as many for the next level."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.global_encoder = Hydra(width)
        self.local_encoder = LocalEncoder(width, window)
        self.norm_global, self.norm_local, self.norm_ffn = (nn.RMSNorm(width, eps=1e-6) for _ in range(3))
        self.gate1, self.gate2 = (nn.Sequential(nn.Linear(2 * width, width), nn.Sigmoid()) for _ in range(2))
        self.ffn = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.drop_path_global, self.drop_path_local, self.drop_path_ffn = (BranchScale(1, 1, width) for _ in range(3))

    def forward(self, x: Rows, mask: Mask) -> tuple[Rows, Float[Tensor, "channel pair"]]:
        """Return the rows of this level, and their pairs' anchors."""
        num_rows = x.shape[1]
        rows = functional.pad((x * mask).T, (0, 0, 0, num_rows % 2))
        pairs = rearrange(rows, "(pair two) channel -> pair two channel", two=2)
        mixed = torch.cat([pairs.mean(dim=1, keepdim=True), pairs], dim=1)
        u = rearrange(mixed, "pair three channel -> (pair three) channel")
        num_real = int(mask.sum())
        real = torch.arange(len(u), device=u.device) < num_real + -(-num_real // 2)
        out = rearrange(self._mix(u, real), "(pair three) channel -> three channel pair", three=3)
        level = rearrange(out[1:], "two channel pair -> channel (pair two)")
        return level[:, :num_rows], out[0]

    def _mix(self, u: Float[Tensor, "row channel"], real: Mask) -> Float[Tensor, "row channel"]:
        """Mix the rows of a level with their anchors: all of them, then near ones, each weighted by a gate."""
        keep = real[:, None]
        mixed = (self.drop_path_global(self.global_encoder(self.norm_global(u))) + u) * keep
        gate = self.gate1(torch.cat([u, mixed], dim=-1))
        joined = gate * mixed + (1 - gate) * u
        near = self.local_encoder(self.norm_local(joined).T, real).T
        near = (self.drop_path_local(near) + joined) * keep
        gate = self.gate2(torch.cat([joined, near], dim=-1))
        joined = gate * near + (1 - gate) * joined
        out: Tensor = joined + self.drop_path_ffn(self.ffn(self.norm_ffn(joined)))
        return out


class _LogitHead(ConvStack):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.cls_head = MaskedConv(width, 1, 3)

    def forward(self, x: Rows, mask: Mask) -> Float[Tensor, "1 row"]:
        logits: Tensor = self.cls_head(super().forward(x, mask), mask)
        return logits


class _OffsetHead(ConvStack):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.reg_head = MaskedConv(width, 2, 3)
        self.scales = nn.ModuleList(_Factor() for _ in range(NUM_LEVELS))

    def forward(self, x: Rows, mask: Mask, level: int) -> Float[Tensor, "2 row"]:  # type: ignore[override]
        offsets: Tensor = self.scales[level](self.reg_head(super().forward(x, mask), mask)).relu()
        return offsets


class _Factor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def make_positions(num_frames: int, width: int) -> Float[Tensor, "channel frame"]:
    """Return sinusoids of positions, sines first, over the root of ``width``; beyond ``POSITIONS`` interpolated."""
    frequencies = 10000.0 ** (torch.arange(width // 2) / (width // 2))
    angles = torch.arange(min(num_frames, POSITIONS)) / frequencies[:, None]
    table = torch.cat([angles.sin(), angles.cos()]) / width**0.5
    return functional.interpolate(table[None], num_frames, mode="linear", align_corners=True)[0]


def decode_levels(levels: Sequence[Level], *, duration: float) -> list[Span]:
    """Return up to five spans in seconds, best first, clamped to a video of ``duration`` seconds.

    Each span is the mean, weighted by score, of all predictions whose intersection over union with it is at least .95.
    """
    points = np.concatenate([_list_points(level) for level in levels])
    points = points[(points[:, 2] >= LEAST_SCORE) & (points[:, 1] - points[:, 0] >= LEAST_FRAMES)]
    points = points[np.argsort(-points[:, 2], kind="stable")[:MOST_POINTS]]
    starts, ends, scores = points.T
    order, lowered = soft_nms(starts, ends, scores, gaussian(SIGMA))
    spans = []
    for index, score in zip(order[:NUM_SPANS], lowered[:NUM_SPANS], strict=True):
        if score < LEAST_SCORE:
            break
        votes = scores * (overlap(starts, ends, starts[index], ends[index]) >= AGREEING)
        edges = (votes @ starts, votes @ ends) / votes.sum()
        start, end = ((edges + 0.5) / FPS).clip(0, duration).tolist()
        if end > start:
            spans.append(Span(start, end, float(score)))
    return spans


def _list_points(level: Level) -> np.ndarray:
    """Return the start, end (in frames) and score of each row of a level."""
    offsets = level.offsets.double().cpu().numpy()
    points = np.arange(len(offsets)) * level.stride
    scores = level.logits.double().sigmoid().cpu().numpy()
    return np.stack([points - offsets[:, 0] * level.stride, points + offsets[:, 1] * level.stride, scores], axis=1)


def build_universal(weights: Mapping[str, Tensor]) -> UniversalVtg:
    """Return the head that has published weights, in evaluation mode.

    Raises:
        VidretError: Weights are missing, unknown or of another shape.
    """
    float_weights = {name: weight.float() for name, weight in weights.items()}
    video, text = float_weights.get("vid_proj.conv.weight"), float_weights.get("text_net.embd_fc.conv.weight")
    if video is None or text is None or video.ndim != 3 or text.ndim != 3:
        raise VidretError("must have the weights vid_proj.conv.weight and text_net.embd_fc.conv.weight of UniversalVTG")
    head = UniversalVtg(video.shape[1], text.shape[1], video.shape[0])
    load_exactly(head, float_weights)
    return head.eval()


def save_universal(head: UniversalVtg, path: Path, *, backbone: str = BACKBONE) -> None:
    """Write a head, and the name of the encoder whose frames and words it reads, to a file for ``load_universal``."""
    fields = {"format": FORMAT, "method": METHOD, "backbone": backbone}
    weights = {name: weight.contiguous() for name, weight in head.state_dict().items()}
    save_tensors(weights, path, {CARD: json.dumps(fields)})


def is_universal(path: Path) -> bool:
    """Return whether a file is a head of UniversalVTG; False for a file that cannot be read."""
    try:
        return bool(parse_json(read_metadata(path).get(CARD, "{}")).get("method") == METHOD)
    except (SafetensorError, OSError, ValueError, AttributeError):
        return False


def load_universal(path: Path) -> tuple[UniversalVtg, str]:
    """Load a head that ``save_universal`` wrote, and the name of its encoder.

    Raises:
        VidretError: The file cannot be read, or its card has another format.
    """
    try:
        card = parse_json(read_metadata(path)[CARD])
        if card["format"] != FORMAT:
            raise ValueError(f"the card's format must be {FORMAT}, got {card['format']}")
        return build_universal(load_file(path)), str(card["backbone"])
    except (SafetensorError, OSError, ValueError, KeyError, VidretError) as error:
        raise VidretError(f"{path}: {error}") from error
