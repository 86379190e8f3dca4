"""Ranking of moments of a whole corpus, of which several are more or less relevant: nDCG at a minimum overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidret.data.records import RatedQuery
from vidret.metrics.corpus_moments import RetrievedMoment
from vidret.metrics.grounding import temporal_iou

RANKS, OVERLAPS = (10, 20, 40), (0.3, 0.5, 0.7)


def score_rated(queries: Sequence[RatedQuery], retrieved: Mapping[str, Sequence[RetrievedMoment]]) -> dict[str, Any]:
    """Return nDCG@K in percent, by minimum overlap.

    Best first, each retrieved moment takes the relevance of the free rated moment of its video that it overlaps most,
    if by more than the minimum, and else 0. The gain of a relevance r is 2^r - 1.

    Args:
        queries: Queries with rated moments.
        retrieved: Moments for each query id, best first; may be an empty list.

    Reference:
        Liang et al., Video Moment Retrieval in Practical Setting: A Dataset of Ranked Moments for Imprecise Queries
        (2024), and its evaluation code.
    """
    gains: dict[str, Any] = {}
    for least in OVERLAPS:
        found = [rate_retrieved(query, retrieved[query.id], least) for query in queries]
        best = [sorted((moment.relevance for moment in query.moments), reverse=True) for query in queries]
        gains[str(least)] = {
            f"nDCG@{k}": 100
            * float(np.mean([_divide(own[:k], ideal[:k]) for own, ideal in zip(found, best, strict=True)]))
            for k in RANKS
        }
    return {"num_queries": len(queries), "nDCG": gains}


def rate_retrieved(query: RatedQuery, retrieved: Sequence[RetrievedMoment], least: float) -> list[float]:
    """Return the relevance of each retrieved moment."""
    free, rates = sorted(query.moments, key=lambda moment: -moment.relevance), []
    for moment in retrieved:
        own = [rated for rated in free if rated.video == moment.video]
        rates.append(0.0)
        if own:
            spans = np.array([(rated.start, rated.end) for rated in own])
            overlaps = temporal_iou(np.array([[[moment.start, moment.end]]], np.float64), spans[None])[0, 0]
            best = int(overlaps.argmax())
            if overlaps[best] > least:
                rates[-1] = own[best].relevance
                free.remove(own[best])
    return rates


def _divide(rates: Sequence[float], ideal: Sequence[float]) -> float:
    """Return the discounted gain of relevances as a share of the best one; 0 if nothing is relevant."""
    best = _discount(ideal)
    return _discount(rates) / best if best > 0 else 0.0


def _discount(rates: Sequence[float]) -> float:
    return float(np.sum((2.0 ** np.array(rates, np.float64) - 1) / np.log2(np.arange(len(rates)) + 2)))
