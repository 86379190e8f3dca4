"""Refinement of the best hits of a search by nothing but their vectors, as in SuperGlobal.

Each hit moves towards its neighbours among the hits; then the query is replaced by the maximum of the best refined
hits. A hit is scored by the mean of its similarities to both queries.

Reference: Shao et al. 2023, "Global Features are All You Need for Image Retrieval and Reranking".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

NUM_HITS = 400  # best hits that are refined, as published; so are the next two
NUM_NEIGHBOURS = 9
BETA = 0.15  # weight of a neighbour, times its similarity


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RefinedHits:
    """The vectors of hits, refined by their neighbours.

    Attributes:
        vectors: The weighted means. They are not of unit length.
        neighbours: Indices of the hits that each is the mean of: itself, then the nearest first.
        weights: Their weights: 1 for itself, beta times the similarity for the others.
    """

    vectors: Float[np.ndarray, "hit dim"]
    neighbours: Int64[np.ndarray, "hit neighbour"]
    weights: Float[np.ndarray, "hit neighbour"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RefinedScores:
    """Scores of refined hits.

    Attributes:
        query: The query that the best refined hits make: their maximum in each dimension. It is not of unit length.
        similarities: Inner products of the refined hits with the first query.
        expanded: Inner products with the query that the best hits make.
    """

    query: Float[np.ndarray, " dim"]
    similarities: Float[np.ndarray, " hit"]
    expanded: Float[np.ndarray, " hit"]

    @property
    def published(self) -> Float[np.ndarray, " hit"]:
        """Return the mean of both, for queries whose similarities are like those of hits: images and clips."""
        mean: Float[np.ndarray, " hit"] = (self.similarities + self.expanded) / 2
        return mean

    @property
    def standardised(self) -> Float[np.ndarray, " hit"]:
        """Return the mean of both as standard scores, for text.

        Similarities of text and video spread less than those of videos, which would outweigh them in the plain mean.
        """
        mean: Float[np.ndarray, " hit"] = (
            standardise_scores(self.similarities) + standardise_scores(self.expanded)
        ) / 2
        return mean


def refine_hits(
    vectors: Float[np.ndarray, "hit dim"], *, num_neighbours: int = NUM_NEIGHBOURS, beta: float = BETA
) -> RefinedHits:
    """Replace each vector by the weighted mean of itself and its nearest neighbours.

    Neighbours that point away from a vector have the weight 0; the published code lets them count negatively. With
    fewer vectors, each has fewer neighbours. Of neighbours at the same distance, the first come first.

    Raises:
        ValueError: ``num_neighbours`` or ``beta`` is negative or not finite.
    """
    if num_neighbours < 0 or not 0 <= beta < float("inf"):
        raise ValueError(f"num_neighbours and beta must be at least 0 and finite, got {num_neighbours} and {beta}")
    similarities = vectors @ vectors.T
    own = np.arange(len(vectors))
    ranked = similarities.copy()
    ranked[own, own] = np.inf  # also where a copy of the vector, rounded, is longer than itself
    neighbours = np.argsort(-ranked, axis=1, kind="stable")[:, : num_neighbours + 1].astype(np.int64)
    weights = beta * np.maximum(0, np.take_along_axis(similarities, neighbours, axis=1))
    weights[:, :1] = 1
    sums = np.einsum("hn,hnd->hd", weights, vectors[neighbours])
    return RefinedHits(vectors=sums / weights.sum(axis=1, keepdims=True), neighbours=neighbours, weights=weights)


def score_refined(
    query: Float[np.ndarray, " dim"], vectors: Float[np.ndarray, "hit dim"], *, num_best: int = NUM_NEIGHBOURS + 1
) -> RefinedScores:
    """Score refined hits against a query, and against the query that the ``num_best`` best of them make.

    There must be a hit.
    """
    similarities = vectors @ query
    best = np.argsort(-similarities, kind="stable")[:num_best]
    expanded_query = vectors[best].max(axis=0)
    return RefinedScores(query=expanded_query, similarities=similarities, expanded=vectors @ expanded_query)


def standardise_scores(scores: Float[np.ndarray, " hit"]) -> Float[np.ndarray, " hit"]:
    """Return scores with mean 0 and standard deviation 1; all 0 where they are equal."""
    deviation = scores.std()
    centred = scores - scores.mean()
    standard: Float[np.ndarray, " hit"] = centred / deviation if deviation > 0 else np.zeros_like(centred)
    return standard
