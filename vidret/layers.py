"""Attention, MLP and transformer block, shared by the CLIP towers and the grounding head; batch first everywhere."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


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
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        if self.lora is not None:
            projected = projected + self.lora(x)
        query, key, value = rearrange(projected, "b n (three h c) -> three b h n c", three=3, h=self.heads).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
        return self.out_proj(rearrange(mixed, "b h n c -> b n (h c)")), key

    def cross(
        self, queries: Float[Tensor, "batch query width"], memory: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch query width"]:
        """Attend from queries to a memory that gives keys and values; the low-rank update takes no part."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        sources = (queries, memory, memory)
        projected = (functional.linear(x, w, b) for x, w, b in zip(sources, weights, biases, strict=True))
        query, key, value = (rearrange(x, "b n (h c) -> b h n c", h=self.heads) for x in projected)
        mixed = functional.scaled_dot_product_attention(query, key, value)
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
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else functional.gelu(hidden)
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
