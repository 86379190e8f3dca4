"""Selection of patches: a score for each patch of a frame and the top k, soft in training and hard in use."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

KEPT = 3
SIGMA = 0.05
NUM_DRAWS = 500
PADDING_SCORE = -1e30  # below every real score


class ScoreNet(nn.Module):
    """A network that scores patches from their own features and those of their frame's class token.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval", section 3.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.reduce = nn.Linear(dim, dim // 2, bias=False)
        self.join = nn.Linear(2 * (dim // 2), dim // 2, bias=False)
        self.out = nn.Linear(dim // 2, 1, bias=False)

    def forward(self, tokens: Float[Tensor, "frame token dim"]) -> Float[Tensor, "frame token"]:
        """Return scores in -1..1; the first token of each frame is its class token."""
        reduced = functional.gelu(self.reduce(self.norm(tokens)))
        joined = torch.cat([reduced, reduced[:, :1].expand_as(reduced)], dim=-1)
        scores: Tensor = self.out(functional.gelu(self.join(joined))).squeeze(-1).tanh()
        return scores


def score_by_agreement(tokens: Float[Tensor, "frame token dim"]) -> Float[Tensor, "frame token"]:
    """Return the cosine of each token and its frame's class token, the score without training."""
    units = functional.normalize(tokens, dim=-1)
    return torch.einsum("f p d, f d -> f p", units, units[:, 0])


def select_diverse(tokens: Float[Tensor, "frame token dim"], k: int, mask: Tensor) -> Int[Tensor, "frame {k}"]:
    """Return the ascending indices of k diverse patches, selected greedily.

    Each step selects the patch that is least similar to the class token and to the patches selected before. This suits
    tokens that are meaningful one by one, such as image regions.
    """
    units = functional.normalize(tokens, dim=-1)
    patches = units[:, 1:]
    nearest = torch.einsum("f p d, f d -> f p", patches, units[:, 0]).masked_fill(~mask, -PADDING_SCORE)
    indices = torch.empty(len(tokens), k, dtype=torch.long, device=tokens.device)
    for step in range(k):
        index = nearest.argmin(dim=-1)
        indices[:, step] = index
        selected = patches[torch.arange(len(patches), device=tokens.device), index]
        nearest = torch.maximum(nearest, torch.einsum("f p d, f d -> f p", patches, selected))
        nearest = nearest.scatter(-1, index[:, None], -2 * PADDING_SCORE)
    return indices.sort(dim=-1).values


def hard_top_k(scores: Float[Tensor, "frame patch"], k: int) -> Int[Tensor, "frame {k}"]:
    """Return the ascending indices of the k highest scores; of equal scores, the first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(dim=-1).values


class _PerturbedTopK(torch.autograd.Function):
    """Perturbed top k; one-hot selections are counted without being built."""

    @staticmethod
    def forward(ctx, scores: Tensor, noise: Tensor, k: int, sigma: float) -> Tensor:  # type: ignore[no-untyped-def]
        num_draws = noise.shape[1]
        indices = (scores[:, None] + sigma * noise).topk(k, dim=-1).indices.sort(dim=-1).values
        selected_noise = rearrange(noise.gather(-1, indices), "frame draw k -> frame k draw")
        indices = rearrange(indices, "frame draw k -> frame k draw")
        empty = selected_noise.new_zeros(len(scores), k, scores.shape[1])
        ctx.save_for_backward(empty.scatter_add(-1, indices, selected_noise) / (num_draws * sigma))
        return empty.scatter_add(-1, indices, torch.ones_like(selected_noise)) / num_draws

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return (grad * slope).sum(dim=1), None, None, None


def perturbed_top_k(
    scores: Float[Tensor, "frame patch"], noise: Float[Tensor, "frame draw patch"], k: int, *, sigma: float = SIGMA
) -> Float[Tensor, "frame {k} patch"]:
    """Return the top k of scores + sigma * noise, as one-hot rows averaged over draws.

    As in the published training, the gradient is the diagonal of the smoothed Jacobian: the effect of a patch's score
    on its own weight, E[selected * noise] / sigma, and not on the weights of other patches.

    Returns:
        Weights, in the dtype of the noise: row j is how often each patch was the j-th selected one, in the order of
        the frame; each row sums to 1.

    Reference: Berthet et al. 2020, "Learning with Differentiable Perturbed Optimizers", proposition 3.1; Cordonnier et
    al. 2021, "Differentiable Patch Selection", section 3.1.
    """
    weights: Tensor = _PerturbedTopK.apply(scores, noise, k, sigma)  # type: ignore[no-untyped-call, unused-ignore]
    return weights


class PatchSelector(nn.Module):
    """Selects the class token and the k best patches of each frame.

    In training mode the selection is smoothed with noise, so that it has a gradient. In evaluation mode it is the hard
    top k, the limit for zero noise, and deterministic.
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
        """Create a selector of ``kept`` patches per frame, with noise of scale ``sigma``.

        ``score`` is the network that scores patches, None for ``score_by_agreement``. ``apart`` selects diverse patches
        instead, without scores; see ``select_diverse``.
        """
        super().__init__()
        self.score, self.kept, self.sigma, self.num_draws, self.apart = score, kept, sigma, num_draws, apart

    def forward(
        self,
        tokens: Float[Tensor, "frame token dim"],
        mask: Bool[Tensor, "frame patch"] | None = None,
        *,
        noise: Float[Tensor, "frame draw patch"] | None = None,
    ) -> tuple[Float[Tensor, "frame 1+{self.kept} dim"], Bool[Tensor, "frame {self.kept}"]]:
        """Select patches.

        Args:
            tokens: The class token of each frame, then its patches.
            mask: False where a patch is padding, which is selected only if too few patches are real.
            noise: Noise to use in either mode, instead of drawing it in training mode.

        Returns:
            The class token and the selected patches in the order of the frame, and True for real selected patches.

        Raises:
            ValueError: There are too few patches per frame.
        """
        patches = tokens[:, 1:]
        if patches.shape[1] < self.kept:
            raise ValueError(f"tokens must have at least {self.kept} patches per frame, got {patches.shape[1]}")
        real = torch.ones(patches.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask
        if not self.apart:
            scores = (score_by_agreement(tokens) if self.score is None else self.score(tokens))[:, 1:]
            scores = scores.masked_fill(~real, PADDING_SCORE)
        if self.apart or (noise is None and not self.training):
            indices = select_diverse(tokens, self.kept, real) if self.apart else hard_top_k(scores, self.kept)
            selected = patches.gather(1, indices[..., None].expand(-1, -1, patches.shape[-1]))
            return torch.cat([tokens[:, :1], selected], dim=1), real.gather(1, indices)
        if noise is None:
            shape = len(scores), self.num_draws, scores.shape[1]
            noise = torch.randn(shape, device=scores.device, dtype=torch.float32)  # bfloat16 cannot count 500 draws
        weights = perturbed_top_k(scores, noise, self.kept, sigma=self.sigma)
        kept = torch.einsum("f k p, f p -> f k", weights, real.to(weights.dtype)) > 0.5
        return torch.cat([tokens[:, :1], weights.to(patches.dtype) @ patches], dim=1), kept
