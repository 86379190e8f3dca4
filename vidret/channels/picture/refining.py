"""Refinement of a ranking: its videos are ordered anew by the vectors of their best segments, as in SuperGlobal."""

from dataclasses import replace

import numpy as np

from vidret.align.refine import NUM_HITS, refine_hits, score_refined, standardise_scores
from vidret.channels.base import EncodedQuery
from vidret.channels.picture.reranking import RankedSegments
from vidret.store.store import Store

REFINED = "refined"


def refine_ranking(store: Store, query: EncodedQuery, ranked: RankedSegments) -> RankedSegments:
    """Return the best segment of each video, the best ``NUM_HITS`` of them refined and ordered anew.

    Segments of one video are no neighbours of each other: they would only smooth the video. For images and vectors the
    scores are those of the paper. For text half of them are the first scores, since the refined ones alone lower
    recall; see ``measure_quality.py``. Further videos, and damaged segments, follow in their first order.
    """
    if not ranked.segments:
        return ranked
    best: dict[int, int] = {}
    for index, segment in enumerate(ranked.segments):
        best.setdefault(segment.video, index)
    ids = store.segments.find_many(
        [(ranked.segments[index].video, ranked.segments[index].number) for index in best.values()]
    )
    known, rows = store.features.intact_vectors(ids)
    vectors = {int(key): row for key, row in zip(known, rows, strict=True)}
    owners = store.owners(known)
    by_video = {owners[key]: vectors[key] for key in vectors if key in owners}
    first = [index for video_id, index in best.items() if video_id in by_video][:NUM_HITS]
    if not first:
        return ranked
    hits = np.stack([by_video[ranked.segments[index].video] for index in first]).astype(np.float32)
    scores = _score_hits(query, hits, ranked.scores[first])
    order = np.argsort(-scores, kind="stable")
    rest = [index for index in best.values() if index not in set(first)]
    if rest:  # what follows keeps its distances, below the last refined hit
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
        positive_scores=ranked.positive_scores[taken],
        times=ranked.times[taken],
        levels={**{name: level[taken] for name, level in ranked.levels.items()}, REFINED: refined},
    )


def _score_hits(query: EncodedQuery, hits: np.ndarray, scores: np.ndarray) -> np.ndarray:
    refined = score_refined(query.positive.sentence, refine_hits(hits).vectors)
    if not query.is_text:
        return refined.published
    mixed: np.ndarray = (standardise_scores(scores) + refined.standardised) / 2
    return mixed
