"""What the grounding head keeps of videos: their tokens in its own space, computed once, asked by every query.

Reading is by slices of frames, so that packed tokens never exist whole as float32.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from vidret.layers import pack_rows


class ProjectedVideos(NamedTuple):
    """The projected tokens of each layer, earliest first; a frame's class token is its first.

    ``layers`` may be float32, float16, or int8 with a ``scales`` entry for each token, None otherwise. ``biases`` are
    added to the logits of tokens (-inf where one is padding), None for a layer with nothing to add. ``mask`` is False
    where a frame is padding, which comes last; None when all are real.
    """

    layers: tuple[Shaped[Tensor, "video frame token dim"], ...]
    scales: tuple[Float[Tensor, "video frame token"] | None, ...]
    biases: tuple[Float[Tensor, "video frame token"] | None, ...]
    mask: Bool[Tensor, "video frame"] | None = None

    @property
    def num_frames(self) -> int:
        """Count the frames, padding included."""
        return self.layers[0].shape[1]

    @property
    def lengths(self) -> Int[Tensor, " video"]:
        """Count the real frames of each video."""
        first = self.layers[0]
        if self.mask is None:
            return torch.full((len(first),), self.num_frames, device=first.device)
        return self.mask.sum(dim=1)

    @property
    def bytes_per_frame(self) -> float:
        """Say what a frame takes: tokens, scales and biases."""
        parts = [part for part in (*self.layers, *self.scales, *self.biases) if part is not None]
        return sum(part.numel() * part.element_size() for part in parts) / self.layers[0].shape[:2].numel()

    def tokens(self, layer: int, frames: slice = slice(None)) -> Float[Tensor, "video frame token dim"]:
        """Read the tokens of some frames in one layer."""
        return _unpack(self.layers[layer][:, frames], _cut(self.scales[layer], frames))

    def bias(self, layer: int, frames: slice = slice(None)) -> Float[Tensor, "video frame 1 token"] | None:
        """Read what is added to the logits of some frames' tokens, for every word."""
        part = _cut(self.biases[layer], frames)
        return None if part is None else rearrange(part, "video frame token -> video frame 1 token")

    def class_tokens(self, layer: int) -> Float[Tensor, "video frame dim"]:
        """Read each frame's class token in one layer."""
        scales = self.scales[layer]
        return _unpack(self.layers[layer][:, :, 0], None if scales is None else scales[:, :, 0])

    def packed(self, dtype: torch.dtype) -> "ProjectedVideos":
        """Keep the tokens as float32, float16, or as int8 with one scale for each token."""
        pairs = [pack_tokens(self.tokens(layer), dtype) for layer in range(len(self.layers))]
        return self._replace(layers=tuple(rows for rows, _ in pairs), scales=tuple(scales for _, scales in pairs))


def find_bias(
    layer: Float[Tensor, "video frame token width"],
    mask: Bool[Tensor, "video frame"] | None,
    token_mask: Bool[Tensor, "video frame token"] | None,
    sizes: Float[Tensor, "video frame token"] | None,
) -> Float[Tensor, "video frame token"] | None:
    """Give what is added to tokens' logits: the logarithm of sizes, -inf at padding; in padding frames 0 throughout.

    Raises:
        ValueError: A real frame has no class token.
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
    rows: Float[Tensor, "*row dim"], dtype: torch.dtype | None
) -> tuple[Shaped[Tensor, "*row dim"], Float[Tensor, "*row"] | None]:
    """Give rows in a type, their own when None, and what to multiply each by; None when nothing."""
    return pack_rows(rows) if dtype == torch.int8 else (rows if dtype is None else rows.to(dtype), None)


def _unpack(rows: Tensor, scales: Tensor | None) -> Tensor:
    if scales is not None:
        return rows.to(scales.dtype).mul_(scales[..., None])
    return rows.float() if rows.dtype == torch.float16 else rows


def _cut(part: Tensor | None, frames: slice) -> Tensor | None:
    return None if part is None else part[:, frames]
