"""Sinkhorn's algorithm in the log domain: scores to a transport plan with equal masses of rows and of columns."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Transport:
    """A transport plan and its potentials: ``log_plan = (scores + row + column potentials) / temperature``.

    Potentials are in the unit of the scores.

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
    scores: Float[Tensor, "row column"], *, temperature: float = 1.0, num_iterations: int = 4, tolerance: float = 0.0
) -> Transport:
    """Scale the rows and columns of exp(scores / temperature) alternately towards equal masses.

    Columns are scaled first, with row factors of 1; then each iteration scales rows, then columns. So 0 iterations
    give the inverted softmax, and UCoFiA uses 4. The lower the temperature, the closer the plan is to the optimal
    assignment, and the more iterations it takes. Computed in the dtype of the scores; gradients pass through the
    iterations.

    Args:
        scores: float32 or float64, finite. Higher is better.
        temperature: Divisor of the scores; the epsilon of entropic transport.
        num_iterations: Maximum number of iterations.
        tolerance: Error at which to stop early.

    Raises:
        ValueError: An argument is invalid.

    Reference:
        Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport (2013), algorithm 1.
    """
    if scores.ndim != 2 or scores.numel() == 0 or scores.dtype not in (torch.float32, torch.float64):
        got = f"{scores.dtype} {tuple(scores.shape)}"
        raise ValueError(f"scores must be a float32 or float64 matrix with a row and a column, got {got}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if num_iterations < 0 or not tolerance >= 0:
        raise ValueError(f"num_iterations and tolerance must be at least 0, got {num_iterations} and {tolerance}")
    check_finite("scores", scores)
    logits = scores / temperature
    log_rows, log_columns = (scores.new_full((count,), -math.log(count)) for count in scores.shape)
    rows = torch.zeros_like(log_rows)
    columns = log_columns - logits.logsumexp(0)
    for done in range(num_iterations + 1):
        masses = (logits + columns).logsumexp(1)  # logarithms of the rows' masses without their own factors
        error = float(((rows + masses).exp() - log_rows.exp()).abs().sum().detach())
        if done == num_iterations or error <= tolerance:
            break
        rows = log_rows - masses
        columns = log_columns - (logits + rows[:, None]).logsumexp(0)
    log_plan = logits + rows[:, None] + columns
    return Transport(log_plan, rows * temperature, columns * temperature, error, done)


def check_finite(name: str, values: Tensor) -> None:
    """Check for NaN and infinities, any of which would affect the whole matrix.

    Raises:
        ValueError: A value is not finite.
    """
    finite = values.isfinite()
    if not bool(finite.all()):
        index = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {values[tuple(index)].item()} at {index}")
