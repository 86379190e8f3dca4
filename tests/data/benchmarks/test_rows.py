"""Values of a record: what is wrong is refused with the place, the rule and the value."""

import math

import pytest

from vidret.data.benchmarks.rows import AnnotationRow, annotation_row, annotation_rows, short_repr
from vidret.errors import VidretError


def row(**values: object) -> AnnotationRow:
    return AnnotationRow("a.jsonl:7", values)


def test_values_come_as_they_are_written() -> None:
    values = row(text=" two dogs ", name=" v1 ", qid=12, length=3, items=[1], texts=["a", "b "])
    assert (values.text("text"), values.name("name"), values.name("qid")) == (" two dogs ", "v1", "12")
    assert (values.number("length"), values.items("items"), values.texts("texts")) == (3.0, [1], ["a", "b "])


@pytest.mark.parametrize("value", ["", "  \n", None, 3, ["a"]])
def test_a_text_must_say_something(value: object) -> None:
    with pytest.raises(VidretError, match=r"^a\.jsonl:7: query must be a text that is not empty, got "):
        row(query=value).text("query")
    with pytest.raises(VidretError, match=r"texts\[1\] must be a text that is not empty"):
        row(texts=["good", value]).texts("texts")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "3", None, True, [3]])
def test_a_number_must_be_finite_and_a_number(value: object) -> None:
    with pytest.raises(VidretError, match=r"^a\.jsonl:7: duration must be a finite number, got "):
        row(duration=value).number("duration")


def test_what_is_missing_or_of_another_kind_is_refused() -> None:
    for ask in (row().text, row().number, row().items, row().name, row().texts):
        with pytest.raises(VidretError, match=r"^a\.jsonl:7: wanted is missing$"):
            ask("wanted")
    with pytest.raises(VidretError, match="name must be a text that is not empty, got True"):
        row(name=True).name("name")
    with pytest.raises(VidretError, match="list must be a list, got 'abc'"):
        row(list="abc").items("list")
    with pytest.raises(VidretError, match="texts must hold a text, got none"):
        row(texts=[]).texts("texts")
    with pytest.raises(VidretError, match=r"^b\.json\[2\]: must be an object with named values, got 5$"):
        annotation_row("b.json[2]", 5)
    with pytest.raises(VidretError, match=r"^b\[1\]: must be an object"):
        list(annotation_rows("b", [{}, []]))
    with pytest.raises(VidretError, match=r"^b\.json\[videos\]\[0\]: uid is missing$"):
        next(AnnotationRow("b.json", {"videos": [{}]}).rows("videos")).name("uid")


@pytest.mark.parametrize("window", [[3, 1], [2.0, 2.0], [-1, 4], [-3, -1]])
def test_a_window_must_end_after_it_starts_and_start_at_0_or_later(window: list[float]) -> None:
    with pytest.raises(VidretError, match="w must start at 0 or later and end after its start, got "):
        row().check_times("w", window)


@pytest.mark.parametrize("window", [[1], [1, 2, 3], "12", None, {"start": 1, "end": 2}])
def test_a_window_must_be_two_times(window: object) -> None:
    with pytest.raises(VidretError, match="w must be a start and an end, got "):
        row().check_times("w", window)


def test_windows_are_checked_number_by_number() -> None:
    assert row().check_times("w", [0, 2]) == (0.0, 2.0)
    assert row().check_times("w", [2, 2], may_be_empty=True) == (2.0, 2.0)
    with pytest.raises(VidretError, match="w must be a finite number, got nan"):
        row().check_times("w", [1.0, math.nan])
    with pytest.raises(VidretError, match="end after its start, got 3 to 2"):
        row().check_times("w", [3, 2], may_be_empty=True)


def test_marks_are_a_full_table_of_numbers() -> None:
    assert row().check_marks("m", [[1, 2], [3, 4.5]], 2) == ((1.0, 2.0), (3.0, 4.5))
    assert row().check_marks("m", [], 0) == ()
    wrong: list[tuple[object, str]] = [
        ([[1], [2]], "m must hold a list for each of 3 clips, got 2"),
        (None, "m must hold a list for each of 3 clips, got 0"),
        ([[1], [2, 3], [4]], r"m\[1\] must hold a number for each annotator, got \[2, 3\]"),
        ([[], [], []], r"m\[0\] must hold a number for each annotator, got \[\]"),
        ([[1], 2, [3]], r"m\[1\] must hold a number for each annotator, got 2"),
        ([[1, 1], [2, math.nan], [3, 3]], r"m\[1\] must be a finite number, got nan"),
        ([[1, 1], [2, 2], ["x", 3]], r"m\[2\] must be a finite number, got 'x'"),
        ([[math.inf, 1], [-math.inf, 2], [3, 3]], r"m\[0\] must be a finite number, got inf"),
        ([[True], [1], [1]], r"m\[0\] must be a finite number, got True"),
    ]
    for value, sentence in wrong:
        with pytest.raises(VidretError, match=f"^a.jsonl:7: {sentence}$"):
            row().check_marks("m", value, 3)


def test_a_name_is_refused_the_second_time_with_the_place_of_the_first() -> None:
    seen: dict[str, str] = {}
    assert AnnotationRow("a:1", {}).once("qid", "5", seen) == "5"
    with pytest.raises(VidretError, match=r"^a:9: qid 5 is at a:1 already$"):
        AnnotationRow("a:9", {}).once("qid", "5", seen)


def test_long_values_are_cut_in_sentences() -> None:
    assert short_repr("x" * 500) == "'" + "x" * 59 + "..."
    assert short_repr([1, 2]) == "[1, 2]"
