"""Highlight detection: how well the saliency found for each clip of a video ranks what people called its highlights."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.predictions import Prediction, pair

# How high an annotator must rate a clip for it to be a highlight. The headline numbers are those of VeryGood.
LEVELS: Mapping[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
TVSUM_TOP = 5


def stepwise_precision(
    positive: Bool[np.ndarray, "clip column"], scores: Float[np.ndarray, " clip"]
) -> Float[np.ndarray, " column"]:
    """Give the mean precision over the steps of recall, precision made to fall only; a column without positives has 0.

    Clips of equal score come together, so that several positives among them make one step of recall, counted once.
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
    """Give the area under precision over recall by trapezoids, from precision 1 at recall 0, best clip first.

    Recall is of the positives that are in the list; a column without any has 0.
    """
    hits = ranked.cumsum(axis=0)
    precision = hits / np.arange(1, len(ranked) + 1)[:, None]
    before = np.concatenate([np.ones((1, ranked.shape[1])), precision[:-1]])
    area: Float[np.ndarray, " column"] = (ranked * (before + precision) / 2).sum(axis=0) / np.maximum(hits[-1], 1)
    return area


@dataclass(frozen=True, slots=True, eq=False)
class HighlightReport:
    """QVHighlights' two highlight numbers at each of ``LEVELS``; what the methods give are percentages.

    Attributes:
        ids: The queries.
        average_precision: In 0..1; 0 for an annotator who saw no clip of the level.
        reachable: Where an annotator saw one: elsewhere no prediction gets more than 0.
        hits: Whether any annotator saw the level in the clip with the highest saliency, of equals the first.
        padded: Queries with fewer scores than clips; the clips without one have 0, which can rank above real scores.
        cut: Queries with more scores than clips; precision leaves these out, a highest one among them is no hit.
    """

    ids: tuple[str, ...]
    average_precision: Float[np.ndarray, "query level annotator"]
    reachable: Bool[np.ndarray, "query level annotator"]
    hits: Bool[np.ndarray, "query level"]
    padded: tuple[str, ...]
    cut: tuple[str, ...]

    def mean_average_precision(self, level: str = "VeryGood") -> float:
        """Give the mean over annotators and queries: HL-mAP."""
        return 100 * float(self.average_precision[:, list(LEVELS).index(level)].mean())

    def ceiling(self, level: str = "VeryGood") -> float:
        """Give the highest mean average precision that any prediction can have."""
        return 100 * float(self.reachable[:, list(LEVELS).index(level)].mean())

    def hit_rate(self, level: str = "VeryGood") -> float:
        """Give the share of queries whose best clip is a highlight: HIT@1."""
        return 100 * float(self.hits[:, list(LEVELS).index(level)].mean())

    def to_dict(self) -> dict[str, object]:
        """Give everything for a report, each query's own values too."""
        levels = {
            level: {
                "mAP": self.mean_average_precision(level),
                "Hit1": self.hit_rate(level),
                "mAP_ceiling": self.ceiling(level),
            }
            for level in LEVELS
        }
        return {
            "num_queries": len(self.ids),
            **levels,
            "padded": list(self.padded),
            "cut": list(self.cut),
            "per_query": {
                "id": list(self.ids),
                "average_precision": self.average_precision.tolist(),
                "hits": self.hits.tolist(),
            },
        }


def score_highlights(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> HighlightReport:
    """Score saliency against the annotators' ratings, as QVHighlights does; a clip that nobody rated is rated 0.

    A video has as many clips as fit in its duration. Published predictions have a score too few now and then, so such
    are scored by the official rule and named in the report rather than refused.

    Args:
        queries: With ratings; all by the same number of annotators.
        predictions: One for each query, in any order.

    Raises:
        VidretError: The predictions are not one for each query, one has no saliency, or ratings are missing or wrong.

    Reference:
        Lei et al., QVHighlights (2021), section 5.
    """
    paired = pair(queries, predictions)
    grids = [_rate_clips(query) for query in queries]
    widths = Counter(grid.shape[1] for grid in grids)
    if len(widths) > 1:
        raise VidretError(f"queries must have the same number of annotators each, got {sorted(widths)}")
    found = [_take_saliency(each) for each in paired]
    bars = np.array(list(LEVELS.values()))[:, None]
    shape = len(queries), len(bars), grids[0].shape[1]
    precision, reachable, hits = np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape[:2], dtype=bool)
    for row, (grid, scores) in enumerate(zip(grids, found, strict=True)):
        positive = grid[:, None] >= bars
        full = np.zeros(len(grid))
        num = min(len(grid), len(scores))
        full[:num] = scores[:num]
        precision[row] = stepwise_precision(positive.reshape(len(grid), -1), full).reshape(shape[1:])
        reachable[row] = positive.any(axis=0)
        best = int(scores.argmax())
        hits[row] = best < len(grid) and positive[best].any(axis=1)
    lengths = [(query.id, len(scores) - len(grid)) for query, scores, grid in zip(queries, found, grids, strict=True)]
    return HighlightReport(
        ids=tuple(query.id for query in queries),
        average_precision=precision,
        reachable=reachable,
        hits=hits,
        padded=tuple(name for name, more in lengths if more < 0),
        cut=tuple(name for name, more in lengths if more > 0),
    )


def _rate_clips(query: LabelledQuery) -> Float[np.ndarray, "clip annotator"]:
    ratings = _take_ratings(query)
    if query.duration is None:
        raise VidretError(f"query {query.id} must say how long its video is, got no duration")
    num_clips = int(query.duration / query.clip_seconds)
    if not 0 <= min(query.clips) <= max(query.clips) < num_clips:
        raise VidretError(
            f"rated clips of query {query.id} must be among its {num_clips}, got {min(query.clips)}..{max(query.clips)}"
        )
    grid = np.zeros((num_clips, ratings.shape[1]))
    grid[list(query.clips)] = ratings
    return grid


def _take_ratings(query: LabelledQuery) -> Float[np.ndarray, "clip annotator"]:
    num_annotators = {len(each) for each in query.saliency}
    if len(num_annotators) != 1 or num_annotators == {0} or len(query.saliency) != len(query.clips):
        raise VidretError(f"query {query.id} must have ratings by the same annotators for each rated clip")
    return np.array(query.saliency, dtype=np.float64)


def _take_saliency(prediction: Prediction) -> Float[np.ndarray, " clip"]:
    if prediction.saliency is None:
        raise VidretError(f"query {prediction.id} must have saliency scores, got windows only")
    return prediction.saliency


@dataclass(frozen=True, slots=True, eq=False)
class DomainReport:
    """Average precision of whole videos, each in a domain: every domain counts the same, however many videos it has.

    Attributes:
        ids: The videos' queries.
        domains: The domain of each.
        average_precision: Of each, in 0..1.
    """

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    average_precision: Float[np.ndarray, " query"]

    @property
    def by_domain(self) -> dict[str, float]:
        """Give the mean of each domain's videos as a percentage."""
        names = np.array(self.domains)
        return {name: 100 * float(self.average_precision[names == name].mean()) for name in sorted(set(self.domains))}

    @property
    def mean(self) -> float:
        """Give the mean over domains as a percentage."""
        return float(np.mean(list(self.by_domain.values())))

    def to_dict(self) -> dict[str, object]:
        """Give everything for a report, each video's own value and how many videos each domain stands on."""
        per_query = {"id": list(self.ids), "average_precision": self.average_precision.tolist()}
        counts = dict(sorted(Counter(self.domains).items()))
        return {"mAP": {**self.by_domain, "average": self.mean}, "num_videos": counts, "per_query": per_query}


def score_tvsum(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> DomainReport:
    """Give TVSum's top-5 mAP: for each annotator, of the five clips with the highest saliency those above its median.

    The median is the lower middle rating; precision is by trapezoids within the five, then the mean over annotators.
    Of equal saliency the first clip ranks first; the published code leaves that to chance.

    Raises:
        VidretError: The predictions are not one for each query, or a video's ratings and scores are not one a clip.
    """

    def find_positives(ratings: Float[np.ndarray, "clip annotator"]) -> Bool[np.ndarray, "clip annotator"]:
        positive: Bool[np.ndarray, "clip annotator"] = ratings > np.sort(ratings, axis=0)[(len(ratings) - 1) // 2]
        return positive

    return _score_domains(queries, predictions, find_positives, TVSUM_TOP)


def score_youtube(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> DomainReport:
    """Give YouTube Highlights' mAP: precision by trapezoids over all clips; positive is rated 1, borderline (0) is not.

    Of equal saliency the first clip ranks first; the published code leaves that to chance.

    Raises:
        VidretError: The predictions are not one for each query, or a video's ratings and scores are not one a clip.
    """
    return _score_domains(queries, predictions, lambda ratings: ratings == 1, None)


def _score_domains(
    queries: Sequence[LabelledQuery],
    predictions: Sequence[Prediction],
    find_positives: Callable[[Float[np.ndarray, "clip annotator"]], Bool[np.ndarray, "clip annotator"]],
    top: int | None,
) -> DomainReport:
    values = []
    for query, prediction in zip(queries, pair(queries, predictions), strict=True):
        ratings, scores = _take_ratings(query), _take_saliency(prediction)
        if query.clips != tuple(range(len(ratings))) or len(scores) != len(ratings):
            raise VidretError(
                f"query {query.id} must have a rating and a score for each clip, got {len(ratings)} and {len(scores)}"
            )
        order = np.argsort(-scores, kind="stable")[:top]
        values.append(float(trapezoid_precision(find_positives(ratings)[order]).mean()))
    return DomainReport(tuple(q.id for q in queries), tuple(q.domain for q in queries), np.array(values))
