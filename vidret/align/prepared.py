"""What of a video does not depend on the query: computed once, kept small, compared often."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from vidret.layers import pack_rows


class PreparedVideos(NamedTuple):
    """The video side of all three levels, ready to be multiplied by texts.

    ``videos`` and ``tokens`` have been through their mixing matrices; ``tokens`` may be float32, float16, or int8 with
    a ``token_scales`` entry for each. Masks are False where there is padding, None when all is real; ``sizes`` say of
    how many patches each token is the mean, None for one.
    """

    videos: Float[Tensor, "video dim"]
    frames: Float[Tensor, "video frame dim"]
    tokens: Shaped[Tensor, "video token dim"]
    frame_mask: Bool[Tensor, "video frame"] | None = None
    token_mask: Bool[Tensor, "video token"] | None = None
    sizes: Float[Tensor, "video token"] | None = None
    token_scales: Float[Tensor, "video token"] | None = None

    def take(self, rows: Tensor | slice) -> "PreparedVideos":
        """Give some of the videos: candidates, in the order asked for."""
        return self._each(lambda part: part[rows])

    def trimmed(self) -> "PreparedVideos":
        """Drop the columns of frames and tokens that are padding in every video; a mask that hides nothing goes too."""
        num_frames, frame_mask = trim(self.frame_mask)
        num_tokens, token_mask = trim(self.token_mask)
        tokens, sizes, scales = (
            None if part is None else part[:, :num_tokens] for part in (self.tokens, self.sizes, self.token_scales)
        )
        assert tokens is not None
        return PreparedVideos(self.videos, self.frames[:, :num_frames], tokens, frame_mask, token_mask, sizes, scales)

    def packed(self, dtype: torch.dtype) -> "PreparedVideos":
        """Keep the tokens as float16, or as int8 with one scale for each token."""
        tokens = self.unpacked().tokens
        if dtype != torch.int8:
            return self._replace(tokens=tokens.to(dtype), token_scales=None)
        packed, scales = pack_rows(tokens)
        return self._replace(tokens=packed, token_scales=scales)

    def unpacked(self) -> "PreparedVideos":
        """Give the tokens as float32."""
        if self.token_scales is None:
            return self._replace(tokens=self.tokens.float())
        return self._replace(tokens=self.tokens.float().mul_(self.token_scales[..., None]), token_scales=None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PreparedVideos":
        return PreparedVideos(*(None if part is None else change(part) for part in self))  # type: ignore[arg-type]


def trim(mask: Bool[Tensor, "item n"] | None) -> tuple[int | None, Bool[Tensor, "item m"] | None]:
    """Say how many columns reach to the last real entry of all, and give the mask of those; None if all are real."""
    if mask is None:
        return None, None
    columns = mask.any(dim=0).nonzero()
    length = int(columns[-1]) + 1 if len(columns) else 1
    return length, None if mask[:, :length].all() else mask[:, :length]
