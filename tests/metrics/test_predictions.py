"""Submission files: round trips, and rejection of invalid lines by path and line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vidret.data.records import LabelledQuery
from vidret.errors import VidretError
from vidret.metrics.predictions import Prediction, match_predictions, read_predictions, write_predictions

GOOD = '{"qid": 1, "vid": "v", "query": "a cat", "pred_relevant_windows": [[0, 2.5, 0.5], [4, 4, -1]]}'


def query(name: str) -> LabelledQuery:
    return LabelledQuery(name, f"video {name}", f"text {name} \u00e4\u2028", 10.0)


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "found.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_each_line_is_one_prediction(tmp_path: Path) -> None:
    lines = [GOOD, "", '{"qid": "b", "pred_saliency_scores": [1, -2.5], "pred_relevant_windows": null}']
    lines += ['{"qid": 3, "pred_relevant_windows": []}', '{"qid": 4, "pred_relevant_windows": [[0, 1, -Infinity]]}']
    first, second, none, endless = read_predictions(write(tmp_path, b"\xef\xbb\xbf" + "\r\n".join(lines).encode()))
    assert (first.id, second.id) == ("1", "b")
    assert none.spans is not None
    assert none.spans.shape == (0, 3)
    assert endless.spans is not None
    assert endless.spans.tolist() == [[0, 1, -math.inf]]
    assert first.spans is not None
    assert first.spans.tolist() == [[0, 2.5, 0.5], [4, 4, -1]]
    assert first.saliency is None
    assert second.spans is None
    assert second.saliency is not None
    assert second.saliency.tolist() == [1, -2.5]


def test_round_trip_in_the_order_of_the_queries(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    queries = [query(name) for name in ("7", "007", "x", "12345678901234567890")]
    made = [
        Prediction(asked.id, rng.random((n, 3)).cumsum(axis=1), rng.normal(size=3)) for n, asked in enumerate(queries)
    ]
    write_predictions(tmp_path / "a.jsonl", queries, made[::-1])
    predictions = read_predictions(tmp_path / "a.jsonl")
    assert [prediction.id for prediction in predictions] == [asked.id for asked in queries]
    for one, other in zip(predictions, made, strict=True):
        assert one.spans is not None
        assert other.spans is not None
        np.testing.assert_array_equal(one.spans, other.spans)
        np.testing.assert_array_equal(one.saliency, other.saliency)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [row["qid"] for row in rows] == [7, "007", "x", 12345678901234567890]
    assert (rows[2]["vid"], rows[2]["query"]) == ("video x", "text x \u00e4\u2028")
    write_predictions(tmp_path / "b.jsonl", queries[:1], [Prediction("7", saliency=np.ones(2))])
    assert "pred_relevant_windows" not in (tmp_path / "b.jsonl").read_text("utf-8")


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSON"),
        ('{"qid": 1.5, "pred_relevant_windows": []}', "qid must be"),
        ('{"qid": 2}', "query 2 must have windows or saliency scores, got neither"),
        ('{"qid": 1, "pred_relevant_windows": []}', "query 1 must be unique, but is already at .*:1"),
        ('{"qid": 2, "pred_relevant_windows": {}}', "pred_relevant_windows must be a list of numbers, got {}"),
        ('{"qid": 2, "pred_relevant_windows": [["1", "2", "3"]]}', "must be a list of numbers"),
        ('{"qid": 2, "pred_relevant_windows": [[1, null, 3]]}', "must be a list of numbers"),
        ('{"qid": 2, "pred_relevant_windows": [[1, 2, 3], [1, 2]]}', "must have rows of equal length"),
        ('{"qid": 2, "pred_relevant_windows": [[1, 2]]}', r"must be rows of start, end and score, got \(1, 2\)"),
        ('{"qid": 2, "pred_relevant_windows": [1, 2, 3]}', r"must be rows of start, end and score, got \(3,\)"),
        (
            '{"qid": 2, "pred_relevant_windows": [[0, 1, 1], [NaN, 2, 3]]}',
            r"must have finite times and no NaN score, got \[nan, 2.0, 3.0\]",
        ),
        ('{"qid": 2, "pred_relevant_windows": [[1, Infinity, 3]]}', "must have finite times and no NaN score"),
        ('{"qid": 2, "pred_relevant_windows": [[1, 2, NaN]]}', "must have finite times and no NaN score"),
        ('{"qid": 2, "pred_relevant_windows": [[3, 2, 1]]}', r"must not end before they start, got \[3.0, 2.0, 1.0\]"),
        ('{"qid": 2, "pred_saliency_scores": []}', r"must be one per clip, got shape \(0,\)"),
        ('{"qid": 2, "pred_saliency_scores": 1}', "must be a list of numbers, got 1"),
        ('{"qid": 2, "pred_saliency_scores": [[1]]}', r"must be one per clip, got shape \(1, 1\)"),
        ('{"qid": 2, "pred_saliency_scores": [0, NaN]}', "must be finite, got nan"),
        ('{"qid": 2, "pred_saliency_scores": [0, -Infinity]}', "must be finite, got -inf"),
    ],
)
def test_invalid_line_is_rejected_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(VidretError, match=rf"found\.jsonl:3: .*{reason}"):
        read_predictions(write(tmp_path, f"{GOOD}\n\n{line}\n"))


def test_predictions_must_match_the_queries() -> None:
    one, two = (Prediction(name, np.zeros((0, 3))) for name in ("1", "2"))
    queries = [query("2"), query("1")]
    assert [prediction.id for prediction in match_predictions(queries, [one, two])] == ["2", "1"]
    for asked, found, reason in (
        ([], [], "queries must be at least one, got none"),
        (queries, [one], "must include every query, but lack 1 of 2, first 2"),
        (queries[:1], [one, two], "must be for the queries only, got 1 other, first 1"),
        (queries, [one, two, two], "predictions must have unique ids, got 2 ids for 3"),
        ([*queries, query("1")], [one, two], "queries must have unique ids, got 2 ids for 3"),
    ):
        with pytest.raises(VidretError, match=reason):
            match_predictions(asked, found)
