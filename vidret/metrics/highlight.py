"""Highlight detection: how well the predicted saliency of a video's clips ranks the annotated highlights."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from vidret.data.records import CLIP_SECONDS, LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.predictions import Prediction, match_predictions

# Lowest rating of a clip that counts as a highlight. Papers report VeryGood.
LEVELS: Mapping[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
TVSUM_TOP = 5


def stepwise_precision(
    positive: Bool[np.ndarray, "clip column"], scores: Float[np.ndarray, " clip"]
) -> Float[np.ndarray, " column"]:
    """Return the mean interpolated precision over the steps of recall; 0 for a column without positives.

    Clips with equal scores are one step of recall, even if several of them are positive.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)
    hits = positive[order].cumsum(axis=0)[ends]
    precision = hits / (np.flatnonzero(ends) + 1)[:, None]
    falling = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    steps = np.diff(hits, axis=0, prepend=0) > 0
    mean: Float[np.ndarray, " column"] = (falling * steps).sum(axis=0) / np.maximum(steps.sum(axis=0), 1)
    return mean


def trapezoid_precision(ranked: Bool[np.ndarray, "clip column"]) -> Float[np.ndarray, " column"]:
    """Return the area under the precision-recall curve by the trapezoidal rule, with precision 1 at recall 0.

    Recall is relative to the positives in ``ranked``, best clip first; a column without positives has 0.
    """
    hits = ranked.cumsum(axis=0)
    precision = hits / np.arange(1, len(ranked) + 1)[:, None]
    previous = np.concatenate([np.ones((1, ranked.shape[1])), precision[:-1]])
    area: Float[np.ndarray, " column"] = (ranked * (previous + precision) / 2).sum(axis=0) / np.maximum(hits[-1], 1)
    return area


@dataclass(frozen=True, slots=True, eq=False)
class HighlightReport:
    """QVHighlights' two highlight metrics at each of ``LEVELS``.

    Attributes:
        ids: Ids of the queries.
        average_precision: Average precision in 0..1; 0 for annotators who rated no clip that high.
        reachable: Whether an annotator rated any clip that high; without one the average precision is always 0.
        hits: Whether any annotator rated the clip with the highest saliency that high; the first clip in a tie.
        padded: Ids of queries with fewer scores than clips. Missing scores are 0, which may be above other scores.
        cut: Ids of queries with more scores than clips. Precision ignores the excess; if the highest score is among it,
            there is no hit.
    """

    ids: tuple[str, ...]
    average_precision: Float[np.ndarray, "query level annotator"]
    reachable: Bool[np.ndarray, "query level annotator"]
    hits: Bool[np.ndarray, "query level"]
    padded: tuple[str, ...]
    cut: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics in percent for a report: means over queries, for mAP also over annotators.

        The ceiling is the highest mAP that any prediction can reach.
        """
        levels = {
            level: {
                "mAP": 100 * float(self.average_precision[:, row].mean()),
                "Hit1": 100 * float(self.hits[:, row].mean()),
                "mAP_ceiling": 100 * float(self.reachable[:, row].mean()),
            }
            for row, level in enumerate(LEVELS)
        }
        return {"num_queries": len(self.ids), **levels, "padded": list(self.padded), "cut": list(self.cut)}


def score_highlights(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> HighlightReport:
    """Score saliency with the annotators' ratings as QVHighlights does; unrated clips count as rated 0.

    Only whole clips of a video count. Published predictions sometimes lack a score: such queries are scored by the
    official rule and listed in the report.

    Raises:
        VidretError: There is not exactly one prediction with saliency per query, or ratings are missing or invalid.

    Reference:
        Lei et al., QVHighlights (2021), section 5.
    """
    matched = match_predictions(queries, predictions)
    grids = [_clip_ratings(query) for query in queries]
    widths = Counter(grid.shape[1] for grid in grids)
    if len(widths) > 1:
        raise VidretError(f"queries must have equally many annotators, got {sorted(widths)}")
    predicted = [_predicted_saliency(prediction) for prediction in matched]
    minimum_ratings = np.array(list(LEVELS.values()))[:, None]
    shape = len(queries), len(minimum_ratings), grids[0].shape[1]
    precision, reachable, hits = np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape[:2], dtype=bool)
    for row, (grid, scores) in enumerate(zip(grids, predicted, strict=True)):
        positive = grid[:, None] >= minimum_ratings
        full = np.zeros(len(grid))
        num_scores = min(len(grid), len(scores))
        full[:num_scores] = scores[:num_scores]
        precision[row] = stepwise_precision(positive.reshape(len(grid), -1), full).reshape(shape[1:])
        reachable[row] = positive.any(axis=0)
        best = int(scores.argmax())
        hits[row] = best < len(grid) and positive[best].any(axis=1)
    excess = [
        (query.id, len(scores) - len(grid)) for query, scores, grid in zip(queries, predicted, grids, strict=True)
    ]
    return HighlightReport(
        ids=tuple(query.id for query in queries),
        average_precision=precision,
        reachable=reachable,
        hits=hits,
        padded=tuple(query_id for query_id, num_excess in excess if num_excess < 0),
        cut=tuple(query_id for query_id, num_excess in excess if num_excess > 0),
    )


def _clip_ratings(query: LabelledQuery) -> Float[np.ndarray, "clip annotator"]:
    """Return the ratings of all clips of the video, 0 for unrated clips."""
    ratings = _ratings(query)
    if query.duration is None:
        raise VidretError(f"query {query.id} must have the duration of its video, got none")
    num_clips = int(query.duration / CLIP_SECONDS)
    if not 0 <= min(query.clips) <= max(query.clips) < num_clips:
        raise VidretError(
            f"rated clips of query {query.id} must be among its {num_clips}, got {min(query.clips)}..{max(query.clips)}"
        )
    grid = np.zeros((num_clips, ratings.shape[1]))
    grid[list(query.clips)] = ratings
    return grid


def _ratings(query: LabelledQuery) -> Float[np.ndarray, "clip annotator"]:
    num_annotators = {len(ratings) for ratings in query.saliency}
    if len(num_annotators) != 1 or num_annotators == {0} or len(query.saliency) != len(query.clips):
        raise VidretError(f"query {query.id} must have ratings by the same annotators for each rated clip")
    return np.array(query.saliency, dtype=np.float64)


def _predicted_saliency(prediction: Prediction) -> Float[np.ndarray, " clip"]:
    if prediction.saliency is None:
        raise VidretError(f"query {prediction.id} must have saliency scores, got windows only")
    return prediction.saliency


@dataclass(frozen=True, slots=True, eq=False)
class DomainReport:
    """Average precision of videos by domain. All domains have equal weight.

    Attributes:
        ids: Ids of the queries, one per video.
        domains: Domain of each query.
        average_precision: Average precision of each query, in 0..1.
    """

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    average_precision: Float[np.ndarray, " query"]

    @property
    def by_domain(self) -> dict[str, float]:
        """Return the mean over the videos of each domain as a percentage."""
        names = np.array(self.domains)
        return {name: 100 * float(self.average_precision[names == name].mean()) for name in sorted(set(self.domains))}

    @property
    def mean(self) -> float:
        """Return the mean over domains as a percentage."""
        return float(np.mean(list(self.by_domain.values())))

    def to_dict(self) -> dict[str, object]:
        """Return all metrics and the number of videos per domain, for a report."""
        counts = dict(sorted(Counter(self.domains).items()))
        return {"mAP": {**self.by_domain, "average": self.mean}, "num_videos": counts}


def score_tvsum(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> DomainReport:
    """Return TVSum's top-5 mAP over the five clips with the highest saliency.

    For each annotator, clips rated above the annotator's median (of an even number, the lower of the two middle
    ratings) are positive. Average precision is trapezoidal within the five, then averaged over annotators. Clips with
    equal saliency keep their order; in the published code it is arbitrary.

    Raises:
        VidretError: There is not exactly one prediction per query, or one rating and score per clip.
    """

    def find_positives(ratings: Float[np.ndarray, "clip annotator"]) -> Bool[np.ndarray, "clip annotator"]:
        positive: Bool[np.ndarray, "clip annotator"] = ratings > np.sort(ratings, axis=0)[(len(ratings) - 1) // 2]
        return positive

    return _score_domains(queries, predictions, find_positives, TVSUM_TOP)


def score_youtube(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> DomainReport:
    """Return YouTube Highlights' mAP: trapezoidal average precision over all clips.

    Clips rated 1 are positive; borderline ones (0) are not. Clips with equal saliency keep their order; in the
    published code it is arbitrary.

    Raises:
        VidretError: There is not exactly one prediction per query, or one rating and score per clip.
    """
    return _score_domains(queries, predictions, lambda ratings: ratings == 1, None)


def _score_domains(
    queries: Sequence[LabelledQuery],
    predictions: Sequence[Prediction],
    find_positives: Callable[[Float[np.ndarray, "clip annotator"]], Bool[np.ndarray, "clip annotator"]],
    top: int | None,
) -> DomainReport:
    values = []
    for query, prediction in zip(queries, match_predictions(queries, predictions), strict=True):
        ratings, scores = _ratings(query), _predicted_saliency(prediction)
        if query.clips != tuple(range(len(ratings))) or len(scores) != len(ratings):
            raise VidretError(
                f"query {query.id} must have a rating and a score for each clip, got {len(ratings)} and {len(scores)}"
            )
        order = np.argsort(-scores, kind="stable")[:top]
        values.append(float(trapezoid_precision(find_positives(ratings)[order]).mean()))
    return DomainReport(tuple(q.id for q in queries), tuple(q.domain for q in queries), np.array(values))
