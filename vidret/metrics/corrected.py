"""Retrieval metrics with hubness correction. Corrected scores use extra data, so every row names its query bank.

    train = "captions of the training split"
    row = evaluate_calibrated("SK-norm", "t2v", [(logits, train_logits)], sk_norm, bank=train)
    row = evaluate_dual_softmax("t2v", logits)

The bank of a dual softmax is the test set itself.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from vidret.align.calibration import HubnessCorrection, dual_softmax
from vidret.metrics.ranks import check_scores, rank_matrix
from vidret.metrics.retrieval import CUTS, Direction, Row, make_row


def evaluate_calibrated(
    label: str,
    direction: Direction,
    levels: Sequence[tuple[Float[np.ndarray, "text video"], Float[np.ndarray, "bank_text bank_video"]]],
    calibrate: Callable[[torch.Tensor], HubnessCorrection],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    bank: str,
    all_captions: bool = False,
    cuts: Sequence[int] = CUTS,
) -> Row:
    """Evaluate one direction of scores with a hubness correction.

    Args:
        label: Name of the correction, such as "SK-norm".
        direction: "t2v" corrects videos with a bank of texts, "v2t" corrects texts with a bank of videos.
        levels: Scores and bank scores for each level of similarity: (text, video) and (bank text, video) for t2v,
            (text, video) and (text, bank video) for v2t. Levels are corrected separately, then averaged.
        calibrate: ``sk_norm`` or ``qb_norm``, or a partial of one of them.
        truth: See ``evaluate``.
        bank: Description of the bank, such as "the captions of the training split".
        all_captions: See ``evaluate``.
        cuts: See ``evaluate``.

    Raises:
        VidretError: A score or a bank score is not finite.
        ValueError: A shape or dtype is wrong, or there is no level.
    """
    if not levels:
        raise ValueError("levels must be at least 1, got 0")
    corrected = []
    for scores, bank_scores in levels:
        correction = calibrate(_to_tensor(bank_scores, direction))
        corrected.append(_turn(correction.correct(_to_tensor(scores, direction)), direction))
    mean = torch.stack(corrected).mean(0).numpy()
    return make_row(label, direction, rank_matrix(mean, truth, all_captions=all_captions), cuts, bank)


def evaluate_dual_softmax(
    direction: Direction,
    scores: Float[np.ndarray, "text video"],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    all_captions: bool = False,
    cuts: Sequence[int] = CUTS,
) -> Row:
    """Evaluate logits with a dual softmax, which uses all queries of the test set at once.

    Raises:
        VidretError: A score is not finite.
        ValueError: A shape or dtype is wrong.
    """
    logits = _to_tensor(scores, direction)
    weighted = _turn(dual_softmax(logits), direction).numpy()
    ranks = rank_matrix(weighted, truth, all_captions=all_captions)
    bank = f"all {len(logits)} {'texts' if direction == 't2v' else 'videos'} of the test set at once"
    return make_row("dual softmax", direction, ranks, cuts, bank)


def _to_tensor(scores: Shaped[np.ndarray, "text video"], direction: Direction) -> torch.Tensor:
    """Return a copy of the scores as a tensor whose rows are queries."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise ValueError(f"scores must be a matrix of floats, got {scores.dtype} {scores.shape}")
    check_scores(scores, range(len(scores)))
    return _turn(torch.tensor(scores), direction)


def _turn(scores: torch.Tensor, direction: Direction) -> torch.Tensor:
    if direction not in ("t2v", "v2t"):
        raise ValueError(f"direction must be t2v or v2t, got {direction}")
    return scores if direction == "t2v" else scores.T
