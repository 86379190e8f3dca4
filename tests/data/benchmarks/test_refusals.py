"""Invalid annotation files are refused with their file, the line or key, the rule and the value."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.data.benchmarks.annotated import make_clip, write
from vidret.data.benchmarks import captions, moments
from vidret.data.records import Split
from vidret.errors import VidretError

SENTENCES = {"videos": [], "sentences": [{"video_id": "video3", "caption": "a fox waits"}]}
HEAD = "key,vid_key,video_id,sentence\n"
DIDEMO = {"annotation_id": 7, "video": "b.mov", "description": "a boat"}
VATEX = {"videoID": "a", "enCap": ["one"]}
LAKE = {"video": "trips/lake.mp4", "captions": ["a lake", "still water"]}
official_val = partial(captions.read_official, split="val")
# The files of a reader, the last of which may be left out; and what is refused.
CAPTIONS: list[tuple[Callable[..., Split], tuple[object, ...], str]] = [
    (captions.read_1k_a, (f"{HEAD}r,m8,v8,a\nr,m9,v9,b\n",), r"a:3: query r must be unique, but is already at .*a:2"),
    (captions.read_1k_a, (f"{HEAD}r,m8,v8, \n",), r"a:2: sentence must be a non-empty string"),
    (captions.read_1k_a, (f"{HEAD}r,m8,v8\n",), r"a:2: must have 4 columns, got 3"),
    (captions.read_1k_a, (HEAD,), r"a: must contain at least one caption, got none"),
    (
        captions.read_listed,
        (SENTENCES, "video3\nvideo7\nvideo8\n"),
        r"b: must list videos with captions, none for video7, video8 \(2 in all\)",
    ),
    (
        captions.read_listed,
        ({"sentences": [{"video_id": "v", "caption": ""}]}, "v"),
        r"a\[sentences\]\[0\]: caption must be a non-empty string",
    ),
    (captions.read_first, (SENTENCES, "video7"), r"b: must list videos with captions, none for video7 \(1 in all\)"),
    (official_val, (SENTENCES, None), r"a: must contain videos of the split validate, got none"),
    (
        official_val,
        ({**SENTENCES, "videos": [{"video_id": "v", "split": "test"}] * 2}, None),
        r"a\[videos\]\[1\]: video v must be unique, but is already at .*\[videos\]\[0\]",
    ),
    (captions.read_msvd, ({"b_0": ["x"]}, "b_0\nd_1"), r"b: must list videos with captions, none for d_1 \(1 in all\)"),
    (captions.read_msvd, ({"b_0": ["a", ""]}, "b_0"), r"a: b_0\[1\] must be a non-empty string, got ''"),
    (captions.read_lsmdc, ("clip\t1\t2\t3\t4\n",), r"a:1: must have 6 columns, got 5"),
    (
        captions.read_didemo,
        ([DIDEMO, {**DIDEMO, "video": "a"}], "a"),
        r"a\[1\]: annotation_id 7 must be unique, but is already at .*\[0\]",
    ),
    (captions.read_didemo, ([DIDEMO], "a\nb.mov"), r"b: must list videos with captions, none for a "),
    (
        captions.read_activitynet,
        ({"v_a": {"sentences": []}},),
        r"a\[v_a\]: sentences must contain at least one string, got none",
    ),
    (captions.read_vatex, ([VATEX, VATEX],), r"a\[1\]: videoID a must be unique, but is already at .*\[0\]"),
    (captions.read_vatex, ([{"videoID": "a"}],), r"a\[0\]: enCap is missing"),
    (captions.read_vatex, ([VATEX, 5],), r"a\[1\]: must be a JSON object, got 5"),
    (captions.read_vatex, ({"a": ["one"]},), r"a: has the videos of all splits, so .* needs a list of its own"),
    (captions.read_vatex, ({"a": {"enCap": []}}, "a"), r"a\[a\]: enCap must contain at least one string, got none"),
    (captions.read_captions, ((LAKE, LAKE),), r"a:2: video trips/lake\.mp4 must be unique, but is already at .*:1"),
    (captions.read_captions, (({"video": "a", "caption": 3},),), r"a:1: caption must be a non-empty string, got 3"),
    (captions.read_captions, (({"video": "a.mp4"},),), r"a:1: captions is missing"),
    (
        captions.read_captions,
        (({"video": "a.mp4", "caption": "fog", "captions": ["rain"]},),),
        r"a:1: must have captions or caption, got both",
    ),
    (captions.read_captions, (({"video": "a.mp4", "captions": "fog"},),), r"a:1: captions must be a list, got 'fog'"),
    (captions.read_captions, (({"captions": ["fog"]},),), r"a:1: video is missing"),
    (captions.read_captions, ("\n",), r"a: must contain at least one caption, got none"),
]

QUERY: dict[str, Any] = {"qid": 4, "query": "a kettle boils", "vid": "a", "duration": 150}
LABELLED = {
    **QUERY,
    "relevant_windows": [[72, 76], [10, 12]],
    "relevant_clip_ids": [5, 36, 37],
    "saliency_scores": [[4, 3, 2], [0, 1, 1], [2, 2, 4]],
}
YOUTUBE = {
    **QUERY,
    "duration": 5.0,
    "domain": "dog",
    "label": [[0], [1]],
    "fps": 25.0,
    "clip": [[0.0, 100.0], [50.0, 150.0]],
}
ABSENT = {"query": "a purple cow", "kind": "absent", "file": None}
# A reader, a valid row, and changes of it that are refused; None leaves a value out.
ROWS: list[tuple[Callable[[str, Path], Split], dict[str, Any], list[tuple[dict[str, Any], str]]]] = [
    (
        moments.read_labelled,
        LABELLED,
        [
            ({"qid": []}, r"qid must be a non-empty string, got \[\]"),
            ({"query": " "}, "query must be a non-empty string, got ' '"),
            ({"vid": ""}, "vid must be a non-empty string"),
            ({"duration": "3"}, "duration must be a finite number, got '3'"),
            ({"duration": 0}, "duration must be positive, got 0"),
            ({"relevant_windows": [[0, 2], [8, 6]]}, r"relevant_windows\[1\] must satisfy 0 <= start < end"),
            ({"relevant_windows": 3}, "relevant_windows must be a list, got 3"),
            ({"relevant_clip_ids": [5, 36, 75]}, "relevant_clip_ids must index 2 s clips of 150 s, got 75"),
            ({"relevant_clip_ids": [5, 36, -1]}, "relevant_clip_ids must index 2 s clips of 150 s, got -1"),
            ({"relevant_clip_ids": [5, 36, 10**400]}, "relevant_clip_ids must index 2 s clips of 150 s, got 1000"),
            ({"relevant_clip_ids": [5, 36, 37.0]}, "relevant_clip_ids must index 2 s clips of 150 s, got 37.0"),
            ({"relevant_clip_ids": [5, 36, 36]}, "relevant_clip_ids must be unique, got"),
            ({"relevant_clip_ids": [5, 36]}, "saliency_scores must have one list for each of 2 clips, got 3"),
            ({"saliency_scores": [[1], [2, 2], [3]]}, r"saliency_scores\[1\] must have one number per annotator"),
            ({"saliency_scores": None}, "saliency_scores is missing"),
        ],
    ),
    (
        moments.read_tvsum,
        {**QUERY, "duration": 3, "label": [[1.0, 5.0], [2.0, 2.0], [3.0, 1.0]], "domain": "BK"},
        [
            ({"duration": 6}, "duration must be the number of clips in label, 3, got 6"),
            ({"label": [], "duration": 0}, "label must contain at least one clip, got none"),
            ({"label": [[1, 2], [3, 4], [5]]}, r"label\[2\] must have one number per annotator"),
        ],
    ),
    (
        moments.read_youtube,
        YOUTUBE,
        [
            ({"clip": [[0.0, 100.0]]}, "clip and label must have equal length, got 1 and 2"),
            ({"clip": [[0.0, 100.0], [50.0, 50.0]]}, r"clip\[1\] must satisfy 0 <= start < end"),
            ({"fps": 0}, "fps must be positive, got 0"),
            ({"label": [[0], [None]]}, r"label\[1\] must be a finite number, got None"),
            ({"domain": ""}, "domain must be a non-empty string"),
        ],
    ),
    (
        moments.read_queries,
        {"query": "the line is busy", "kind": "speech", "file": "a.mp4", "relevant_windows": [[1, 2.5]]},
        [
            ({"kind": 3}, "kind must be a non-empty string, got 3"),
            ({"file": ""}, "file must be a non-empty string, got ''"),
            ({"relevant_windows": []}, "relevant_windows must contain at least one window of the file, got none"),
            ({"relevant_windows": "1-2"}, "relevant_windows must be a list, got '1-2'"),
            ({"relevant_windows": [[1, 2], [3]]}, r"relevant_windows\[1\] must be \[start, end\], got \[3\]"),
            ({"relevant_windows": [[5, 2]]}, r"relevant_windows\[0\] must satisfy 0 <= start < end, got 5 to 2"),
            ({"qid": "1"}, "qid 1 must be unique, but is already at"),
        ],
    ),
]

TIMED = {"duration": 10, "timestamps": [[0, 1], [2, 3]], "sentences": ["One.", "Two."]}
TIMED_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"timestamps": [[0, 1]]}, "timestamps and sentences must have equal length, got 1 and 2"),
    ({"timestamps": [[0, 1], [2]]}, r"timestamps\[1\] must be \[start, end\], got \[2\]"),
    ({"timestamps": [[0, 1], [2, "x"]]}, r"timestamps\[1\] must be a finite number, got 'x'"),
    ({"sentences": ["One.", ""]}, r"sentences\[1\] must be a non-empty string"),
    ({"duration": -1}, "duration must be positive, got -1"),
    ({"duration": None}, "duration must be a finite number, got None"),
    ({"fps": 0, "num_frames": 10}, "fps must be positive, got 0"),
    ({"fps": 25}, "num_frames is missing"),
    ({"fps": 25, "num_frames": 0}, "num_frames must be positive, got 0"),
]


def ask(*times: float) -> dict[str, Any]:
    return {"query": "a?", **dict(zip(("clip_start_sec", "clip_end_sec"), times, strict=False))}


CLIP = make_clip("c1")
EGO4D: list[tuple[list[dict[str, Any]], str]] = [
    ([make_clip("c1", ask(9, 8))], r"\[language_queries\]\[0\]: window must satisfy 0 <= start <= end"),
    ([make_clip("c1", ask(1))], r"\[language_queries\]\[0\]: clip_end_sec is missing"),
    ([make_clip("c1", ask(-1, 8))], r"window must satisfy 0 <= start <= end"),
    ([CLIP, CLIP], r"a\[videos\]\[0\]\[clips\]\[1\]: clip_uid c1 must be unique, but is already at .*\[clips\]\[0\]"),
    ([{**CLIP, "video_end_sec": 100.0}], r"video_end_sec must be above video_start_sec, got a difference of 0 s"),
    ([{"clip_uid": "c1", "video_start_sec": 0, "video_end_sec": 5}], r"\[clips\]\[0\]: annotations is missing"),
    ([{**CLIP, "annotations": CLIP["annotations"] * 2}], r"annotation_uid c1_n1 must be unique, but is already at .*"),
    ([], r"a: must contain at least one query, got none"),
]
CHARADES = [
    ("AB1CD 4.0 9.5 a lamp", "must be `video start end##sentence`, got 'AB1CD 4.0 9.5 a lamp'"),
    ("AB1CD 4.0##a lamp", "must be `video start end##sentence`"),
    ("AB1CD nan 9.5##a lamp", "must be `video start end##sentence`"),
    ("AB1CD -1.0 9.5##a lamp", "must be `video start end##sentence`"),
    ("AB1CD 4.0 4.0##a lamp", "window must satisfy 0 <= start < end, got 4 to 4"),
    ("AB1CD 4.0 9.5##", "text must be a non-empty string, got ''"),
]
OTHERS: list[tuple[Callable[..., Split], tuple[object, ...], str]] = [
    *((moments.read_timed, ({"v": {**TIMED, **change}},), rf"a\[v\]: {rule}") for change, rule in TIMED_CHANGES),
    *((moments.read_ego4d, ({"videos": [{"clips": clips}]},), rule) for clips, rule in EGO4D),
    *((moments.read_charades, (f"XYZ00 0.0 3.0##b.\n{line}\n",), rf"a:2: {rule}") for line, rule in CHARADES),
    (moments.read_charades, ("V 1 2##b.\n", "id,length\nW,9\n"), r"a:1: V must be one of the videos in .*b"),
    (moments.read_charades, ("V 1 2##b.\n", "id,length\nV,long\n"), r"b:2: length must be a number, got long"),
    (moments.read_charades, ("V 1 2##b.\n", "id,length\nV,nan\n"), r"b:2: length must be a finite number"),
    (moments.read_labelled, ((QUERY, {**QUERY, "query": "x"}),), r"a:2: qid 4 must be unique, but is already at .*:1"),
    (moments.read_labelled, ("",), r"a: must contain at least one query, got none"),
    (moments.read_rated, ([],), r"a: must contain at least one relevant moment, got none"),
    (moments.read_queries, ("",), r"a: must contain at least one query, got none"),
    (moments.read_queries, ((["a list"],),), r"a:1: must be a JSON object, got \['a list'\]"),
    (
        moments.read_queries,
        (({**ABSENT, "relevant_windows": [[1, 2]]},),),
        "relevant_windows must be empty where file is null, got 1",
    ),
    (moments.read_queries, (({"query": "x", "kind": "y"},),), "a:1: file is missing"),
]


@pytest.mark.parametrize(("read", "contents", "message"), [*CAPTIONS, *OTHERS])
def test_invalid_files_are_refused(
    read: Callable[..., Split], contents: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    paths = [
        None if content is None else write(tmp_path / name, content)
        for name, content in zip("ab", contents, strict=False)
    ]
    with pytest.raises(VidretError, match=message):
        read("x", *paths)


@pytest.mark.parametrize(
    ("read", "row", "change", "message"),
    [(read, row, change, message) for read, row, changes in ROWS for change, message in changes],
)
def test_invalid_rows_are_refused_with_their_line(
    read: Callable[[str, Path], Split], row: dict[str, Any], change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    changed = {name: value for name, value in {**row, "qid": "x", **change}.items() if value is not None}
    first = {name: value for name, value in row.items() if name != "qid"} if read is moments.read_queries else row
    with pytest.raises(VidretError, match=f"a:2: {message}"):
        read("x", write(tmp_path / "a", (first, changed)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"b_0": Path()}), "raw-captions.pkl: cannot be read as a pickle: it needs pathlib"),
        (b"cos\nsystem\n(S'echo'\ntR.", "it needs os.system, and may hold plain values only"),
        (b"damaged", "raw-captions.pkl: cannot be read as a pickle"),
        (pickle.dumps(["x"]), "raw-captions.pkl: must hold a dict of texts by name, got list"),
        (pickle.dumps({"b_0": [["an", 3]]}), r"raw-captions.pkl: b_0\[0\] must be a non-empty string, got \['an', 3\]"),
    ],
)
def test_pickles_hold_plain_values_only(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(content)
    with pytest.raises(VidretError, match=message):
        captions.read_msvd("msvd", path, write(tmp_path / "l", "b_0\n"))
