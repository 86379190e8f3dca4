"""CLIP's vision tower: our own forward over open_clip's parameters; merging, prompts and token shift are arguments."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vidret.encode.outputs import LayerOutput, VisionOutput, join_sources, locate_class_tokens, name_sources
from vidret.encode.prompt_switch import PromptCube, PromptShape, switch
from vidret.encode.tempme import MergeSchedule, Step, apply_merge, join_order, move_mask, plan_merge
from vidret.encode.token_shift import SHIFTED_BLOCKS, shift_tokens
from vidret.layers import Block


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The size of a vision tower; ``image_size`` and ``patch`` in pixels, ``dim`` that of the joint space."""

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
        """Count the patches of a frame."""
        return (self.image_size // self.patch) ** 2


class Trunk(NamedTuple):
    """The state between layers: sequences, their tokens' sizes, mask and where each original token went."""

    x: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"] | None
    mask: Bool[Tensor, "sequence token"] | None
    sources: Int[Tensor, "sequence source"] | None

    def cut(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give tokens, sizes and mask between two places; the last two spelled out, with size 0 where it is padding."""
        mask = torch.ones_like(self.x[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        sizes = mask.float() if self.sizes is None else self.sizes
        return self.x[:, start:stop], sizes[:, start:stop], mask[:, start:stop]


class VisionTower(nn.Module):
    """A CLIP ViT over the frames of videos.

    With nothing switched on it is open_clip's: each frame a sequence of its own. ``merging`` joins the sequences of a
    video and merges tokens (TempMe); ``prompts`` lets frames see each other (Prompt Switch); ``token_shift`` moves some
    patches in the last two blocks one frame on or back (TS2-Net, as UCoFiA's checkpoints need it).

    Merging and prompts together are ours, no paper's: prompts never merge, the switch acts in the image stage, where a
    sequence is a frame, and joined clips carry all their prompts along.
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
        """Build a tower with random weights; ``num_frames`` is what the temporal positions are trained for."""
        if token_shift and (merging is not None or prompts is not None):
            raise ValueError("token_shift must be alone, got it with merging or prompts")
        super().__init__()
        self.checkpointing = (
            False  # in training: compute layers again on the way back instead of keeping what is inside
        )
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
        pictures: Float[Tensor, "picture 3 height width"],
        *,
        num_frames: int,
        mask: Bool[Tensor, "video frame"] | None = None,
        tokens: bool = False,
        trace: bool = False,
    ) -> VisionOutput:
        """Encode videos of ``num_frames`` frames each, the frames of a video in a row.

        Args:
            pictures: Standardised pixels.
            num_frames: Frames a video; temporal positions are interpolated when it is not what they were trained for.
            mask: False where a frame is padding: it changes nothing in the others.
            tokens: Give the remaining patches too.
            trace: Say which original patches each is made of.
        """
        steps = self.plan(num_frames)
        trunk = self._embed(pictures, num_frames, steps[0].clips * steps[0].join, mask, trace=trace)
        for layer, step in enumerate(steps):
            drop_patches = layer == len(steps) - 1 and not (tokens or trace)
            if self.checkpointing and self.training:
                trunk = checkpoint(
                    self._layer, layer, step, trunk, num_frames, drop_patches=drop_patches, use_reentrant=False
                )
            else:
                trunk = self._layer(layer, step, trunk, num_frames, drop_patches=drop_patches)
        return self._project(trunk, steps[-1], num_frames, tokens=tokens)

    def layers(
        self,
        pictures: Float[Tensor, "picture 3 height width"],
        *,
        num_frames: int,
        num_layers: int,
        mask: Bool[Tensor, "video frame"] | None = None,
    ) -> list[LayerOutput]:
        """Give the residual stream after each of the last ``num_layers`` layers, earliest first.

        The other arguments are those of ``forward``.
        """
        if not 1 <= num_layers <= self.shape.layers:
            raise ValueError(f"num_layers must be in 1..{self.shape.layers}, got {num_layers}")
        steps = self.plan(num_frames)
        trunk = self._embed(pictures, num_frames, steps[0].clips * steps[0].join, mask, trace=False)
        kept = []
        for layer, step in enumerate(steps):
            trunk = self._layer(layer, step, trunk, num_frames)
            if layer >= len(steps) - num_layers:
                stop = trunk.x.shape[1] - self._num_prompts(step)
                places = locate_class_tokens(step, num_frames, len(trunk.x) // step.clips, trunk.x.device)
                kept.append(LayerOutput(*trunk.cut(0, stop), *places))
        return kept

    def plan(self, num_frames: int) -> list[Step]:
        """Say what every layer does to sequences; without merging they stay as they are."""
        schedule = self.merging or MergeSchedule(layers=(), factors=(), r=0)
        num_prompts = self.prompts.shape.num_prompts if self.prompts is not None else 0
        return schedule.steps(num_frames, self.shape.num_patches, self.shape.layers, num_prompts=num_prompts)

    def _embed(
        self,
        pictures: Float[Tensor, "picture 3 height width"],
        num_frames: int,
        padded: int,
        mask: Bool[Tensor, "video frame"] | None,
        *,
        trace: bool,
    ) -> Trunk:
        """Cut frames into patches, put class token and prompts to them, and pad to ``padded`` frames."""
        if len(pictures) % num_frames:
            raise ValueError(f"pictures must be whole videos of {num_frames} frames, got {len(pictures)}")
        x = rearrange(self.patches(pictures), "picture width row column -> picture (row column) width")
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1) + self.positions.to(x.dtype)
        x = self.ln_pre(x)
        num_videos = len(pictures) // num_frames
        if self.prompts is not None:
            x = self.prompts.attach(x, num_frames)
            if padded % self.prompts.shape.num_prompts:
                raise ValueError(
                    f"num_frames must fill chunks of {self.prompts.shape.num_prompts} prompts when joined clips are "
                    f"filled up, got {num_frames} filled up to {padded}"
                )
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
        sources = torch.arange(num_own, device=x.device).expand(len(x), -1) if trace else None
        return Trunk(x, None, token_mask, sources)

    def _layer(self, layer: int, step: Step, trunk: Trunk, num_frames: int, *, drop_patches: bool = False) -> Trunk:
        """Join and merge across clips, attend, merge within the clip, change each token.

        With ``drop_patches``, in a last layer, class tokens and prompts alone go on: nothing needs patches any more.
        """
        block = cast(Block, self.blocks[layer])
        back = self._num_prompts(step)
        if self.merging is not None and layer in self.merging.layers:
            trunk = self._join(layer, step, trunk, back)
        normed = block.ln_1(trunk.x)
        if self.prompts is not None and step.front == 1:
            normed = switch(normed, self.prompts.shape.num_prompts)
        if self.token_shift and layer >= self.shape.layers - SHIFTED_BLOCKS:
            normed = shift_tokens(normed, num_frames, None if trunk.mask is None else trunk.mask[:, 0])
        if drop_patches:
            num = trunk.x.shape[1]
            stay = torch.cat([torch.arange(step.front), torch.arange(num - back, num)]).to(trunk.x.device)
            x = trunk.x[:, stay] + block.attn.cross(normed[:, stay], normed, bias=self._bias(trunk))
            mask = None if trunk.mask is None else trunk.mask[:, stay]
            return Trunk(x + block.mlp(block.ln_2(x)), None, mask, None)
        seen, keys = block.attn(normed, bias=self._bias(trunk))
        trunk = trunk._replace(x=trunk.x + seen)
        if step.intra:
            trunk = merge_trunk(trunk, keys.detach().mean(dim=1), step.intra, step.front, back)
        return trunk._replace(x=trunk.x + block.mlp(block.ln_2(trunk.x)))

    def _join(self, layer: int, step: Step, trunk: Trunk, back: int) -> Trunk:
        """Make one sequence of several, add when each was, and merge across them.

        The match is made before the temporal positions are added, on the tokens themselves.
        """
        factor, length = step.join, trunk.x.shape[1]
        order = join_order(factor, step.front // factor, back // factor, length).to(trunk.x.device)
        x, sizes, mask = (
            None if part is None else part.reshape(len(part) // factor, factor * length, *part.shape[2:])[:, order]
            for part in trunk[:3]
        )
        assert x is not None
        sources = None if trunk.sources is None else join_sources(trunk.sources, order, factor)
        metric = x.detach()
        table = self._positions_in_time(layer, step.clips * factor).to(x.dtype)
        rows = repeat(table, "(joined clip) d -> joined (clip n) d", clip=factor, n=length)[:, order]
        x = x + repeat(rows, "joined n d -> (video joined) n d", video=len(x) // len(rows))
        trunk = Trunk(x, sizes, mask, sources)
        return merge_trunk(trunk, metric, step.cross, step.front, back) if step.cross else trunk

    def _positions_in_time(self, layer: int, clips: int) -> Float[Tensor, "clip width"]:
        """Give a layer's temporal positions, stretched to a number of clips when it is not the trained one.

        Padding counts as clips, so that a video in a padded batch gets what it gets alone.
        """
        table: Tensor = self.temporal[str(layer)]
        if len(table) == clips:
            return table
        rows = rearrange(table, "clip width -> 1 width clip")
        stretched: Tensor = functional.interpolate(rows, size=clips, mode="linear", align_corners=True)
        return rearrange(stretched, "1 width clip -> clip width")

    def _bias(self, trunk: Trunk) -> Float[Tensor, "sequence 1 1 token"] | None:
        """Give what is added to attention's logits: the logarithm of sizes, and -inf where a key is padding."""
        weighed = trunk.sizes is not None and self.merging is not None and self.merging.proportional
        bias = trunk.sizes.clamp(min=1).log() if weighed and trunk.sizes is not None else None
        if trunk.mask is not None:
            real = trunk.mask | ~trunk.mask.any(dim=1, keepdim=True)  # all padding: whatever it sees, nobody sees it
            bias = (torch.zeros_like(real, dtype=torch.float32) if bias is None else bias).masked_fill(
                ~real, -torch.inf
            )
        return None if bias is None else rearrange(bias.to(trunk.x.dtype), "sequence token -> sequence 1 1 token")

    def _num_prompts(self, step: Step) -> int:
        return self.prompts.shape.num_prompts * step.front if self.prompts is not None else 0

    def _project(self, trunk: Trunk, step: Step, num_frames: int, *, tokens: bool) -> VisionOutput:
        """Bring class tokens, and on request patches, into the joint space."""
        front, back, clips = step.front, self._num_prompts(step), step.clips
        stop = trunk.x.shape[1] - back
        classes = rearrange(trunk.x[:, :front], "(video clip) front d -> video (clip front) d", clip=clips)
        classes = classes[:, :num_frames]
        if self.prompts is not None:
            pattern = "(video clip) (front slot) ... -> video (clip front) slot ..."
            prompts, real = (
                None if part is None else rearrange(part[:, stop:], pattern, clip=clips, front=front)[:, :num_frames]
                for part in (trunk.x, trunk.mask)
            )
            assert prompts is not None
            classes = self.prompts.aggregate(classes, prompts, mask=real)
        frames = self.ln_post(classes) @ self.proj
        if not (tokens or trunk.sources is not None):
            return VisionOutput(frames)
        patches, sizes, mask = (
            rearrange(part, "(video clip) n ... -> video (clip n) ...", clip=clips) for part in trunk.cut(front, stop)
        )
        projected = self.ln_post(patches) @ self.proj
        sources = None if trunk.sources is None else name_sources(trunk.sources, step, num_frames, stop)
        return VisionOutput(frames, projected, sizes, mask, sources)


def merge_trunk(
    trunk: Trunk, metric: Float[Tensor, "sequence token channel"], num_merged: int, front: int, back: int
) -> Trunk:
    """Plan a merge by a metric and apply it to everything that a sequence carries."""
    plan = plan_merge(metric, num_merged, front=front, back=back, mask=trunk.mask)
    sizes = trunk.x.new_ones(trunk.x.shape[:2], dtype=torch.float32) if trunk.sizes is None else trunk.sizes
    if trunk.mask is not None:
        sizes = sizes * trunk.mask  # padding stands for nothing, should it have to merge with something real
    x, sizes = apply_merge(plan, trunk.x, sizes)
    mask = None if trunk.mask is None else move_mask(plan, trunk.mask)
    sources = None if trunk.sources is None else plan.destinations().gather(1, trunk.sources)
    return Trunk(x, sizes, mask, sources)
