"""Retrieval of several moments of one video for one query: each prediction is matched with another true span."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vidret.data.records import LabelledQuery
from vidret.metrics.grounding import RECALL_THRESHOLDS, score_moments, temporal_iou, true_spans
from vidret.metrics.predictions import Prediction, match_predictions

MOST = 3  # predictions that recalls look at
ANY = -1.0  # a minimum overlap that all spans reach


def score_multi_moments(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Score the spans predicted for each query, of which several may be right.

    ``mR@k`` is the share of the true spans, k for each query, that its first k predictions find, averaged over minimum
    overlaps of 0.3 to 0.95; ``mIoU@k`` the mean overlap of these pairs. Both count only queries with at least k true
    spans and k predictions. ``mAP`` is averaged over queries with one, two, and three or more true spans, where each
    number of spans counts the same; ``G-mAP`` over all queries.

    Returns:
        Percentages, None where no query counts.

    Raises:
        VidretError: As in ``score_moments``.

    Reference:
        Cao et al., When One Moment Isn't Enough: Multi-Moment Retrieval with Cross-Moment Interactions (2025), and its
        evaluation code.
    """
    precisions = 100 * score_moments(queries, predictions).full.average_precision.mean(axis=1)
    truths = [true_spans(query) for query in queries]
    counts = np.array([len(spans) for spans in truths])
    matched = match_predictions(queries, predictions)
    first = [np.zeros((0, 2)) if one.spans is None else one.spans[:MOST, :2] for one in matched]
    pairs = [temporal_iou(spans[None], own[None])[0] for spans, own in zip(first, truths, strict=True)]
    scores: dict[str, Any] = {"num_queries": len(queries)}
    for k in range(1, MOST + 1):
        counted = [overlaps[:k] for overlaps in pairs if overlaps.shape[0] >= k and overlaps.shape[1] >= k]
        recalls = [
            np.mean([len(match_spans(one, least)) / k for one in counted]) for least in RECALL_THRESHOLDS if counted
        ]
        scores[f"mR@{k}"] = 100 * float(np.mean(recalls)) if counted else None
        found = [overlap for one in counted for overlap in match_spans(one, ANY)]
        scores[f"mIoU@{k}"] = 100 * float(np.mean(found)) if counted else None
    scores["mAP"] = {
        name: float(np.mean([precisions[counts == count].mean() for count in group])) if len(group) else None
        for name, group in (
            ("1", np.unique(counts[counts == 1])),
            ("2", np.unique(counts[counts == 2])),
            ("3+", np.unique(counts[counts >= MOST])),
        )
    }
    return scores | {"G-mAP": float(precisions.mean())}


def match_spans(overlaps: Float[np.ndarray, "rank truth"], least: float) -> list[float]:
    """Return the overlaps of predictions with true spans, of which each is matched at most once.

    Best first, each prediction is paired with the free true span that it overlaps most, if by ``least`` or more.
    """
    free, found = overlaps.copy(), []
    for rank in range(len(overlaps)):
        best = int(free[rank].argmax())
        if free[rank, best] >= max(least, 0.0):
            found.append(float(free[rank, best]))
            free[:, best] = -np.inf
    return found
