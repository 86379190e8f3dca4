"""Hubness correction: lower the scores of videos that match every query.

SK-norm and QB-norm compute one number per video from the scores of a bank of queries, such as the training captions.
That number is stored and added to the video's score, so that a single query is corrected without any other:

    correction = sk_norm(bank_scores)                 # (query, video), once
    corrected = correction.correct(scores)            # (video) or (query, video), at any time

For video-to-text retrieval pass the transposes; the potentials are then those of texts.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NUM_ITERATIONS = 4  # of Sinkhorn's algorithm, as published


@dataclass(frozen=True, slots=True, eq=False)
class HubnessCorrection:
    """A correction of the scores of each video, computed from a bank of queries.

    Attributes:
        potentials: Added to the scores of each video, in the same unit; lower for videos that match more of the bank.
        active: True for videos among the top k of some query in the bank. Only queries whose best video is active are
            corrected. None to correct all queries.
        error: Sum of the absolute errors of the queries' shares of mass after the last Sinkhorn iteration, 0..2; 0 for
            QB-norm.
        query_potentials: Sinkhorn's potentials of the bank's queries; None for QB-norm. See ``balance_columns``.
    """

    potentials: Float[Tensor, " video"]
    active: Bool[Tensor, " video"] | None
    error: float = 0.0
    query_potentials: Float[Tensor, " query"] | None = None

    def correct(self, scores: Float[Tensor, "*query video"]) -> Float[Tensor, "*query video"]:
        """Return the corrected scores of one or many queries, each independent of the others.

        Raises:
            ValueError: The number of videos differs from the bank's, or a score is not finite.
        """
        if scores.ndim == 0 or scores.shape[-1] != len(self.potentials):
            wanted = len(self.potentials)
            raise ValueError(f"scores must have {wanted} videos, as the bank has, got shape {tuple(scores.shape)}")
        check_finite("scores", scores)
        corrected = scores + self.potentials
        if self.active is None:
            return corrected
        best = scores == scores.amax(-1, keepdim=True)
        return torch.where((best & self.active).any(-1, keepdim=True), corrected, scores)


def sk_norm(bank: Float[Tensor, "query video"], *, temperature: float = 1.0) -> HubnessCorrection:
    """Compute Sinkhorn potentials with which all videos match an equal share of the bank.

    Apply it to each level of similarity separately, before levels are averaged. Sinkhorn's algorithm scales the columns
    and rows of exp(bank / temperature) towards equal masses, here in the log domain. Columns are scaled first, with row
    factors of 1; then each iteration scales rows, then columns. The softmax of the columns' potentials fixes their
    common constant, which affects no ranking.

    Args:
        bank: Scores of the bank's queries for the videos.
        temperature: 1 for logits, as published; about 0.01 for cosines, equivalent to scaling them by 100.

    Raises:
        ValueError: The bank is not a matrix of finite floats, or a setting is invalid.

    References:
        Wang et al., Unified Coarse-to-Fine Alignment for Video-Text Retrieval (2023), SK-norm; Cuturi, Sinkhorn
        Distances: Lightspeed Computation of Optimal Transport (2013), algorithm 1.
    """
    check_bank(bank)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    logits = bank / temperature
    log_rows, log_columns = (-math.log(count) for count in bank.shape)
    rows, columns = torch.zeros_like(bank[:, 0]), log_columns - logits.logsumexp(0)
    for _ in range(NUM_ITERATIONS):
        rows = log_rows - (logits + columns).logsumexp(1)
        columns = log_columns - (logits + rows[:, None]).logsumexp(0)
    shares = (rows + (logits + columns).logsumexp(1)).exp()
    error = float((shares - 1 / len(bank)).abs().sum())
    return HubnessCorrection(temperature * columns.log_softmax(0), None, error, temperature * rows)


def balance_columns(
    bank: Float[Tensor, "query video"], query_potentials: Float[Tensor, " query"], *, temperature: float = 1.0
) -> Float[Tensor, " video"]:
    """Return the potentials of videos, up to one constant, for given potentials of the bank's queries.

    It is the last half of a Sinkhorn iteration. Each video depends only on its own scores, so that videos can be added
    to those that ``sk_norm`` has balanced.
    """
    return -temperature * ((bank + query_potentials[:, None]) / temperature).logsumexp(0)


def qb_norm(
    bank: Float[Tensor, "query video"], *, beta: float = 20.0, k: int = 1, min_queries: int = 1
) -> HubnessCorrection:
    """Compute the dynamic inverted softmax.

    The published score of a corrected query is exp(beta * score) / sum over the bank of exp(beta * bank score). This is
    its logarithm divided by beta, which gives the same order without overflow, in the unit of the scores; the published
    number is exp(beta * corrected). Scores of different queries are not comparable.

    Args:
        bank: Scores of the bank's queries for the videos.
        beta: Inverse temperature; 20 as published, for cosines.
        k: A video is active if it is among the top k of enough queries, ties included.
        min_queries: The number of queries that is enough; GLSCL's published results are with 3, and with a beta of 70.

    Raises:
        ValueError: The bank is not a matrix of finite floats, or a setting is invalid.

    Reference:
        Bogolin et al., Cross Modal Retrieval with Querybank Normalisation (2022).
    """
    check_bank(bank)
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    if not 1 <= k <= bank.shape[1]:
        raise ValueError(f"k must be in 1..{bank.shape[1]}, the number of videos, got {k}")
    active = (bank >= bank.topk(k, dim=1).values[:, -1:]).sum(0) >= min_queries
    return HubnessCorrection(-(beta * bank).logsumexp(0) / beta, active)


def dual_softmax(scores: Float[Tensor, "query video"]) -> Float[Tensor, "query video"]:
    """Multiply each score by the softmax of its column, that is, over all queries for the same video.

    This uses all test queries at once, so report it separately from results that do not. The scale of the scores
    matters (pass logits, not cosines), and so does their sign: a negative score rises as its weight falls. For
    video-to-text retrieval pass the transpose; the result is not the transpose of the other direction's.

    Raises:
        ValueError: The scores are not a matrix of finite floats.

    Reference:
        Cheng et al., Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss (2021).
    """
    check_bank(scores, "scores")
    return scores * scores.softmax(0)


def check_bank(bank: Tensor, name: str = "bank") -> None:
    """Check for a matrix of finite floats with at least one query and one video."""
    if bank.ndim != 2 or bank.numel() == 0 or bank.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must be a float32 or float64 matrix of at least one query and one video, got {bank.dtype} "
            f"{tuple(bank.shape)}"
        )
    check_finite(name, bank)


def check_finite(name: str, values: Tensor) -> None:
    """Check for NaN and infinities, any of which would affect the whole matrix.

    Raises:
        ValueError: A value is not finite.
    """
    finite = values.isfinite()
    if not bool(finite.all()):
        index = (~finite).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {values[tuple(index)].item()} at {index}")
