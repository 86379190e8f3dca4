"""R2-Tuning's recurrent block, which refines a video's frames from CLIP's last layer back to earlier ones.

The projection of tokens does not depend on the query: ``project_videos`` runs once per video. A query then costs, for
each CLIP layer, attention over each frame's tokens, read in chunks, and a transformer layer over time.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.ground.projected import ProjectedVideos
from vidret.layers import zero_padding

TOKENS_AT_ONCE = 1024  # chunk size without gradients: float32 tokens that stay in a core's cache between two uses
EPS = 1e-6
WAVELENGTHS = 10000.0


class R2Output(NamedTuple):
    """Refined frames and words of videos and queries; layers are ordered from CLIP's last to earlier ones."""

    video: Float[Tensor, "video frame dim"]
    layer_videos: Float[Tensor, "layer video frame dim"]
    layer_words: Float[Tensor, "layer video word dim"]


class R2Block(nn.Module):
    """The recurrent block; all layers share its weights except for a scale each, and a gate for each but CLIP's last.

    Time is relative to a video's length in both encodings: the temporal endpoint feature of tokens (``tef``, start and
    end of their frame) and the positions of frames.
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
        motion: int = 0,
    ) -> None:
        """Build the block for CLIP towers of these widths; scales start at 0 (class tokens only), gates at 1/2.

        ``motion`` is the number of frames, odd, that a convolution over time reads before each step of refinement; 0
        for none, as published. It starts at 0.
        """
        super().__init__()
        self.dim, self.num_layers, self.tef = dim, num_layers, tef
        self.video_map = _make_projection(width + 2 * tef, dim, dropout)
        self.query_map = _make_projection(text_width, dim, dropout)
        # No bias: it would add the same to the logits of all tokens, which softmax ignores.
        self.token_key = nn.Linear(dim, dim, bias=False)
        self.word_key = nn.Linear(dim, dim)
        self.gates = nn.Parameter(torch.zeros(num_layers - 1))
        self.scales = nn.Parameter(torch.zeros(num_layers))
        self.motion = _make_convolution(dim, motion) if motion else None
        self.refine = Refine(dim, heads, drop_path=drop_path)

    def project_videos(
        self,
        layers: Sequence[Float[Tensor, "video frame _token width"]],
        *,
        mask: Bool[Tensor, "video frame"] | None,
        biases: Sequence[Float[Tensor, "video frame _token"] | None],
        padded_lengths: bool = False,
    ) -> ProjectedVideos:
        """Project all tokens of videos; padding is read as zeros.

        With ``padded_lengths``, padding frames count towards the length of a video.
        """
        num_videos, num_frames = layers[0].shape[:2]
        lengths = layers[0].new_full((num_videos,), num_frames, dtype=torch.long)
        if mask is not None and not padded_lengths:
            lengths = mask.sum(dim=1)
        first = torch.arange(num_frames, device=lengths.device)
        projected = []
        for tokens, bias in zip(layers, biases, strict=True):
            x = tokens.to(self.token_key.weight.dtype)
            if mask is not None:
                x = x.masked_fill(~mask[..., None, None], 0)
            if bias is not None:
                x = x.masked_fill(bias.isneginf()[..., None], 0)
            if self.tef:
                ends = torch.stack([first, first + 1], dim=-1).to(x.dtype) / lengths[:, None, None].to(x.dtype)
                x = torch.cat([x, ends[:, :, None].expand(*x.shape[:3], 2)], dim=-1)
            projected.append(self.video_map(x))
        return ProjectedVideos(tuple(projected), (None,) * len(layers), tuple(biases), mask)

    def forward(
        self,
        projected: ProjectedVideos,
        query: Float[Tensor, "video layer word width"],
        *,
        word_mask: Bool[Tensor, "video word"] | None = None,
        as_published: bool = False,
    ) -> R2Output:
        """Refine videos by queries, from CLIP's last layer back; each step starts from the result of the one before.

        With ``as_published``, padding words take part in max pooling over words, and positions are relative to the
        padded length. Outputs of padding are meaningless.
        """
        if word_mask is not None:
            query = query.masked_fill(~word_mask[:, None, :, None], 0)
        layer_words: Tensor = self.query_map(query.to(self.token_key.weight.dtype))
        lengths = projected._replace(mask=None).lengths if as_published else projected.lengths
        positions = encode_positions(projected.num_frames, self.dim, lengths.to(self.scales.dtype))
        pooled_words = None if as_published else word_mask
        video: Tensor | None = None
        layer_videos = []
        for layer in reversed(range(self.num_layers)):
            words = layer_words[:, layer]
            frames = projected.class_tokens(layer)
            layer_videos.append(frames)
            x = frames + self.scales[layer].tanh() * self.pool_tokens(projected, layer, words, pooled_words)
            if video is not None:
                gate = self.gates[layer].sigmoid()
                x = gate * x + (1 - gate) * video
            if self.motion is not None:
                x = x + self._read_motion(x, projected.mask)
            video = self.refine(x, words, positions, frame_mask=projected.mask, word_mask=word_mask)
        assert video is not None
        ordered = rearrange(layer_words.flip(1), "video layer word dim -> layer video word dim")
        return R2Output(video=video, layer_videos=torch.stack(layer_videos), layer_words=ordered)

    def _read_motion(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None
    ) -> Float[Tensor, "video frame dim"]:
        """Return the output of the convolution over time at each frame; padding is read as zeros."""
        assert self.motion is not None
        rows = rearrange(zero_padding(frames, mask), "video frame dim -> video dim frame")
        out: Tensor = rearrange(self.motion(rows), "video dim frame -> video frame dim")
        return out

    def pool_tokens(
        self,
        projected: ProjectedVideos,
        layer: int,
        words: Float[Tensor, "video word dim"],
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> Float[Tensor, "video frame dim"]:
        """Pool the tokens of each frame by attention from each word, then take the maximum over words per channel.

        A word's result is its attention-weighted mean of the tokens plus the word itself.
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
            by_word = weights @ tokens + words[:, None]
            if word_mask is not None:
                by_word = by_word.masked_fill(~word_mask[:, None, :, None], -torch.inf)
            pooled.append(by_word.max(dim=2).values if by_word.requires_grad else by_word.amax(dim=2))
        return torch.cat(pooled, dim=1)


class Refine(nn.Module):
    """A post-norm transformer layer over time: cross-attention to words, self-attention, and an MLP."""

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
        positions: Float[Tensor, "#video frame dim"],
        *,
        frame_mask: Bool[Tensor, "video frame"] | None = None,
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> Float[Tensor, "video frame dim"]:
        """Return refined frames; ``positions`` are added to queries and keys but not to values."""
        x = self.cross_norm(x + self._drop(self.cross(x + positions, words, words, mask=word_mask)))
        placed = x + positions
        x = self.own_norm(x + self._drop(self.own(placed, placed, x, mask=frame_mask)))
        out: Tensor = self.mlp_norm(x + self._drop(self.mlp(x)))
        return out

    def _drop(self, change: Float[Tensor, "video frame dim"]) -> Float[Tensor, "video frame dim"]:
        """Apply stochastic depth to an update: in training, zero it for some videos and rescale the others."""
        if not (self.training and self.drop_path):
            return change
        kept = torch.rand(len(change), 1, 1, device=change.device) >= self.drop_path
        return change * kept / (1 - self.drop_path)


class R2Attention(nn.Module):
    """Multi-head attention with separate keys and values, since positions are not added to values."""

    def __init__(self, dim: int, heads: int) -> None:
        if heads < 1 or dim % heads:
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
        """Attend from queries to real keys, or to all keys if none is real, which avoids NaN."""
        query, key, value = (
            rearrange(projection, "b n (h c) -> b h n c", h=self.heads)
            for projection in (self.query(queries), self.key(keys), self.value(values))
        )
        allowed = None if mask is None else rearrange(mask | ~mask.any(dim=1, keepdim=True), "b n -> b 1 1 n")
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        out: Tensor = self.out(rearrange(mixed, "b h n c -> b n (h c)"))
        return out


def encode_positions(num_frames: int, dim: int, lengths: Float[Tensor, " video"]) -> Float[Tensor, "video frame dim"]:
    """Return sinusoidal encodings of frame positions relative to the video's length.

    Frame t (from 0) has the angle 2 pi (t + 1) / length, divided by 10000^(2 floor(j / 2) / dim) for channel j; even
    channels hold its sine, odd ones its cosine.
    """
    position = torch.arange(1, num_frames + 1, device=lengths.device).to(lengths.dtype)
    angle = position / (lengths[:, None] + EPS) * (2 * math.pi)
    pair = torch.arange(dim, device=lengths.device).div(2, rounding_mode="floor").to(lengths.dtype)
    angles = angle[..., None] / WAVELENGTHS ** (2 * pair / dim)
    is_even = torch.arange(dim, device=lengths.device) % 2 == 0
    return torch.where(is_even, angles.sin(), angles.cos())


def cut_frames(num_frames: int, tokens_per_frame: int) -> list[slice]:
    """Return slices of frames to process in turn; one slice with gradients, which keep all activations anyway."""
    step = num_frames if torch.is_grad_enabled() else max(1, TOKENS_AT_ONCE // tokens_per_frame)
    return [slice(first, min(first + step, num_frames)) for first in range(0, num_frames, step)]


def _make_convolution(dim: int, size: int) -> nn.Conv1d:
    """Return a convolution that keeps the number of frames, and gives 0 until it is trained."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"motion must be an odd number of frames, got {size}")
    convolution = nn.Conv1d(dim, dim, size, padding=size // 2)
    for weight in convolution.parameters():
        nn.init.zeros_(weight)
    return convolution


def _make_projection(width: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Dropout(dropout),
        nn.Linear(width, dim),
        nn.ReLU(),
        nn.LayerNorm(dim),
        nn.Dropout(dropout),
        nn.Linear(dim, dim),
    )
