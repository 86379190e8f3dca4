"""What a model answers to each query, and the JSON Lines files in which benchmarks want it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from jaxtyping import Float

from vidret.data.benchmarks.files import read_jsonl
from vidret.data.benchmarks.rows import AnnotationRow, short_repr
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What is found in the video of one query; what was not looked for is None.

    Spans may lie outside the video, may be empty, and a list of none is an answer: all of these only miss. Scores may
    be infinite, for they are only put in order. What is refused would be counted for more than it is: the published
    evaluators count a span with NaN neither as right nor as wrong, and one that ends before it starts has a negative
    length that can make an overlap of any size.

    Attributes:
        id: The query's.
        spans: Rows of start, end (seconds) and score, in the order in which they are offered.
        saliency: One number for each clip of the video; higher is better.

    Raises:
        VidretError: A value breaks its rule.
    """

    id: str
    spans: Float[np.ndarray, "span 3"] | None = None
    saliency: Float[np.ndarray, " clip"] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be counted."""
        if self.spans is None and self.saliency is None:
            raise VidretError(f"query {self.id} must have windows or saliency scores, got neither")
        if self.spans is not None:
            self._check_spans(self.spans)
        if self.saliency is not None:
            self._check_saliency(self.saliency)

    def _check_spans(self, spans: Float[np.ndarray, "span 3"]) -> None:
        if spans.ndim != 2 or spans.shape[1] != 3:
            raise VidretError(f"windows of query {self.id} must be rows of start, end and score, got {spans.shape}")
        wrong = ~np.isfinite(spans[:, :2]).all(axis=1) | np.isnan(spans[:, 2])
        if wrong.any():
            raise VidretError(
                f"windows of query {self.id} must have finite times and no NaN score, got {spans[wrong][0].tolist()}"
            )
        wrong = spans[:, 1] < spans[:, 0]
        if wrong.any():
            raise VidretError(
                f"windows of query {self.id} must not end before they start, got {spans[wrong][0].tolist()}"
            )

    def _check_saliency(self, saliency: Float[np.ndarray, " clip"]) -> None:
        if saliency.ndim != 1 or len(saliency) == 0:
            raise VidretError(f"saliency scores of query {self.id} must be one for each clip, got {saliency.shape}")
        wrong = ~np.isfinite(saliency)
        if wrong.any():
            raise VidretError(f"saliency scores of query {self.id} must be finite, got {saliency[wrong][0]}")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a submission: rows of qid, pred_relevant_windows and pred_saliency_scores, either of which may be left out.

    The video and the text that a row names are not looked at: as in the published evaluators, the qid alone counts. It
    may be a number or a text; 7 and "7" are the same.

    Raises:
        VidretError: With the path and the line: what is wrong there, or a qid that an earlier line had.
    """
    seen: dict[str, str] = {}
    return [_read_row(row, seen) for row in read_jsonl(Path(path))]


def _read_row(row: AnnotationRow, seen: dict[str, str]) -> Prediction:
    name = row.check_unique("query", row.name("qid"), seen)
    spans, saliency = _read_numbers(row, "pred_relevant_windows"), _read_numbers(row, "pred_saliency_scores")
    try:
        return Prediction(name, spans.reshape(-1, 3) if spans is not None and spans.size == 0 else spans, saliency)
    except VidretError as error:
        raise row.error(str(error)) from error


def _read_numbers(row: AnnotationRow, key: str) -> Float[np.ndarray, "..."] | None:
    value = row.values.get(key)
    if value is None:
        return None
    try:
        numbers = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise row.error(f"{key} must have rows of the same length") from error
    if not isinstance(value, list) or numbers.dtype.kind not in "if":
        raise row.error(f"{key} must be a list of numbers, got {short_repr(value)}")
    return numbers.astype(np.float64)


def write_predictions(path: str | Path, queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> None:
    """Write a submission, a row for each query, in the order of the queries; a qid that is a number is written as one.

    Raises:
        VidretError: The predictions are not one for each query.
    """
    lines = []
    for query, found in zip(queries, pair(queries, predictions), strict=True):
        number = query.id.isdecimal() and str(int(query.id)) == query.id
        row: dict[str, object] = {"qid": int(query.id) if number else query.id, "query": query.text, "vid": query.video}
        if found.spans is not None:
            row["pred_relevant_windows"] = found.spans.tolist()
        if found.saliency is not None:
            row["pred_saliency_scores"] = found.saliency.tolist()
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    Path(path).write_text("".join(lines), "utf-8", newline="\n")


def write_submission(path: str | Path, *, val: str | Path, test: str | Path) -> None:
    """Pack the predictions of both splits as QVHighlights' server wants them: one zip file without a folder."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.write(val, "hl_val_submission.jsonl")
        archive.write(test, "hl_test_submission.jsonl")


def pair(queries: Sequence[LabelledQuery], predictions: Sequence[Prediction]) -> list[Prediction]:
    """Put the predictions in the order of the queries.

    To score a part of a benchmark, hand over the queries of that part: then the report counts them.

    Raises:
        VidretError: There is no query, or the predictions are not one for each query and no other.
    """
    if not queries:
        raise VidretError("queries must be at least one, got none")
    by_id = {each.id: each for each in predictions}
    wanted = {query.id for query in queries}
    for what, ids, num in (("queries", wanted, len(queries)), ("predictions", by_id, len(predictions))):
        if len(ids) != num:
            raise VidretError(f"{what} must have an id each, got {len(ids)} ids for {num}")
    if missing := [query.id for query in queries if query.id not in by_id]:
        raise VidretError(
            f"predictions must answer every query, got none for {len(missing)} of {len(queries)}, first {missing[0]}"
        )
    if unknown := [each.id for each in predictions if each.id not in wanted]:
        raise VidretError(f"predictions must be for the queries, got {len(unknown)} for others, first {unknown[0]}")
    return [by_id[query.id] for query in queries]
