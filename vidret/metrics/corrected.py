"""Rows of scores that a bank of queries corrected: they know more than plain ones, so they name the bank.

    train = "captions of the training split"
    row = evaluate_calibrated("SK-norm", "t2v", [(logits, train_logits)], sk_norm, bank=train)
    row = evaluate_dual_softmax("t2v", logits)

The bank of the second is the test itself; the row says so.
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
    levels: Sequence[tuple[Float[np.ndarray, "text video"], Float[np.ndarray, "text video"]]],
    calibrate: Callable[[torch.Tensor], HubnessCorrection],
    truth: Int[np.ndarray, " text"] | None = None,
    *,
    bank: str,
    all_captions: bool = False,
    cuts: Sequence[int] = CUTS,
) -> Row:
    """Measure scores that a bank corrects, one direction of them.

    Args:
        label: The name of the correction, such as "SK-norm".
        direction: t2v corrects the videos by a bank of texts, v2t the texts by a bank of videos.
        levels: For each level of similarity the scores and the bank's: (text, video) and (bank's text, video), or from
            video to text (text, video) and (text, bank's video). Each is corrected by itself, then they are averaged.
        calibrate: ``sk_norm`` or ``qb_norm``, or one of them with its settings filled in.
        truth: As in ``evaluate``.
        bank: What the bank is, such as "the captions of the training split".
        all_captions: As in ``evaluate``.
        cuts: As in ``evaluate``.

    Raises:
        VidretError: A score or a bank's score is not finite.
        ValueError: Shapes or types do not fit, or there is no level.
    """
    if not levels:
        raise ValueError("levels must be at least 1, got 0")
    corrected = []
    for scores, bank_scores in levels:
        calibration = calibrate(_to_tensor(bank_scores, direction))
        corrected.append(_turn(calibration.correct(_to_tensor(scores, direction)), direction))
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
    """Measure logits weighed by a dual softmax, whose bank is all queries of the test: it looks at them at once.

    Raises:
        VidretError: A score is not finite.
        ValueError: Shapes or types do not fit.
    """
    logits = _to_tensor(scores, direction)
    weighed = _turn(dual_softmax(logits), direction).numpy()
    both = rank_matrix(weighed, truth, all_captions=all_captions)
    bank = f"all {len(logits)} {'texts' if direction == 't2v' else 'videos'} of the test, looked at together"
    return make_row("dual softmax", direction, both, cuts, bank)


def _to_tensor(scores: Shaped[np.ndarray, "text video"], direction: Direction) -> torch.Tensor:
    """Copy scores into a tensor whose rows are what asks."""
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise ValueError(f"scores must be a matrix of floats, got {scores.dtype} {scores.shape}")
    check_scores(scores, range(len(scores)))
    return _turn(torch.tensor(scores), direction)


def _turn(scores: torch.Tensor, direction: Direction) -> torch.Tensor:
    if direction not in ("t2v", "v2t"):
        raise ValueError(f"direction must be t2v or v2t, got {direction}")
    return scores if direction == "t2v" else scores.T
