"""One Sinkhorn, in the log domain: scores become a plan in which every row and every column has its share."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """A plan with what explains it: ``log_plan = (scores + row potentials + column potentials) / temperature``.

    Potentials are in the unit of the scores. Padding has the potential -inf, and so no mass.

    Attributes:
        log_plan: Logarithm of the mass that each pair carries; all mass together is 1.
        row_potentials: What is added to the scores of each row.
        column_potentials: What is added to the scores of each column.
        error: How much mass the rows have too much or too little in total: 0..2. The columns are exact.
        num_iterations: How many were made.
    """

    log_plan: Float[Tensor, "row column"]
    row_potentials: Float[Tensor, " row"]
    column_potentials: Float[Tensor, " column"]
    error: float
    num_iterations: int

    @property
    def plan(self) -> Float[Tensor, "row column"]:
        """Give the mass that each pair carries."""
        return self.log_plan.exp()


def sinkhorn(
    scores: Float[Tensor, "row column"],
    *,
    temperature: float = 1.0,
    num_iterations: int = 4,
    tolerance: float = 0.0,
    row_weights: Float[Tensor, " row"] | None = None,
    column_weights: Float[Tensor, " column"] | None = None,
    row_mask: Bool[Tensor, " row"] | None = None,
    column_mask: Bool[Tensor, " column"] | None = None,
) -> Transport:
    """Scale exp(scores / temperature) by one factor a row and one a column until rows and columns have their weights.

    Columns are scaled first, from row factors of 1; an iteration scales rows, then columns. So 0 iterations are the
    inverted softmax, 4 are UCoFiA's. The lower the temperature, the nearer the plan is to the optimal assignment, and
    the more iterations it takes. Computed in the type of the scores; gradients pass through the iterations.

    Args:
        scores: float32 or float64, finite where the masks are True. Higher is better.
        temperature: What scores are divided by; the epsilon of entropic transport.
        num_iterations: How many to make at most.
        tolerance: Stop as soon as the error is at most this.
        row_weights: Share of the mass of each row, divided by their sum here; all the same unless given.
        column_weights: The same for the columns.
        row_mask: True where a row is real. What padding holds does not matter, not even NaN.
        column_mask: The same for the columns.

    Raises:
        ValueError: A value breaks its rule, or nothing is real.

    Reference:
        Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport (2013), algorithm 1.
    """
    if scores.ndim != 2 or scores.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"scores must be a float32 or float64 matrix, got {scores.dtype} {tuple(scores.shape)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    if num_iterations < 0 or not tolerance >= 0:
        raise ValueError(f"num_iterations and tolerance must be at least 0, got {num_iterations} and {tolerance}")
    real_rows = find_real("row_mask", row_mask, scores, 0)
    real_columns = find_real("column_mask", column_mask, scores, 1)
    logits = scores if row_mask is None else scores[real_rows]
    logits = logits if column_mask is None else logits[:, real_columns]
    check_finite("scores", logits)
    logits = logits / temperature
    log_rows = find_log_weights("row_weights", row_weights, scores, 0, real_rows)
    log_columns = find_log_weights("column_weights", column_weights, scores, 1, real_columns)

    rows = torch.zeros_like(log_rows)
    columns = log_columns - logits.logsumexp(0)
    for done in range(num_iterations + 1):
        reached = (logits + columns).logsumexp(1)  # log of each row's mass before its own factor
        error = float(((rows + reached).exp() - log_rows.exp()).abs().sum().detach())
        if done == num_iterations or error <= tolerance:
            break
        rows = log_rows - reached
        columns = log_columns - (logits + rows[:, None]).logsumexp(0)
    log_plan = logits + rows[:, None] + columns

    if row_mask is not None or column_mask is not None:
        log_plan = scores.new_full(scores.shape, -math.inf).index_put((real_rows[:, None], real_columns), log_plan)
        rows = scores.new_full((scores.shape[0],), -math.inf).index_put((real_rows,), rows)
        columns = scores.new_full((scores.shape[1],), -math.inf).index_put((real_columns,), columns)
    return Transport(log_plan, rows * temperature, columns * temperature, error, done)


def find_real(name: str, mask: Tensor | None, scores: Tensor, axis: int) -> Tensor:
    """List the indices along an axis that are not padding; there must be one."""
    length = scores.shape[axis]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (length,)):
        raise ValueError(f"{name} must be {length} bools, got {mask.dtype} {tuple(mask.shape)}")
    real = torch.arange(length, device=scores.device) if mask is None else mask.nonzero().flatten()
    if len(real) == 0:
        raise ValueError(
            f"scores must have a row and a column that are real, got {tuple(scores.shape)} and {name} {mask}"
        )
    return real


def find_log_weights(name: str, weights: Tensor | None, scores: Tensor, axis: int, real: Tensor) -> Tensor:
    """Give the logarithm of each real row's or column's share of the mass."""
    if weights is None:
        return scores.new_full((len(real),), -math.log(len(real)))
    if weights.shape != (scores.shape[axis],):
        raise ValueError(f"{name} must be {scores.shape[axis]} numbers, got {tuple(weights.shape)}")
    weights = weights.to(scores)[real]
    if not bool(((weights > 0) & weights.isfinite()).all()):
        raise ValueError(f"{name} must be above 0 and finite, got {weights.tolist()}")
    return weights.log() - weights.sum().log()


def check_finite(name: str, values: Tensor) -> None:
    """Refuse NaN and infinities: one of them would spread over the whole matrix."""
    finite = values.isfinite()
    if not bool(finite.all()):
        place = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {values[tuple(place)].item()} at {place}")
