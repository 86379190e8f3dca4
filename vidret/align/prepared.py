"""Query-independent features of videos for UCoFiA: computed once, stored compactly, compared with every query."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from vidret.layers import pack_rows


class PreparedVideos(NamedTuple):
    """The video side of all three levels.

    Attributes:
        videos: Video vectors, multiplied by their mixing matrix.
        frames: Frame vectors of unit length.
        tokens: Tokens, multiplied by their mixing matrix; float32, float16, or int8 with ``token_scales``.
        frame_mask: False where a frame is padding; None if none is.
        token_mask: False where a token is padding; None if none is.
        sizes: Number of patches that each token is the mean of; None if all are 1.
        token_scales: Scale of each int8 token.
    """

    videos: Float[Tensor, "video dim"]
    frames: Float[Tensor, "video frame dim"]
    tokens: Shaped[Tensor, "video token dim"]
    frame_mask: Bool[Tensor, "video frame"] | None = None
    token_mask: Bool[Tensor, "video token"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    token_scales: Float[Tensor, "video token"] | None = None

    def take(self, rows: Tensor | slice) -> "PreparedVideos":
        """Return the selected videos, in the given order."""
        return self._each(lambda field: field[rows])

    def trimmed(self) -> "PreparedVideos":
        """Return a copy without frames and tokens that are padding in every video; masks that are all True are None."""
        num_frames, frame_mask = trim(self.frame_mask)
        num_tokens, token_mask = trim(self.token_mask)
        tokens, sizes, scales = (
            None if field is None else field[:, :num_tokens] for field in (self.tokens, self.sizes, self.token_scales)
        )
        assert tokens is not None
        return PreparedVideos(self.videos, self.frames[:, :num_frames], tokens, frame_mask, token_mask, sizes, scales)

    def packed(self, dtype: torch.dtype) -> "PreparedVideos":
        """Return a copy with tokens of ``dtype``: float16, or int8 with one scale per token."""
        tokens = self.unpacked().tokens
        if dtype != torch.int8:
            return self._replace(tokens=tokens.to(dtype), token_scales=None)
        packed, scales = pack_rows(tokens)
        return self._replace(tokens=packed, token_scales=scales)

    def unpacked(self) -> "PreparedVideos":
        """Return a copy with float32 tokens."""
        if self.token_scales is None:
            return self._replace(tokens=self.tokens.float())
        return self._replace(tokens=self.tokens.float().mul_(self.token_scales[..., None]), token_scales=None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PreparedVideos":
        return PreparedVideos(*(None if field is None else change(field) for field in self))  # type: ignore[arg-type]


def trim(mask: Bool[Tensor, "item n"] | None) -> tuple[int | None, Bool[Tensor, "item m"] | None]:
    """Return the number of columns up to the last real entry of any item, and their mask; None if all are real."""
    if mask is None:
        return None, None
    columns = mask.any(dim=0).nonzero()
    length = int(columns[-1]) + 1 if len(columns) else 1
    return length, None if mask[:, :length].all() else mask[:, :length]
