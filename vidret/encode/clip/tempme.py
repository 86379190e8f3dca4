"""TempMe token merging: the schedule, planning a merge, and applying it.

A sequence is [front | patches | back]: class tokens in front and prompts at the back never merge.

Reference: Shen et al. 2025, "TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval", section 3; the
matching is bipartite soft matching (Bolya et al. 2023, "Token Merging", section 3). Additions here: any number of
frames (padding frames are masked and merge only with padding), protected tokens at the back, and a cap on r.
"""

from dataclasses import dataclass
from math import prod
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

MASKED_PAIR = 2.0  # above any cosine: padding merges with padding first
MIXED_PAIR = -torch.inf


@dataclass(frozen=True, slots=True)
class Step:
    """The plan of one layer for each sequence.

    Attributes:
        join: Number of neighbouring sequences that are joined to one.
        clips: Sequences per video after joining.
        front: Class tokens per sequence after joining.
        length: Tokens per sequence after joining.
        cross: Tokens merged across the joined sequences, before attention.
        intra: Tokens merged within the sequence, after attention.
    """

    join: int
    clips: int
    front: int
    length: int
    cross: int
    intra: int

    @property
    def attended(self) -> int:
        """Return the number of tokens that attention sees."""
        return self.length - self.cross

    @property
    def left(self) -> int:
        """Return the number of tokens that the MLP and the next layer see."""
        return self.attended - self.intra


@dataclass(frozen=True, slots=True)
class MergeSchedule:
    """The layers at which sequences are joined, and the number of tokens that merge.

    Attributes:
        layers: Layers before which neighbouring sequences are joined (clip stage), rising.
        factors: Number of sequences joined at each of ``layers``.
        r: Tokens merged per frame in each layer before the first of ``layers`` (image stage).
        cross: Fraction of tokens merged across sequences when they are joined.
        intra: Fraction of tokens merged within a sequence in each layer of the clip stage.
        proportional: Whether the logarithm of a token's size is added to its attention logits.
    """

    layers: tuple[int, ...] = (8, 9, 10)
    factors: tuple[int, ...] = (2, 2, 3)
    r: int = 2
    cross: float = 0.3
    intra: float = 0.1
    proportional: bool = True

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.factors) or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must rise and have a factor each, got {self.layers} and {self.factors}")
        if min((*self.factors, 1)) < 1 or min((*self.layers, 0)) < 0:
            raise ValueError(f"factors must be at least 1 and layers at least 0, got {self.factors} and {self.layers}")
        if self.r < 0 or not 0 <= self.cross < 1 or not 0 <= self.intra < 1:
            raise ValueError(
                f"r must be at least 0, cross and intra in 0..1 (1 excluded), "
                f"got {self.r}, {self.cross} and {self.intra}"
            )

    def padded(self, num_frames: int) -> int:
        """Return ``num_frames`` rounded up to a multiple of the product of the factors."""
        unit = prod(self.factors)
        return -(-num_frames // unit) * unit

    def steps(self, num_frames: int, num_patches: int, num_layers: int, *, num_prompts: int = 0) -> list[Step]:
        """Return the plan of each layer; all counts follow from the shapes."""
        factors = dict(zip(self.layers, self.factors, strict=True))
        if self.layers and self.layers[-1] >= num_layers:
            raise ValueError(f"layers must be below {num_layers}, got {self.layers}")
        clips, front, back, length = self.padded(num_frames), 1, num_prompts, 1 + num_patches + num_prompts
        steps = []
        for layer in range(num_layers):
            join = factors.get(layer, 1)
            joined = layer in factors
            before = length - back  # the fractions count class tokens and patches, as in the paper
            clips, front, back, length = clips // join, front * join, back * join, length * join
            patches = length - front - back
            cross = min(patches // 2, int(before * join * self.cross)) if joined else 0
            in_image_stage = not self.layers or layer < self.layers[0]
            wanted = self.r if in_image_stage else int((length - back - cross) * self.intra)
            intra = min((patches - cross) // 2, wanted)
            steps.append(Step(join, clips, front, length, cross, intra))
            length -= cross + intra
        return steps

    def macs(self, *, width: int, num_frames: int, num_patches: int, num_layers: int, num_prompts: int = 0) -> float:
        """Return the multiply-accumulates of a ViT's layers for one video, with an MLP ratio of 4."""
        total = 0.0
        for step in self.steps(num_frames, num_patches, num_layers, num_prompts=num_prompts):
            attention = 4 * step.attended * width**2 + 2 * step.attended**2 * width
            total += step.clips * (attention + 8 * step.left * width**2)
        return total

    @classmethod
    def within_frames(
        cls, max_macs_ratio: float, *, width: int, num_frames: int, num_patches: int, num_layers: int
    ) -> Self:
        """Return the schedule with the smallest r that costs at most ``max_macs_ratio`` of plain CLIP's MACs.

        Tokens merge only within each frame (ToMe), which needs no training and leaves frames independent of each other.
        Raise ValueError if no r meets the budget.
        """
        size = {"width": width, "num_frames": num_frames, "num_patches": num_patches, "num_layers": num_layers}
        costs = [cls(layers=(), factors=(), r=r).macs(**size) for r in range(num_patches // 2 + 1)]
        for r, cost in enumerate(costs):
            if cost <= max_macs_ratio * costs[0]:
                return cls(layers=(), factors=(), r=r)
        least = costs[-1] / costs[0]
        raise ValueError(f"max_macs_ratio must be at least {least:.3f} for this model, got {max_macs_ratio}")


@dataclass(frozen=True, slots=True, eq=False)
class MergePlan:
    """The assignment of tokens to the tokens that they merge into.

    Patches are split by the parity of their absolute position: even ones form set A, odd ones set B. ``src`` holds the
    offsets in A that merge, ``dst`` the offset in B that each merges into, ``kept`` the other offsets in A, rising.
    """

    front: int
    back: int
    length: int
    src: Int[Tensor, "sequence merged"]
    dst: Int[Tensor, "sequence merged"]
    kept: Int[Tensor, "sequence kept"]

    @property
    def starts(self) -> tuple[int, int]:
        """Return the absolute position of the first token of A and of B."""
        odd = self.front % 2
        return self.front + odd, self.front + 1 - odd

    def positions(
        self,
    ) -> tuple[Int[Tensor, "sequence left"], Int[Tensor, "sequence merged"], Int[Tensor, "sequence merged"]]:
        """Return three sets of positions.

        Returns:
            The old positions of the kept tokens, in their new order; the old positions of the merged tokens; and the
            new positions of the tokens that they merge into.
        """
        (start_a, start_b), stop, device = self.starts, self.length - self.back, self.src.device
        num = len(self.src)
        fixed = [
            torch.arange(*bounds, device=device).expand(num, -1)
            for bounds in ((0, self.front, 1), (start_b, stop, 2), (stop, self.length, 1))
        ]
        stay = torch.cat([fixed[0], start_a + 2 * self.kept, fixed[1], fixed[2]], dim=1)
        return stay, start_a + 2 * self.src, self.front + self.kept.shape[1] + self.dst


@torch.no_grad()
def plan_merge(
    metric: Float[Tensor, "sequence token channel"],
    num_merged: int,
    *,
    front: int,
    back: int = 0,
    mask: Bool[Tensor, "sequence token"] | None = None,
) -> MergePlan:
    """Match the ``num_merged`` tokens of A with the highest cosine to a token of B, in float32.

    Ties keep the order of the tokens on every device. Tokens with a ``mask`` of False are padding: they merge with
    padding, and with a real token only if no other pair is left. Raise ValueError if A has fewer tokens than
    ``num_merged``, or B has none.
    """
    plan = MergePlan(front, back, metric.shape[1], *(torch.empty(len(metric), 0, dtype=torch.long),) * 3)
    (start_a, start_b), stop = plan.starts, metric.shape[1] - back
    metric = functional.normalize(metric.float(), dim=-1)
    scores = metric[:, start_a:stop:2] @ metric[:, start_b:stop:2].transpose(1, 2)
    if not 0 <= num_merged <= scores.shape[1] or not scores.shape[2]:
        raise ValueError(f"num_merged must be in 0..{scores.shape[1] if scores.shape[2] else 0}, got {num_merged}")
    if mask is not None:
        real_a, real_b = mask[:, start_a:stop:2, None], mask[:, None, start_b:stop:2]
        scores = scores.masked_fill(real_a != real_b, MIXED_PAIR).masked_fill(~(real_a | real_b), MASKED_PAIR)
    target = scores.argmax(dim=-1)
    best = scores.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    src = order[:, :num_merged]
    kept = order[:, num_merged:].sort(dim=-1).values
    return MergePlan(front, back, metric.shape[1], src, target.gather(1, src), kept)


def apply_merge(
    plan: MergePlan, tokens: Float[Tensor, "sequence token width"], sizes: Float[Tensor, "sequence token"]
) -> tuple[Float[Tensor, "sequence left width"], Float[Tensor, "sequence left"]]:
    """Merge tokens by their mean, weighted by size.

    Returns:
        Tokens as [front | kept of A | B | back], and their sizes; gradients flow through the tokens only.
    """
    num, length, width = tokens.shape
    stay, src, into = plan.positions()
    left = stay.shape[1]
    row = torch.arange(num, device=tokens.device).unsqueeze(1)
    sizes_src, sizes_stay = sizes.gather(1, src), sizes.gather(1, stay)
    merged_sizes = sizes_stay.scatter_add(1, into, sizes_src)
    total = merged_sizes.clamp(min=1)  # padding has size 0
    weight_stay, weight_src = sizes_stay / total, sizes_src / total.gather(1, into)
    flat = tokens.reshape(-1, width)
    kept = flat.index_select(0, (stay + length * row).reshape(-1)) * weight_stay.reshape(-1, 1).to(tokens.dtype)
    moved = flat.index_select(0, (src + length * row).reshape(-1)) * weight_src.reshape(-1, 1).to(tokens.dtype)
    merged = kept.index_add(0, (into + left * row).reshape(-1), moved)
    return merged.view(num, left, width), merged_sizes


def join_order(factor: int, front: int, back: int, length: int) -> Int[Tensor, " token"]:
    """Return the order that turns concatenated sequences into [all fronts | all patches | all backs]."""
    positions = torch.arange(factor * length).view(factor, length)
    stop = length - back
    return torch.cat(
        [positions[:, :front].reshape(-1), positions[:, front:stop].reshape(-1), positions[:, stop:].reshape(-1)]
    )
