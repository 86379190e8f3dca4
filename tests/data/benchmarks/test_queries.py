"""Custom queries by kind: what a row may hold, and how invalid rows are refused."""

import json
from pathlib import Path

import pytest

from vidret.data.benchmarks.moments import read_queries
from vidret.data.records import CorpusQuery
from vidret.errors import VidretError

ROW = {"query": "the line is busy", "kind": "speech", "file": "a.mp4", "relevant_windows": [[1, 2.5], [4, 5]]}
ABSENT = {"query": "a purple cow", "kind": "absent", "file": None}


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "queries.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def test_queries_have_a_video_with_windows_or_none(tmp_path: Path) -> None:
    rows: tuple[object, ...] = (
        ROW,
        ABSENT,
        {**ABSENT, "qid": "x", "relevant_windows": []},
        {**ROW, "qid": 7, "about": "ignored"},
    )
    path = write_lines(tmp_path, *rows)
    split = read_queries("queries", path)
    spans = ((1.0, 2.5), (4.0, 5.0))
    assert split.corpus_queries == (
        CorpusQuery("1", "a.mp4", "the line is busy", "speech", spans),
        CorpusQuery("2", None, "a purple cow", "absent"),
        CorpusQuery("x", None, "a purple cow", "absent"),
        CorpusQuery("7", "a.mp4", "the line is busy", "speech", spans),
    )
    assert (split.name, split.files, split.videos) == ("queries", (str(path),), ("a.mp4",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "query": " "}, "query must be a non-empty string, got ' '"),
        ({**ROW, "kind": 3}, "kind must be a non-empty string, got 3"),
        ({name: value for name, value in ROW.items() if name != "kind"}, "kind is missing"),
        ({name: value for name, value in ROW.items() if name != "file"}, "file is missing"),
        ({**ROW, "file": ""}, "file must be a non-empty string, got ''"),
        ({**ROW, "relevant_windows": []}, "relevant_windows must contain at least one window of the file, got none"),
        ({**ROW, "relevant_windows": None}, "relevant_windows must contain at least one window of the file, got none"),
        ({**ROW, "relevant_windows": "1-2"}, "relevant_windows must be a list, got '1-2'"),
        ({**ROW, "relevant_windows": [[1, 2], [3]]}, "relevant_windows[1] must be [start, end], got [3]"),
        ({**ROW, "relevant_windows": [[5, 2]]}, "relevant_windows[0] must satisfy 0 <= start < end, got 5 to 2"),
        ({**ABSENT, "relevant_windows": [[1, 2]]}, "relevant_windows must be empty where file is null, got 1"),
        ({**ROW, "qid": "1"}, "qid 1 must be unique, but is already at"),
        (["a list"], "must be a JSON object, got ['a list']"),
        ('{"query": ', "must be valid JSON"),
    ],
)
def test_invalid_rows_are_named_with_their_line(tmp_path: Path, row: object, reason: str) -> None:
    path = write_lines(tmp_path, ROW, row)
    with pytest.raises(VidretError) as refused:
        read_queries("queries", path)
    assert str(refused.value).startswith(f"{path}:2: {reason}")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"queries\.jsonl: must contain at least one query, got none"):
        read_queries("queries", write_lines(tmp_path, ""))
