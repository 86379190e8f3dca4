"""Attention, MLP and transformer block of the CLIP towers and the aligners, also in int8; and pooling of frames.

Tensors are batch-first.
"""

import math
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int8
from torch import Tensor, nn
from torch.nn import functional

INT8_MAX = 127
SHORT = 64  # tokens of a sequence; see attend
HEAD_WIDTH = 64  # of the temporal transformer
EPS = 1e-12  # of the temporal transformer's layer norms, and the least length of a vector


class LowRank(nn.Module):
    """A low-rank update (LoRA) of a frozen linear layer: x A^T B^T, to be added to the layer's output.

    B starts at zero, and so does the update. There is no scaling and no dropout.
    Reference: Hu et al. 2022, LoRA, section 4.1; TempMe (Shen et al. 2025) uses one A for query, key and value.
    """

    def __init__(self, width: int, out_width: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, width))
        self.b = nn.Parameter(torch.zeros(out_width, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        """Return the update."""
        return functional.linear(functional.linear(x, self.a), self.b)


class Attention(nn.Module):
    """Multi-head attention with a packed input projection; parameters are named as in ``torch.nn.MultiheadAttention``.

    A positive ``lora_rank`` adds a low-rank update to the input projection; ``fold`` merges it into the weight.

    Attributes:
        in_proj: The input projection in int8, instead of the parameters, after ``quantize``.
    """

    def __init__(self, width: int, heads: int, *, lora_rank: int = 0) -> None:
        if width % heads:
            raise ValueError(f"heads must divide width {width}, got {heads}")
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.in_proj: Int8Linear | None = None
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
        """Apply self-attention within each sequence; ``bias`` is added to the logits of each key.

        Returns:
            The new tokens and the keys.
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
        """Apply cross-attention from queries to a memory, which provides keys and values."""
        (query,) = self._split(self._project(queries, 0, 1), 1)
        key, value = self._split(self._project(memory, 1, 3), 2)
        return self._mix(query, key, value, bias, causal=False)

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Project ``x`` with parts ``first`` to ``last`` (excluded) of the packed weight: query, key, value."""
        rows = slice(first * x.shape[-1], last * x.shape[-1])
        if self.in_proj is not None:
            return self.in_proj.project(x, rows)
        projected = functional.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        if self.lora is not None:
            projected = projected + functional.linear(functional.linear(x, self.lora.a), self.lora.b[rows])
        return projected

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split a packed projection into its parts, each (batch, head, token, channel)."""
        return rearrange(projected, "b n (part h c) -> part b h n c", part=parts, h=self.heads).unbind(0)

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, causal: bool) -> Tensor:
        mixed = attend(query, key, value, bias, causal=causal)
        out: Tensor = self.out_proj(rearrange(mixed, "b h n c -> b n (h c)"))
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Merge the low-rank update into the weight; the output stays the same."""
        if self.lora is not None:
            self.in_proj_weight.add_(self.lora.b @ self.lora.a)
            self.lora = None


def attend(
    query: Float[Tensor, "batch head query channel"],
    key: Float[Tensor, "batch head token channel"],
    value: Float[Tensor, "batch head token channel"],
    bias: Float[Tensor, "batch 1 1 token"] | None = None,
    *,
    causal: bool = False,
) -> Float[Tensor, "batch head query channel"]:
    """Compute attention, with ``bias`` added to the logits of each key.

    Training on a CPU uses plain products for short sequences in bfloat16: forward and backward, they take a tenth of
    the time of PyTorch's fused kernel (measured, 768 sequences of 19 tokens; in float32 both take the same time).
    """
    is_plain = query.dtype == torch.bfloat16 and query.device.type == "cpu" and key.shape[2] <= SHORT
    if not (is_plain and torch.is_grad_enabled()):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    logits = logits.float()
    if bias is not None:
        logits = logits + bias
    if causal:
        future = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(future, -torch.inf)
    mixed: Tensor = logits.softmax(dim=-1).to(value.dtype) @ value
    return mixed


class Mlp(nn.Module):
    """A linear layer, GELU or CLIP's QuickGELU, x * sigmoid(1.702 x), and a linear layer."""

    def __init__(self, width: int, hidden: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform each token on its own."""
        hidden = self.c_fc(x)
        if self.quick_gelu:
            hidden = functional.silu(1.702 * hidden).div_(1.702)  # the same function in one fused kernel
        elif torch.is_grad_enabled():
            hidden = functional.gelu(hidden)
        else:  # in place: allocating a second tensor of this width costs more than the function
            functional.gelu(hidden, out=hidden)  # type: ignore[call-arg]
        out: Tensor = self.c_proj(hidden)
        return out


class Block(nn.Module):
    """A pre-norm transformer block; callers that merge tokens between attention and MLP call its modules themselves."""

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
        """Apply self-attention, then the MLP, each with a residual connection."""
        x = x + self.attn(self.ln_1(x), bias=bias, causal=causal)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


def zero_padding(
    x: Float[Tensor, "item row dim"], mask: Bool[Tensor, "item row"] | None
) -> Float[Tensor, "item row dim"]:
    """Return ``x`` with zeros for padding (False in ``mask``), which may contain any values, even NaN."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0)


def mask_bias(tokens: Tensor, mask: Bool[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return a bias to add to softmax logits, in the dtype of ``tokens``, so that padding has no weight.

    It is finite, so that an item of padding only does not give NaN.
    """
    return torch.zeros_like(mask, dtype=tokens.dtype).masked_fill(~mask, torch.finfo(tokens.dtype).min / 2)


def fold(model: nn.Module) -> None:
    """Merge every low-rank update of a model into its weight, in place."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.fold()


@torch.no_grad()
def quantize(model: nn.Module) -> None:
    """Replace the linear layers of a model, and those of its attention, by ``Int8Linear`` in place."""
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.fold()
            module.in_proj = Int8Linear(module.in_proj_weight, module.in_proj_bias)
            del module.in_proj_weight, module.in_proj_bias
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child.weight, child.bias))


class Int8Linear(nn.Module):
    """A linear layer that multiplies int8 numbers, for inference on CPUs.

    Each row of weights has a scale, and so does each row of inputs, which are quantized on the fly.
    Reference: Dettmers et al. 2022, "LLM.int8()", section 3.1, vector-wise quantization.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, weight: Float[Tensor, "out width"], bias: Float[Tensor, " out"] | None = None) -> None:
        super().__init__()
        packed, scales = pack_rows(weight.detach().float())
        self.register_buffer("weight", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", torch.zeros_like(scales) if bias is None else bias.detach().float())

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch out"]:
        """Return the output of the layer, in float32."""
        return self.project(x, slice(None))

    def project(self, x: Float[Tensor, "*batch width"], rows: slice) -> Float[Tensor, "*batch part"]:
        """Return the outputs of some rows of the weights."""
        packed, scales = pack_rows(x.reshape(-1, x.shape[-1]).float())
        products = torch._int_mm(packed, self.weight[rows].t())
        out = torch.addcmul(self.bias[rows], products * scales[:, None], self.scales[rows])
        return out.view(*x.shape[:-1], -1)


def pack_rows(rows: Float[Tensor, "*row dim"]) -> tuple[Int8[Tensor, "*row dim"], Float[Tensor, "*row"]]:
    """Quantize rows to int8 with one scale per row, which maps the largest magnitude to 127.

    Returns:
        The quantized rows and the scale to multiply each by.
    """
    scales = torch.linalg.vector_norm(rows, math.inf, dim=-1) / INT8_MAX
    return (rows / scales.clamp(min=torch.finfo(rows.dtype).tiny)[..., None]).round_().to(torch.int8), scales


class TemporalTransformer(nn.Module):
    """CLIP-like blocks over a video's frames, with learned positions and a residual connection around all blocks.

    Reference: Luo et al. 2022, "CLIP4Clip", section 3.3 (sequential type), which UCoFiA adopts.
    """

    def __init__(self, dim: int, *, layers: int = 4, heads: int | None = None, num_positions: int = 77) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(num_positions, dim) * 0.01)
        self.blocks = nn.ModuleList(
            Block(dim, heads or max(1, dim // HEAD_WIDTH), quick_gelu=True) for _ in range(layers)
        )
        for block in cast(list[Block], self.blocks):
            block.ln_1.eps = block.ln_2.eps = EPS

    def forward(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
    ) -> Float[Tensor, "video frame dim"]:
        """Return frames that have attended to the other frames of their video, padding excluded.

        Frames beyond the last learned position share it, so that positions do not depend on the padding of a batch.
        """
        positions = torch.arange(frames.shape[1], device=frames.device).clamp(max=len(self.positions) - 1)
        x = frames + self.positions[positions]
        bias = None if mask is None else rearrange(mask_bias(x, mask), "video frame -> video 1 1 frame")
        for block in self.blocks:
            x = block(x, bias=bias)
        return x + frames


def pool_frames(
    frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
) -> Float[Tensor, "video dim"]:
    """Return the mean direction of each video's real frames, of unit length; zeros for a video of padding only."""
    units = functional.normalize(frames, dim=-1)
    if mask is not None:
        units = units * mask[..., None]
    return functional.normalize(units.sum(dim=1), dim=-1)
