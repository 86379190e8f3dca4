"""The layers of UniversalVTG for one video; modules have the published names.

Rows of padding come last; a mask (row,) is False there.

References for Hydra: Dao and Gu 2024, "Transformers are SSMs" (the scan and its chunks); Hwang et al. 2024, "Hydra:
Bidirectional State Space Models Through Generalized Matrix Mixers" (the quasiseparable mixer).
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 128  # rows that are scanned together: memory grows with its square times heads
HEAD_WIDTH, STATES, CONVOLVED = 64, 64, 7
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
        """Attend from rows to the keys that are real by the mask; with a window, the mask is that of the rows."""
        projections = (self.query, query), (self.key, key), (self.value, value)
        q, k, v = (
            rearrange(conv(x[None])[0], "(head channel) row -> head row channel", head=self.heads)
            for conv, x in projections
        )
        if self.window:
            mixed = self._attend_near(q, k, v, mask)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
        projected: Tensor = self.proj(rearrange(mixed, "head row channel -> 1 (head channel) row"))[0]
        return projected

    def _attend_near(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Attend to the keys at most half a window away; rows of padding become 0."""
        side, size = self.window // 2, self.window
        near_k, near_v = (functional.pad(x, (0, 0, side, side)).unfold(1, size, 1) for x in (k, v))
        logits = torch.einsum("hrc,hrcw->hrw", q * q.shape[-1] ** -0.5, near_k)
        is_real = functional.pad(mask, (side, side)).unfold(0, size, 1)
        exists = functional.pad(torch.ones_like(mask), (side, side)).unfold(0, size, 1)
        logits = (logits + INVALID * ~is_real).masked_fill(~exists, -torch.inf)
        return torch.einsum("hrw,hrcw->hrc", logits.softmax(dim=-1), near_v) * mask[:, None]


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
        """Scale a branch."""
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
    """Layers that scale and shift the rows of a video by their attention to a text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_FusionLayer(width), _FusionLayer(width)])
        self.ln_out = ChannelNorm(width)

    def forward(self, x: Rows, mask: Mask, text: Float[Tensor, "channel token"]) -> Rows:
        """Return the rows of a video, fused with a text."""
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


def scan_states(
    x: Float[Tensor, "row head channel"],
    steps: Float[Tensor, "row head"],
    rates: Float[Tensor, " head"],
    inputs: Float[Tensor, "row state"],
    outputs: Float[Tensor, "row state"],
    *,
    chunk: int = CHUNK,
) -> Float[Tensor, "row head channel"]:
    """Return y_t = S_t C_t of the recurrence S_t = exp(a D_t) S_(t-1) + D_t x_t B_t^T, in chunks of rows.

    The steps D are positive, the rates a negative; inputs B and outputs C are shared by the heads.
    """
    state = x.new_zeros(x.shape[1], x.shape[2], inputs.shape[1])
    mixed = []
    pieces = (torch.split(tensor, chunk) for tensor in (x, steps, inputs, outputs))
    for rows, step, b, c in zip(*pieces, strict=True):
        total = (rates * step).cumsum(dim=0)  # logarithm of the decay since the start of the chunk
        future = torch.ones(len(rows), len(rows), dtype=torch.bool, device=x.device).triu(1)
        decay = (total[:, None] - total[None]).masked_fill(future[..., None], -torch.inf).exp()
        weights = decay * (c @ b.T)[..., None] * step
        mixed.append(
            einsum(weights, rows, "i j head, j head channel -> i head channel")
            + einsum(total.exp(), c, state, "i head, i state, head channel state -> i head channel")
        )
        left = (total[-1] - total).exp() * step
        state = total[-1].exp()[:, None, None] * state
        state = state + einsum(left, rows, b, "j head, j head channel, j state -> head channel state")
    return torch.cat(mixed)


class Hydra(nn.Module):
    """Mix the rows of a sequence by two Mamba-2 scans and a diagonal: each sees all earlier and all later ones."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.inner = 2 * width
        self.heads = self.inner // HEAD_WIDTH
        self.in_proj = nn.Linear(width, 2 * self.inner + 4 * STATES + 2 * self.heads, bias=False)
        mixed = self.inner + 4 * STATES
        self.conv1d = nn.Conv1d(mixed, mixed, CONVOLVED, padding=CONVOLVED // 2, groups=mixed)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.fc_D = nn.Linear(self.inner, self.heads, bias=False)
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out_proj = nn.Linear(self.inner, width, bias=False)

    def forward(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Return the mixed rows; rows of padding count, since the convolution adds its bias to them."""
        gate, mixed, steps = torch.split(self.in_proj(x), [self.inner, self.inner + 4 * STATES, 2 * self.heads], dim=-1)
        mixed = functional.silu(self.conv1d(mixed.T[None])[0].T)
        rows, b_forward, c_forward, b_back, c_back = torch.split(mixed, [self.inner, *[STATES] * 4], dim=-1)
        heads = rearrange(rows, "row (head channel) -> row head channel", head=self.heads)
        forward_steps, back_steps = (functional.softplus(half + self.dt_bias) for half in steps.chunk(2, dim=-1))
        rates = -self.A_log.exp()
        before = _delay(scan_states(heads, forward_steps, rates, b_forward, c_forward))
        after = _delay(scan_states(heads.flip(0), back_steps.flip(0), rates, b_back.flip(0), c_back.flip(0))).flip(0)
        direct = heads * (self.fc_D(rows) + self.D)[..., None]
        joined = rearrange(before + after + direct, "row head channel -> row (head channel)")
        out: Tensor = self.out_proj(self.norm(joined) * functional.silu(gate))
        return out


def _delay(x: Float[Tensor, "row head channel"]) -> Float[Tensor, "row head channel"]:
    """Return rows shifted by one, so that each row depends only on strictly earlier ones."""
    return functional.pad(x[:-1], (0, 0, 0, 0, 1, 0))
