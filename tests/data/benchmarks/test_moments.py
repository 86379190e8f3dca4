"""Charades-STA, ActivityNet, TACoS and Ego4D: small files of the same form, and how they may be broken."""

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


def test_charades_lines_become_queries_named_by_their_video(tmp_path: Path) -> None:
    path = write(tmp_path, "c.txt", "AB1CD 4.0 9.5##a lamp is lit.\nXYZ00 0 3##rain.\r\nAB1CD 20.1 30.0##a ## b.\n")
    split = moments.read_charades("c", path)
    assert split.queries == (
        LabelledQuery("AB1CD_0", "AB1CD", "a lamp is lit.", None, ((4.0, 9.5),)),
        LabelledQuery("XYZ00_0", "XYZ00", "rain.", None, ((0.0, 3.0),)),
        LabelledQuery("AB1CD_1", "AB1CD", "a ## b.", None, ((20.1, 30.0),)),
    )
    assert split.videos == ("AB1CD", "XYZ00")
    assert split.notes == ("the lengths of the videos are not known from these files",)


def test_charades_windows_that_end_before_they_start_are_turned_round_and_told(tmp_path: Path) -> None:
    split = moments.read_charades("c", write(tmp_path, "c.txt", "AB1CD 20.9 12.0##a.\nAB1CD 1.0 2.0##b.\n"))
    assert [query.spans for query in split.queries] == [((12.0, 20.9),), ((1.0, 2.0),)]
    assert split.notes[-1] == "windows that ended before they started, turned round: 1"


def test_charades_lengths_are_read_where_they_lie_and_cut_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "c.txt", "AB1CD 4.0 9.5##a.\nXYZ00 0.0 3.0##b.\n")
    lengths = write(tmp_path, "l.csv", 'id,script,length\nXYZ00,"one, two",33.5\nAB1CD,x,9.25\n')
    split = moments.read_charades("c", path, lengths)
    assert [(query.duration, query.spans) for query in split.queries] == [(9.25, ((4.0, 9.5),)), (33.5, ((0.0, 3.0),))]
    assert split.files == (str(path), str(lengths))
    assert split.notes == ("windows that end after their video, kept as they are: 1",)
    with pytest.raises(VidretError, match=r"c\.txt:2: XYZ00 must be one of the videos in .*l\.csv"):
        moments.read_charades("c", path, write(tmp_path, "l.csv", "id,length\nAB1CD,9\n"))
    for length, sentence in (("long", "length must be a number, got long"), ("nan", "length must be a finite number")):
        with pytest.raises(VidretError, match=rf"l\.csv:2: {sentence}"):
            moments.read_charades("c", path, write(tmp_path, "l.csv", f"id,length\nAB1CD,{length}\n"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("AB1CD 4.0 9.5 a lamp", "must be `video start end##sentence`, got 'AB1CD 4.0 9.5 a lamp'"),
        ("AB1CD 4.0##a lamp", "must be `video start end##sentence`"),
        ("AB1CD nan 9.5##a lamp", "must be `video start end##sentence`"),
        ("AB1CD -1.0 9.5##a lamp", "must be `video start end##sentence`"),
        ("AB1CD 4.0 4.0##a lamp", "the window must start at 0 or later and end after its start, got 4 to 4"),
        ("AB1CD 4.0 9.5##", "text must be a text that is not empty, got ''"),
    ],
)
def test_broken_charades_lines_are_refused(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(VidretError) as caught:
        moments.read_charades("c", write(tmp_path, "c.txt", f"XYZ00 0.0 3.0##b.\n{line}\n"))
    assert f"c.txt:2: {sentence}" in str(caught.value)


def test_seconds_and_frames_are_told_apart(tmp_path: Path) -> None:
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


def test_windows_are_cut_at_the_video_and_empty_ones_left_out_and_both_are_told(tmp_path: Path) -> None:
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
        "windows that passed their video, cut at its ends: 2",
        "sentences left out, since their window does not end after it starts: 3",
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"timestamps": [[0, 1]]}, "timestamps and sentences must be as many, got 1 and 2"),
        ({"timestamps": [[0, 1], [2]]}, r"timestamps\[1\] must be a start and an end, got \[2\]"),
        ({"timestamps": [[0, 1], [2, "x"]]}, r"timestamps\[1\] must be a finite number, got 'x'"),
        ({"sentences": ["One.", ""]}, r"sentences\[1\] must be a text that is not empty"),
        ({"duration": -1}, "duration must be above 0, got -1"),
        ({"duration": None}, "duration must be a finite number, got None"),
        ({"fps": 0, "num_frames": 10}, "fps must be above 0, got 0"),
        ({"fps": 25}, "num_frames is missing"),
        ({"fps": 25, "num_frames": 0}, "duration must be above 0, got 0"),
    ],
)
def test_broken_videos_are_refused_by_name(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    video = {"duration": 10, "timestamps": [[0, 1], [2, 3]], "sentences": ["One.", "Two."], **change}
    with pytest.raises(VidretError, match=rf"t\.json\[v\]: {sentence}"):
        moments.read_timed("t", write(tmp_path, "t.json", {"v": video}))


def clip(uid: str, *queries: dict[str, Any]) -> dict[str, Any]:
    annotations = [{"annotation_uid": "n1", "language_queries": list(queries)}]
    return {"clip_uid": uid, "video_start_sec": 100.0, "video_end_sec": 580.0, "annotations": annotations}


def ask(text: str | None, *times: float) -> dict[str, Any]:
    window = dict(zip(("clip_start_sec", "clip_end_sec"), times, strict=True)) if times else {}
    return {"query": text, "template": "Objects", **window}


def test_ego4d_queries_are_named_by_clip_annotation_and_number(tmp_path: Path) -> None:
    content = {
        "version": "1",
        "videos": [
            {
                "video_uid": "w",
                "clips": [clip("c1", ask("Where is the key?", 10.5, 12), ask(None, 3, 4), ask("Who?", 6, 6))],
            },
            {
                "video_uid": "x",
                "clips": [clip("c2", {"clip_start_sec": 1, "clip_end_sec": 2}, ask("When?", -1e-7, 481))],
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
        "queries left out, since they have no text: 2",
        "queries whose window has no length, so that nothing can hit them: 1",
        "windows that end after their video, kept as they are: 1",
    )


def test_ego4d_test_queries_have_no_windows(tmp_path: Path) -> None:
    content = {"videos": [{"clips": [clip("c1", ask("Where is the key?"))]}]}
    (query,) = moments.read_ego4d("e", write(tmp_path, "nlq.json", content)).queries
    assert (query.spans, query.duration) == ((), 480.0)


@pytest.mark.parametrize(
    ("clips", "sentence"),
    [
        (
            [clip("c1", ask("a?", 9, 8))],
            r"\[language_queries\]\[0\]: the window must start at 0 or later and end after",
        ),
        ([clip("c1", {"query": "a?", "clip_start_sec": 1})], r"\[language_queries\]\[0\]: clip_end_sec is missing"),
        ([clip("c1", ask("a?", -1, 8))], r"the window must start at 0 or later"),
        (
            [clip("c1"), clip("c1")],
            r"nlq\.json\[videos\]\[0\]\[clips\]\[1\]: clip_uid c1 is at .*\[clips\]\[0\] already",
        ),
        ([{**clip("c1"), "video_end_sec": 100.0}], r"video_end_sec must be above video_start_sec, got a length of 0 s"),
        ([{"clip_uid": "c1", "video_start_sec": 0, "video_end_sec": 5}], r"\[clips\]\[0\]: annotations is missing"),
        ([{**clip("c1"), "annotations": clip("c1")["annotations"] * 2}], r"annotation_uid c1_n1 is at .* already"),
        ([], r"nlq\.json: must hold a query, got none"),
    ],
)
def test_broken_ego4d_files_are_refused(tmp_path: Path, clips: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(VidretError, match=sentence):
        moments.read_ego4d("e", write(tmp_path, "nlq.json", {"videos": [{"video_uid": "w", "clips": clips}]}))
