"""Candidate segments with their scores, and refinement of their ranking.

A refinement orders the videos again by the vectors of their best segments, as in SuperGlobal. Each hit moves towards
its neighbours among the hits; then the query is replaced by the maximum of the best refined hits. A hit is scored by
the mean of its similarities to both queries.

Reference: Shao et al. 2023, "Global Features are All You Need for Image Retrieval and Reranking".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.ranking import Ids, Ranker
from vidret.store.store import Store
from vidret.types import Segment

TOTAL = "total"
REFINED = "refined"
NUM_HITS = 400  # best hits that are refined; as published, like the next two
NUM_NEIGHBOURS = 9
BETA = 0.15  # weight of a neighbour, times its similarity


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RankedSegments:
    """The candidates of one query.

    Attributes:
        ids: Ids of the segments.
        segments: The segments.
        scores: Their scores.
        times: Times of their best frames in seconds.
        levels: Levels of the scores by name.
    """

    ids: Ids
    segments: Sequence[Segment]
    scores: Float[np.ndarray, " segment"]
    times: Float[np.ndarray, " segment"]
    levels: Mapping[str, Float[np.ndarray, " segment"]]


def sum_levels(
    scores: Mapping[str, Float[np.ndarray, "text segment"]], ranker: Ranker
) -> Float64[np.ndarray, "text segment"]:
    """Return the weighted sum of the levels of a ranker, in float64: some encoders' scores hardly differ."""
    total = np.zeros(next(iter(scores.values())).shape)
    for name, weight in ranker.weights.items():  # one after another, since scores of a benchmark take gigabytes
        total += np.multiply(scores[name], weight, dtype=np.float64)
    return total


def refine_ranking(store: Store, query: EncodedQuery, ranked: RankedSegments) -> RankedSegments | None:
    """Return the best segment of each video, best first, the best ``NUM_HITS`` of them refined and ordered again.

    Segments of one video are not neighbours of each other: they would only smooth the video. For images and vectors the
    scores are those of the paper, but for ``keep_match``. For text half of them are the first scores, since the refined
    ones alone lower recall. Further videos, and damaged segments, follow in their first order. None if all are damaged.
    """
    best: dict[int, int] = {}
    for index in np.argsort(-ranked.scores, kind="stable").tolist():
        best.setdefault(ranked.segments[index].video, index)
    intact_ids, rows = store.features.intact_vectors(ranked.ids[list(best.values())])
    by_video = dict(zip(store.owners(intact_ids).tolist(), rows, strict=True))
    first = [index for video_id, index in best.items() if video_id in by_video][:NUM_HITS]
    if not first:
        return None
    hits = np.stack([by_video[ranked.segments[index].video] for index in first]).astype(np.float32)
    scores = _score_hits(query, hits, ranked.scores[first])
    order = np.argsort(-scores, kind="stable")
    rest = [index for index in best.values() if index not in set(first)]
    if rest:  # the rest keeps its distances, below the last refined hit
        last = max(float(ranked.scores[first].min()), float(ranked.scores[rest].max()))
        scores_below = ranked.scores[rest] - last + scores.min()
    else:
        scores_below = np.empty(0)
    taken = np.array([first[index] for index in order] + rest)
    refined = np.concatenate([scores[order], scores_below])
    return replace(
        ranked,
        ids=ranked.ids[taken],
        segments=[ranked.segments[index] for index in taken],
        scores=refined,
        times=ranked.times[taken],
        levels={**{name: level[taken] for name, level in ranked.levels.items()}, REFINED: refined},
    )


def _score_hits(
    query: EncodedQuery, hits: Float[np.ndarray, "hit dim"], scores: Float[np.ndarray, " hit"]
) -> Float[np.ndarray, " hit"]:
    """Return the refined scores of hits, for text as standard scores.

    Similarities of text and video spread less than those of videos, which would outweigh them in a plain mean.
    """
    similarities, expanded = score_refined(query.positive.sentence, refine_hits(hits))
    if not query.is_text:
        return keep_match((similarities + expanded) / 2, hits, scores)
    refined = (standardise_scores(similarities) + standardise_scores(expanded)) / 2
    mixed: Float[np.ndarray, " hit"] = (standardise_scores(scores) + refined) / 2
    return mixed


def keep_match(
    refined: Float[np.ndarray, " hit"], hits: Float[np.ndarray, "hit dim"], scores: Float[np.ndarray, " hit"]
) -> Float[np.ndarray, " hit"]:
    """Return refined scores in which the first hit stays first if the query is nearer to it than all other hits are.

    The image is then from this video, and neighbours would pull it away. ``scores`` are the ones before refinement.
    """
    is_match = scores[0] > (hits[1:] @ hits[0]).max(initial=-1.0)
    return np.concatenate([refined[:1].clip(min=refined.max()), refined[1:]]) if is_match else refined


def refine_hits(
    vectors: Float[np.ndarray, "hit dim"], *, num_neighbours: int = NUM_NEIGHBOURS, beta: float = BETA
) -> Float[np.ndarray, "hit dim"]:
    """Return the weighted mean of each vector and its nearest neighbours; it is not of unit length.

    Neighbours that point away from a vector have the weight 0; the published code lets them count negatively. Of
    neighbours at the same distance, the first come first.
    """
    similarities = vectors @ vectors.T
    rows = np.arange(len(vectors))
    ranked = similarities.copy()
    ranked[rows, rows] = np.inf  # even if a rounded copy of the vector is longer
    neighbours = np.argsort(-ranked, axis=1, kind="stable")[:, : num_neighbours + 1]
    weights = beta * np.maximum(0, np.take_along_axis(similarities, neighbours, axis=1))
    weights[:, :1] = 1
    sums = np.einsum("hn,hnd->hd", weights, vectors[neighbours])
    refined: Float[np.ndarray, "hit dim"] = sums / weights.sum(axis=1, keepdims=True)
    return refined


def score_refined(
    query: Float[np.ndarray, " dim"], vectors: Float[np.ndarray, "hit dim"], *, num_best: int = NUM_NEIGHBOURS + 1
) -> tuple[Float[np.ndarray, " hit"], Float[np.ndarray, " hit"]]:
    """Return the similarities of refined hits to a query, and to the maximum of the ``num_best`` best of them."""
    similarities = vectors @ query
    best = np.argsort(-similarities, kind="stable")[:num_best]
    return similarities, vectors @ vectors[best].max(axis=0)


def standardise_scores(scores: Float[np.ndarray, " hit"]) -> Float[np.ndarray, " hit"]:
    """Return scores with mean 0 and standard deviation 1; all 0 if they are equal."""
    deviation = scores.std()
    centred = scores - scores.mean()
    return centred / deviation if deviation > 0 else np.zeros_like(centred)
