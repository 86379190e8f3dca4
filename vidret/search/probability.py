"""The probability that an index answers a query at all, and that one of its videos does.

Both come from logistic models of scores, which are evidence in nats, and of the number of segments and texts compared
with the query: the more there are, the higher some score by chance. A query of n events in order has the evidence of
all of them, its score times the root of n, and more chances to match: the terms that do not depend on a score are
multiplied by a power of n.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from vidret.errors import StoreError
from vidret.store.records import PROBABILITIES
from vidret.store.store import Store
from vidret.text import parse_json
from vidret.types import UNLIKELY, Source

MAX_LOG_ODDS = 50.0
INDEX_CHANCES, VIDEO_CHANCES = 0.8, 0.4  # powers of the number of events; fitted to 132 queries for events in order
MAX_GAP = 1.5  # nats below the best score, beyond which a video is rated by its own score only


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityModel:
    """The coefficients of both models. Those of the best score, the score and the gap are not negative.

    The defaults were fitted by maximum likelihood on libraries of clips and films with speech and on-screen text: for
    an index at even odds, for a video where four queries of five have an answer. The offset for an index was then set
    so that at most one existing answer in twenty is called absent, on average over four sets of films.

    Attributes:
        index_weights: For an index: weights of the best score and of the logarithm of the number compared, and the
            offset.
        video_weights: For a video: weights of its score, its gap to the best one, at most ``MAX_GAP``, and that
            logarithm, and the offset.
    """

    index_weights: tuple[float, ...] = (0.5, -0.28, -0.9)
    video_weights: tuple[float, ...] = (0.41, 1.6, -0.37, -0.41)

    def index(self, best: float, size: int, num_events: int = 1) -> float:
        """Return the probability that a query is answered at all, given the best score and the number compared."""
        return _estimate(self.index_weights, index_features(best, size, num_events))

    def video(self, score: float, best: float, size: int, num_events: int = 1) -> float:
        """Return the probability that a video answers a query; it rises with the score.

        It is at most the probability that a query whose best score is that of the video is answered at all.
        """
        probability = _estimate(self.video_weights, video_features(score, best, size, num_events))
        return min(probability, self.index(score, size, num_events))


UNFITTED = ProbabilityModel()
# For queries compared only with pictures; fitted on clips at even odds, and raised by 0.15 for the same reason.
PICTURES_ONLY = ProbabilityModel(index_weights=(0.5, -0.28, -1.3))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStandard:
    """The standard by which the scores of a query become probabilities.

    Attributes:
        best: The best score; None if the rated video was named, not searched for, and is rated alone.
        size: Number of segments and texts that were compared; 0 if scores give no probability, as those of images.
        num_events: Number of events that follow one another in the query.
        model: The model of the probabilities.
    """

    best: float | None = None
    size: int = 0
    num_events: int = 1
    model: ProbabilityModel = UNFITTED

    def rate(self, score: float) -> float | None:
        """Return the probability that a result with this score answers the query; None if it is unknown."""
        if not self.size:
            return None
        if self.best is None:
            return self.model.index(score, self.size, self.num_events)
        return self.model.video(score, self.best, self.size, self.num_events)

    def is_weak(self, score: float) -> bool:
        """Return whether it is unlikely that the index has an answer that scores as high as this."""
        return self.size > 0 and self.model.index(score, self.size, self.num_events) < UNLIKELY


def index_features(best: float, size: int, num_events: int) -> tuple[float, float, float]:
    """Return the features that the weights for an index apply to."""
    chances = num_events**INDEX_CHANCES
    return math.sqrt(num_events) * best, chances * math.log(max(size, 1)), chances


def video_features(score: float, best: float, size: int, num_events: int) -> tuple[float, float, float, float]:
    """Return the features that the weights for a video apply to."""
    chances, gap = num_events**VIDEO_CHANCES, math.sqrt(num_events) * min(score - best, 0.0)
    return math.sqrt(num_events) * score, max(gap, -MAX_GAP), chances * math.log(max(size, 1)), chances


def save_probabilities(store: Store, model: ProbabilityModel) -> None:
    """Store the probability model of an index; a default model is stored as none."""
    store.metadata.set(PROBABILITIES, "" if model in (UNFITTED, PICTURES_ONLY) else json.dumps(asdict(model)))


def choose_default(sources: Sequence[Source]) -> ProbabilityModel:
    """Return the model of an index without its own, for a query that is compared with some sources."""
    return PICTURES_ONLY if set(sources) == {"picture"} else UNFITTED


def load_probabilities(store: Store, sources: Sequence[Source]) -> ProbabilityModel:
    """Load the probability model of an index: its own, or the default for a query compared with some sources.

    Raises:
        StoreError: The stored model is invalid.
    """
    stored = store.metadata.get(PROBABILITIES)
    if not stored:
        return choose_default(sources)
    try:
        facts = parse_json(stored)
        index, video = (tuple(map(float, facts[name])) for name in ("index_weights", "video_weights"))
        if (len(index), len(video)) != (3, 4) or not all(map(math.isfinite, index + video)):
            raise ValueError(facts)
        if min(index[0], *video[:2]) < 0:
            raise ValueError(facts)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise StoreError(f"{store.path}: probabilities must have 3 and 4 finite weights, got {stored!r:.80}") from error
    return ProbabilityModel(index_weights=index, video_weights=video)


def _estimate(weights: Sequence[float], features: Sequence[float]) -> float:
    odds = sum(weight * feature for weight, feature in zip(weights, features, strict=True))
    return 1 / (1 + math.exp(-min(max(odds, -MAX_LOG_ODDS), MAX_LOG_ODDS)))
