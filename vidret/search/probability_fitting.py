"""Fitting of probabilities to queries with known answers, and a test on held-out ones of whether that helps."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vidret.errors import VidretError
from vidret.search.hits import find_best_videos
from vidret.search.open_index import OpenIndex
from vidret.search.probability import ProbabilityModel, index_features, video_features
from vidret.search.query.planning import plan
from vidret.store.lookup import look_up_video
from vidret.types import SearchOptions, VideoName

NUM_RESULTS = 10  # of a query, each of which is rated
MIN_ANSWERS = 5  # least number of queries with an answer, and of queries without
PRIOR_ANSWERS = 100  # answers that the default coefficients count as, beside those of the user
MAX_STEPS, MAX_HALVINGS = 100, 30  # of Newton's method
NUM_BINS = 10
# All queries are compared with the same index, so they say nothing about its size: that coefficient stays.
INDEX_FREE, INDEX_SLOPES = (0, 2), (0,)
VIDEO_FREE, VIDEO_SLOPES = (0, 1, 3), (0, 1)

Rows = Float[np.ndarray, "row feature"]
Labels = Bool[np.ndarray, " row"]
Weights = Float[np.ndarray, " feature"]
Probabilities = Float[np.ndarray, " row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredQuery:
    """The results of a search for a query whose answers are known.

    Attributes:
        name: The name of its first answer, or the query if it has none; queries of one name are held out together.
        is_answered: Whether the index has an answer.
        scores: The scores of the videos that were found, best first; at least one.
        rights: Whether each of them is an answer.
        size: The number of segments and texts that were compared.
        num_events: The number of events that follow one another in the query.
    """

    name: str
    is_answered: bool
    scores: tuple[float, ...]
    rights: tuple[bool, ...]
    size: int
    num_events: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutFit:
    """The mean log loss and the calibration error of probabilities, by default and when fitted to other answers."""

    loss_before: float
    loss_after: float
    error_before: float
    error_after: float

    @property
    def helps(self) -> bool:
        """Whether the fit lowers the log loss."""
        return self.loss_after < self.loss_before


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityReport:
    """The probability model of an index, and its quality on answers that it was not fitted to.

    Attributes:
        model: The model, fitted to all answers where that helps with held-out ones, and the default otherwise.
        num_answered: Number of queries with an answer.
        num_absent: Number of queries without.
        index: Quality of the probability that a query has an answer.
        videos: Quality of the probability that a found video is an answer.
    """

    model: ProbabilityModel
    num_answered: int
    num_absent: int
    index: HeldOutFit
    videos: HeldOutFit

    @property
    def helps(self) -> bool:
        """Whether the model differs from the default."""
        return self.index.helps or self.videos.helps


def score_answers(
    index: OpenIndex,
    answers: Mapping[str, Collection[VideoName]],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoredQuery]:
    """Search an index for queries, given the videos that answer each; queries that find nothing are left out.

    Raises:
        VidretError: A query is invalid, or the index does not have a video.
    """
    wanted = {query: {look_up_video(index.store, video) for video in videos} for query, videos in answers.items()}
    scored = []
    for done, (query, right) in enumerate(wanted.items(), start=1):
        try:
            videos = find_best_videos(index, plan(index, query), SearchOptions(k=NUM_RESULTS))[1]
        except VidretError as error:
            raise VidretError(f"{query}: {error}") from error
        if videos and videos[0].standard.size:
            scored.append(
                ScoredQuery(
                    name=str(min(right)) if right else query,
                    is_answered=bool(right),
                    scores=tuple(video.scores.score for video in videos),
                    rights=tuple(video.scores.video_id in right for video in videos),
                    size=videos[0].standard.size,
                    num_events=videos[0].standard.num_events,
                )
            )
        if on_progress is not None:
            on_progress(done, len(wanted))
    return scored


def choose_probabilities(queries: Sequence[ScoredQuery], default: ProbabilityModel) -> ProbabilityReport:
    """Fit a model to queries, and measure by cross-validation over two halves whether either of its parts helps.

    Raises:
        VidretError: There are too few queries with or without an answer.
    """
    num_answered = sum(query.is_answered for query in queries)
    num_absent = len(queries) - num_answered
    if min(num_answered, num_absent) < MIN_ANSWERS:
        raise VidretError(
            f"answers must have at least {MIN_ANSWERS} queries that a video answers and {MIN_ANSWERS} that none does, "
            f"got {num_answered} and {num_absent}"
        )
    halves = split_halves(queries)
    others = [fit_probabilities(half, default) for half in reversed(halves)]
    index = _measure(_index_rows, "index_weights", halves, default, others)
    videos = _measure(_video_rows, "video_weights", halves, default, others)
    fitted = fit_probabilities(queries, default)
    model = ProbabilityModel(
        index_weights=(fitted if index.helps else default).index_weights,
        video_weights=(fitted if videos.helps else default).video_weights,
    )
    return ProbabilityReport(model=model, num_answered=num_answered, num_absent=num_absent, index=index, videos=videos)


def split_halves(queries: Sequence[ScoredQuery]) -> tuple[list[ScoredQuery], list[ScoredQuery]]:
    """Return two halves with equal numbers of names, with and without answers; queries of one name stay together."""
    names = sorted({(query.is_answered, query.name) for query in queries})
    second = set(names[1::2])
    halves: tuple[list[ScoredQuery], list[ScoredQuery]] = [], []
    for query in queries:
        halves[(query.is_answered, query.name) in second].append(query)
    return halves


def fit_probabilities(queries: Sequence[ScoredQuery], default: ProbabilityModel) -> ProbabilityModel:
    """Return a model fitted to queries, shrunk towards the default as if it were right for ``PRIOR_ANSWERS`` more.

    The additional answers have the scores of the queries. This is the conjugate prior of logistic models (Diaconis and
    Ylvisaker 1979, "Conjugate Priors for Exponential Families"), and needs no scale of the coefficients.
    """
    if not queries:
        return default
    strength = PRIOR_ANSWERS / len(queries)
    index = fit_weights(*_index_rows(queries), default.index_weights, INDEX_FREE, INDEX_SLOPES, strength=strength)
    video = fit_weights(*_video_rows(queries), default.video_weights, VIDEO_FREE, VIDEO_SLOPES, strength=strength)
    return ProbabilityModel(index_weights=index, video_weights=video)


def _index_rows(queries: Sequence[ScoredQuery]) -> tuple[Rows, Labels]:
    rows = [index_features(query.scores[0], query.size, query.num_events) for query in queries]
    return np.array(rows), np.array([query.is_answered for query in queries])


def _video_rows(queries: Sequence[ScoredQuery]) -> tuple[Rows, Labels]:
    rows = [
        video_features(score, query.scores[0], query.size, query.num_events)
        for query in queries
        for score in query.scores
    ]
    return np.array(rows), np.array([right for query in queries for right in query.rights])


def _measure(
    make_rows: Callable[[Sequence[ScoredQuery]], tuple[Rows, Labels]],
    name: str,
    halves: Sequence[Sequence[ScoredQuery]],
    default: ProbabilityModel,
    models: Sequence[ProbabilityModel],
) -> HeldOutFit:
    """Return the quality of one part of the default model, and of a model for each half, on the halves."""
    rows, labels = zip(*map(make_rows, halves), strict=True)
    before = np.concatenate([half @ np.array(getattr(default, name)) for half in rows])
    after = np.concatenate([half @ np.array(getattr(model, name)) for half, model in zip(rows, models, strict=True)])
    right = np.concatenate(labels)
    return HeldOutFit(
        loss_before=_cross_entropy(before, right.astype(np.float64)) / len(right),
        loss_after=_cross_entropy(after, right.astype(np.float64)) / len(right),
        error_before=find_calibration_error(_expit(before), right),
        error_after=find_calibration_error(_expit(after), right),
    )


def find_calibration_error(probabilities: Probabilities, right: Labels) -> float:
    """Return the expected calibration error: the distance of probabilities from the right share, over equal bins.

    Reference: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
    """
    bins = np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    excess = np.bincount(bins, weights=probabilities - right, minlength=NUM_BINS)
    return float(np.abs(excess).sum() / len(right))


def fit_weights(
    rows: Rows, labels: Labels, prior: Sequence[float], free: Sequence[int], slopes: Sequence[int], *, strength: float
) -> tuple[float, ...]:
    """Return the weights of a logistic model: each row counts once as labelled, ``strength`` times as predicted.

    Only the weights that are ``free`` are fitted. Those of ``slopes`` must not be negative: they become 0 instead.
    """
    start = np.array(prior, np.float64)
    targets = (labels + strength * _expit(rows @ start)) / (1 + strength)
    while True:
        weights = _descend(rows, targets, start, free)
        lowest = min(slopes, key=weights.__getitem__)
        if weights[lowest] >= 0:
            return tuple(weights.tolist())
        start[lowest] = 0.0  # from weights fitted with another value of it, no step of Newton's method may help
        free = [index for index in free if index != lowest]


def _descend(rows: Rows, targets: Probabilities, weights: Weights, free: Sequence[int]) -> Weights:
    """Return weights with the least cross-entropy, by Newton's method; a step that does not help is halved.

    Weights that the rows do not determine change as little as possible.
    """
    columns, weights = rows[:, list(free)], weights.copy()
    loss = _cross_entropy(rows @ weights, targets)
    for _ in range(MAX_STEPS):
        probabilities = _expit(rows @ weights)
        gradient = columns.T @ (targets - probabilities)
        curvature = (columns * (probabilities * (1 - probabilities))[:, None]).T @ columns
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        for share in 0.5 ** np.arange(MAX_HALVINGS):
            moved = weights.copy()
            moved[list(free)] += share * step
            if (lower := _cross_entropy(rows @ moved, targets)) < loss:
                break
        else:
            return weights
        weights, loss = moved, lower
    return weights


def _cross_entropy(log_odds: Probabilities, targets: Probabilities) -> float:
    return float(np.sum(np.logaddexp(0, log_odds) - targets * log_odds))


def _expit(log_odds: Probabilities) -> Probabilities:
    probabilities: Probabilities = 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))
    return probabilities
