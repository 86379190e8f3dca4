"""Small heads whose weights all matter, random inputs, inputs of the published code, curves and overlaps."""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from tests.goldens import Case
from vidret.ground.head import GroundingHead
from vidret.ground.projected import ProjectedVideos, pack_tokens
from vidret.types import Curve

WIDTH, TEXT_WIDTH, DIM, NUM_LAYERS = 24, 16, 16, 3


class Inputs(NamedTuple):
    """Layers of videos and queries, earliest first, with masks."""

    layers: list[Tensor]
    query: Tensor
    mask: Tensor | None = None
    word_mask: Tensor | None = None

    def take(self, video: int) -> "Inputs":
        """Return one video and its query, without padding."""
        assert self.mask is not None
        assert self.word_mask is not None
        frames, words = int(self.mask[video].sum()), int(self.word_mask[video].sum())
        layers = [layer[video : video + 1, :frames] for layer in self.layers]
        return Inputs(layers, self.query[video : video + 1, :, :words])


def naive_overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Return the intersection over union of two spans, each start and end; 0 for two empty ones."""
    shared = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    covered = (first[1] - first[0]) + (second[1] - second[0]) - shared
    return shared / covered if covered > 0 else 0.0


def make_curve(scores: np.ndarray, typical: float | None = None) -> Curve:
    """Return a curve of one frame a second."""
    num_frames = len(scores)
    return Curve(scores, np.arange(num_frames) + 0.5, 0.0, float(num_frames), float(scores.max()), typical)


def make_head(
    *,
    strides: tuple[int, ...] = (1, 2, 4),
    tef: bool = True,
    boundaries: bool = True,
    motion: int = 0,
    num_layers: int = NUM_LAYERS,
    as_published: bool = False,
) -> GroundingHead:
    """Return a double precision head with random gates, scales and biases."""
    torch.manual_seed(0)
    head = GroundingHead(
        WIDTH,
        TEXT_WIDTH,
        DIM,
        num_layers=num_layers,
        strides=strides,
        tef=tef,
        boundaries=boundaries,
        cosine=boundaries,
        motion=motion,
        as_published=as_published,
    ).double()
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return head.eval()


def make_inputs(
    lengths: tuple[int, ...] = (9, 5, 2),
    num_words: tuple[int, ...] = (4, 2, 6),
    *,
    num_tokens: tuple[int, ...] = (5, 5, 5),
    seed: int = 1,
    garbage: float = 0.0,
) -> Inputs:
    """Return a padded batch of videos and queries; padding has the value ``garbage``."""
    torch.manual_seed(seed)
    num_videos = len(lengths)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    word_mask = torch.arange(max(num_words)) < torch.tensor(num_words)[:, None]
    layers = [torch.randn(num_videos, max(lengths), tokens, WIDTH, dtype=torch.float64) for tokens in num_tokens]
    query = torch.randn(num_videos, len(num_tokens), max(num_words), TEXT_WIDTH, dtype=torch.float64)
    layers = [layer.masked_fill(~mask[..., None, None], garbage) for layer in layers]
    return Inputs(layers, query.masked_fill(~word_mask[:, None, :, None], garbage), mask, word_mask)


def read_single(case: Case, video: int) -> Inputs:
    """Load one golden video and its query, without padding."""
    frames, words = case.inputs[f"video_{video}"], case.inputs[f"query_{video}"]
    layers = rearrange(frames, "frame layer token width -> layer 1 frame token width")
    return Inputs(list(layers), rearrange(words, "word layer width -> 1 layer word width"))


def read_batch(case: Case) -> Inputs:
    """Load the golden batch; its padding is inf."""
    frames, words = case.inputs["video"], case.inputs["query"]
    num_layers, num_tokens = case.config["case"]["k"], case.config["clip_dims"]["tokens"]
    pattern = "video frame (layer token width) -> layer video frame token width"
    layers = rearrange(frames, pattern, layer=num_layers, token=num_tokens)
    query = rearrange(words, "video word (layer width) -> video layer word width", layer=num_layers)
    return Inputs(list(layers), query, frames[..., 0].isfinite(), words[..., 0].isfinite())


def prepare(head: GroundingHead, inputs: Inputs) -> ProjectedVideos:
    """Return the projected videos."""
    return head.prepare(inputs.layers, mask=inputs.mask)


def pack(projected: ProjectedVideos, dtype: torch.dtype) -> ProjectedVideos:
    """Return videos with packed tokens, as an index stores them."""
    pairs = [pack_tokens(layer, dtype) for layer in projected.layers]
    return projected._replace(layers=tuple(rows for rows, _ in pairs), scales=tuple(scales for _, scales in pairs))
