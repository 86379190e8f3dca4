"""Readers of Charades-STA, ActivityNet, TACoS and Ego4D, on small files in their formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from vidret.data.benchmarks import moments
from vidret.data.records import LabelledQuery
from vidret.errors import VidretError


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_charades_query_ids_are_video_and_index(tmp_path: Path) -> None:
    path = write(tmp_path, "c.txt", "AB1CD 4.0 9.5##a lamp is lit.\nXYZ00 0 3##rain.\r\nAB1CD 20.1 30.0##a ## b.\n")
    split = moments.read_charades("c", path)
    assert split.queries == (
        LabelledQuery("AB1CD_0", "AB1CD", "a lamp is lit.", None, ((4.0, 9.5),)),
        LabelledQuery("XYZ00_0", "XYZ00", "rain.", None, ((0.0, 3.0),)),
        LabelledQuery("AB1CD_1", "AB1CD", "a ## b.", None, ((20.1, 30.0),)),
    )
    assert split.videos == ("AB1CD", "XYZ00")
    assert split.notes == ("these files do not give the durations of the videos",)


def test_charades_reversed_windows_are_swapped_and_noted(tmp_path: Path) -> None:
    split = moments.read_charades("c", write(tmp_path, "c.txt", "AB1CD 20.9 12.0##a.\nAB1CD 1.0 2.0##b.\n"))
    assert [query.spans for query in split.queries] == [((12.0, 20.9),), ((1.0, 2.0),)]
    assert split.notes[-1] == "windows that ended before they started, start and end swapped: 1"


def test_charades_durations_are_read_and_clip_no_window(tmp_path: Path) -> None:
    path = write(tmp_path, "c.txt", "AB1CD 4.0 9.5##a.\nXYZ00 0.0 3.0##b.\n")
    durations = write(tmp_path, "l.csv", 'id,script,length\nXYZ00,"one, two",33.5\nAB1CD,x,9.25\n')
    split = moments.read_charades("c", path, durations)
    assert [(query.duration, query.spans) for query in split.queries] == [(9.25, ((4.0, 9.5),)), (33.5, ((0.0, 3.0),))]
    assert split.files == (str(path), str(durations))
    assert split.notes == ("windows that end after their video, kept unchanged: 1",)
    with pytest.raises(VidretError, match=r"c\.txt:2: XYZ00 must be one of the videos in .*l\.csv"):
        moments.read_charades("c", path, write(tmp_path, "l.csv", "id,length\nAB1CD,9\n"))
    for length, message in (("long", "length must be a number, got long"), ("nan", "length must be a finite number")):
        with pytest.raises(VidretError, match=rf"l\.csv:2: {message}"):
            moments.read_charades("c", path, write(tmp_path, "l.csv", f"id,length\nAB1CD,{length}\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("AB1CD 4.0 9.5 a lamp", "must be `video start end##sentence`, got 'AB1CD 4.0 9.5 a lamp'"),
        ("AB1CD 4.0##a lamp", "must be `video start end##sentence`"),
        ("AB1CD nan 9.5##a lamp", "must be `video start end##sentence`"),
        ("AB1CD -1.0 9.5##a lamp", "must be `video start end##sentence`"),
        ("AB1CD 4.0 4.0##a lamp", "window must satisfy 0 <= start < end, got 4 to 4"),
        ("AB1CD 4.0 9.5##", "text must be a non-empty string, got ''"),
    ],
)
def test_invalid_charades_lines_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(VidretError) as caught:
        moments.read_charades("c", write(tmp_path, "c.txt", f"XYZ00 0.0 3.0##b.\n{line}\n"))
    assert f"c.txt:2: {message}" in str(caught.value)


def test_timestamps_are_in_seconds_or_in_frames_with_fps(tmp_path: Path) -> None:
    content = {
        "v_a": {"duration": 40.5, "timestamps": [[0, 10.5], [8.25, 40.5]], "sentences": ["One.", " Two."]},
        "s9-d9.avi": {"fps": 25.0, "num_frames": 1000, "timestamps": [[50, 125]], "sentences": ["Cut bread."]},
    }
    split = moments.read_timed("t", write(tmp_path, "t.json", content))
    assert split.queries == (
        LabelledQuery("v_a_0", "v_a", "One.", 40.5, ((0.0, 10.5),)),
        LabelledQuery("v_a_1", "v_a", " Two.", 40.5, ((8.25, 40.5),)),
        LabelledQuery("s9-d9_0", "s9-d9", "Cut bread.", 40.0, ((2.0, 5.0),)),
    )
    assert (split.videos, split.notes) == (("v_a", "s9-d9"), ())


def test_windows_are_clipped_empty_ones_omitted_and_both_noted(tmp_path: Path) -> None:
    windows = [[-0.5, 4], [2, 12], [9.999, 10.001], [6, 6], [7, 3], [11, 12], [5, 10]]
    video = {"duration": 10, "timestamps": windows, "sentences": [f"Number {n}." for n in range(7)]}
    split = moments.read_timed("t", write(tmp_path, "t.json", {"v": video}))
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timestamps": [[0, 1]]}, "timestamps and sentences must have equal length, got 1 and 2"),
        ({"timestamps": [[0, 1], [2]]}, r"timestamps\[1\] must be \[start, end\], got \[2\]"),
        ({"timestamps": [[0, 1], [2, "x"]]}, r"timestamps\[1\] must be a finite number, got 'x'"),
        ({"sentences": ["One.", ""]}, r"sentences\[1\] must be a non-empty string"),
        ({"duration": -1}, "duration must be positive, got -1"),
        ({"duration": None}, "duration must be a finite number, got None"),
        ({"fps": 0, "num_frames": 10}, "fps must be positive, got 0"),
        ({"fps": 25}, "num_frames is missing"),
        ({"fps": 25, "num_frames": 0}, "num_frames must be positive, got 0"),
    ],
)
def test_invalid_videos_are_refused_with_their_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    video = {"duration": 10, "timestamps": [[0, 1], [2, 3]], "sentences": ["One.", "Two."], **change}
    with pytest.raises(VidretError, match=rf"t\.json\[v\]: {message}"):
        moments.read_timed("t", write(tmp_path, "t.json", {"v": video}))


def make_clip(uid: str, *queries: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"annotation_uid": "n1", "language_queries": list(queries)}]
    return {"clip_uid": uid, "video_start_sec": 100.0, "video_end_sec": 580.0, "annotations": annotations}


def make_query(text: str | None, *times: float) -> dict[str, Any]:
    window = dict(zip(("clip_start_sec", "clip_end_sec"), times, strict=True)) if times else {}
    return {"query": text, "template": "Objects", **window}


def test_ego4d_query_ids_are_clip_annotation_and_index(tmp_path: Path) -> None:
    content = {
        "version": "1",
        "videos": [
            {
                "video_uid": "w",
                "clips": [
                    make_clip(
                        "c1",
                        make_query("Where is the key?", 10.5, 12),
                        make_query(None, 3, 4),
                        make_query("Who?", 6, 6),
                    )
                ],
            },
            {
                "video_uid": "x",
                "clips": [make_clip("c2", {"clip_start_sec": 1, "clip_end_sec": 2}, make_query("When?", -1e-7, 481))],
            },
        ],
    }
    split = moments.read_ego4d("e", write(tmp_path, "nlq.json", content))
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
    (query,) = moments.read_ego4d("e", write(tmp_path, "nlq.json", content)).queries
    assert (query.spans, query.duration) == ((), 480.0)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (
            [make_clip("c1", make_query("a?", 9, 8))],
            r"\[language_queries\]\[0\]: window must satisfy 0 <= start <= end",
        ),
        (
            [make_clip("c1", {"query": "a?", "clip_start_sec": 1})],
            r"\[language_queries\]\[0\]: clip_end_sec is missing",
        ),
        ([make_clip("c1", make_query("a?", -1, 8))], r"window must satisfy 0 <= start <= end"),
        (
            [make_clip("c1"), make_clip("c1")],
            r"nlq\.json\[videos\]\[0\]\[clips\]\[1\]: clip_uid c1 must be unique, but is already at .*\[clips\]\[0\]",
        ),
        (
            [{**make_clip("c1"), "video_end_sec": 100.0}],
            r"video_end_sec must be above video_start_sec, got a difference of 0 s",
        ),
        ([{"clip_uid": "c1", "video_start_sec": 0, "video_end_sec": 5}], r"\[clips\]\[0\]: annotations is missing"),
        (
            [{**make_clip("c1"), "annotations": make_clip("c1")["annotations"] * 2}],
            r"annotation_uid c1_n1 must be unique, but is already at .*",
        ),
        ([], r"nlq\.json: must contain at least one query, got none"),
    ],
)
def test_invalid_ego4d_files_are_refused(tmp_path: Path, clips: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(VidretError, match=message):
        moments.read_ego4d("e", write(tmp_path, "nlq.json", {"videos": [{"video_uid": "w", "clips": clips}]}))
