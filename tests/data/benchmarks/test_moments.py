"""Readers of moments and highlights, on small files in their formats; see ``test_refusals`` for invalid ones."""

from pathlib import Path
from typing import Any

from tests.data.benchmarks.annotated import make_clip, write
from vidret.data.benchmarks import moments
from vidret.data.records import CorpusQuery, LabelledQuery


def test_charades_query_ids_are_video_and_index(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", "AB1CD 4.0 9.5##a lamp is lit.\nXYZ00 0 3##rain.\r\nAB1CD 20.1 30.0##a ## b.\n")
    split = moments.read_charades("c", path)
    assert split.queries == (
        LabelledQuery("AB1CD_0", "AB1CD", "a lamp is lit.", None, ((4.0, 9.5),)),
        LabelledQuery("XYZ00_0", "XYZ00", "rain.", None, ((0.0, 3.0),)),
        LabelledQuery("AB1CD_1", "AB1CD", "a ## b.", None, ((20.1, 30.0),)),
    )
    assert split.videos == ("AB1CD", "XYZ00")
    assert split.notes == ("these files do not give the durations of the videos",)


def test_charades_reversed_windows_are_swapped_and_noted(tmp_path: Path) -> None:
    split = moments.read_charades("c", write(tmp_path / "c.txt", "AB1CD 20.9 12.0##a.\nAB1CD 1.0 2.0##b.\n"))
    assert [query.spans for query in split.queries] == [((12.0, 20.9),), ((1.0, 2.0),)]
    assert split.notes[-1] == "windows that ended before they started, start and end swapped: 1"


def test_charades_durations_are_read_and_clip_no_window(tmp_path: Path) -> None:
    path = write(tmp_path / "c.txt", "AB1CD 4.0 9.5##a.\nXYZ00 0.0 3.0##b.\n")
    durations = write(tmp_path / "l.csv", 'id,script,length\nXYZ00,"one, two",33.5\nAB1CD,x,9.25\n')
    split = moments.read_charades("c", path, durations)
    assert [(query.duration, query.spans) for query in split.queries] == [(9.25, ((4.0, 9.5),)), (33.5, ((0.0, 3.0),))]
    assert split.files == (str(path), str(durations))
    assert split.notes == ("windows that end after their video, kept unchanged: 1",)


def test_timestamps_are_in_seconds_or_in_frames_with_fps(tmp_path: Path) -> None:
    content = {
        "v_a": {"duration": 40.5, "timestamps": [[0, 10.5], [8.25, 40.5]], "sentences": ["One.", " Two."]},
        "s9-d9.avi": {"fps": 25.0, "num_frames": 1000, "timestamps": [[50, 125]], "sentences": ["Cut bread."]},
    }
    split = moments.read_timed("t", write(tmp_path / "t.json", content))
    assert split.queries == (
        LabelledQuery("v_a_0", "v_a", "One.", 40.5, ((0.0, 10.5),)),
        LabelledQuery("v_a_1", "v_a", " Two.", 40.5, ((8.25, 40.5),)),
        LabelledQuery("s9-d9_0", "s9-d9", "Cut bread.", 40.0, ((2.0, 5.0),)),
    )
    assert (split.videos, split.notes) == (("v_a", "s9-d9"), ())


def test_windows_are_clipped_empty_ones_omitted_and_both_noted(tmp_path: Path) -> None:
    windows = [[-0.5, 4], [2, 12], [9.999, 10.001], [6, 6], [7, 3], [11, 12], [5, 10]]
    video = {"duration": 10, "timestamps": windows, "sentences": [f"Number {n}." for n in range(7)]}
    split = moments.read_timed("t", write(tmp_path / "t.json", {"v": video}))
    assert [(query.id, query.spans[0]) for query in split.queries] == [
        ("v_0", (0.0, 4.0)),
        ("v_1", (2.0, 10.0)),
        ("v_2", (9.999, 10.0)),
        ("v_6", (5.0, 10.0)),
    ]
    assert split.notes == (
        "windows that extended past their video, clipped to it: 2",
        "sentences omitted because their window is empty or reversed: 3",
    )


def make_query(text: str | None, *times: float) -> dict[str, Any]:
    window = dict(zip(("clip_start_sec", "clip_end_sec"), times, strict=True)) if times else {}
    return {"query": text, "template": "Objects", **window}


def test_ego4d_query_ids_are_clip_annotation_and_index(tmp_path: Path) -> None:
    key, who = make_query("Where is the key?", 10.5, 12), make_query("Who?", 6, 6)
    clips = [make_clip("c1", key, make_query(None, 3, 4), who)]
    others = [make_clip("c2", {"clip_start_sec": 1, "clip_end_sec": 2}, make_query("When?", -1e-7, 481))]
    content = {"version": "1", "videos": [{"video_uid": "w", "clips": clips}, {"video_uid": "x", "clips": others}]}
    split = moments.read_ego4d("e", write(tmp_path / "nlq.json", content))
    assert split.queries == (
        LabelledQuery("c1_n1_0", "c1", "Where is the key?", 480.0, ((10.5, 12.0),)),
        LabelledQuery("c1_n1_2", "c1", "Who?", 480.0, ((6.0, 6.0),)),
        LabelledQuery("c2_n1_1", "c2", "When?", 480.0, ((0.0, 481.0),)),
    )
    assert split.videos == ("c1", "c2")
    assert split.notes == (
        "queries omitted because they have no text: 2",
        "queries with a zero-length window, which no prediction can match: 1",
        "windows that end after their video, kept unchanged: 1",
    )


def test_ego4d_test_queries_have_no_windows(tmp_path: Path) -> None:
    content = {"videos": [{"clips": [make_clip("c1", make_query("Where is the key?"))]}]}
    (query,) = moments.read_ego4d("e", write(tmp_path / "nlq.json", content)).queries
    assert (query.spans, query.duration) == ((), 480.0)


QUERY: dict[str, Any] = {"qid": 4, "query": "a kettle boils", "vid": "aB-c_60.0_210.0", "duration": 150}
LABELLED = {
    **QUERY,
    "relevant_windows": [[72, 76], [10, 12]],
    "relevant_clip_ids": [5, 36, 37],
    "saliency_scores": [[4, 3, 2], [0, 1, 1], [2, 2, 4]],
}


def test_query_has_windows_clips_and_saliency(tmp_path: Path) -> None:
    custom = {**QUERY, "qid": "x_1", "query": "steam", "relevant_windows": [[0.5, 9.25]], "kind": "real"}
    path = write(tmp_path / "q.jsonl", (LABELLED, custom, {**QUERY, "qid": 5, "vid": "other"}))
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
    assert split.queries[1] == LabelledQuery(
        "x_1", "aB-c_60.0_210.0", "steam", 150.0, spans=((0.5, 9.25),), domain="real"
    )
    assert split.queries[2] == LabelledQuery("5", "other", "a kettle boils", 150.0)
    assert split.videos == ("aB-c_60.0_210.0", "other")
    assert (split.name, split.files, split.notes) == ("q", (str(path),), ())


def test_windows_that_end_after_their_video_are_kept_and_noted(tmp_path: Path) -> None:
    ends = (150.0, 150.019, 151, 400)
    rows = tuple({**QUERY, "qid": n, "relevant_windows": [[1, end]]} for n, end in enumerate(ends))
    split = moments.read_labelled("q", write(tmp_path / "q.jsonl", rows))
    assert [query.spans[0][1] for query in split.queries] == list(ends)
    assert split.notes == ("windows that end after their video, kept unchanged: 2",)


def test_tvsum_duration_counts_2_s_clips_and_youtube_clips_have_their_own_spans(tmp_path: Path) -> None:
    row = {**QUERY, "duration": 3, "label": [[1, 5], [2, 2], [3, 1]], "domain": "BK", "relevant_windows": None}
    (query,) = moments.read_tvsum("t", write(tmp_path / "t.jsonl", (row,))).queries
    assert (query.duration, query.clips, query.domain) == (6.0, (0, 1, 2), "BK")
    assert query.saliency == ((1.0, 5.0), (2.0, 2.0), (3.0, 1.0))
    assert query.clip_times == ((0.0, 2.0), (2.0, 4.0), (4.0, 6.0))
    row = {**QUERY, "duration": 5.0, "domain": "dog", "label": [[0], [1]], "match": [-1, 1], "fps": 25.0}
    row["clip"] = [[0.0, 100.0], [50.0, 150.0]]
    (query,) = moments.read_youtube("y", write(tmp_path / "y.jsonl", (row,))).queries
    assert query.clip_times == query.clip_spans == ((0.0, 4.0), (2.0, 6.0))
    assert (query.saliency, query.clips, query.domain, query.duration) == (((0.0,), (1.0,)), (0, 1), "dog", 5.0)


def test_custom_queries_have_a_video_with_windows_or_none(tmp_path: Path) -> None:
    busy = {"query": "the line is busy", "kind": "speech", "file": "a.mp4", "relevant_windows": [[1, 2.5], [4, 5]]}
    absent = {"query": "a purple cow", "kind": "absent", "file": None}
    rows: tuple[dict[str, Any], ...] = (
        busy,
        absent,
        {**absent, "qid": "x", "relevant_windows": []},
        {**busy, "qid": 7, "about": "ignored"},
        {"query": "the line is busy", "file": "a.mp4", "relevant_windows": [[1, 2.5], [4, 5]]},
        {"query": "a purple cow", "file": None},
    )
    path = write(tmp_path / "queries.jsonl", rows)
    split = moments.read_queries("queries", path)
    spans = ((1.0, 2.5), (4.0, 5.0))
    assert split.corpus_queries == (
        CorpusQuery("1", "a.mp4", "the line is busy", "speech", spans),
        CorpusQuery("2", None, "a purple cow", "absent"),
        CorpusQuery("x", None, "a purple cow", "absent"),
        CorpusQuery("7", "a.mp4", "the line is busy", "speech", spans),
        CorpusQuery("5", "a.mp4", "the line is busy", "other", spans),
        CorpusQuery("6", None, "a purple cow", "absent"),
    )
    assert (split.name, split.files, split.videos) == ("queries", (str(path),), ("a.mp4",))
