"""Muon, which updates matrices by their momentum with all singular values near 1, and AdamW for all other weights.

A gradient's few large singular values do not dominate the others, so that small models trained from scratch need fewer
steps than with AdamW only.

Reference: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vidret.encode.precision import choose_precision
from vidret.train.optim import (
    FROM_SCRATCH,
    Recipe,
    Rule,
    Setting,
    compute_loss,
    falling_schedule,
    parameter_groups,
    refuse_half,
)

# Matrices of the towers' blocks; three of them, query, key and value, share one weight.
MATRIX = re.compile(
    r"encoder\.(vision|text)\.blocks\.\d+\.(attn\.in_proj_weight|attn\.out_proj\.weight|mlp\.c_(fc|proj)\.weight)$"
)
PARTS = {"matrices": 1, "packed matrices": 3}  # matrices in each weight of a group
WEIGHT_DECAY = 0.05
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5; iterated, they map 0..1 to about 0.7..1.2
NUM_REPEATS = 5


def orthogonalize(matrices: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    """Return matrices with the same singular vectors, and singular values of 0.7 to 1.2 (Newton-Schulz iteration).

    Singular values far below the largest one stay below that, and 0 stays 0.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if is_tall else matrices
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    first, third, fifth = COEFFICIENTS
    for _ in range(NUM_REPEATS):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon(AdamW):
    """AdamW, except for groups with ``matrix_parts``: the number of matrices, one below the other, in each weight.

    momentum <- 0.95 momentum + gradient,
    matrix <- matrix - lr (max(1, rows / columns)^0.5 orthogonalize(gradient + 0.95 momentum) + weight_decay matrix).

    The learning rate of a matrix is the spectral norm of its step, for all sizes; 0.02 is usual, with or without a
    warm-up. The norm of its gradient has no effect. Matrices are orthogonalized in ``matrix_dtype``, for which bfloat16
    is enough.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        matrix_dtype: torch.dtype = torch.float32,
    ) -> None:
        # Fused: one pass over the embedding of 49,408 tokens, the update of which took a tenth of small training.
        super().__init__([{"matrix_parts": 0, **group} for group in groups], betas=betas, eps=eps, fused=True)
        self._step_supports_amp_scaling = False  # a scaler unscales gradients before, to allow clipping
        self._matrix_dtype = matrix_dtype

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a saved state as the base class does; AdamW would look for its own state of every weight."""
        Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all weights that have a gradient. Gradients are not changed."""
        loss = compute_loss(closure)
        grads: dict[Tensor, Tensor | None] = {}
        for group in self.param_groups:
            if group["matrix_parts"]:
                weights = [weight for weight in group["params"] if weight.grad is not None]
                self._step_matrices(weights, group)
                grads |= {weight: weight.grad for weight in weights}
        for weight in grads:
            weight.grad = None  # AdamW skips weights without a gradient
        super().step()
        for weight, grad in grads.items():
            weight.grad = grad
        return loss

    def _step_matrices(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update weights, batched by shape."""
        by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in weights:
            by_shape[weight.shape].append(weight)
        for (rows, columns), alike in by_shape.items():
            directions = torch.stack(self._move(alike))
            height = rows // group["matrix_parts"]
            matrices = directions.to(self._matrix_dtype).view(-1, height, columns)
            steps = orthogonalize(matrices).to(directions.dtype).view_as(directions)
            torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(alike, list(steps.unbind()), alpha=-group["lr"] * max(1.0, height / columns) ** 0.5)

    def _move(self, weights: list[Tensor]) -> list[Tensor]:
        """Update the momenta of weights, and return the directions of the steps (Nesterov)."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta, grads = [self.state[weight]["momentum"] for weight in weights], [weight.grad for weight in weights]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, cast(list[Tensor], grads))
        return list(torch._foreach_add(cast(list[Tensor], grads), momenta, alpha=MOMENTUM))


def with_muon(recipe: Recipe, lr: float, cool_down: float | None = None) -> Recipe:
    """Return a recipe for towers trained from scratch that trains the matrices of their blocks by Muon.

    All other weights are trained by AdamW. For ``cool_down`` see ``muon_optimizer``.
    """
    optimizer = partial(muon_optimizer, cool_down=cool_down)
    return recipe._replace(rule=partial(_rule, rule=recipe.rule, lr=lr), optimizer=optimizer)


def _rule(name: str, *, rule: Rule, lr: float) -> Setting | None:
    """Train the matrices of the towers' blocks by Muon, and all other weights by another rule."""
    if MATRIX.match(name):
        return Setting("packed matrices" if name.endswith("in_proj_weight") else "matrices", lr, WEIGHT_DECAY)
    return rule(name)


def muon_optimizer(
    model: nn.Module, rule: Rule, *, num_steps: int, warm_up: float = 0.1, cool_down: float | None = None
) -> tuple[Muon, LambdaLR]:
    """Return Muon and a schedule over all steps, for the rules of ``with_muon``.

    Rates rise in the fraction ``warm_up`` of the steps, and fall in the last ``cool_down``, or, if that is None, as a
    cosine from the warm-up on.

    Raises:
        VidretError: A weight has half precision, in which small steps are lost, or a fraction is out of range.
    """
    refuse_half(model.parameters())
    groups = [{**group, "matrix_parts": PARTS.get(group["name"], 0)} for group in parameter_groups(model, rule)]
    device = next(model.parameters()).device
    dtype = torch.bfloat16 if choose_precision("auto", device) == "bf16" else torch.float32
    optimizer = Muon(groups, betas=FROM_SCRATCH, eps=1e-6, matrix_dtype=dtype)
    return optimizer, falling_schedule(optimizer, num_steps, warm_up, cool_down=cool_down)
