"""TempMe token merging: plan a merge, apply a merge, and the schedule that says where how many tokens merge.

Merging is planned, then applied: a plan is a value, so that it can be printed, tested and replayed. A sequence is
[front | patches | back]: class tokens in front and prompts at the back never merge.

Reference: Shen et al. 2025, "TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval", section 3; the
matching is bipartite soft matching (Bolya et al. 2023, "Token Merging", section 3). Ours are: any number of frames
(padding frames are masked and merge among themselves alone), protected tokens at the back, and the cap on r.
"""

from dataclasses import dataclass
from math import prod
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

MASKED_PAIR = 2.0  # above every cosine: padding merges with padding before anything real has to
MIXED_PAIR = -torch.inf


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer does to each sequence.

    ``join`` neighbouring sequences become one, of ``length`` tokens with ``front`` class tokens; ``cross`` tokens merge
    then, ``intra`` after attention. ``clips`` sequences a video are left.
    """

    join: int
    clips: int
    front: int
    length: int
    cross: int
    intra: int

    @property
    def attended(self) -> int:
        """Give the length that attention sees."""
        return self.length - self.cross

    @property
    def left(self) -> int:
        """Give the length that the MLP and the next layer see."""
        return self.attended - self.intra


@dataclass(frozen=True, slots=True)
class MergeSchedule:
    """Where sequences are joined, and how many tokens merge.

    At each layer of ``layers`` as many neighbouring sequences as its factor says become one. Before the first of them,
    ``r`` tokens a frame merge in every layer; from there on the share ``intra``, and when joining first the share
    ``cross``. ``proportional`` adds the logarithm of a token's size to its attention logits.
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
            raise ValueError(f"r must be at least 0, shares in 0..1, got {self.r}, {self.cross} and {self.intra}")

    def padded(self, num_frames: int) -> int:
        """Give the number of frames after padding to what the factors divide."""
        unit = prod(self.factors)
        return -(-num_frames // unit) * unit

    def steps(self, num_frames: int, num_patches: int, num_layers: int, *, num_prompts: int = 0) -> list[Step]:
        """Compute what every layer does; all counts are known before any picture is seen."""
        factors = dict(zip(self.layers, self.factors, strict=True))
        if self.layers and self.layers[-1] >= num_layers:
            raise ValueError(f"layers must be below {num_layers}, got {self.layers}")
        clips, front, back, length = self.padded(num_frames), 1, num_prompts, 1 + num_patches + num_prompts
        steps = []
        for layer in range(num_layers):
            join = factors.get(layer, 1)
            joined = layer in factors
            before = length - back  # the shares are of class tokens and patches, as in the paper
            clips, front, back, length = clips // join, front * join, back * join, length * join
            patches = length - front - back
            cross = min(patches // 2, int(before * join * self.cross)) if joined else 0
            in_image_stage = not self.layers or layer < self.layers[0]
            wanted = self.r if in_image_stage else int((length - back - cross) * self.intra)
            intra = min((patches - cross) // 2, wanted)
            steps.append(Step(join, clips, front, length, cross, intra))
            length -= cross + intra
        return steps

    def macs(self, *, width: int, num_frames: int, num_patches: int, num_layers: int) -> float:
        """Count the multiply-adds of a ViT's layers over one video, with an MLP of four widths."""
        total = 0.0
        for step in self.steps(num_frames, num_patches, num_layers):
            attention = 4 * step.attended * width**2 + 2 * step.attended**2 * width
            total += step.clips * (attention + 8 * step.left * width**2)
        return total

    @classmethod
    def for_budget(
        cls, max_macs_ratio: float, *, width: int, num_frames: int, num_patches: int, num_layers: int = 12
    ) -> Self:
        """Find the gentlest schedule (the smallest r) that takes at most a share of plain CLIP's multiply-adds.

        Raises:
            ValueError: No r is enough.
        """
        size = {"width": width, "num_frames": num_frames, "num_patches": num_patches, "num_layers": num_layers}
        plain = cls(layers=(), factors=(), r=0).macs(**size)
        stride = max(1, round(num_layers / 12))
        layers = tuple(num_layers - stride * back for back in (4, 3, 2))
        ratio = 1.0
        for r in range(num_patches // 2 + 1):
            schedule = cls(layers=layers, r=r)
            ratio = schedule.macs(**size) / plain
            if ratio <= max_macs_ratio:
                return schedule
        raise ValueError(f"max_macs_ratio must be at least {ratio:.3f} for this model, got {max_macs_ratio}")


@dataclass(frozen=True, slots=True, eq=False)
class MergePlan:
    """Which tokens merge into which: indices without gradient.

    The patches are split by the parity of their absolute position: even ones are set A, odd ones set B. ``src`` are
    offsets in A that merge, each into offset ``dst`` in B; ``kept`` are the other offsets in A, rising.
    """

    front: int
    back: int
    length: int
    src: Int[Tensor, "sequence merged"]
    dst: Int[Tensor, "sequence merged"]
    kept: Int[Tensor, "sequence kept"]

    @property
    def starts(self) -> tuple[int, int]:
        """Give the absolute position of the first token of A and of B."""
        odd = self.front % 2
        return self.front + odd, self.front + 1 - odd

    def positions(
        self,
    ) -> tuple[Int[Tensor, "sequence left"], Int[Tensor, "sequence merged"], Int[Tensor, "sequence merged"]]:
        """Give absolute positions: of the tokens that stay, in their new order, and of those that merge; then where to.

        The last counts positions after the merge.
        """
        (start_a, start_b), stop, device = self.starts, self.length - self.back, self.src.device
        num = len(self.src)
        fixed = [
            torch.arange(*bounds, device=device).expand(num, -1)
            for bounds in ((0, self.front, 1), (start_b, stop, 2), (stop, self.length, 1))
        ]
        stay = torch.cat([fixed[0], start_a + 2 * self.kept, fixed[1], fixed[2]], dim=1)
        return stay, start_a + 2 * self.src, self.front + self.kept.shape[1] + self.dst

    def destinations(self) -> Int[Tensor, "sequence token"]:
        """Say where each token is after the merge: the map that traces sources."""
        stay, src, into = self.positions()
        rank = torch.arange(stay.shape[1], device=stay.device).expand_as(stay)
        where = torch.empty(len(stay), self.length, dtype=torch.long, device=stay.device)
        return where.scatter_(1, stay, rank).scatter_(1, src, into)


@torch.no_grad()
def plan_merge(
    metric: Float[Tensor, "sequence token channel"],
    num_merged: int,
    *,
    front: int,
    back: int = 0,
    mask: Bool[Tensor, "sequence token"] | None = None,
) -> MergePlan:
    """Choose the ``num_merged`` tokens of A that are most like a token of B, by cosine, in float32.

    Equal scores stand in the order of the tokens, on every device. Where ``mask`` is False a token is padding: it
    merges with padding, and with a real one only when nothing else is left to merge.

    Raises:
        ValueError: There are fewer tokens in A, or none in B.
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
    """Merge tokens to the mean of their parts, weighted by how many tokens each stands for already.

    Returns:
        [front | kept of A | B | back] and the sizes; gradients flow through the tokens alone.
    """
    num, length, width = tokens.shape
    stay, src, into = plan.positions()
    left = stay.shape[1]
    row = torch.arange(num, device=tokens.device).unsqueeze(1)
    sizes_src, sizes_stay = sizes.gather(1, src), sizes.gather(1, stay)
    merged_sizes = sizes_stay.scatter_add(1, into, sizes_src)
    whole = merged_sizes.clamp(min=1)  # padding stands for nothing
    share_stay, share_src = sizes_stay / whole, sizes_src / whole.gather(1, into)
    flat = tokens.reshape(-1, width)
    kept = flat.index_select(0, (stay + length * row).reshape(-1)) * share_stay.reshape(-1, 1).to(tokens.dtype)
    moved = flat.index_select(0, (src + length * row).reshape(-1)) * share_src.reshape(-1, 1).to(tokens.dtype)
    merged = kept.index_add(0, (into + left * row).reshape(-1), moved)
    return merged.view(num, left, width), merged_sizes


def move_mask(plan: MergePlan, mask: Bool[Tensor, "sequence token"]) -> Bool[Tensor, "sequence left"]:
    """Give the mask of the merged tokens: real is what has anything real in it."""
    left = plan.length - plan.src.shape[1]
    count = torch.zeros(len(mask), left, dtype=torch.long, device=mask.device)
    return count.scatter_add(1, plan.destinations(), mask.long()).bool()


def join_order(factor: int, front: int, back: int, length: int) -> Int[Tensor, " token"]:
    """Give the order that turns sequences laid end to end into one [all fronts | all patches | all backs]."""
    positions = torch.arange(factor * length).view(factor, length)
    stop = length - back
    return torch.cat(
        [positions[:, :front].reshape(-1), positions[:, front:stop].reshape(-1), positions[:, stop:].reshape(-1)]
    )
