"""Answers to queries over many videos, by kind of query: recall of videos and moments, and refusals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from vidret.errors import VidretError

OVERLAP = 0.5  # the intersection over union of a correct moment


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOutcome:
    """How one query was answered.

    Attributes:
        kind: Kind of query, to group results by.
        answerable: Whether a video shows what is asked for. Without one, only ``nothing`` and ``score`` have a meaning.
        nothing: Whether the answer is that nothing matches well.
        score: Score of the first video; minus infinity if there is none.
        rank: Rank of the correct video from 1; 0 if it is not among the results.
        overlap: Best intersection over union of the first moment in the correct video and a true window.
        is_first: Whether that moment is the first of all videos.
    """

    kind: str
    answerable: bool
    nothing: bool
    score: float
    rank: int = 0
    overlap: float = 0.0
    is_first: bool = False

    def measure(self) -> dict[str, float]:
        """Return the measures of this query, 0 or 1 by name; a refused query finds nothing."""
        if not self.answerable:
            return {"nothing": float(self.nothing)}
        found = not self.nothing
        correct = found and self.overlap >= OVERLAP
        return {
            "R@1": float(found and self.rank == 1),
            "R@10": float(found and 1 <= self.rank <= 10),
            "R1@0.5": float(correct),
            "hit@1": float(correct and self.is_first),
            "nothing": float(self.nothing),
        }


def score_kinds(outcomes: Sequence[QueryOutcome]) -> list[dict[str, Any]]:
    """Return the measures of each kind of answerable queries, of all of them, and of each kind of absent queries.

    Returns:
        Rows with ``kind`` (None for all answerable queries), ``answerable``, ``num_queries`` and percentages. ``AUC``,
        in 0..1, compares the scores of the row with those of all absent queries; it is None without absent queries.
        Rows of absent queries have only ``nothing``.

    Raises:
        VidretError: There is no outcome.
    """
    if not outcomes:
        raise VidretError("outcomes must be at least one, got none")
    return list(_score_groups(outcomes))


def _score_groups(outcomes: Sequence[QueryOutcome]) -> Iterator[dict[str, Any]]:
    answerable = [each for each in outcomes if each.answerable]
    absent = [each for each in outcomes if not each.answerable]
    absent_scores = np.array([each.score for each in absent], np.float64)
    groups: list[tuple[str | None, list[QueryOutcome]]] = [*_group(answerable)]
    if answerable:
        groups.append((None, answerable))
    for kind, group in groups:
        scores = np.array([each.score for each in group], np.float64)
        auc = separate_scores(scores, absent_scores) if absent else None
        yield {"kind": kind, "answerable": True, **_average(group), "AUC": auc}
    for kind, group in _group(absent):
        yield {"kind": kind, "answerable": False, **_average(group)}


def _group(outcomes: Sequence[QueryOutcome]) -> list[tuple[str, list[QueryOutcome]]]:
    kinds = sorted({each.kind for each in outcomes})
    return [(kind, [each for each in outcomes if each.kind == kind]) for kind in kinds]


def _average(outcomes: Sequence[QueryOutcome]) -> dict[str, Any]:
    measured = [each.measure() for each in outcomes]
    means = {name: 100 * float(np.mean([row[name] for row in measured])) for name in measured[0]}
    return {"num_queries": len(outcomes), **means}


def separate_scores(present: Float[np.ndarray, " present"], absent: Float[np.ndarray, " absent"]) -> float:
    """Return the area under the ROC curve (AUC): how often a present query scores above an absent one.

    Ties count half. This is the Mann-Whitney U statistic, divided by the number of pairs.

    Raises:
        VidretError: One of the two is empty.

    Reference:
        Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve (1982).
    """
    if not len(present) or not len(absent):
        raise VidretError(f"present and absent scores must be at least one, got {len(present)} and {len(absent)}")
    ordered = np.sort(absent)
    below, up_to = (np.searchsorted(ordered, present, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(absent))
