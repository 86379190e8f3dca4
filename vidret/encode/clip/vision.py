"""CLIP's vision tower over the frames of videos, with optional token merging, prompts and token shift."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vidret.encode.clip.outputs import Trunk, VisionOutput, merge_trunk, split_frames
from vidret.encode.clip.prompt_switch import PromptCube, PromptShape, switch
from vidret.encode.clip.tempme import MergeSchedule, Step, join_order
from vidret.layers import Block

SHIFTED_BLOCKS = 2  # the last blocks of the tower
SHIFT_FOLD = 7
SHIFT_BACK, SHIFT_AHEAD = 1, 4


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The sizes of a vision tower; ``image_size`` and ``patch`` in pixels, ``dim`` is the width of the joint space."""

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    dim: int
    quick_gelu: bool = False
    mlp_ratio: float = 4.0

    @property
    def num_patches(self) -> int:
        """Return the number of patches per frame."""
        return (self.image_size // self.patch) ** 2


class VisionTower(nn.Module):
    """A CLIP ViT over the frames of videos.

    By default it computes the same as open_clip's tower, with each frame as one sequence. ``merging`` joins the
    sequences of a video and merges tokens (TempMe); ``prompts`` exchanges information between frames (Prompt Switch);
    ``token_shift`` takes some tokens of the last two blocks from neighbouring frames (TS2-Net, used by UCoFiA).

    No paper combines merging with prompts. Here prompts never merge, like class tokens, and joined clips keep all of
    their prompts, since the aggregation needs those of every frame. Prompts switch in the image stage, where a sequence
    is a frame. ``spread`` prompts also switch later, between frames of different sequences, until one sequence holds
    the whole video: Prompt Switch switches in every layer, and within one sequence there is nothing to exchange.

    Attributes:
        checkpointing: In training, recompute layers in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        shape: VisionShape,
        *,
        merging: MergeSchedule | None = None,
        num_frames: int = 12,
        prompts: PromptShape | None = None,
        token_shift: bool = False,
        lora_rank: int = 0,
    ) -> None:
        """Build a tower with random weights; ``num_frames`` is the trained number of temporal positions."""
        if token_shift and (merging is not None or prompts is not None):
            raise ValueError("token_shift must come without merging and prompts, got it with them")
        if token_shift and shape.num_patches < SHIFT_FOLD - 1:
            raise ValueError(f"token_shift must have at least {SHIFT_FOLD - 1} patches, got {shape.num_patches}")
        if prompts is not None and prompts.spread and merging is None:
            raise ValueError("spread prompts must come with merging, got none")
        super().__init__()
        self.checkpointing = False
        width = shape.width
        self.shape, self.merging, self.num_frames, self.token_shift = shape, merging, num_frames, token_shift
        self.patches = nn.Conv2d(3, width, shape.patch, shape.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(1 + shape.num_patches, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, quick_gelu=shape.quick_gelu, mlp_ratio=shape.mlp_ratio, lora_rank=lora_rank)
            for _ in range(shape.layers)
        )
        self.proj = nn.Parameter(torch.randn(width, shape.dim) * width**-0.5)
        self.prompts = PromptCube(prompts, width, shape.heads) if prompts is not None else None
        self.temporal = nn.ParameterDict()
        if merging is not None:
            clips = merging.padded(num_frames)
            for layer, factor in zip(merging.layers, merging.factors, strict=True):
                self.temporal[str(layer)] = nn.Parameter(torch.zeros(clips, width))
                clips //= factor

    def forward(
        self,
        images: Float[Tensor, "image 3 height width"],
        *,
        num_frames: int,
        mask: Bool[Tensor, "video frame"] | None = None,
        tokens: bool = False,
        num_layers: int = 0,
    ) -> VisionOutput:
        """Encode videos of ``num_frames`` frames each, the frames of a video consecutive.

        Args:
            images: Normalised pixels.
            num_frames: Frames per video; temporal positions are interpolated to it.
            mask: False for padding frames, which do not affect the others.
            tokens: Whether to return the patches left after merging.
            num_layers: Number of last layers whose outputs to return, at most all.

        Raises:
            ValueError: ``images`` are not whole videos, or ``num_frames`` does not fit the prompts.
        """
        steps = self.plan(num_frames)
        trunk = self._embed(images, num_frames, steps[0].clips * steps[0].join, mask)
        kept = []
        for layer, step in enumerate(steps):
            drop_patches = layer == len(steps) - 1 and not (tokens or num_layers)
            if self.checkpointing and self.training:
                trunk = checkpoint(
                    self._layer, layer, step, trunk, num_frames, drop_patches=drop_patches, use_reentrant=False
                )
            else:
                trunk = self._layer(layer, step, trunk, num_frames, drop_patches=drop_patches)
            if layer >= len(steps) - num_layers:
                kept.append(split_frames(trunk, step, num_frames, trunk.x.shape[1] - self._num_prompts(step)))
        return self._project(trunk, steps[-1], num_frames, tokens=tokens)._replace(layers=tuple(kept))

    def plan(self, num_frames: int) -> list[Step]:
        """Return the plan of each layer; without merging, sequences do not change."""
        schedule = self.merging or MergeSchedule(layers=(), factors=(), r=0)
        num_prompts = self.prompts.shape.num_prompts if self.prompts is not None else 0
        return schedule.steps(num_frames, self.shape.num_patches, self.shape.layers, num_prompts=num_prompts)

    def _embed(
        self,
        images: Float[Tensor, "image 3 height width"],
        num_frames: int,
        padded: int,
        mask: Bool[Tensor, "video frame"] | None,
    ) -> Trunk:
        """Embed frames as class token, patches and prompts, padded to ``padded`` frames per video."""
        if len(images) % num_frames:
            raise ValueError(f"images must be whole videos of {num_frames} frames, got {len(images)}")
        x = rearrange(self.patches(images), "image width row column -> image (row column) width")
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1) + self.positions.to(x.dtype)
        x = self.ln_pre(x)
        num_videos = len(images) // num_frames
        if self.prompts is not None:
            x = self.prompts.attach(x, num_frames, padded)
        if padded != num_frames:
            empty = x.new_zeros(num_videos, padded - num_frames, *x.shape[1:])
            x = torch.cat([rearrange(x, "(video frame) n d -> video frame n d", video=num_videos), empty], dim=1)
            x = rearrange(x, "video frame n d -> (video frame) n d")
            mask = torch.ones(num_videos, num_frames, dtype=torch.bool, device=x.device) if mask is None else mask
            mask = functional.pad(mask, (0, padded - num_frames), value=False)
        num_own = 1 + self.shape.num_patches
        token_mask = repeat(mask, "video frame -> (video frame) n", n=num_own) if mask is not None else None
        if self.prompts is not None and mask is not None and token_mask is not None:
            token_mask = torch.cat([token_mask, self.prompts.mask(mask)], dim=1)
        return Trunk(x, None, token_mask)

    def _layer(self, layer: int, step: Step, trunk: Trunk, num_frames: int, *, drop_patches: bool = False) -> Trunk:
        """Apply one layer: join and merge across clips, attention, merge within the clip, MLP.

        ``drop_patches`` skips the patches in the last layer, after which only class tokens and prompts are needed.
        """
        block = cast(Block, self.blocks[layer])
        back = self._num_prompts(step)
        if self.merging is not None and layer in self.merging.layers:
            trunk = self._join(layer, step, trunk, back)
        normed = block.ln_1(trunk.x)
        if self.prompts is not None and (step.front == 1 or (self.prompts.shape.spread and step.clips > 1)):
            shape = self.prompts.shape
            chunks = shape.count_chunks(step.clips * step.front)
            normed = switch(normed, shape.num_prompts, frames=step.front, chunks=chunks)
        if self.token_shift and layer >= self.shape.layers - SHIFTED_BLOCKS:
            normed = shift_tokens(normed, num_frames, None if trunk.mask is None else trunk.mask[:, 0])
        if drop_patches:
            num = trunk.x.shape[1]
            stay = torch.cat([torch.arange(step.front), torch.arange(num - back, num)]).to(trunk.x.device)
            x = trunk.x[:, stay] + block.attn.cross(normed[:, stay], normed, bias=self._bias(trunk))
            mask = None if trunk.mask is None else trunk.mask[:, stay]
            return Trunk(x + block.mlp(block.ln_2(x)), None, mask)
        update, keys = block.attn(normed, bias=self._bias(trunk))
        trunk = trunk._replace(x=trunk.x + update)
        if step.intra:
            trunk = merge_trunk(trunk, keys.detach().mean(dim=1), step.intra, step.front, back)
        return trunk._replace(x=trunk.x + block.mlp(block.ln_2(trunk.x)))

    def _join(self, layer: int, step: Step, trunk: Trunk, back: int) -> Trunk:
        """Join neighbouring sequences, add their temporal positions, and merge across them.

        Tokens are matched without these positions.
        """
        factor, length = step.join, trunk.x.shape[1]
        order = join_order(factor, step.front // factor, back // factor, length).to(trunk.x.device)
        x, sizes, mask = (
            None
            if values is None
            else values.reshape(len(values) // factor, factor * length, *values.shape[2:])[:, order]
            for values in trunk
        )
        assert x is not None
        metric = x.detach()
        table = self._positions_in_time(layer, step.clips * factor).to(x.dtype)
        rows = repeat(table, "(joined clip) d -> joined (clip n) d", clip=factor, n=length)[:, order]
        x = x + repeat(rows, "joined n d -> (video joined) n d", video=len(x) // len(rows))
        trunk = Trunk(x, sizes, mask)
        return merge_trunk(trunk, metric, step.cross, step.front, back) if step.cross else trunk

    def _positions_in_time(self, layer: int, clips: int) -> Float[Tensor, "clip width"]:
        """Return a layer's temporal positions, interpolated to ``clips`` positions if needed.

        ``clips`` includes padding, so that a video gets the same positions alone and in a padded batch.
        """
        table: Tensor = self.temporal[str(layer)]
        if len(table) == clips:
            return table
        rows = rearrange(table, "clip width -> 1 width clip")
        stretched: Tensor = functional.interpolate(rows, size=clips, mode="linear", align_corners=True)
        return rearrange(stretched, "1 width clip -> clip width")

    def _bias(self, trunk: Trunk) -> Float[Tensor, "sequence 1 1 token"] | None:
        """Return the bias of attention logits: the logarithm of sizes, and -inf for padding keys."""
        weighed = trunk.sizes is not None and self.merging is not None and self.merging.proportional
        bias = trunk.sizes.clamp(min=1).log() if weighed and trunk.sizes is not None else None
        if trunk.mask is not None:
            real = trunk.mask | ~trunk.mask.any(
                dim=1, keepdim=True
            )  # a row of only -inf would be NaN; such a sequence is not used
            bias = (torch.zeros_like(real, dtype=torch.float32) if bias is None else bias).masked_fill(
                ~real, -torch.inf
            )
        return None if bias is None else rearrange(bias.to(trunk.x.dtype), "sequence token -> sequence 1 1 token")

    def _num_prompts(self, step: Step) -> int:
        return self.prompts.shape.num_prompts * step.front if self.prompts is not None else 0

    def _project(self, trunk: Trunk, step: Step, num_frames: int, *, tokens: bool) -> VisionOutput:
        """Project class tokens, and patches if requested, into the joint space."""
        front, back, clips = step.front, self._num_prompts(step), step.clips
        stop = trunk.x.shape[1] - back
        classes = rearrange(trunk.x[:, :front], "(video clip) front d -> video (clip front) d", clip=clips)
        classes = classes[:, :num_frames]
        if self.prompts is not None:
            pattern = "(video clip) (front slot) ... -> video (clip front) slot ..."
            prompts, real = (
                None
                if values is None
                else rearrange(values[:, stop:], pattern, clip=clips, front=front)[:, :num_frames]
                for values in (trunk.x, trunk.mask)
            )
            assert prompts is not None
            classes = self.prompts.aggregate(classes, prompts, mask=real)
        frames = self.ln_post(classes) @ self.proj
        if not tokens:
            return VisionOutput(frames)
        patches, sizes, mask = (
            rearrange(values, "(video clip) n ... -> video (clip n) ...", clip=clips)
            for values in trunk.cut(front, stop)
        )
        projected = self.ln_post(patches) @ self.proj
        return VisionOutput(frames=frames, tokens=projected, sizes=sizes, mask=mask)


def compile_tower(tower: VisionTower, backend: str | Callable[..., Any]) -> None:
    """Set up compilation of a tower in place by ``torch.compile``; it is compiled at first use.

    With exchange or merging of tokens between frames, shapes differ by layer and number of frames, and compiling the
    whole tower for each of them does not end. In that case, attention and MLPs are compiled, once for all blocks and
    shapes.
    """
    if tower.merging is None and tower.prompts is None and not tower.token_shift:
        tower.compile(backend=backend)
        return
    for block in cast(list[Block], tower.blocks):
        block.attn.compile(backend=backend, dynamic=True)
        block.mlp.compile(backend=backend, dynamic=True)


def shift_tokens(
    x: Float[Tensor, "sequence token width"], num_frames: int, mask: Bool[Tensor, " sequence"] | None = None
) -> Float[Tensor, "sequence token width"]:
    """Replace two of seven tokens by those of the previous and the next frame; the ends of a video keep their own.

    ``mask`` is False for padding frames, which end a video.
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
