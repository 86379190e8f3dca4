"""Projected tokens of videos, which the grounding head computes once per video and reuses for every query.

Tokens are read by slices of frames, so that packed tokens are never unpacked as a whole.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from vidret.layers import pack_rows


class ProjectedVideos(NamedTuple):
    """Projected tokens of videos, by encoder layer, earliest first; a frame's first token is its class token.

    Attributes:
        layers: Tokens of each layer, in float32, float16 or int8.
        scales: For int8, the scale of each token; else None.
        biases: Biases of the tokens' attention logits (-inf at padding); None for a layer without.
        mask: False where a frame is padding, which comes last; None if there is none.
    """

    layers: tuple[Shaped[Tensor, "video frame _token dim"], ...]
    scales: tuple[Float[Tensor, "video frame _token"] | None, ...]
    biases: tuple[Float[Tensor, "video frame _token"] | None, ...]
    mask: Bool[Tensor, "video frame"] | None = None

    @property
    def num_frames(self) -> int:
        """Return the number of frames, padding included."""
        return self.layers[0].shape[1]

    @property
    def lengths(self) -> Int[Tensor, " video"]:
        """Return the number of real frames of each video."""
        first = self.layers[0]
        if self.mask is None:
            return torch.full((len(first),), self.num_frames, device=first.device)
        return self.mask.sum(dim=1)

    def tokens(self, layer: int, frames: slice = slice(None)) -> Float[Tensor, "video frame token dim"]:
        """Return the unpacked tokens of one layer for a slice of frames."""
        return _unpack(self.layers[layer][:, frames], _cut(self.scales[layer], frames))

    def bias(self, layer: int, frames: slice = slice(None)) -> Float[Tensor, "video frame 1 token"] | None:
        """Return the biases of attention logits for a slice of frames, to broadcast over words."""
        bias = _cut(self.biases[layer], frames)
        return None if bias is None else rearrange(bias, "video frame token -> video frame 1 token")

    def class_tokens(self, layer: int) -> Float[Tensor, "video frame dim"]:
        """Return each frame's unpacked class token of one layer."""
        scales = self.scales[layer]
        return _unpack(self.layers[layer][:, :, 0], None if scales is None else scales[:, :, 0])


def find_bias(
    layer: Float[Tensor, "video frame token width"],
    mask: Bool[Tensor, "video frame"] | None,
    token_mask: Bool[Tensor, "video frame token"] | None,
    sizes: Float[Tensor, "video frame token"] | None,
) -> Float[Tensor, "video frame token"] | None:
    """Return the bias of tokens' attention logits: the logarithm of sizes, -inf at padding, 0 in padding frames.

    Raises:
        ValueError: The class token of a real frame is masked.
    """
    if token_mask is None and sizes is None:
        return None
    bias = layer.new_zeros(layer.shape[:3], dtype=torch.float32)
    if sizes is not None:
        bias = bias + sizes.clamp(min=1).log()
    if token_mask is not None:
        bias = bias.masked_fill(~token_mask, -torch.inf)
    if mask is not None:
        bias = bias.masked_fill(~mask[..., None], 0)
    if bool(bias[..., 0].isneginf().any()):
        raise ValueError("token_masks must be True for the class token, the first, of each real frame")
    return bias


def pack_tokens(
    rows: Float[Tensor, "*row dim"], dtype: torch.dtype
) -> tuple[Shaped[Tensor, "*row dim"], Float[Tensor, "*row"] | None]:
    """Return rows as ``dtype``, and for int8 the scale of each row, else None."""
    return pack_rows(rows) if dtype == torch.int8 else (rows.to(dtype), None)


def _unpack(rows: Tensor, scales: Tensor | None) -> Tensor:
    if scales is not None:
        return rows.to(scales.dtype).mul_(scales[..., None])
    return rows.float() if rows.dtype == torch.float16 else rows


def _cut(values: Tensor | None, frames: slice) -> Tensor | None:
    return None if values is None else values[:, frames]


class PartialTokens(NamedTuple):
    """Tokens whose projection is begun but not finished.

    Attributes:
        hidden: Output of the first linear layer for normalised tokens, without its bias and that of the norm.
        mean: Mean over the input, in which the temporal endpoint feature is 0.
        variance: Its variance.
    """

    hidden: Float[Tensor, "frame token dim"]
    mean: Float[Tensor, "frame token"]
    variance: Float[Tensor, "frame token"]


def begin_projection(projection: nn.Sequential, tokens: Float[Tensor, "frame token width"]) -> PartialTokens:
    """Compute the part of a projection that does not depend on the start and end of a frame.

    The projection is ``video_map`` of an ``R2Block`` in evaluation mode, with or without the temporal endpoint feature.
    """
    norm, linear = _find_first(projection)
    num_inputs, width = norm.weight.numel(), tokens.shape[-1]
    x = tokens.to(linear.weight.dtype)
    mean = x.sum(dim=-1) / num_inputs
    x = x - mean[..., None]
    # The inputs of the feature are 0, so their deviation is the mean itself.
    variance = (x.square().sum(dim=-1) + (num_inputs - width) * mean.square()) / num_inputs
    weights = linear.weight * norm.weight
    hidden = x @ weights[:, :width].T - mean[..., None] * weights[:, width:].sum(dim=1)
    return PartialTokens(hidden * torch.rsqrt(variance + norm.eps)[..., None], mean, variance)


def finish_projection(
    projection: nn.Sequential, tokens: PartialTokens, ends: Float[Tensor, "frame 2"] | None
) -> Float[Tensor, "frame token dim"]:
    """Finish the projection that ``begin_projection`` began, and return the tokens.

    ``ends`` are the start and end of each frame in video lengths; None without the temporal endpoint feature.
    """
    norm, linear = _find_first(projection)
    num_inputs = norm.weight.numel()
    weights = linear.weight * norm.weight
    hidden = tokens.hidden.to(linear.weight.dtype)
    if ends is not None:
        shift = (ends.sum(dim=-1) / num_inputs)[:, None]  # of the mean
        squares = (ends.square().sum(dim=-1) / num_inputs)[:, None]
        variance = tokens.variance + squares - shift * (2 * tokens.mean + shift)
        inverse = torch.rsqrt(variance + norm.eps)
        added = ends @ weights[:, -2:].T - shift * weights.sum(dim=1)
        hidden = hidden * ((tokens.variance + norm.eps).sqrt() * inverse)[..., None]
        hidden = hidden + added[:, None] * inverse[..., None]
    x = hidden + (linear.weight @ norm.bias + linear.bias)
    for module in list(projection)[list(projection).index(linear) + 1 :]:
        x = module(x)
    return x


def _find_first(projection: nn.Sequential) -> tuple[nn.LayerNorm, nn.Linear]:
    """Return the first norm and the first linear layer of a projection."""
    norm = next(module for module in projection if isinstance(module, nn.LayerNorm))
    return norm, next(module for module in projection if isinstance(module, nn.Linear))
