"""The part of a head's projection of tokens that does not depend on the length of their video.

The first norm of the projection includes the temporal endpoint feature, the start and end of a token's frame in video
lengths, which is known at the end of a video only. But the linear layer after it is a sum over its inputs, and mean and
variance are sums too. So a token is kept as the output of that layer without the feature, and its mean and variance
without it; adding the feature later gives the same as projecting all at once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PartialTokens(NamedTuple):
    """Tokens that are projected in part.

    Attributes:
        hidden: Output of the first linear layer for normalised tokens, without its bias and that of the norm.
        mean: Mean over the input, in which the temporal endpoint feature is 0.
        variance: Its variance.
    """

    hidden: Float[Tensor, "frame token dim"]
    mean: Float[Tensor, "frame token"]
    variance: Float[Tensor, "frame token"]


def begin_projection(projection: nn.Sequential, tokens: Float[Tensor, "frame token width"]) -> PartialTokens:
    """Project tokens as far as the start and end of their frame are not needed.

    Args:
        projection: ``video_map`` of an ``R2Block``, with or without the temporal endpoint feature, in evaluation mode.
        tokens: Outputs of one layer of the encoder.
    """
    norm, linear = _find_first(projection)
    num_inputs, width = norm.weight.numel(), tokens.shape[-1]
    x = tokens.to(linear.weight.dtype)
    mean = x.sum(dim=-1) / num_inputs
    x = x - mean[..., None]
    # The inputs of the feature are 0, and so differ from the mean by it.
    variance = (x.square().sum(dim=-1) + (num_inputs - width) * mean.square()) / num_inputs
    weights = linear.weight * norm.weight
    hidden = x @ weights[:, :width].T - mean[..., None] * weights[:, width:].sum(dim=1)
    return PartialTokens(hidden * torch.rsqrt(variance + norm.eps)[..., None], mean, variance)


def finish_projection(
    projection: nn.Sequential, tokens: PartialTokens, ends: Float[Tensor, "frame 2"] | None
) -> Float[Tensor, "frame token dim"]:
    """Return the tokens as the whole projection gives them.

    Args:
        projection: As for ``begin_projection``.
        tokens: Its result.
        ends: Start and end of each frame in video lengths; None without the temporal endpoint feature.
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
