"""Annotation rows: invalid values are refused with location, rule and value."""

import math

import pytest

from vidret.data.benchmarks.files import AnnotationRow, annotation_row, annotation_rows, short_repr
from vidret.errors import VidretError


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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "3", None, True, [3]])
def test_non_finite_or_non_numeric_number_is_refused(value: object) -> None:
    with pytest.raises(VidretError, match=r"^a\.jsonl:7: duration must be a finite number, got "):
        row(duration=value).number("duration")


def test_missing_values_and_wrong_types_are_refused() -> None:
    for access in (row().text, row().number, row().items, row().name, row().texts):
        with pytest.raises(VidretError, match=r"^a\.jsonl:7: wanted is missing$"):
            access("wanted")
    with pytest.raises(VidretError, match="name must be a non-empty string, got True"):
        row(name=True).name("name")
    with pytest.raises(VidretError, match="list must be a list, got 'abc'"):
        row(list="abc").items("list")
    with pytest.raises(VidretError, match="texts must contain at least one string, got none"):
        row(texts=[]).texts("texts")
    with pytest.raises(VidretError, match=r"^b\.json\[2\]: must be a JSON object, got 5$"):
        annotation_row("b.json[2]", 5)
    with pytest.raises(VidretError, match=r"^b\[1\]: must be a JSON object"):
        list(annotation_rows("b", [{}, []]))
    with pytest.raises(VidretError, match=r"^b\.json\[videos\]\[0\]: uid is missing$"):
        next(AnnotationRow("b.json", {"videos": [{}]}).rows("videos")).name("uid")


@pytest.mark.parametrize("window", [[3, 1], [2.0, 2.0], [-1, 4], [-3, -1]])
def test_reversed_empty_or_negative_span_is_refused(window: list[float]) -> None:
    with pytest.raises(VidretError, match="w must satisfy 0 <= start < end, got "):
        row().check_span("w", window)


@pytest.mark.parametrize("window", [[1], [1, 2, 3], "12", None, {"start": 1, "end": 2}])
def test_span_that_is_not_two_numbers_is_refused(window: object) -> None:
    with pytest.raises(VidretError, match=r"w must be \[start, end\], got "):
        row().check_span("w", window)


def test_span_may_be_empty_only_if_allowed() -> None:
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
        ([[1, 1], [2, 2], ["x", 3]], r"m\[2\] must be a finite number, got 'x'"),
        ([[math.inf, 1], [-math.inf, 2], [3, 3]], r"m\[0\] must be a finite number, got inf"),
        ([[True], [1], [1]], r"m\[0\] must be a finite number, got True"),
    ]
    for value, message in invalid:
        with pytest.raises(VidretError, match=f"^a.jsonl:7: {message}$"):
            row().check_saliency("m", value, 3)


def test_duplicate_name_is_refused_with_location_of_first() -> None:
    locations: dict[str, str] = {}
    assert AnnotationRow("a:1", {}).check_unique("qid", "5", locations) == "5"
    with pytest.raises(VidretError, match=r"^a:9: qid 5 must be unique, but is already at a:1$"):
        AnnotationRow("a:9", {}).check_unique("qid", "5", locations)


def test_short_repr_truncates_long_values() -> None:
    assert short_repr("x" * 500) == "'" + "x" * 59 + "..."
    assert short_repr([1, 2]) == "[1, 2]"
