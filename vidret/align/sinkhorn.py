"""Sinkhorn's algorithm in the log domain: scores to a transport plan with given row and column marginals."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """A transport plan and its potentials: ``log_plan = (scores + row + column potentials) / temperature``.

    Potentials are in the unit of the scores. Padding has the potential -inf, and therefore no mass.

    Attributes:
        log_plan: Logarithm of the mass of each pair; the total mass is 1.
        row_potentials: Added to the scores of each row.
        column_potentials: Added to the scores of each column.
        error: Sum of the absolute errors of the row marginals, 0..2. The column marginals are exact.
        num_iterations: Number of iterations performed.
    """

    log_plan: Float[Tensor, "row column"]
    row_potentials: Float[Tensor, " row"]
    column_potentials: Float[Tensor, " column"]
    error: float
    num_iterations: int

    @property
    def plan(self) -> Float[Tensor, "row column"]:
        """Return the mass of each pair."""
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
    """Scale the rows and columns of exp(scores / temperature) alternately towards the given marginals.

    Columns are scaled first, with row factors of 1; then each iteration scales rows, then columns. So 0 iterations
    give the inverted softmax, and UCoFiA uses 4. The lower the temperature, the closer the plan is to the optimal
    assignment, and the more iterations it takes. Computed in the dtype of the scores; gradients pass through the
    iterations.

    Args:
        scores: float32 or float64, finite where the masks are True. Higher is better.
        temperature: Divisor of the scores; the epsilon of entropic transport.
        num_iterations: Maximum number of iterations.
        tolerance: Error at which to stop early.
        row_weights: Relative mass of each row; equal by default.
        column_weights: Relative mass of each column; equal by default.
        row_mask: True where a row is real. Padding may contain any values, even NaN.
        column_mask: Likewise for columns.

    Raises:
        ValueError: An argument is invalid, or all rows or columns are padding.

    Reference:
        Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport (2013), algorithm 1.
    """
    _check_settings(scores, temperature, num_iterations, tolerance)
    real_rows = find_real("row_mask", row_mask, scores, 0)
    real_columns = find_real("column_mask", column_mask, scores, 1)
    logits = scores if row_mask is None else scores[real_rows]
    logits = logits if column_mask is None else logits[:, real_columns]
    check_finite("scores", logits)
    logits = logits / temperature
    log_rows = find_log_weights("row_weights", row_weights, scores, 0, real_rows)
    log_columns = find_log_weights("column_weights", column_weights, scores, 1, real_columns)

    rows, columns, error, done = _iterate(logits, log_rows, log_columns, num_iterations, tolerance)
    log_plan = logits + rows[:, None] + columns
    if row_mask is not None or column_mask is not None:
        log_plan = scores.new_full(scores.shape, -math.inf).index_put((real_rows[:, None], real_columns), log_plan)
        rows = scores.new_full((scores.shape[0],), -math.inf).index_put((real_rows,), rows)
        columns = scores.new_full((scores.shape[1],), -math.inf).index_put((real_columns,), columns)
    return Transport(log_plan, rows * temperature, columns * temperature, error, done)


def _iterate(
    logits: Tensor, log_rows: Tensor, log_columns: Tensor, num_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, float, int]:
    """Return the logarithms of the row and column factors, the error, and the number of iterations performed."""
    rows = torch.zeros_like(log_rows)
    columns = log_columns - logits.logsumexp(0)
    for done in range(num_iterations + 1):
        masses = (logits + columns).logsumexp(1)  # logarithms of the rows' masses without their own factors
        error = float(((rows + masses).exp() - log_rows.exp()).abs().sum().detach())
        if done == num_iterations or error <= tolerance:
            break
        rows = log_rows - masses
        columns = log_columns - (logits + rows[:, None]).logsumexp(0)
    return rows, columns, error, done


def _check_settings(scores: Tensor, temperature: float, num_iterations: int, tolerance: float) -> None:
    if scores.ndim != 2 or scores.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"scores must be a float32 or float64 matrix, got {scores.dtype} {tuple(scores.shape)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if num_iterations < 0 or not tolerance >= 0:
        raise ValueError(f"num_iterations and tolerance must be at least 0, got {num_iterations} and {tolerance}")


def find_real(name: str, mask: Tensor | None, scores: Tensor, axis: int) -> Tensor:
    """Return the indices along an axis that are not padding."""
    length = scores.shape[axis]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (length,)):
        raise ValueError(f"{name} must be {length} bools, got {mask.dtype} {tuple(mask.shape)}")
    real = torch.arange(length, device=scores.device) if mask is None else mask.nonzero().flatten()
    if len(real) == 0:
        raise ValueError(
            f"scores must have at least one real row and column, got shape {tuple(scores.shape)} and {name} {mask}"
        )
    return real


def find_log_weights(name: str, weights: Tensor | None, scores: Tensor, axis: int, real: Tensor) -> Tensor:
    """Return the logarithm of each real row's or column's share of the mass."""
    if weights is None:
        return scores.new_full((len(real),), -math.log(len(real)))
    if weights.shape != (scores.shape[axis],):
        raise ValueError(f"{name} must be {scores.shape[axis]} numbers, got {tuple(weights.shape)}")
    weights = weights.to(scores)[real]
    if not bool(((weights > 0) & weights.isfinite()).all()):
        raise ValueError(f"{name} must be positive and finite, got {weights.tolist()}")
    return weights.log() - weights.sum().log()


def check_finite(name: str, values: Tensor) -> None:
    """Check for NaN and infinities, any of which would affect the whole matrix.

    Raises:
        ValueError: A value is not finite.
    """
    finite = values.isfinite()
    if not bool(finite.all()):
        index = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {values[tuple(index)].item()} at {index}")
