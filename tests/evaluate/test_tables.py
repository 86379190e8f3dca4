"""Reports as text: summaries and tables."""

from typing import Any

import numpy as np

from vidret.data.records import OPEN_LENGTHS, LabelledQuery
from vidret.evaluate.tables import (
    describe_missing,
    describe_report,
    make_tables,
    tabulate_corpus,
    tabulate_highlights,
    tabulate_moments,
    tabulate_rows,
)
from vidret.metrics.corpus_moments import RetrievedMoment, score_corpus, score_partially_relevant
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import score_youtube
from vidret.metrics.predictions import Prediction
from vidret.metrics.retrieval import evaluate

QUERIES = [LabelledQuery("1", "v", "red", 100.0, ((0, 5),)), LabelledQuery("2", "v", "green", 100.0, ((0, 40),))]
FOUND = [Prediction("1", np.array([[0.0, 4.0, 1.0]])), Prediction("2", np.array([[0.0, 10.0, 1.0]]))]


def test_rows_are_sorted_by_direction_with_bounds_of_ties() -> None:
    scores = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    rows = [row.to_dict() for row in evaluate(scores)]
    corrected = {**rows[0], "label": "SK-norm", "bank": "9 queries of train"}
    columns, lines = tabulate_rows([rows[1], rows[0], corrected])
    assert columns == ["direction", "scores", "R@1", "R@5", "R@10", "R-Sum", "MdR", "MnR", "bank"]
    ties = [["", "  optimistic ties", "100.0"], ["", "  pessimistic ties", "66.7"]]
    expected = [["text to video", "plain", "66.7"], *ties, ["text to video", "SK-norm", "66.7"], *ties]
    assert [line[:3] for line in lines] == [*expected, ["video to text", "plain", "66.7"], *ties]
    assert [line[-1] for line in lines] == ["", "", "", "9 queries of train", *[""] * 5]
    columns, lines = tabulate_rows([evaluate(np.eye(60))[0].to_dict()])
    assert columns == ["direction", "scores", "R@1", "R@5", "R@10", "R@50", "R-Sum", "MdR", "MnR"]
    assert lines == [["text to video", "plain", "100.0", "100.0", "100.0", "100.0", "300.0", "1.0", "1.0"]]


def test_moments_have_a_line_per_length_range() -> None:
    columns, lines = tabulate_moments(score_moments(QUERIES, FOUND, lengths=OPEN_LENGTHS).to_dict())
    assert ", ".join(columns) == "true spans, queries, R1@0.3, R1@0.5, R1@0.7, R5@0.5, mIoU, mAP@0.5, mAP@0.75, mAP"
    assert [line[0] for line in lines] == ["all", "short (to 10 s)", "long (over 30 s)"]
    assert lines[0][:7] == ["all", "2", "50.0", "50.0", "50.0", "50.0", f"{(80 + 25) / 2:.1f}"]
    assert lines[1][6] == "80.0"
    assert lines[2][6] == "25.0"


def test_corpus_table() -> None:
    found = {"1": [RetrievedMoment("v", 0, 5)], "2": [RetrievedMoment("w", 0, 40), RetrievedMoment("v", 0, 40)]}
    facts: dict[str, Any] = score_corpus(QUERIES, found).to_dict()
    facts["PRVR"] = score_partially_relevant(np.array([1, 2]))
    columns, lines = tabulate_corpus(facts)
    assert columns == ["task", "IoU", "R@1", "R@5", "R@10", "R@100", "SumR"]
    assert [line[:4] for line in lines[:-1]] == [
        ["correct span of the correct video (VCMR)", "0.5", "50.0", "100.0"],
        ["correct span of the correct video (VCMR)", "0.7", "50.0", "100.0"],
        ["correct span, among those of the correct video (SVMR)", "0.5", "100.0", "100.0"],
        ["correct span, among those of the correct video (SVMR)", "0.7", "100.0", "100.0"],
        ["correct video (VR)", "", "50.0", "100.0"],
    ]
    assert lines[-1] == ["correct video, by a search (PRVR)", "", "50.0", "100.0", "100.0", "100.0", "350.0"]
    assert {len(line) for line in lines} == {7}
    assert [title for title, _ in make_tables({"results": {"corpus": {"num_videos": 7, **facts}}})] == [
        "moments, each in 7 videos"
    ]


def test_highlights_have_a_line_per_domain() -> None:
    queries = [
        LabelledQuery(str(n), "v", "dog", 10.0, clips=(0, 1), saliency=((1,), (0,)), domain=domain)
        for n, domain in enumerate(("dog", "ski", "ski"))
    ]
    predictions = [
        Prediction(str(n), None, np.array(scores)) for n, scores in enumerate(([1.0, 0], [1.0, 0], [0, 1.0]))
    ]
    columns, lines = tabulate_highlights(score_youtube(queries, predictions).to_dict())
    assert columns == ["", "videos", "mAP"]
    area = 100 * (0 + 0.5) / 2
    ski = (100 + area) / 2
    assert lines == [["dog", "1", "100.0"], ["ski", "2", f"{ski:.1f}"], ["average", "", f"{(100 + ski) / 2:.1f}"]]


def test_missing_videos_are_counted_and_the_first_are_listed() -> None:
    data = {"missing": [f"v{index}" for index in range(7)], "failed": {"w": "no frame could be decoded"}}
    assert list(describe_missing(data)) == [
        "7 videos missing, omitted with their rows: v0, v1, v2, v3, v4 and 2 more",
        "1 video unreadable, omitted with their rows: w",
    ]
    assert list(describe_missing({"missing": [], "failed": {}})) == []


def test_report_summary() -> None:
    data = {"name": "tacos-test", "files": ["test.json"], "num_captions": 0, "num_queries": 3, "num_found": 1}
    data |= {"num_videos": 2, "missing": ["s1"], "failed": {}, "notes": ["windows that passed their video: 2"]}
    model = {"name": "starter", "segments": "of 12 s"}
    report = {"task": "moments", "data": data, "model": model, "settings": {"by": "the curve"}, "seconds": {}}
    assert list(describe_report(report)) == [
        "moments on tacos-test (test.json)",
        "3 queries, 1 of 2 videos",
        "model starter, segments of 12 s, found by the curve",
        "1 video missing, omitted with their rows: s1",
        "note: windows that passed their video: 2",
    ]
    data |= {"num_queries": 1, "num_videos": 1}
    assert "1 query, 1 of 1 video" in describe_report(report)
