"""Corrections of scores from a bank of queries: videos that answer every query lose what they had for nothing.

SK-norm and QB-norm learn one number a video from the scores of a bank (such as the training captions) against the
videos. That number is stored with the video and added to its score, so a single query is corrected without others:

    calibration = sk_norm(bank_scores)                # (query, video), once
    corrected = calibration.correct(scores)           # (video) or (query, video), at any time

From videos to texts the two swap places: give the transposes, and texts have the potentials.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidret.align.sinkhorn import check_finite, sinkhorn


@dataclass(frozen=True, slots=True, eq=False)
class HubnessCorrection:
    """What a bank of queries says about each video.

    Attributes:
        potentials: What is added to the scores of each video, in their unit; the lower, the more it answers the bank.
        active: The videos that are among the best of some query of the bank: only queries whose best video is one of
            them are corrected. None where this plays no part.
        num_queries: How many queries the bank had.
        error: Mass that the bank's queries have too much or too little after the last iteration, 0..2; 0 for QB-norm.
    """

    potentials: Float[Tensor, " video"]
    active: Bool[Tensor, " video"] | None
    num_queries: int
    error: float = 0.0

    def correct(self, scores: Float[Tensor, "*query video"]) -> Float[Tensor, "*query video"]:
        """Correct the scores of one query or of many, each by itself.

        Raises:
            ValueError: The scores are of other videos than the bank's, or not finite.
        """
        if scores.ndim == 0 or scores.shape[-1] != len(self.potentials):
            raise ValueError(f"scores must be of the bank's {len(self.potentials)} videos, got {tuple(scores.shape)}")
        check_finite("scores", scores)
        corrected = scores + self.potentials
        if self.active is None:
            return corrected
        best = scores == scores.amax(-1, keepdim=True)
        return torch.where((best & self.active).any(-1, keepdim=True), corrected, scores)


def sk_norm(
    bank: Float[Tensor, "query video"], *, temperature: float = 1.0, num_iterations: int = 4
) -> HubnessCorrection:
    """Learn how much each video must give up for all videos to answer the same share of the bank.

    To be done for each level of similarity by itself, before levels are averaged. The potentials are temperature *
    log_softmax(column potentials / temperature): the softmax only fixes their common constant, which ranks nothing.

    Args:
        bank: Scores of the bank's queries with the videos.
        temperature: 1 for logits, as published; about 0.01 for cosines, which is the same as a hundredfold of them.
        num_iterations: Of Sinkhorn; 4 as published.

    Raises:
        ValueError: The bank is not a finite float matrix, or a setting breaks its rule.

    Reference:
        Wang et al., Unified Coarse-to-Fine Alignment for Video-Text Retrieval (2023), SK-norm.
    """
    check_bank(bank)
    transport = sinkhorn(bank, temperature=temperature, num_iterations=num_iterations)
    potentials = temperature * (transport.column_potentials / temperature).log_softmax(0)
    return HubnessCorrection(potentials, None, len(bank), transport.error)


def qb_norm(bank: Float[Tensor, "query video"], *, beta: float = 20.0, k: int = 1) -> HubnessCorrection:
    """Learn the dynamic inverted softmax: the share that the bank already has in each video, where that can matter.

    The published score of a query that is corrected is exp(beta * score) / sum over the bank of exp(beta * bank score);
    here it is the logarithm of that, divided by beta: the same order without overflow, in the unit of the scores. So
    the published number is exp(beta * corrected). Scores of one query are never comparable with another's.

    Args:
        bank: Scores of the bank's queries with the videos.
        beta: The inverse temperature; 20 as published, for cosines.
        k: A video is active if it is among the k best of some query; equal scores are all among them.

    Raises:
        ValueError: The bank is not a finite float matrix, or a setting breaks its rule.

    Reference:
        Bogolin et al., Cross Modal Retrieval with Querybank Normalisation (2022).
    """
    check_bank(bank)
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be above 0 and finite, got {beta}")
    if not 1 <= k <= bank.shape[1]:
        raise ValueError(f"k must be in 1..{bank.shape[1]}, the number of videos, got {k}")
    active = (bank >= bank.topk(k, dim=1).values[:, -1:]).any(0)
    return HubnessCorrection(-(beta * bank).logsumexp(0) / beta, active, len(bank))


def dual_softmax(scores: Float[Tensor, "query video"]) -> Float[Tensor, "query video"]:
    """Weigh each score by the query's share in the video, against all other queries of the matrix.

    This looks at all queries at once: report it apart from results that do not. The scale of the scores matters (give
    logits, not cosines), and so does their sign: a negative score rises as its share falls. From videos to texts give
    the transpose; that is not the transpose of the result.

    Raises:
        ValueError: The scores are not a finite float matrix.

    Reference:
        Cheng et al., Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss (2021).
    """
    check_bank(scores, "scores")
    return scores * scores.softmax(0)


def check_bank(bank: Tensor, name: str = "bank") -> None:
    """Refuse what is no matrix of finite floats with at least one query and one video."""
    if bank.ndim != 2 or bank.numel() == 0 or bank.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must be a float32 or float64 matrix of a query and a video or more, got {bank.dtype} "
            f"{tuple(bank.shape)}"
        )
    check_finite(name, bank)
