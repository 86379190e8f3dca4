"""Annotation files are read with locations, and invalid files and values are refused."""

import gzip
import math
from pathlib import Path

import pytest

from vidret.data.benchmarks import files
from vidret.data.benchmarks.files import AnnotationRow, annotation_row, annotation_rows
from vidret.errors import VidretError


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_byte_order_mark_windows_line_endings_and_blank_lines_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfone\r\n\r\ntwo\n   \n\tthree")
    assert list(files.read_lines(path)) == [(f"{path}:1", "one"), (f"{path}:3", "two"), (f"{path}:5", "\tthree")]
    assert files.read_names(path) == ("one", "two", "three")


def test_other_encodings_and_unreadable_files_are_refused_with_line_or_reason(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"a\.txt:3: must be UTF-8, got byte 0xe9$"):
        files.read_text(write(tmp_path, "un\ndeux\ncafé".encode("latin-1")))
    with pytest.raises(VidretError, match=r"a\.txt:1: must be UTF-8, got byte 0xff$"):
        files.read_text(write(tmp_path, "un".encode("utf-16")))
    with pytest.raises(VidretError, match=r"gone\.txt: cannot be read: No such file"):
        files.read_text(tmp_path / "gone.txt")
    with pytest.raises(VidretError, match=r"must be text, got a file that gzip compressed$"):
        files.read_text(write(tmp_path, gzip.compress(b"un")))
    with pytest.raises(VidretError, match="cannot be read: Is a directory"):
        files.read_text(tmp_path)


def test_names_are_unique_and_header_is_skipped(tmp_path: Path) -> None:
    assert files.read_names(write(tmp_path, "video_id\nv2\nv1\n")) == ("v2", "v1")
    with pytest.raises(VidretError, match=r"a\.txt:4: name v1 must be unique, but is already at .*a\.txt:1"):
        files.read_names(write(tmp_path, "v1\nv2\n\nv1\n"))
    for empty in ("", "\n\n", "video_id\n"):
        with pytest.raises(VidretError, match="must list at least one video, got none"):
            files.read_names(write(tmp_path, empty))


def test_csv_supports_quotes_extra_columns_and_multiline_cells(tmp_path: Path) -> None:
    path = write(tmp_path, 'more,name,text\r\n1,v1,"a, b"\r\n2,v2,"two\nlines, ""said"""\r\n3,v3,c')
    rows = list(files.read_csv(path, ("name", "text")))
    assert [row.values["text"] for row in rows] == ["a, b", 'two\nlines, "said"', "c"]
    assert [row.location for row in rows] == [f"{path}:2", f"{path}:4", f"{path}:5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,words\nv1,a\n", ":1: header must have the columns name, text, but lacks text, got 'name,words'"),
        ("", ":1: header must have the columns name, text, but lacks name, text, got ''"),
        ("name,text\nv1,a\nv2\n", ":3: must have 2 columns, got 1"),
        ("name,text\nv1,a,b\n", ":2: must have 2 columns, got 3"),
        ('name,text\nv1,"a" b\n', ":2: cannot be read as CSV: "),
        ('name,text\nv1,"a\n', ":2: cannot be read as CSV: unexpected end of data"),
    ],
)
def test_invalid_csv_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(VidretError) as caught:
        list(files.read_csv(path, ("name", "text")))
    assert f"{path}{message}" in str(caught.value)


def test_json_records_have_locations_and_invalid_json_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{"v1": {"a": 1}, "v2": {"a": 2}}')
    named = [(name, row.location) for name, row in files.read_named_objects(path)]
    assert named == [("v1", f"{path}[v1]"), ("v2", f"{path}[v2]")]
    path = write(tmp_path, '[{"a": 1}, {"a": 2}]')
    assert [row.location for row in files.read_objects(path)] == [f"{path}[0]", f"{path}[1]"]
    with pytest.raises(VidretError, match=r"a\.txt:3: must be valid JSON: .* \(column 1\)$"):
        files.read_object(write(tmp_path, '{"a": 1,\n"b": 2\n"c": 3}'))
    with pytest.raises(VidretError, match="must be a list of objects, got dict"):
        list(files.read_objects(write(tmp_path, "{}")))


def test_jsonl_lines_are_numbered_and_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": "one\u2028still one"}\n\n{"a": 2}\n')
    assert [(row.location, row.values["a"]) for row in files.read_jsonl(path)] == [
        (f"{path}:1", "one\u2028still one"),
        (f"{path}:3", 2),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "must be valid JSON: "),
        ('{"a": 1} {"a": 2}', "must be valid JSON: Extra data (column 10)"),
        ("[1, 2]", "must be a JSON object, got [1, 2]"),
        ('{"a": 1, "b": 2, "a": 3}', "duplicate key a in an object"),
        ('{"b": {"a": 1, "a": 1}}', "duplicate key a in an object"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_invalid_jsonl_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, f'{{"a": 0}}\n{line}\n')
    with pytest.raises(VidretError) as caught:
        list(files.read_jsonl(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def row(**values: object) -> AnnotationRow:
    return AnnotationRow("a.jsonl:7", values)


def test_valid_values_are_returned_unchanged() -> None:
    values = row(text=" two dogs ", name=" v1 ", qid=12, length=3, items=[1], texts=["a", "b "])
    assert (values.text("text"), values.name("name"), values.name("qid")) == (" two dogs ", "v1", "12")
    assert (values.number("length"), values.items("items"), values.texts("texts")) == (3.0, [1], ["a", "b "])


@pytest.mark.parametrize("value", ["", "  \n", None, 3, ["a"]])
def test_blank_or_non_string_text_is_refused(value: object) -> None:
    with pytest.raises(VidretError, match=r"^a\.jsonl:7: query must be a non-empty string, got "):
        row(query=value).text("query")
    with pytest.raises(VidretError, match=r"texts\[1\] must be a non-empty string"):
        row(texts=["good", value]).texts("texts")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "3", None, True, [3]])
def test_non_finite_or_non_numeric_number_is_refused(value: object) -> None:
    with pytest.raises(VidretError, match=r"^a\.jsonl:7: duration must be a finite number, got "):
        row(duration=value).number("duration")


def test_missing_values_and_wrong_types_are_refused() -> None:
    for access in (row().text, row().number, row().items, row().name, row().texts):
        with pytest.raises(VidretError, match=r"^a\.jsonl:7: wanted is missing$"):
            access("wanted")
    with pytest.raises(VidretError, match="name must be a non-empty string, got True"):
        row(name=True).name("name")
    with pytest.raises(VidretError, match=r"list must be a list, got 'a{59}\.\.\.$"):
        row(list="a" * 500).items("list")
    with pytest.raises(VidretError, match="texts must contain at least one string, got none"):
        row(texts=[]).texts("texts")
    with pytest.raises(VidretError, match=r"^b\.json\[2\]: must be a JSON object, got 5$"):
        annotation_row("b.json[2]", 5)
    with pytest.raises(VidretError, match=r"^b\[1\]: must be a JSON object"):
        list(annotation_rows("b", [{}, []]))
    with pytest.raises(VidretError, match=r"^b\.json\[videos\]\[0\]: uid is missing$"):
        next(AnnotationRow("b.json", {"videos": [{}]}).rows("videos")).name("uid")


def test_span_is_two_times_and_may_be_empty_only_if_allowed() -> None:
    for window in ([3, 1], [2.0, 2.0], [-1, 4], [-3, -1]):
        with pytest.raises(VidretError, match="w must satisfy 0 <= start < end, got "):
            row().check_span("w", window)
    for value in ([1], [1, 2, 3], "12", None, {"start": 1, "end": 2}):
        with pytest.raises(VidretError, match=r"w must be \[start, end\], got "):
            row().check_span("w", value)
    assert row().check_span("w", [0, 2]) == (0.0, 2.0)
    assert row().check_span("w", [2, 2], may_be_empty=True) == (2.0, 2.0)
    with pytest.raises(VidretError, match="w must be a finite number, got nan"):
        row().check_span("w", [1.0, math.nan])
    with pytest.raises(VidretError, match="0 <= start <= end, got 3 to 2"):
        row().check_span("w", [3, 2], may_be_empty=True)


def test_saliency_is_a_full_table_of_finite_numbers() -> None:
    assert row().check_saliency("m", [[1, 2], [3, 4.5]], 2) == ((1.0, 2.0), (3.0, 4.5))
    assert row().check_saliency("m", [], 0) == ()
    invalid: list[tuple[object, str]] = [
        ([[1], [2]], "m must have one list for each of 3 clips, got 2"),
        (None, "m must have one list for each of 3 clips, got 0"),
        ([[1], [2, 3], [4]], r"m\[1\] must have one number per annotator, got \[2, 3\]"),
        ([[], [], []], r"m\[0\] must have one number per annotator, got \[\]"),
        ([[1], 2, [3]], r"m\[1\] must have one number per annotator, got 2"),
        ([[1, 1], [2, math.nan], [3, 3]], r"m\[1\] must be a finite number, got nan"),
        ([[1, 1], [2, 10**400], [3, -(10**400)]], r"m\[1\] must be a finite number, got 10{59}\.\.\."),
        ([[1, 1], [2, 2], ["x", 3]], r"m\[2\] must be a finite number, got 'x'"),
        ([[math.inf, 1], [-math.inf, 2], [3, 3]], r"m\[0\] must be a finite number, got inf"),
        ([[True], [1], [1]], r"m\[0\] must be a finite number, got True"),
    ]
    for value, message in invalid:
        with pytest.raises(VidretError, match=f"^a.jsonl:7: {message}$"):
            row().check_saliency("m", value, 3)
