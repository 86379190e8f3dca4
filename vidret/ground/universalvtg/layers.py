"""The layers of UniversalVTG besides Hydra, for one video (channel, row); modules have the published names.

Rows of padding come last; a mask (row,) is False there.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

INVALID = -1e4  # added to the logit of a key that is padding inside a window
Rows = Float[Tensor, "channel row"]
Mask = Bool[Tensor, " row"]


class ChannelNorm(nn.Module):
    """Layer norm over channels, with a weight and a bias of shape (channel, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, 1))
        self.bias = nn.Parameter(torch.zeros(width, 1))

    def forward(self, x: Rows) -> Rows:
        """Normalise each row."""
        return normalise(x) * self.weight + self.bias


def normalise(x: Rows) -> Rows:
    """Return rows of mean 0 and variance 1 over channels."""
    return functional.layer_norm(x.T, (len(x),)).T


class MaskedConv(nn.Module):
    """A convolution over rows, of which those of padding are 0."""

    def __init__(self, width: int, out: int, size: int = 1, *, depthwise: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, out, size, padding=size // 2, groups=width if depthwise else 1, bias=bias)

    def forward(self, x: Rows, mask: Mask | None = None) -> Float[Tensor, "out row"]:
        """Convolve the rows; without a mask none is padding."""
        convolved: Tensor = self.conv((x if mask is None else x * mask)[None])[0]
        return convolved


class ConvStack(nn.Module):
    """Two convolutions over three rows with norms and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(MaskedConv(width, width, 3, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(ChannelNorm(width) for _ in range(2))

    def forward(self, x: Rows, mask: Mask) -> Rows:
        """Apply both."""
        return apply_stack(self.convs, self.norms, x, mask)


def apply_stack(convs: nn.ModuleList, norms: nn.ModuleList, x: Rows, mask: Mask) -> Rows:
    """Apply convolutions, each with its norm and ReLU."""
    for conv, norm in zip(convs, norms, strict=True):
        x = norm(conv(x, mask)).relu()
    return x


class Heads(nn.Module):
    """Multi-head attention with pointwise projections, over all keys or those of a window."""

    def __init__(self, width: int, heads: int, *, out: int | None = None, window: int = 0) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query, self.key, self.value = (nn.Conv1d(width, width, 1) for _ in range(3))
        self.proj = nn.Conv1d(width, out or width, 1)

    def forward(
        self,
        query: Rows,
        key: Float[Tensor, "channel key"],
        value: Float[Tensor, "channel key"],
        mask: Bool[Tensor, " key"],
    ) -> Float[Tensor, "out row"]:
        """Attend from rows to the keys that are not padding.

        Args:
            query: The rows.
            key: What they are compared with.
            value: What is mixed.
            mask: Which keys are real; with a window, which rows are.
        """
        projections = (self.query, query), (self.key, key), (self.value, value)
        q, k, v = (
            rearrange(conv(x[None])[0], "(head channel) row -> head row channel", head=self.heads)
            for conv, x in projections
        )
        scale = q.shape[-1] ** -0.25
        mixed = (
            self._attend_near(q * scale, k * scale, v, mask) if self.window else _attend(q * scale, k * scale, v, mask)
        )
        projected: Tensor = self.proj(rearrange(mixed, "head row channel -> 1 (head channel) row"))[0]
        return projected

    def _attend_near(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Attend to the keys at most half a window away; rows of padding become 0."""
        side, size = self.window // 2, self.window
        near_k, near_v = (functional.pad(x, (0, 0, side, side)).unfold(1, size, 1) for x in (k, v))
        logits = torch.einsum("hrc,hrcw->hrw", q, near_k)
        is_real = functional.pad(mask, (side, side)).unfold(0, size, 1)
        exists = functional.pad(torch.ones_like(mask), (side, side)).unfold(0, size, 1)
        logits = (logits + INVALID * ~is_real).masked_fill(~exists, -torch.inf)
        return torch.einsum("hrw,hrcw->hrc", logits.softmax(dim=-1), near_v) * mask[:, None]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    logits = (q @ k.transpose(-1, -2)).masked_fill(~mask, -torch.inf)
    mixed: Tensor = logits.softmax(dim=-1) @ v
    return mixed


class FeedForward(nn.Module):
    """Two pointwise projections with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.proj = nn.Conv1d(width, 4 * width, 1), nn.Conv1d(4 * width, width, 1)

    def forward(self, x: Rows) -> Rows:
        """Transform each row."""
        out: Tensor = self.proj(functional.gelu(self.fc(x[None])))[0]
        return out


class BranchScale(nn.Module):
    """A learned factor of each channel of a residual branch."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full(shape, 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        """BranchScale a branch."""
        return x * self.scale[0]


class LocalEncoder(nn.Module):
    """A transformer layer whose queries, keys and values see three rows, over a window or all rows."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.attn = _ConvolvedAttention(width, window)
        self.ffn = FeedForward(width)
        self.ln_attn, self.ln_ffn = ChannelNorm(width), ChannelNorm(width)
        self.drop_path_attn, self.drop_path_ffn = BranchScale(1, width, 1), BranchScale(1, width, 1)

    def forward(self, x: Rows, mask: Mask) -> Rows:
        """Return the transformed rows."""
        x = x * mask
        x = x * mask + self.drop_path_attn(self.attn(self.ln_attn(x), mask))
        out: Tensor = x + self.drop_path_ffn(self.ffn(self.ln_ffn(x)) * mask)
        return out


class _ConvolvedAttention(nn.Module):
    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.q_conv, self.k_conv, self.v_conv = (
            MaskedConv(width, width, 3, depthwise=True, bias=False) for _ in range(3)
        )
        self.q_norm, self.k_norm, self.v_norm = (ChannelNorm(width) for _ in range(3))
        self.attn = Heads(width, 2, window=window)

    def forward(self, x: Rows, mask: Mask) -> Rows:
        rows: Tensor = self.attn(
            self.q_norm(self.q_conv(x, mask)),
            self.k_norm(self.k_conv(x, mask)),
            self.v_norm(self.v_conv(x, mask)),
            mask,
        )
        return rows


class TextFusion(nn.Module):
    """Layers that scale and shift the rows of a video by what they see of a text."""

    def __init__(self, width: int, num_layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_FusionLayer(width) for _ in range(num_layers))
        self.ln_out = ChannelNorm(width)

    def forward(self, x: Rows, mask: Mask, text: Float[Tensor, "channel token"]) -> Rows:
        """Return the rows of a video with a text."""
        for layer in self.layers:
            x = layer(x, mask, text)
        out: Tensor = self.ln_out(x)
        return out


class _FusionLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.xattn = _CrossAttention(width)
        self.ln_xattn_q, self.ln_xattn_kv, self.ln_ffn = (ChannelNorm(width) for _ in range(3))
        self.ffn = FeedForward(width)
        self.drop_path_ffn = BranchScale(1, width, 1)

    def forward(self, x: Rows, mask: Mask, text: Tensor) -> Rows:
        x = x * mask
        scale, shift = self.xattn(self.ln_xattn_q(x), mask, self.ln_xattn_kv(text)).chunk(2)
        x = scale * normalise(x) + shift
        out: Tensor = x + self.drop_path_ffn(self.ffn(self.ln_ffn(x)) * mask)
        return out


class _CrossAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_conv = MaskedConv(width, width, 3, depthwise=True, bias=False)
        self.q_norm = ChannelNorm(width)
        self.xattn = Heads(width, 4, out=2 * width)

    def forward(self, x: Rows, mask: Mask, text: Tensor) -> Tensor:
        every = torch.ones(text.shape[1], dtype=torch.bool, device=text.device)
        mixed: Tensor = self.xattn(self.q_norm(self.q_conv(x, mask)), text, text, every)
        return mixed
