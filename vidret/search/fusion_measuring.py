"""Measure what unrelated queries reach in the pictures and in the words of an index; see ``FusionBaseline``."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from vidret.align.baseline import UNRELATED
from vidret.search.candidates import find_candidates
from vidret.search.clauses import make_clause
from vidret.search.queries import EncodedQuery
from vidret.search.ranking import FrameRanker
from vidret.search.searcher import Searcher
from vidret.search.text_matching import TextBaseline, TextMatcher
from vidret.types import TEXT_SOURCES, SearchOptions, TextEmbedding, TextSource


def measure_texts(
    matcher: TextMatcher, encode: Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]
) -> dict[TextSource, TextBaseline]:
    """Return what unrelated queries reach at best in each source of words; ``encode`` embeds sentences."""
    clauses = [make_clause(text) for text in UNRELATED]
    best: dict[TextSource, list[tuple[float, float]]] = {}
    for matches in matcher.find(clauses, encode([clause.content for clause in clauses])):
        for source in TEXT_SOURCES:
            own = [match for match in matches if match.source == source]
            if own:
                scores = max(match.cosine for match in own), max(match.cover for match in own)
                best.setdefault(source, []).append(scores)
    texts = {}
    for source, pairs in best.items():
        cosines, covers = np.array(pairs).T
        texts[source] = TextBaseline(
            float(cosines.mean()), float(cosines.std()), float(covers.mean()), float(covers.std())
        )
    return texts


def measure_pictures(searcher: Searcher, unrelated: Float32[np.ndarray, "query dim"]) -> tuple[float, float]:
    """Return mean and standard deviation of the best scores of unrelated queries in the pictures."""
    store = searcher.store
    if not len(store):
        return 0.0, 1.0
    options = SearchOptions()
    best = []
    queries = [EncodedQuery(positive=TextEmbedding("", vector, vector[None])) for vector in unrelated]
    candidates = find_candidates(store, queries, [options] * len(queries), [options.candidates] * len(queries))
    for index, ids in enumerate(candidates):
        stored = searcher.reranker.read(FrameRanker(), ids)
        by_video = defaultdict[int, list[np.ndarray]](list)
        for segment, frames in zip(stored.segments, stored.frames, strict=True):
            by_video[segment.video].append((frames @ unrelated.T).max(axis=0))
        peaks = [np.max(rows, axis=0) for rows in by_video.values()]
        if peaks:
            best.append(max(float(peak[index] - peak.mean()) for peak in peaks))
    return float(np.mean(best)), float(np.std(best))
