"""Evaluation of moments and highlights by a benchmark's rules, for the predictions of an engine or a file.

Rated moments, of graded relevance to a query, are located in all videos.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidret.data.records import CLIP_SECONDS, LabelledQuery, SaliencyMetric, Scoring, Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.queries import check_typed
from vidret.evaluate.report import Gallery, Report
from vidret.evaluate.tables import OWN
from vidret.metrics.corpus_moments import (
    PRVR,
    VCMR,
    RetrievedMoment,
    score_corpus,
    score_partially_relevant,
    score_rated,
)
from vidret.metrics.grounding import score_moments, score_multi_moments
from vidret.metrics.highlight import DomainReport, HighlightReport, score_highlights, score_tvsum, score_youtube
from vidret.metrics.predictions import Prediction, read_predictions
from vidret.store.texts.store import TextCounts
from vidret.store.texts.upkeep import count_texts
from vidret.types import LocateOptions, Query, SearchOptions
from vidret.types import Sequence as EventSequence

SALIENCY_METRICS: Mapping[
    SaliencyMetric, Callable[[Sequence[LabelledQuery], Sequence[Prediction]], HighlightReport | DomainReport]
] = {"levels": score_highlights, "top-5": score_tvsum, "all-clips": score_youtube}


def score_predictions(path: Path, split: Split) -> dict[str, Any]:
    """Return the scores of a predictions file: of spans if it has them, else of saliency.

    Raises:
        VidretError: The split has no queries with videos, or lacks labels for some; the file cannot be read, does not
            have exactly one prediction per query, or lacks spans or saliency that the split has labels for.
    """
    if not split.queries:
        raise VidretError(f"{split.name} must have queries into videos to score predictions, got none")
    if bare := [query.id for query in split.queries if not (query.spans or query.saliency)]:
        raise VidretError(f"{split.name} must have labels to score predictions, got none for query {bare[0]}")
    predictions = read_predictions(path)
    if all(query.spans for query in split.queries) and all(prediction.spans is not None for prediction in predictions):
        if 0 < sum(prediction.saliency is not None for prediction in predictions) < len(predictions):
            raise VidretError(f"{path}: must have saliency for all queries or none, got it for some")
        return score_matched(split.scoring, split.queries, predictions)
    if all(query.saliency for query in split.queries) and all(
        prediction.saliency is not None for prediction in predictions
    ):
        return {"highlights": SALIENCY_METRICS[split.scoring.saliency](split.queries, predictions).to_dict()}
    raise VidretError(f"{path}: must have, for each query, what {split.name} has labels for: windows or saliency")


def score_matched(
    scoring: Scoring, queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    """Return the scores of spans, of saliency if all predictions have it, and of each domain if there are several."""
    lengths = scoring.lengths
    results = {"moments": score_moments(queries, predictions, lengths=lengths).to_dict()}
    if any(len(query.spans) > 1 for query in queries):
        results["multi_moments"] = score_multi_moments(queries, predictions)
    if all(query.saliency for query in queries) and all(prediction.saliency is not None for prediction in predictions):
        results["highlights"] = SALIENCY_METRICS[scoring.saliency](queries, predictions).to_dict()
    by_id = {prediction.id: prediction for prediction in predictions}
    if domains := group_domains(queries):
        results["domains"] = {
            domain: score_moments(
                domain_queries, [by_id[query.id] for query in domain_queries], lengths=lengths
            ).to_dict()
            for domain, domain_queries in domains.items()
        }
    return results


def group_domains(queries: Sequence[LabelledQuery]) -> dict[str, list[LabelledQuery]]:
    """Return the queries of each domain; empty if there is only one."""
    domains: defaultdict[str, list[LabelledQuery]] = defaultdict(list)
    for query in queries:
        domains[query.domain or "other"].append(query)
    return dict(sorted(domains.items())) if len(domains) > 1 else {}


NUM_SPANS = 50  # predictions per query; metrics use at most the first ten
CORPUS_MOMENTS, CORPUS_VIDEOS = 100, 100  # moments and videos retrieved from the whole index
CORPUS = LocateOptions(k=CORPUS_MOMENTS, videos=CORPUS_VIDEOS, overlapping=True, weak=True, copies="show")
PROTOCOL = (
    "Each query is located in its own video: a sentence of a benchmark as one event, your own as it is typed. R1@t: "
    "percentage of queries whose first span has an intersection over union of t or more with a true span; R5: one of "
    "the first five spans; mIoU: mean over first spans; mAP: over the first ten spans, mean of thresholds 0.5 to 0.95. "
    "Length ranges use only true spans of that length."
)
SALIENCY_PROTOCOL = "Clips are rated at their middle. The mAP is the benchmark's own: see vidret.metrics.highlight."


def evaluate_moments(evaluation: Evaluation, *, corpus: bool = False) -> tuple[Report, list[Prediction]]:
    """Locate every query in its video and score the spans; return the report and the prediction for each query.

    With ``corpus``, every query is also located in the whole index, all videos of the split (VCMR), and its video is
    searched for (PRVR). If the labels are withheld, as in QVHighlights' test split, nothing is scored, and the
    predictions can be submitted.

    Raises:
        VidretError: No query is left, only some queries have true spans, or with ``corpus`` a video is not indexed.
    """
    engine, split, gallery = evaluation.engine, evaluation.split, evaluation.gallery
    queries = keep_queries(split, gallery)
    labelled = check_labelled(queries)
    rated = all(query.saliency for query in queries) or not labelled
    contents = evaluation.find_contents() if corpus else {}
    predictions, retrieved, true_videos, ranks = [], {}, {}, dict[str, int]()
    for query in evaluation.track(queries):
        path, asked = gallery.files[query.video].absolute(), ask(query.text, split)
        moments = engine.locate(asked, NUM_SPANS, video=path, overlapping=True, weak=True)
        spans = np.array([(m.start, m.end, m.score) for m in moments], np.float64).reshape(-1, 3)
        predictions.append(Prediction(query.id, spans, rate_clips(query, evaluation) if rated else None))
        if corpus and labelled:
            # Videos are compared by content, so that any copy of the correct video counts.
            true_videos[query.id] = str(contents[query.video])
            everywhere = engine.locate_with(asked, CORPUS)
            hits = engine.search_with(asked, SearchOptions(k=CORPUS_VIDEOS, copies="show"))
            videos = [str(hit.video) for hit in hits]
            ranks[query.id] = videos.index(true_videos[query.id]) + 1 if true_videos[query.id] in videos else 0
            retrieved[query.id] = [RetrievedMoment(str(m.video), m.start, m.end) for m in everywhere]
    results: dict[str, Any] = score_matched(split.scoring, queries, predictions) if labelled else {}
    settings = _find_settings(engine, PROTOCOL, count_texts(engine.path), num_spans=NUM_SPANS)
    content_queries = [replace(query, video=true_videos.get(query.id, query.video)) for query in queries]
    if retrieved:
        results["corpus"] = {"num_videos": engine.info().videos, **_score_corpus(content_queries, retrieved, ranks)}
        if domains := group_domains(content_queries):
            results["corpus_domains"] = {
                domain: _score_corpus(domain_queries, retrieved, ranks) for domain, domain_queries in domains.items()
            }
        settings |= {"corpus_moments": CORPUS_MOMENTS, "corpus_videos": CORPUS_VIDEOS}
    rows = [_describe_query(query, prediction) for query, prediction in zip(queries, predictions, strict=True)]
    if labelled:
        overlaps = score_moments(queries, predictions).full.best_overlaps[:, 0].tolist()
        rows = [{**row, "overlap": overlap} for row, overlap in zip(rows, overlaps, strict=True)]
    if retrieved:
        found = score_corpus(content_queries, retrieved).moments.tolist()
        for row, moment_ranks in zip(rows, found, strict=True):
            row["corpus"] = {**dict(zip(VCMR, moment_ranks, strict=True)), PRVR: ranks[row["id"]]}
    return evaluation.report("moments", settings=settings, results=results, per_query=rows), predictions


def _score_corpus(
    queries: Sequence[LabelledQuery], retrieved: Mapping[str, Sequence[RetrievedMoment]], ranks: Mapping[str, int]
) -> dict[str, Any]:
    facts = score_corpus(queries, retrieved).to_dict()
    return facts | {PRVR: score_partially_relevant(np.array([ranks[query.id] for query in queries]))}


def evaluate_highlights(evaluation: Evaluation) -> tuple[Report, list[Prediction]]:
    """Rate every clip of every query's video, and score the saliency with the benchmark's metric.

    Returns:
        The report, and the prediction for each query.

    Raises:
        VidretError: No query is left, or a query has no ratings.
    """
    split = evaluation.split
    queries = keep_queries(split, evaluation.gallery)
    if unrated := [query.id for query in queries if not query.saliency]:
        raise VidretError(f"{split.name}: queries must have ratings to score highlights, got none for {unrated[0]}")
    predictions = [Prediction(query.id, None, rate_clips(query, evaluation)) for query in evaluation.track(queries)]
    scores = SALIENCY_METRICS[split.scoring.saliency](queries, predictions)
    precision = scores.average_precision
    if isinstance(scores, HighlightReport):  # the main score: VeryGood, mean over annotators
        precision = precision[:, -1].mean(axis=1)
    rows = [
        {**_describe_query(query, prediction), "precision": value}
        for query, prediction, value in zip(queries, predictions, precision.tolist(), strict=True)
    ]
    results = {"highlights": scores.to_dict()}
    settings = _find_settings(evaluation.engine, SALIENCY_PROTOCOL)
    return evaluation.report("highlights", settings=settings, results=results, per_query=rows), predictions


def ask(text: str, split: Split) -> Query:
    """Return a text as a query: a benchmark's sentence verbatim, as one event, and your own parsed as typed.

    Papers pass the whole sentence to their model, with its quotes. A parsed query would split "she opens the door, then
    leaves" into two events and take "no dogs" as an exclusion.
    """
    return text if split.name in OWN else EventSequence([text], verbatim=True)


def check_queries(split: Split) -> Split:
    """Return a split if its queries can be evaluated; else refuse it before its videos are indexed, which takes hours.

    Raises:
        VidretError: It has no queries with videos, such as a retrieval split, or one of your own is invalid.
    """
    if not split.queries:
        raise VidretError(f"{split.name}: must have queries into its videos, got captions only")
    if split.name in OWN:
        check_typed(split.queries)
    return split


def keep_queries(split: Split, gallery: Gallery) -> list[LabelledQuery]:
    """Return the queries whose video is available."""
    queries = [query for query in split.queries if query.video in gallery.files and query.video not in gallery.failed]
    if not queries:
        raise VidretError(f"{split.name}: must have at least one query into an available video, got none")
    return queries


def check_labelled(queries: Sequence[LabelledQuery]) -> bool:
    """Return whether the queries have true spans."""
    without = [query.id for query in queries if not query.spans]
    if 0 < len(without) < len(queries):
        raise VidretError(f"queries must all have true spans or none, got {len(without)} without, first {without[0]}")
    return not without


def rate_clips(query: LabelledQuery, evaluation: Evaluation) -> np.ndarray:
    """Return the saliency at the middle of each clip: of the listed clips if there are any, else of all clips."""
    engine, asked = evaluation.engine, ask(query.text, evaluation.split)
    path = evaluation.gallery.files[query.video].absolute()
    if query.clip_spans:
        times = np.array(query.clip_spans, np.float64).mean(axis=1)
    else:
        duration_s = query.duration if query.duration is not None else engine.curve(asked, path).end
        times = (np.arange(max(1, int(duration_s / CLIP_SECONDS)), dtype=np.float64) + 0.5) * CLIP_SECONDS
    return engine.rate(asked, path, times)


def _describe_query(query: LabelledQuery, prediction: Prediction) -> dict[str, Any]:
    """Return a query's row for the report, including the first predicted span if spans were predicted."""
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


def _find_settings(engine: Engine, protocol: str, texts: Sequence[TextCounts] = (), **more: Any) -> dict[str, Any]:
    by = "the trained head" if engine.grounder is not None else "the similarity curve"
    return {"by": ", ".join([by, *(counts.source for counts in texts)]), "protocol": protocol, **more}


RATED_PROTOCOL = (
    "Each query is located in all videos. nDCG@K: discounted gain of the first K moments as a share of the best "
    "possible one; a moment has the relevance of the rated moment that it overlaps by more than the minimum."
)


def evaluate_rated(evaluation: Evaluation) -> Report:
    """Locate every query in all videos of the index, and score the order of the moments.

    The split has queries with rated moments; those of missing or unreadable videos are omitted.

    Raises:
        VidretError: No query has a relevant moment in an available video.
    """
    engine, split, contents = evaluation.engine, evaluation.split, evaluation.find_contents()
    queries, retrieved, rows = [], {}, []
    for query in split.rated_queries:
        moments = tuple(
            replace(moment, video=str(contents[moment.video])) for moment in query.moments if moment.video in contents
        )
        if any(moment.relevance > 0 for moment in moments):
            queries.append(replace(query, moments=moments))
    if not queries:
        raise VidretError(f"{split.name}: must have at least one relevant moment of an available video, got none")
    for query in evaluation.track(queries):
        retrieved_moments = engine.locate_with(ask(query.text, split), CORPUS)
        retrieved[query.id] = [RetrievedMoment(str(one.video), one.start, one.end) for one in retrieved_moments]
        rows.append({"id": query.id, "text": query.text, **score_rated([query], retrieved)["nDCG"]})
    results = {"rated": score_rated(queries, retrieved) | {"num_videos": engine.info().videos}}
    corpus = {"corpus_moments": CORPUS_MOMENTS, "corpus_videos": CORPUS_VIDEOS}
    settings = _find_settings(engine, RATED_PROTOCOL, count_texts(engine.path), **corpus)
    return evaluation.report("rated", settings=settings, results=results, per_query=rows, doing="locating")
