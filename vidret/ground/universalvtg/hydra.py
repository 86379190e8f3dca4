"""Hydra: a bidirectional state space layer, two Mamba-2 scans and a diagonal, in plain PyTorch.

References: Dao and Gu 2024, "Transformers are SSMs" (the scan and its chunks); Hwang et al. 2024, "Hydra: Bidirectional
State Space Models Through Generalized Matrix Mixers" (the quasiseparable mixer).
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 128  # rows that are computed together: memory grows with its square times heads
HEAD_WIDTH, STATES, CONVOLVED = 64, 64, 7


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

    Args:
        x: The rows.
        steps: D, positive.
        rates: a, negative.
        inputs: B, shared by the heads.
        outputs: C, shared by the heads.
        chunk: Rows that are computed together.
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
    """Mix the rows of a sequence: each sees all earlier and all later ones. Parameters have the published names."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.inner = 2 * width
        self.heads = self.inner // HEAD_WIDTH
        self.in_proj = nn.Linear(width, 2 * self.inner + 4 * STATES + 2 * self.heads, bias=False)
        self.conv1d = nn.Conv1d(
            self.inner + 4 * STATES,
            self.inner + 4 * STATES,
            CONVOLVED,
            padding=CONVOLVED // 2,
            groups=self.inner + 4 * STATES,
        )
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
        own = heads * (self.fc_D(rows) + self.D)[..., None]
        joined = rearrange(before + after + own, "row head channel -> row (head channel)")
        out: Tensor = self.out_proj(self.norm(joined) * functional.silu(gate))
        return out


def _delay(x: Float[Tensor, "row head channel"]) -> Float[Tensor, "row head channel"]:
    """Return rows one place later, so that each place sees what is strictly before it."""
    return functional.pad(x[:-1], (0, 0, 0, 0, 1, 0))
