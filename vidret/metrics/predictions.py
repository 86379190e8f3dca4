"""Predictions for the queries of a benchmark, and reading and writing them as JSON Lines submissions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidret.data.benchmarks.files import AnnotationRow, read_jsonl, short_repr
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.text import format_count


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The prediction for one query in its video: spans, saliency or both.

    Spans outside the video, empty spans and an empty list are allowed: they are misses. Scores may be infinite, since
    only their order matters. Other invalid values are rejected, since they would distort results: the published
    evaluators count a span with NaN neither as correct nor as wrong, and a span that ends before it starts has a
    negative length, so its overlap can be any number.

    Attributes:
        id: Id of the query.
        spans: Rows of start, end (seconds) and score, in the order in which they are ranked.
        saliency: One score per clip of the video; higher is better.

    Raises:
        VidretError: Both are None, or a value is invalid.
    """

    id: str
    spans: Float[np.ndarray, "span 3"] | None = None
    saliency: Float[np.ndarray, " clip"] | None = None

    def __post_init__(self) -> None:
        if self.spans is None and self.saliency is None:
            raise VidretError(f"query {self.id} must have windows or saliency scores, got neither")
        if self.spans is not None:
            self._check_spans(self.spans)
        if self.saliency is not None:
            self._check_saliency(self.saliency)

    def _check_spans(self, spans: Float[np.ndarray, "span 3"]) -> None:
        if spans.ndim != 2 or spans.shape[1] != 3:
            raise VidretError(f"windows of query {self.id} must be rows of start, end and score, got {spans.shape}")
        invalid = ~np.isfinite(spans[:, :2]).all(axis=1) | np.isnan(spans[:, 2])
        if invalid.any():
            raise VidretError(
                f"windows of query {self.id} must have finite times and no NaN score, got {spans[invalid][0].tolist()}"
            )
        reversed_spans = spans[:, 1] < spans[:, 0]
        if reversed_spans.any():
            raise VidretError(
                f"windows of query {self.id} must not end before they start, got {spans[reversed_spans][0].tolist()}"
            )

    def _check_saliency(self, saliency: Float[np.ndarray, " clip"]) -> None:
        if saliency.ndim != 1 or len(saliency) == 0:
            raise VidretError(f"saliency scores of query {self.id} must be one per clip, got shape {saliency.shape}")
        invalid = ~np.isfinite(saliency)
        if invalid.any():
            raise VidretError(f"saliency scores of query {self.id} must be finite, got {saliency[invalid][0]}")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a submission: rows with qid and pred_relevant_windows, pred_saliency_scores or both.

    As in the published evaluators, only the qid identifies a query; a row's video and text are ignored. The qid may be
    a number or a string, and 7 equals "7".

    Raises:
        VidretError: A row is invalid or repeats a qid; the message gives the path and the line.
    """
    locations: dict[str, str] = {}
    return [_read_row(row, locations) for row in read_jsonl(Path(path))]


def _read_row(row: AnnotationRow, locations: dict[str, str]) -> Prediction:
    query_id = row.check_unique("query", row.name("qid"), locations)
    spans, saliency = _read_numbers(row, "pred_relevant_windows"), _read_numbers(row, "pred_saliency_scores")
    try:
        return Prediction(query_id, spans.reshape(-1, 3) if spans is not None and spans.size == 0 else spans, saliency)
    except VidretError as error:
        raise row.error(str(error)) from error


def _read_numbers(row: AnnotationRow, key: str) -> Float[np.ndarray, "..."] | None:
    value = row.values.get(key)
    if value is None:
        return None
    try:
        numbers = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise row.error(f"{key} must have rows of equal length") from error
    if not isinstance(value, list) or numbers.dtype.kind not in "if":
        raise row.error(f"{key} must be a list of numbers, got {short_repr(value)}")
    return numbers.astype(np.float64)


def write_predictions(path: str | Path, queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> None:
    """Write a submission with one row per query, in the order of the queries; integer qids are written as integers.

    Raises:
        VidretError: There is not exactly one prediction per query.
    """
    lines = []
    for query, prediction in zip(queries, match_predictions(queries, predictions), strict=True):
        is_integer = query.id.isdecimal() and str(int(query.id)) == query.id
        qid = int(query.id) if is_integer else query.id
        row: dict[str, object] = {"qid": qid, "query": query.text, "vid": query.video}
        if prediction.spans is not None:
            row["pred_relevant_windows"] = prediction.spans.tolist()
        if prediction.saliency is not None:
            row["pred_saliency_scores"] = prediction.saliency.tolist()
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    Path(path).write_text("".join(lines), "utf-8", newline="\n")


def match_predictions(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the predictions in the order of the queries.

    To score a subset of a benchmark, pass its queries and their predictions only.

    Raises:
        VidretError: There is no query, or there is not exactly one prediction per query.
    """
    if not queries:
        raise VidretError("queries must be at least one, got none")
    by_id = {prediction.id: prediction for prediction in predictions}
    query_ids = {query.id for query in queries}
    for name, ids, count in (("queries", query_ids, len(queries)), ("predictions", by_id, len(predictions))):
        if len(ids) != count:
            raise VidretError(f"{name} must have unique ids, got {len(ids)} ids for {count}")
    if missing := [query.id for query in queries if query.id not in by_id]:
        raise VidretError(
            f"predictions must include every query, but lack {len(missing)} of {len(queries)}, first {missing[0]}"
        )
    if unknown := [prediction.id for prediction in predictions if prediction.id not in query_ids]:
        raise VidretError(
            f"predictions must be for the queries only, got {format_count(len(unknown), 'other')}, first {unknown[0]}"
        )
    return [by_id[query.id] for query in queries]
