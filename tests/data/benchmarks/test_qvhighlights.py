"""Readers of QVHighlights, TVSum and YouTube Highlights, on small files in their formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from vidret.data.benchmarks import moments
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError

QUERY: dict[str, Any] = {"qid": 4, "query": "a kettle boils", "vid": "aB-c_60.0_210.0", "duration": 150}
LABELLED = {
    **QUERY,
    "relevant_windows": [[72, 76], [10, 12]],
    "relevant_clip_ids": [5, 36, 37],
    "saliency_scores": [[4, 3, 2], [0, 1, 1], [2, 2, 4]],
}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "made_up.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_query_has_windows_clips_and_saliency(tmp_path: Path) -> None:
    path = write(tmp_path, LABELLED, {**QUERY, "qid": "x_1", "query": "steam"}, {**LABELLED, "qid": 5, "vid": "other"})
    split = moments.read_labelled("q", path)
    first = LabelledQuery(
        id="4",
        video="aB-c_60.0_210.0",
        text="a kettle boils",
        duration=150.0,
        spans=((72.0, 76.0), (10.0, 12.0)),
        clips=(5, 36, 37),
        saliency=((4.0, 3.0, 2.0), (0.0, 1.0, 1.0), (2.0, 2.0, 4.0)),
    )
    assert split.queries[0] == first
    assert first.clip_times == ((10.0, 12.0), (72.0, 74.0), (74.0, 76.0))
    assert split.queries[1] == LabelledQuery("x_1", "aB-c_60.0_210.0", "steam", 150.0)
    assert split.videos == ("aB-c_60.0_210.0", "other")
    assert (split.name, split.files, split.notes) == ("q", (str(path),), ())


def test_kind_of_custom_moments_becomes_domain(tmp_path: Path) -> None:
    row = {**QUERY, "file": "a/b.mp4", "relevant_windows": [[0.5, 9.25]], "kind": "real", "caption_index": 0}
    (query,) = moments.read_labelled("m", write(tmp_path, row)).queries
    assert (query.domain, query.spans, query.clips) == ("real", ((0.5, 9.25),), ())


def test_windows_that_end_after_their_video_are_kept_and_noted(tmp_path: Path) -> None:
    rows = [{**QUERY, "qid": n, "relevant_windows": [[1, end]]} for n, end in enumerate((150.0, 150.019, 151, 400))]
    split = moments.read_labelled("q", write(tmp_path, *rows))
    assert [query.spans[0][1] for query in split.queries] == [150.0, 150.019, 151.0, 400.0]
    assert split.notes == ("windows that end after their video, kept unchanged: 2",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qid": None}, "qid must be a non-empty string, got None"),
        ({"query": " "}, "query must be a non-empty string, got ' '"),
        ({"vid": ""}, "vid must be a non-empty string"),
        ({"duration": float("nan")}, "duration must be a finite number, got nan"),
        ({"duration": 0}, "duration must be positive, got 0"),
        (
            {"relevant_windows": [[0, 2], [8, 6]]},
            r"relevant_windows\[1\] must satisfy 0 <= start < end",
        ),
        ({"relevant_windows": [[0, float("inf")]]}, r"relevant_windows\[0\] must be a finite number, got inf"),
        ({"relevant_windows": 3}, "relevant_windows must be a list, got 3"),
        ({"relevant_clip_ids": [5, 36, 75]}, "relevant_clip_ids must index 2 s clips of 150 s, got 75"),
        ({"relevant_clip_ids": [5, 36, -1]}, "relevant_clip_ids must index 2 s clips of 150 s, got -1"),
        ({"relevant_clip_ids": [5, 36, 37.0]}, "relevant_clip_ids must index 2 s clips of 150 s, got 37.0"),
        ({"relevant_clip_ids": [5, 36, 36]}, "relevant_clip_ids must be unique, got"),
        ({"relevant_clip_ids": [5, 36]}, "saliency_scores must have one list for each of 2 clips, got 3"),
        ({"saliency_scores": [[1], [2, 2], [3]]}, r"saliency_scores\[1\] must have one number per annotator"),
    ],
)
def test_invalid_queries_are_refused_with_their_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path, {**LABELLED, "qid": 3}, {**LABELLED, **change})
    with pytest.raises(VidretError, match=rf"made_up\.jsonl:2: {message}"):
        moments.read_labelled("q", path)


def test_missing_and_duplicate_queries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"made_up\.jsonl:2: qid 4 must be unique, but is already at .*:1"):
        moments.read_labelled("q", write(tmp_path, QUERY, {**QUERY, "query": "another"}))
    with pytest.raises(VidretError, match=r"made_up\.jsonl: must contain at least one query, got none"):
        moments.read_labelled("q", write(tmp_path))
    missing = {name: value for name, value in LABELLED.items() if name != "saliency_scores"}
    with pytest.raises(VidretError, match=r":1: saliency_scores is missing"):
        moments.read_labelled("q", write(tmp_path, missing))


TVSUM_ROW = {
    **QUERY,
    "duration": 3,
    "label": [[1.0, 5.0], [2.0, 2.0], [3.0, 1.0]],
    "domain": "BK",
    "relevant_windows": None,
}


def test_tvsum_duration_counts_2_s_clips(tmp_path: Path) -> None:
    (query,) = moments.read_tvsum("t", write(tmp_path, TVSUM_ROW)).queries
    assert (query.duration, query.clips, query.domain) == (6.0, (0, 1, 2), "BK")
    assert query.saliency == ((1.0, 5.0), (2.0, 2.0), (3.0, 1.0))
    assert query.clip_times == ((0.0, 2.0), (2.0, 4.0), (4.0, 6.0))
    with pytest.raises(VidretError, match=":1: duration must be the number of clips in label, 3, got 6"):
        moments.read_tvsum("t", write(tmp_path, {**TVSUM_ROW, "duration": 6}))
    with pytest.raises(VidretError, match=":1: label must contain at least one clip, got none"):
        moments.read_tvsum("t", write(tmp_path, {**TVSUM_ROW, "label": [], "duration": 0}))
    with pytest.raises(VidretError, match=r":1: label\[2\] must have one number per annotator"):
        moments.read_tvsum("t", write(tmp_path, {**TVSUM_ROW, "label": [[1, 2], [3, 4], [5]]}))


YOUTUBE_ROW = {
    **QUERY,
    "duration": 5.0,
    "domain": "dog",
    "label": [[0], [1]],
    "match": [-1, 1],
    "fps": 25.0,
    "clip": [[0.0, 100.0], [50.0, 150.0]],
}


def test_youtube_clips_have_their_own_spans(tmp_path: Path) -> None:
    (query,) = moments.read_youtube("y", write(tmp_path, YOUTUBE_ROW)).queries
    assert query.clip_times == query.clip_spans == ((0.0, 4.0), (2.0, 6.0))
    assert (query.saliency, query.clips, query.domain, query.duration) == (((0.0,), (1.0,)), (0, 1), "dog", 5.0)
    for change, message in (
        ({"clip": [[0.0, 100.0]]}, "clip and label must have equal length, got 1 and 2"),
        ({"clip": [[0.0, 100.0], [50.0, 50.0]]}, r"clip\[1\] must satisfy 0 <= start < end"),
        ({"fps": 0}, "fps must be positive, got 0"),
        ({"label": [[0], [None]]}, r"label\[1\] must be a finite number, got None"),
        ({"domain": ""}, "domain must be a non-empty string"),
    ):
        with pytest.raises(VidretError, match=f":1: {message}"):
            moments.read_youtube("y", write(tmp_path, {**YOUTUBE_ROW, **change}))
