"""Prompt Switch: a prompt cube that carries information between the frames of a clip.

Every frame carries ``num_prompts`` learned tokens. Over ``num_prompts`` neighbouring frames they form a cube (frame,
slot, channel). Before each self-attention the frame and slot axes are transposed, so that a frame attends to one prompt
of every frame. After the last layer the class tokens of a clip attend to all prompts of the clip.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval", section 3.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vidret.layers import Attention


@dataclass(frozen=True, slots=True)
class PromptShape:
    """``num_prompts`` prompts per frame, aggregated over clips of ``num_frames`` frames.

    Attributes:
        num_prompts: Prompts per frame, and number of frames that exchange theirs.
        num_frames: Frames of a clip, whose class tokens attend to all of its prompts after the last layer.
        spread: For token merging, which joins neighbours: whether frames stay in temporal order, while those that
            exchange prompts are spread over the video, as in Prompt Switch, and a clip is the whole video.
    """

    num_prompts: int = 6
    num_frames: int = 6
    spread: bool = False

    def __post_init__(self) -> None:
        if self.num_prompts < 1 or self.num_frames < 1 or self.num_frames % self.num_prompts:
            raise ValueError(
                f"num_frames must be a multiple of num_prompts, got {self.num_frames} and {self.num_prompts}"
            )

    def check(self, num_frames: int) -> None:
        """Raise ValueError unless ``num_frames`` frames make whole clips; with ``spread``, any number does."""
        if not self.spread and num_frames % self.num_frames:
            raise ValueError(f"num_frames must be a multiple of {self.num_frames}, got {num_frames}")

    def order(self, num_frames: int) -> list[int]:
        """Return frame indices in encoding order; see ``interleave``."""
        return list(range(num_frames)) if self.spread else interleave(num_frames, self.num_frames)

    def count_chunks(self, padded: int) -> int:
        """Return the distance, in a video of ``padded`` frames, between frames that exchange prompts."""
        return padded // self.num_prompts if self.spread else 1


class PromptCube(nn.Module):
    """The prompts and their aggregation, which starts as the identity: its output projection is zero."""

    def __init__(self, shape: PromptShape, width: int, heads: int) -> None:
        super().__init__()
        self.shape = shape
        self.cube = nn.Parameter(torch.randn(shape.num_prompts, shape.num_prompts, width) * 0.02 * width**-0.5)
        self.aggregation = Attention(width, heads)
        nn.init.zeros_(self.aggregation.out_proj.weight)

    def attach(
        self, tokens: Float[Tensor, "sequence token width"], num_frames: int, padded: int | None = None
    ) -> Float[Tensor, "sequence more width"]:
        """Append each frame's prompts to its tokens; sequences are frames, those of a video consecutive.

        ``padded`` is the number of frames per video with padding for merging; default: no padding. Raise ValueError if
        ``num_frames`` are not whole clips, or ``padded`` is not a multiple of the number of prompts.
        """
        self.shape.check(num_frames)
        padded = num_frames if padded is None else padded
        if padded % self.shape.num_prompts:
            raise ValueError(
                f"num_frames, padded for merging, must be a multiple of {self.shape.num_prompts} prompts, "
                f"got {num_frames} padded to {padded}"
            )
        frame = torch.arange(num_frames, device=tokens.device)
        prompt_indices = frame // self.shape.count_chunks(padded) % self.shape.num_prompts
        rows = repeat(
            self.cube[prompt_indices], "frame slot width -> (video frame) slot width", video=len(tokens) // num_frames
        )
        return torch.cat([tokens, rows.to(tokens.dtype)], dim=1)

    def mask(self, frames: Bool[Tensor, "video frame"]) -> Bool[Tensor, "sequence slot"]:
        """Return the mask of prompts: True where both frames that exchange a prompt are real."""
        sizes = {"frame": self.shape.num_prompts, "chunk": self.shape.count_chunks(frames.shape[1])}
        chunks = rearrange(frames, "video (group frame chunk) -> video group chunk frame", **sizes)
        pairs = chunks[..., :, None] & chunks[..., None, :]
        return rearrange(pairs, "video group chunk frame slot -> (video group frame chunk) slot")

    def aggregate(
        self,
        classes: Float[Tensor, "video frame width"],
        prompts: Float[Tensor, "video frame slot width"],
        *,
        mask: Bool[Tensor, "video frame slot"] | None = None,
    ) -> Float[Tensor, "video frame width"]:
        """Update the class tokens of each clip by attention over the real prompts of the clip."""
        num_videos, size = len(classes), classes.shape[1] if self.shape.spread else self.shape.num_frames
        queries = rearrange(classes, "video (clip frame) width -> (video clip) frame width", frame=size)
        memory = rearrange(prompts, "video (clip frame) slot width -> (video clip) (frame slot) width", frame=size)
        bias = None
        if mask is not None:
            real = rearrange(mask, "video (clip frame) slot -> (video clip) 1 1 (frame slot)", frame=size)
            bias = torch.zeros_like(real, dtype=memory.dtype).masked_fill(~real & real.any(-1, True), -torch.inf)
        updated = queries + self.aggregation.cross(queries, memory, bias=bias)
        return rearrange(updated, "(video clip) frame width -> video (clip frame) width", video=num_videos)


def switch(
    tokens: Float[Tensor, "sequence token width"], num_prompts: int, *, frames: int = 1, chunks: int = 1
) -> Float[Tensor, "sequence token width"]:
    """Return the tokens with the prompts of each ``num_prompts`` frames transposed between frame and slot.

    Sequences of ``frames`` consecutive frames end with their prompts, frame by frame. Frames that exchange their
    prompts are ``chunks`` apart.
    """
    num_back = num_prompts * frames
    kept, prompts = tokens[:, :-num_back], tokens[:, -num_back:]
    cube = rearrange(prompts, "sequence (frame slot) width -> (sequence frame) slot width", frame=frames)
    sizes = {"frame": num_prompts, "chunk": chunks}
    switched = rearrange(cube, "(group frame chunk) slot width -> (group slot chunk) frame width", **sizes)
    back = rearrange(switched, "(sequence frame) slot width -> sequence (frame slot) width", frame=frames)
    return torch.cat([kept, back], dim=1)


def interleave(num_frames: int, clip: int) -> list[int]:
    """Return frame indices in an order in which each clip of ``clip`` frames spans the whole video.

    >>> interleave(6, 3)
    [0, 2, 4, 1, 3, 5]
    """
    if num_frames % clip:
        raise ValueError(f"num_frames must be a multiple of {clip}, got {num_frames}")
    step = num_frames // clip
    return [start + step * index for start in range(step) for index in range(clip)]
