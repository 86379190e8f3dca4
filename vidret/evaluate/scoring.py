"""Scores of predictions by the rules of a benchmark, whether an engine made them or a file contains them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidret.data.records import LabelledQuery, Split
from vidret.data.scoring import SaliencyMetric, Scoring
from vidret.errors import VidretError
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import DomainReport, HighlightReport, score_highlights, score_tvsum, score_youtube
from vidret.metrics.predictions import Prediction, read_predictions

SALIENCY_METRICS: Mapping[
    SaliencyMetric,
    Callable[[Sequence[LabelledQuery], Sequence[Prediction]], HighlightReport | DomainReport],
] = {"levels": score_highlights, "top-5": score_tvsum, "all-clips": score_youtube}


def score_predictions(path: Path, split: Split) -> dict[str, Any]:
    """Return the scores of a predictions file: of spans if it has them, else of saliency.

    Raises:
        VidretError: The file cannot be read, does not have exactly one prediction per query, or predicts nothing that
            the split has labels for.
    """
    predictions = read_predictions(path)
    if all(query.spans for query in split.queries) and all(each.spans is not None for each in predictions):
        return score_matched(split.scoring, split.queries, predictions)
    if all(query.saliency for query in split.queries) and all(each.saliency is not None for each in predictions):
        return {"highlights": drop_queries(score_saliency(split.scoring, split.queries, predictions).to_dict())}
    raise VidretError(f"{path}: must have, for each query, what {split.name} has labels for: windows or saliency")


def score_matched(
    scoring: Scoring, queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]
) -> dict[str, dict[str, Any]]:
    """Return the scores of spans, of saliency if all have it, and of each domain if there are several.

    Raises:
        VidretError: There is not exactly one prediction with spans per query.
    """
    lengths = scoring.lengths
    results = {"moments": drop_queries(score_moments(queries, predictions, lengths=lengths).to_dict())}
    if all(query.saliency for query in queries) and all(each.saliency is not None for each in predictions):
        results["highlights"] = drop_queries(score_saliency(scoring, queries, predictions).to_dict())
    by_id = {prediction.id: prediction for prediction in predictions}
    domains = sorted({query.domain for query in queries})
    if len(domains) > 1:
        results["domains"] = {}
        for domain in domains:
            in_domain = [query for query in queries if query.domain == domain]
            report = score_moments(in_domain, [by_id[query.id] for query in in_domain], lengths=lengths)
            results["domains"][domain or "other"] = drop_queries(report.to_dict())
    return results


def score_saliency(
    scoring: Scoring, queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]
) -> HighlightReport | DomainReport:
    """Return the scores of saliency by the benchmark's own metric.

    Raises:
        VidretError: There is not exactly one prediction with saliency per query, or ratings are missing or invalid.
    """
    return SALIENCY_METRICS[scoring.saliency](queries, predictions)


def drop_queries(content: dict[str, object]) -> dict[str, Any]:
    """Return the content of a metric's report without the values of each query, which reports list themselves."""
    return {name: value for name, value in content.items() if name != "per_query"}
