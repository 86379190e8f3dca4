"""Moments and highlights of one split: every query looked for in its own video, and on request in the whole index."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vidret.data.records import LabelledQuery, Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import describe_model
from vidret.evaluate.report import Gallery, Report
from vidret.evaluate.scoring import drop_queries, score_matched, score_saliency
from vidret.metrics.corpus import RetrievedMoment, score_corpus
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import HighlightReport
from vidret.metrics.predictions import Prediction

NUM_SPANS = 50  # found a query; metrics look at the first ten at most
CORPUS_MOMENTS, CORPUS_VIDEOS = 100, 100  # found in the whole index, in so many of its best videos
PROTOCOL = (
    "Each query is looked for in its own video. R1@t: per cent of queries whose first span overlaps a true span by t "
    "(intersection over union) or more; R5: one of the first five; mIoU: of first spans; mAP: over the first ten, mean "
    "of the thresholds 0.5 to 0.95. Lengths count true spans of that length alone."
)
RATED = "Clips are rated at their middle. The mAP is the benchmark's own: see vidret.metrics.highlight."


def evaluate_moments(
    engine: Engine,
    split: Split,
    gallery: Gallery,
    *,
    corpus: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[Prediction]]:
    """Locate every query whose video is there in that video, and count.

    Queries of videos that are missing or unreadable are left out, and the report names these videos. Where the labels
    are withheld, as in QVHighlights' test split, there is nothing to count: what is found is there to be submitted.

    Args:
        engine: Whose index holds the videos.
        split: The benchmark's.
        gallery: Which videos are there.
        corpus: Also locate every query in the whole index (VCMR), so among all videos of the split at once.
        on_progress: Called with the number of queries done and of all.

    Returns:
        The report, and what was found for each query.

    Raises:
        VidretError: No query is left, or some have true spans and others have none.
    """
    started = time.monotonic()
    queries = keep_queries(split, gallery)
    labelled = check_labelled(queries)
    rated = all(query.saliency for query in queries) or not labelled
    predictions, found, own = [], {}, {}
    for done, query in enumerate(queries):
        path = gallery.files[query.video].absolute()
        moments = engine.locate(query.text, NUM_SPANS, video=path, overlapping=True, weak=True)
        spans = np.array([(m.start, m.end, m.score) for m in moments], np.float64).reshape(-1, 3)
        saliency = rate_clips(engine, query, gallery) if rated else None
        predictions.append(Prediction(query.id, spans, saliency))
        if corpus and labelled:
            # By content: which of several copies of a video is found does not matter.
            own[query.id] = str(moments[0].video) if moments else query.video
            everywhere = engine.locate(query.text, CORPUS_MOMENTS, videos=CORPUS_VIDEOS, overlapping=True, weak=True)
            found[query.id] = [RetrievedMoment(str(m.video), m.start, m.end) for m in everywhere]
        if on_progress is not None:
            on_progress(done + 1, len(queries))
    results: dict[str, Any] = score_matched(split.scoring, queries, predictions) if labelled else {}
    if found:
        owned = [replace(query, video=own[query.id]) for query in queries]
        scored = score_corpus(owned, found)
        results["corpus"] = {"num_videos": engine.info().videos, **drop_queries(scored.to_dict())}
    settings = {"num_spans": NUM_SPANS, "protocol": PROTOCOL}
    if found:
        settings |= {"corpus_moments": CORPUS_MOMENTS, "corpus_videos": CORPUS_VIDEOS}
    per_query = [_tell_query(query, prediction) for query, prediction in zip(queries, predictions, strict=True)]
    if labelled:
        overlaps = score_moments(queries, predictions).full.best_overlaps[:, 0].tolist()
        per_query = [{**row, "overlap": overlap} for row, overlap in zip(per_query, overlaps, strict=True)]
    return _report("moments", engine, split, gallery, settings, results, per_query, started), predictions


def evaluate_highlights(
    engine: Engine,
    split: Split,
    gallery: Gallery,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Report, list[Prediction]]:
    """Rate every clip of every query's video, and count as the benchmark does.

    Raises:
        VidretError: No query is left, or one has no ratings.
    """
    started = time.monotonic()
    queries = keep_queries(split, gallery)
    if unrated := [query.id for query in queries if not query.saliency]:
        raise VidretError(f"{split.name}: queries must have ratings to score highlights, got none for {unrated[0]}")
    predictions = []
    for done, query in enumerate(queries):
        predictions.append(Prediction(query.id, None, rate_clips(engine, query, gallery)))
        if on_progress is not None:
            on_progress(done + 1, len(queries))
    scored = score_saliency(split.scoring, queries, predictions)
    precision = scored.average_precision
    if isinstance(scored, HighlightReport):  # the headline: VeryGood, all annotators alike
        precision = precision[:, -1].mean(axis=1)
    per_query = [
        {**_tell_query(query, each), "precision": value}
        for query, each, value in zip(queries, predictions, precision.tolist(), strict=True)
    ]
    results = {"highlights": drop_queries(scored.to_dict())}
    return _report("highlights", engine, split, gallery, {"protocol": RATED}, results, per_query, started), predictions


def keep_queries(split: Split, gallery: Gallery) -> list[LabelledQuery]:
    """Give the queries whose video is there.

    Raises:
        VidretError: There is none.
    """
    queries = [query for query in split.queries if query.video in gallery.files and query.video not in gallery.failed]
    if not queries:
        raise VidretError(f"{split.name}: must have a query into a video that is there, got none")
    return queries


def check_labelled(queries: Sequence[LabelledQuery]) -> bool:
    """Say whether queries have true spans: all or none."""
    without = [query.id for query in queries if not query.spans]
    if 0 < len(without) < len(queries):
        raise VidretError(f"queries must all have true spans or none, got {len(without)} without, first {without[0]}")
    return not without


def rate_clips(engine: Engine, query: LabelledQuery, gallery: Gallery) -> np.ndarray:
    """Rate the middle of each clip: of those that are labelled as lists, else of the whole video's."""
    path = gallery.files[query.video].absolute()
    if query.clip_spans:
        times = np.array(query.clip_spans, np.float64).mean(axis=1)
    else:
        duration = query.duration if query.duration is not None else engine.curve(query.text, path).end
        times = (np.arange(max(1, int(duration / query.clip_seconds))) + 0.5) * query.clip_seconds
    rated: np.ndarray = engine.rate(query.text, path, times)
    return rated


def _tell_query(query: LabelledQuery, prediction: Prediction) -> dict[str, Any]:
    """Give a query's facts for a report, with the first of the spans found where spans were looked for."""
    row = {
        "id": query.id,
        "text": query.text,
        "video": query.video,
        "domain": query.domain,
        "duration": query.duration,
        "true": [list(span) for span in query.spans],
    }
    if prediction.spans is not None:
        row["found"] = prediction.spans[0].tolist() if len(prediction.spans) else None
    return row


def _report(
    task: str,
    engine: Engine,
    split: Split,
    gallery: Gallery,
    settings: dict[str, Any],
    results: dict[str, Any],
    per_query: list[dict[str, Any]],
    started: float,
) -> Report:
    return Report(
        task=task,
        split=split,
        gallery=gallery,
        model=describe_model(engine),
        settings={"by": "the trained head" if engine.grounder is not None else "the curve of similarity", **settings},
        results=results,
        per_query=per_query,
        seconds={"scoring": time.monotonic() - started},
    )
