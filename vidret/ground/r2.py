"""R2-Tuning's recurrent block: one set of weights that walks CLIP's last layers backwards, and refines a video in time.

The projection of all tokens does not depend on a query: ``project_videos`` runs once per video. A query then costs,
for each CLIP layer, an attention over each frame's tokens, read chunk by chunk, and a transformer layer over time.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.ground.projected import ProjectedVideos, pack_tokens

TOKENS_AT_ONCE = 1024  # without gradients: what of float32 tokens stays in a core's cache while it is used twice
EPS = 1e-6
WAVELENGTHS = 10000.0


class R2Output(NamedTuple):
    """What the block makes of videos and queries; the layers are in the order of the walk, CLIP's last one first."""

    video: Float[Tensor, "video frame dim"]
    words: Float[Tensor, "video word dim"]
    layer_videos: Float[Tensor, "layer video frame dim"]
    layer_words: Float[Tensor, "layer video word dim"]


class R2Block(nn.Module):
    """The block. Shared by all layers but for a scale each, and a gate each but the last, where the walk begins.

    A video's length enters twice: tokens are told when their frame starts and ends as shares of it (``tef``), and
    positions in time are shares of it too.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        dim: int = 256,
        *,
        num_layers: int = 4,
        heads: int = 8,
        tef: bool = True,
        dropout: float = 0.5,
        drop_path: float = 0.1,
    ) -> None:
        """Build it for CLIP towers of these widths; at first nothing but class tokens enters, through gates of 1/2."""
        super().__init__()
        self.dim, self.num_layers, self.tef = dim, num_layers, tef
        self.video_map = _mapping(width + 2 * tef, dim, dropout)
        self.query_map = _mapping(text_width, dim, dropout)
        # A bias of the tokens' keys would add the same to all tokens' logits: the softmax does not see it.
        self.token_key = nn.Linear(dim, dim, bias=False)
        self.word_key = nn.Linear(dim, dim)
        self.gates = nn.Parameter(torch.zeros(num_layers - 1))
        self.scales = nn.Parameter(torch.zeros(num_layers))
        self.refine = Refine(dim, heads, drop_path=drop_path)

    def project_videos(
        self,
        layers: Sequence[Float[Tensor, "video frame token width"]],
        *,
        mask: Bool[Tensor, "video frame"] | None,
        biases: Sequence[Float[Tensor, "video frame token"] | None],
        padded_lengths: bool = False,
        dtype: torch.dtype | None = None,
    ) -> ProjectedVideos:
        """Map all tokens, and pack them as they come; with ``padded_lengths`` a video is as long as its padding is."""
        num_videos, num_frames = layers[0].shape[:2]
        lengths = layers[0].new_full((num_videos,), num_frames, dtype=torch.long)
        if mask is not None and not padded_lengths:
            lengths = mask.sum(dim=1)
        packed = []
        for tokens, bias in zip(layers, biases, strict=True):
            hidden = None if bias is None else bias.isneginf()
            pieces = [
                pack_tokens(self._project_tokens(tokens, frames, mask, hidden, lengths), dtype)
                for frames in cut_frames(num_frames, num_videos * tokens.shape[2])
            ]
            rows, scales = zip(*pieces, strict=True)
            packed.append((torch.cat(rows, dim=1), None if scales[0] is None else torch.cat(scales, dim=1)))
        return ProjectedVideos(
            tuple(rows for rows, _ in packed), tuple(part for _, part in packed), tuple(biases), mask
        )

    def _project_tokens(
        self, tokens: Tensor, frames: slice, mask: Tensor | None, hidden: Tensor | None, lengths: Int[Tensor, " video"]
    ) -> Float[Tensor, "video frame token dim"]:
        """Map the tokens of some frames; padding counts as zeros, whatever it holds."""
        x = tokens[:, frames].to(self.token_key.weight.dtype)
        if mask is not None:
            x = x.masked_fill(~mask[:, frames, None, None], 0)
        if hidden is not None:
            x = x.masked_fill(hidden[:, frames, :, None], 0)
        if self.tef:
            first = torch.arange(frames.start, frames.stop, device=x.device)
            ends = torch.stack([first, first + 1], dim=-1).to(x.dtype) / lengths[:, None, None].to(x.dtype)
            x = torch.cat([x, ends[:, :, None].expand(*x.shape[:3], 2)], dim=-1)
        projected: Tensor = self.video_map(x)
        return projected

    def forward(
        self,
        projected: ProjectedVideos,
        query: Float[Tensor, "video layer word width"],
        *,
        word_mask: Bool[Tensor, "video word"] | None = None,
        as_published: bool = False,
    ) -> R2Output:
        """Walk the layers from CLIP's last to the earliest, each step starting from what the one before has found.

        With ``as_published`` padding words take part in the choice of the strongest word, and positions in time are
        shares of the padded length. What comes out for padding means nothing otherwise.
        """
        if word_mask is not None:
            query = query.masked_fill(~word_mask[:, None, :, None], 0)
        layer_words: Tensor = self.query_map(query.to(self.token_key.weight.dtype))
        lengths = projected._replace(mask=None).lengths if as_published else projected.lengths
        places = encode_places(projected.num_frames, self.dim, lengths.to(self.scales.dtype))
        seen_words = None if as_published else word_mask
        video: Tensor | None = None
        layer_videos = []
        for layer in reversed(range(self.num_layers)):
            words = layer_words[:, layer]
            frames = projected.class_tokens(layer)
            layer_videos.append(frames)
            x = frames + self.scales[layer].tanh() * self.pool_tokens(projected, layer, words, seen_words)
            if video is not None:
                gate = self.gates[layer].sigmoid()
                x = gate * x + (1 - gate) * video
            video = self.refine(x, words, places, frame_mask=projected.mask, word_mask=word_mask)
        assert video is not None
        walked = rearrange(layer_words.flip(1), "video layer word dim -> layer video word dim")
        return R2Output(video, walked[-1], torch.stack(layer_videos), walked)

    def pool_tokens(
        self,
        projected: ProjectedVideos,
        layer: int,
        words: Float[Tensor, "video word dim"],
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> Float[Tensor, "video frame dim"]:
        """Give, for each frame, the strongest of what the words find among its tokens, channel by channel.

        A word finds the mean of the tokens, weighed by a softmax over their products with it, plus itself.
        """
        keys = self.word_key(words) @ self.token_key.weight / math.sqrt(self.dim)
        pooled = []
        for frames in cut_frames(projected.num_frames, len(words) * projected.layers[layer].shape[2]):
            tokens = projected.tokens(layer, frames)
            logits = keys @ rearrange(tokens, "video frame token dim -> video dim (frame token)")
            logits = rearrange(
                logits, "video word (frame token) -> video frame word token", frame=frames.stop - frames.start
            )
            bias = projected.bias(layer, frames)
            weights = (logits if bias is None else logits + bias).softmax(dim=-1)
            found = weights @ tokens + words[:, None]
            if word_mask is not None:
                found = found.masked_fill(~word_mask[:, None, :, None], -torch.inf)
            pooled.append(found.max(dim=2).values if found.requires_grad else found.amax(dim=2))
        return torch.cat(pooled, dim=1)


class Refine(nn.Module):
    """A post-norm transformer layer: frames look at the words, then at each other, then each changes by itself."""

    def __init__(self, dim: int, heads: int, *, drop_path: float = 0.1) -> None:
        super().__init__()
        self.cross, self.own = R2Attention(dim, heads), R2Attention(dim, heads)
        widen, narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.mlp = nn.Sequential(widen, nn.ReLU(), narrow)
        self.cross_norm, self.own_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop_path = drop_path
        for linear in (widen, narrow):
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "video frame dim"],
        words: Float[Tensor, "video word dim"],
        places: Float[Tensor, "#video frame dim"],
        *,
        frame_mask: Bool[Tensor, "video frame"] | None = None,
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> Float[Tensor, "video frame dim"]:
        """Refine frames; ``places`` say when they are, to queries and keys alone."""
        x = self.cross_norm(x + self._drop(self.cross(x + places, words, words, mask=word_mask)))
        placed = x + places
        x = self.own_norm(x + self._drop(self.own(placed, placed, x, mask=frame_mask)))
        out: Tensor = self.mlp_norm(x + self._drop(self.mlp(x)))
        return out

    def _drop(self, change: Float[Tensor, "video frame dim"]) -> Float[Tensor, "video frame dim"]:
        """In training leave out what is added for some videos, and make up for it in the others."""
        if not (self.training and self.drop_path):
            return change
        kept = torch.rand(len(change), 1, 1, device=change.device) >= self.drop_path
        return change * kept / (1 - self.drop_path)


class R2Attention(nn.Module):
    """Multi-head attention whose keys and values come apart: the values are not told when they are."""

    def __init__(self, dim: int, heads: int) -> None:
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}, got {heads}")
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        queries: Float[Tensor, "video query dim"],
        keys: Float[Tensor, "video key dim"],
        values: Float[Tensor, "video key dim"],
        *,
        mask: Bool[Tensor, "video key"] | None = None,
    ) -> Float[Tensor, "video query dim"]:
        """Attend from queries to real keys; where none is real, to all, so that there is no NaN."""
        query, key, value = (
            rearrange(part, "b n (h c) -> b h n c", h=self.heads)
            for part in (self.query(queries), self.key(keys), self.value(values))
        )
        seen = None if mask is None else rearrange(mask | ~mask.any(dim=1, keepdim=True), "b n -> b 1 1 n")
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        out: Tensor = self.out(rearrange(mixed, "b h n c -> b n (h c)"))
        return out


def encode_places(num_frames: int, dim: int, lengths: Float[Tensor, " video"]) -> Float[Tensor, "video frame dim"]:
    """Encode when each frame is, as a share of its video's length: sines and cosines of rising wavelengths.

    Frame t (from 0) has the angle 2 pi (t + 1) / length, divided by 10000^(2 floor(j / 2) / dim) for channel j; even
    channels hold its sine, odd ones its cosine.
    """
    place = torch.arange(1, num_frames + 1, device=lengths.device).to(lengths.dtype)
    angle = place / (lengths[:, None] + EPS) * (2 * math.pi)
    pair = torch.arange(dim, device=lengths.device).div(2, rounding_mode="floor").to(lengths.dtype)
    angles = angle[..., None] / WAVELENGTHS ** (2 * pair / dim)
    is_even = torch.arange(dim, device=lengths.device) % 2 == 0
    return torch.where(is_even, angles.sin(), angles.cos())


def cut_frames(num_frames: int, tokens_a_frame: int) -> list[slice]:
    """Cut frames into chunks that are worked on at once: all of them where gradients keep everything anyway."""
    step = num_frames if torch.is_grad_enabled() else max(1, TOKENS_AT_ONCE // tokens_a_frame)
    return [slice(first, min(first + step, num_frames)) for first in range(0, num_frames, step)]


def _mapping(width: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Dropout(dropout),
        nn.Linear(width, dim),
        nn.ReLU(),
        nn.LayerNorm(dim),
        nn.Dropout(dropout),
        nn.Linear(dim, dim),
    )
