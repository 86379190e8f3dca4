"""Token shift: in the last blocks, some tokens of a frame are replaced by those of a neighbouring frame."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

SHIFTED_BLOCKS = 2  # the last blocks of the tower
SHIFT_FOLD = 7
SHIFT_BACK, SHIFT_AHEAD = 1, 4


def shift_tokens(
    x: Float[Tensor, "sequence token width"], num_frames: int, mask: Bool[Tensor, " sequence"] | None = None
) -> Float[Tensor, "sequence token width"]:
    """Replace two of seven tokens by those of the previous and of the next frame; the ends of a video keep their own.

    ``mask`` is False where a frame is padding, which ends a video.
    Reference: Liu et al. 2022, "TS2-Net", section 3.3, in the form that UCoFiA uses.
    """
    frames = rearrange(x, "(video frame) token width -> video frame token width", frame=num_frames)
    fold = x.shape[1] // SHIFT_FOLD
    before, after = frames[:, :-1], frames[:, 1:]
    if mask is not None:
        real = rearrange(mask, "(video frame) -> video frame 1 1", frame=num_frames)
        before, after = torch.where(real[:, :-1], before, after), torch.where(real[:, 1:], after, before)
    shifted = frames.clone()
    shifted[:, 1:, SHIFT_BACK::fold] = before[:, :, SHIFT_BACK::fold]
    shifted[:, :-1, SHIFT_AHEAD::fold] = after[:, :, SHIFT_AHEAD::fold]
    return rearrange(shifted, "video frame token width -> (video frame) token width")
