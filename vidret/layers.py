"""Attention, MLP and transformer block, shared by the CLIP towers and the grounding head; batch first everywhere."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional

INT8_MAX = 127


class LowRank(nn.Module):
    """A trained update of rank r beside a frozen weight: x A^T B^T is added to its output.

    B starts at zero, so that the update does. No scaling, no dropout.
    Reference: Hu et al. 2022, LoRA, section 4.1; TempMe (Shen et al. 2025) shares A among query, key and value.
    """

    def __init__(self, width: int, out_width: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, width))
        self.b = nn.Parameter(torch.zeros(out_width, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        """Give what is to be added."""
        return functional.linear(functional.linear(x, self.a), self.b)


class Attention(nn.Module):
    """Multi-head attention with packed projections; parameters as in torch's ``MultiheadAttention``.

    With ``lora_rank`` a low-rank update runs beside the packed input projection; ``fold`` makes it part of the weight.
    """

    def __init__(self, width: int, heads: int, *, lora_rank: int = 0) -> None:
        if width % heads:
            raise ValueError(f"heads must divide width {width}, got {heads}")
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.lora = LowRank(width, 3 * width, lora_rank) if lora_rank else None
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        *,
        bias: Float[Tensor, "batch 1 1 token"] | None = None,
        causal: bool = False,
    ) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, "batch head token channel"]]:
        """Attend among the tokens of each sequence; ``bias`` is added to the logits of each key.

        Returns:
            The new tokens, and the keys.
        """
        query, key, value = self._split(self._project(x, 0, 3), 3)
        return self._mix(query, key, value, bias, causal=causal), key

    def cross(
        self,
        queries: Float[Tensor, "batch query width"],
        memory: Float[Tensor, "batch token width"],
        *,
        bias: Float[Tensor, "batch 1 1 token"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """Attend from queries to a memory that gives keys and values."""
        (query,) = self._split(self._project(queries, 0, 1), 1)
        key, value = self._split(self._project(memory, 1, 3), 2)
        return self._mix(query, key, value, bias, causal=False)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Project to some of query, key and value, which lie packed in this order."""
        rows = slice(first * x.shape[-1], last * x.shape[-1])
        projected = functional.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        if self.lora is not None:
            projected = projected + functional.linear(functional.linear(x, self.lora.a), self.lora.b[rows])
        return projected

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Cut a projection into its parts and heads."""
        return rearrange(projected, "b n (part h c) -> part b h n c", part=parts, h=self.heads).unbind(0)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, causal: bool) -> Tensor:
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
        out: Tensor = self.out_proj(rearrange(mixed, "b h n c -> b n (h c)"))
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Make the low-rank update part of the weight: the same function, at no cost."""
        if self.lora is not None:
            self.in_proj_weight.add_(self.lora.b @ self.lora.a)
            self.lora = None


class Mlp(nn.Module):
    """Linear, GELU (or CLIP's quick form, x * sigmoid(1.702 x)), linear."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Change each token by itself."""
        hidden = self.c_fc(x)
        if self.quick_gelu:
            hidden = functional.silu(1.702 * hidden).div_(1.702)  # the same, in a kernel of torch's own
        elif torch.is_grad_enabled():
            hidden = functional.gelu(hidden)
        else:  # the widest tensor of a block: a second one of its size costs more than the function
            functional.gelu(hidden, out=hidden)  # type: ignore[call-arg]
        out: Tensor = self.c_proj(hidden)
        return out


class Block(nn.Module):
    """A pre-norm transformer block. Whoever works between its halves calls its parts in turn."""

    def __init__(self, width: int, heads: int, *, quick_gelu: bool, mlp_ratio: float = 4.0, lora_rank: int = 0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, lora_rank=lora_rank)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), quick_gelu=quick_gelu)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        *,
        bias: Float[Tensor, "batch 1 1 token"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        """Attend, then change each token by itself."""
        x = x + self.attn(self.ln_1(x), bias=bias, causal=causal)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def fold(model: nn.Module) -> None:
    """Make every low-rank update part of its weight."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fold()


def find_misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """List the given weights that a state of ours has no exact place for, by what is wrong with them; empty if none."""
    wrong = {name for name in own.keys() & given.keys() if own[name].shape != given[name].shape}
    found = {
        "missing": sorted(own.keys() - given.keys()),
        "unknown": sorted(given.keys() - own.keys()),
        "of another shape": sorted(wrong),
    }
    return {kind: names for kind, names in found.items() if names}


def pack_rows(rows: Float[Tensor, "*row dim"]) -> tuple[Int8[Tensor, "*row dim"], Float[Tensor, "*row"]]:
    """Round each row to 8 bits, its greatest magnitude to 127.

    Returns:
        The rounded rows, and what to multiply each by.
    """
    scales = rows.abs().amax(dim=-1) / INT8_MAX
    return (rows / scales.clamp(min=torch.finfo(rows.dtype).tiny)[..., None]).round().to(torch.int8), scales
