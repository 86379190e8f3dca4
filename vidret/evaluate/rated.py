"""Evaluation of queries whose moments in all videos were rated: they are located as a user's queries would be."""

import time
from collections.abc import Callable
from dataclasses import replace

from vidret.data.records import Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import describe_model
from vidret.evaluate.moments import CORPUS
from vidret.evaluate.queries import find_contents
from vidret.evaluate.report import Gallery, Report
from vidret.metrics.corpus_moments import RetrievedMoment
from vidret.metrics.rated_moments import score_rated

PROTOCOL = (
    "Each query is located in all videos. nDCG@K: discounted gain of the first K moments as a share of the best "
    "possible one; a moment has the relevance of the rated moment that it overlaps by more than the minimum."
)


def evaluate_rated(
    engine: Engine,
    split: Split,
    gallery: Gallery,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Locate every query in all videos of the index, and score the order of the moments.

    Rated moments of missing or unreadable videos are omitted, and the report lists these videos.

    Args:
        engine: An engine whose index contains the videos.
        split: Queries with rated moments.
        gallery: The videos that are available.
        on_progress: Called with the number of finished queries and of all queries.

    Raises:
        VidretError: No query has a relevant moment in an available video.
    """
    started = time.monotonic()
    contents = find_contents(engine, gallery)
    queries, retrieved, rows = [], {}, []
    for query in split.rated_queries:
        moments = tuple(
            replace(moment, video=str(contents[moment.video])) for moment in query.moments if moment.video in contents
        )
        if any(moment.relevance > 0 for moment in moments):
            queries.append(replace(query, moments=moments))
    if not queries:
        raise VidretError(f"{split.name}: must have at least one relevant moment of an available video, got none")
    for index, query in enumerate(queries):
        found = engine.locate_with(query.text, CORPUS)
        retrieved[query.id] = [RetrievedMoment(str(one.video), one.start, one.end) for one in found]
        rows.append({"id": query.id, "text": query.text, **score_rated([query], retrieved)["nDCG"]})
        if on_progress is not None:
            on_progress(index + 1, len(queries))
    results = {"rated": score_rated(queries, retrieved) | {"num_videos": engine.info().videos}}
    settings = {"protocol": PROTOCOL, "corpus_moments": CORPUS.k, "corpus_videos": CORPUS.videos}
    seconds = {"locating": time.monotonic() - started}
    return Report("rated", split, gallery, describe_model(engine), settings, results, rows, seconds)
