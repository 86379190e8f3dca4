"""Which patches of a frame are worth keeping: a score for each, and the best k, softly for training, hard for use."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

KEPT = 3
SIGMA = 0.05
NUM_DRAWS = 500
NEVER = -1e30  # a score that no real one falls below


class ScoreNet(nn.Module):
    """Score patches by what they are and by what their frame is as a whole.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval", section 3.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.reduce = nn.Linear(dim, dim // 2, bias=False)
        self.join = nn.Linear(2 * (dim // 2), dim // 2, bias=False)
        self.out = nn.Linear(dim // 2, 1, bias=False)

    def forward(self, tokens: Float[Tensor, "frame 1+patch dim"]) -> Float[Tensor, "frame 1+patch"]:
        """Give scores in -1..1; the first token of each frame is its class token."""
        own = functional.gelu(self.reduce(self.norm(tokens)))
        joined = torch.cat([own, own[:, :1].expand_as(own)], dim=-1)
        scores: Tensor = self.out(functional.gelu(self.join(joined))).squeeze(-1).tanh()
        return scores


def score_by_agreement(tokens: Float[Tensor, "frame 1+patch dim"]) -> Float[Tensor, "frame 1+patch"]:
    """Score patches by their cosine with their frame's class token: what is to be had without training."""
    units = functional.normalize(tokens, dim=-1)
    return torch.einsum("f p d, f d -> f p", units, units[:, 0])


def choose_apart(tokens: Float[Tensor, "frame 1+patch dim"], k: int, mask: Tensor) -> Int[Tensor, "frame k"]:
    """Choose k patches that say what the class token and those chosen before do not: the least similar one each time.

    For tokens that mean something each by itself, as the regions of a picture do. Places are in the order of the frame.
    """
    units = functional.normalize(tokens, dim=-1)
    patches = units[:, 1:]
    nearest = torch.einsum("f p d, f d -> f p", patches, units[:, 0]).masked_fill(~mask, -NEVER)
    places = torch.empty(len(tokens), k, dtype=torch.long, device=tokens.device)
    for number in range(k):
        place = nearest.argmin(dim=-1)
        places[:, number] = place
        chosen = patches[torch.arange(len(patches), device=tokens.device), place]
        nearest = torch.maximum(nearest, torch.einsum("f p d, f d -> f p", patches, chosen))
        nearest = nearest.scatter(-1, place[:, None], -2 * NEVER)
    return places.sort(dim=-1).values


def hard_top_k(scores: Float[Tensor, "frame patch"], k: int) -> Int[Tensor, "frame k"]:
    """Give the places of the k highest scores, in the order of the frame; of equals, the first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(dim=-1).values


class _PerturbedTopK(torch.autograd.Function):
    """Keeps, for the way back, how the noise leaned where a patch was chosen; one-hot rows are counted, never built."""

    @staticmethod
    def forward(ctx, scores: Tensor, noise: Tensor, k: int, sigma: float) -> Tensor:  # type: ignore[no-untyped-def]
        draws = noise.shape[1]
        places = (scores[:, None] + sigma * noise).topk(k, dim=-1).indices.sort(dim=-1).values
        leaned = rearrange(noise.gather(-1, places), "frame draw k -> frame k draw")
        places = rearrange(places, "frame draw k -> frame k draw")
        empty = leaned.new_zeros(len(scores), k, scores.shape[1])
        ctx.save_for_backward(empty.scatter_add(-1, places, leaned) / (draws * sigma))
        return empty.scatter_add(-1, places, torch.ones_like(leaned)) / draws

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return (grad * slope).sum(dim=1), None, None, None


def perturbed_top_k(
    scores: Float[Tensor, "frame patch"], noise: Float[Tensor, "frame draw patch"], k: int, *, sigma: float = SIGMA
) -> Float[Tensor, "frame k patch"]:
    """Choose the k highest of scores + sigma * noise, in the order of the frame, and average the choices over draws.

    Its gradient is the smoothed one's diagonal, as the published training has it: what a patch's score does to its own
    share, E[chosen * noise] / sigma; that it pushes others out is left to their own scores.

    Args:
        scores: One for each patch.
        noise: Standard normal.
        k: How many are chosen.
        sigma: How far noise moves scores.

    Returns:
        Shares: row j says how often each patch was the j-th chosen; each row sums to 1. In the noise's precision.

    Reference: Berthet et al. 2020, "Learning with Differentiable Perturbed Optimizers", proposition 3.1; Cordonnier et
    al. 2021, "Differentiable Patch Selection", section 3.1.
    """
    shares: Tensor = _PerturbedTopK.apply(scores, noise, k, sigma)  # type: ignore[no-untyped-call]
    return shares


class PatchSelector(nn.Module):
    """Keep the class token and the k best patches of each frame.

    In training mode the choice is softened by noise, so that it has a gradient; in evaluation mode it is the hard
    choice, the noise's limit at zero, and the same each time.
    """

    def __init__(
        self,
        score: nn.Module | None = None,
        *,
        kept: int = KEPT,
        sigma: float = SIGMA,
        num_draws: int = NUM_DRAWS,
        apart: bool = False,
    ) -> None:
        """Take a score net; without one patches are scored by their agreement with their frame.

        With ``apart`` there is no score: patches are chosen by how little they repeat what is chosen already.
        """
        super().__init__()
        self.score, self.kept, self.sigma, self.num_draws, self.apart = score, kept, sigma, num_draws, apart

    def forward(
        self,
        tokens: Float[Tensor, "frame 1+patch dim"],
        mask: Bool[Tensor, "frame patch"] | None = None,
        *,
        noise: Float[Tensor, "frame draw patch"] | None = None,
    ) -> tuple[Float[Tensor, "frame 1+kept dim"], Bool[Tensor, "frame kept"]]:
        """Select.

        Args:
            tokens: The class token of each frame, then its patches.
            mask: False where a patch is padding: it is chosen only when nothing real is left.
            noise: Used instead of drawing it, in either mode.

        Returns:
            The class token and the chosen, in the order of the frame, and which of the chosen are real.
        """
        patches = tokens[:, 1:]
        if patches.shape[1] < self.kept:
            raise ValueError(f"tokens must hold at least {self.kept} patches a frame, got {patches.shape[1]}")
        real = torch.ones(patches.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        if not self.apart:
            scores = (score_by_agreement(tokens) if self.score is None else self.score(tokens))[:, 1:]
            scores = scores.masked_fill(~real, NEVER)
        if self.apart or (noise is None and not self.training):
            places = choose_apart(tokens, self.kept, real) if self.apart else hard_top_k(scores, self.kept)
            chosen = patches.gather(1, places[..., None].expand(-1, -1, patches.shape[-1]))
            return torch.cat([tokens[:, :1], chosen], dim=1), real.gather(1, places)
        if noise is None:
            shape = len(scores), self.num_draws, scores.shape[1]
            noise = torch.randn(shape, device=scores.device, dtype=torch.float32)  # bfloat16 cannot count 500 draws
        shares = perturbed_top_k(scores, noise, self.kept, sigma=self.sigma)
        kept = torch.einsum("f k p, f p -> f k", shares, real.to(shares.dtype)) > 0.5
        return torch.cat([tokens[:, :1], shares.to(patches.dtype) @ patches], dim=1), kept
