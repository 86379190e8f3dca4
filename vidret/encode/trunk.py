"""What flows through a vision tower: tokens, and what became of the original ones."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vidret.encode.tempme import apply_merge, move_mask, plan_merge


class Trunk(NamedTuple):
    """The state between layers: tokens, their sizes and mask, and the current index of each original token."""

    x: Float[Tensor, "sequence token width"]
    sizes: Float[Tensor, "sequence token"] | None
    mask: Bool[Tensor, "sequence token"] | None
    sources: Int[Tensor, "sequence source"] | None

    def cut(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, sizes and mask from ``start`` to ``stop``; padding has size 0 and mask False."""
        mask = torch.ones_like(self.x[..., 0], dtype=torch.bool) if self.mask is None else self.mask
        sizes = mask.float() if self.sizes is None else self.sizes
        return self.x[:, start:stop], sizes[:, start:stop], mask[:, start:stop]


def merge_trunk(
    trunk: Trunk, metric: Float[Tensor, "sequence token channel"], num_merged: int, front: int, back: int
) -> Trunk:
    """Plan a merge by ``metric`` and apply it to the tokens, sizes, mask and sources."""
    plan = plan_merge(metric, num_merged, front=front, back=back, mask=trunk.mask)
    sizes = trunk.x.new_ones(trunk.x.shape[:2], dtype=torch.float32) if trunk.sizes is None else trunk.sizes
    if trunk.mask is not None:
        sizes = sizes * trunk.mask  # padding has size 0 even if it must merge with a real token
    x, sizes = apply_merge(plan, trunk.x, sizes)
    mask = None if trunk.mask is None else move_mask(plan, trunk.mask)
    sources = None if trunk.sources is None else plan.destinations().gather(1, trunk.sources)
    return Trunk(x, sizes, mask, sources)
