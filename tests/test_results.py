"""The results: what JSON, CSV, the HTTP API, its client and the MCP server make of one is made of its dataclass.

The tests take every result and every field that there is, so that a field that is added to one is followed everywhere.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import vidret.serve.app  # noqa: F401  whose routes register the rows of their results
from vidret import Segment, to_dicts, to_pandas
from vidret.language.retrieval import ContextMoment
from vidret.present.export import to_csv
from vidret.present.show import result_to_dict, show_grouped_moments, show_hits, show_moments
from vidret.serve.fields import ROW_MODELS, with_rows_of
from vidret.serve.mcp.tools import result_to_tool
from vidret.serve.rows import LinkedRow, write_row
from vidret.text import show_path
from vidret.types import (
    CopiedFile,
    Curve,
    Evidence,
    Hit,
    Moment,
    NearCopy,
    SharedFootage,
    Shot,
    TimedText,
    from_row,
    list_row_fields,
    to_row,
)
from vidret.types.rows import Shown, read_attributes, split_hint

RESULTS = list(ROW_MODELS)  # of all routes
EXTRA: dict[Any, dict[str, Any]] = {  # what rows have besides
    Hit: {"duration": 90.0},
    ContextMoment: {"duration": 90.0},
    Curve: {"weak": False, "moments": []},
}
TOLD = (Hit, Moment, Evidence, Shot, TimedText)


def make_value(kind: Any, number: int) -> Any:
    """Return a value of a type that differs from those of other numbers, and from any default."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    kind = next(member for member in members if member is not NoneType)
    if dataclasses.is_dataclass(kind):
        return make_result(kind)
    if hasattr(kind, "dtypes"):
        return np.array([number, number + 0.5])
    inner = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(make_value(inner_kind, number) for inner_kind in inner if inner_kind is not Ellipsis)
    if get_origin(kind) is Literal:
        return inner[-1]
    if get_origin(kind) in (Mapping, dict):
        return {"frames": make_value(inner[1], number)}
    return {
        str: f"/{number}",
        int: number,
        float: number + 0.125,
        bool: bool(number % 2),
        bytes: b"jpeg",
        Any: float(number),
    }[kind]


def make_result(result_type: Any) -> Any:
    """Return a result of which each field that is shown has a value of its own."""
    hints, values = get_type_hints(result_type, include_extras=True), {}
    for field_index, field in enumerate(dataclasses.fields(result_type), start=1):
        kind, shown = split_hint(hints[field.name])
        if shown.everywhere:
            values[field.name] = make_value(kind, field_index)
    if "segment" in values:  # of the same video
        values["segment"] = dataclasses.replace(values["segment"], video=values["video"])
    return result_type(**values)


@pytest.mark.parametrize("result_type", RESULTS)
def test_every_field_of_a_result_is_a_described_field_over_http(result_type: Any) -> None:
    model = ROW_MODELS[result_type]
    link_fields = LinkedRow.model_fields if issubclass(model, LinkedRow) else {}
    fields = {row_field.name: row_field for row_field in list_row_fields(result_type, "http")}
    assert model.model_fields.keys() - link_fields - EXTRA.get(result_type, {}).keys() == fields.keys()
    properties = model.model_json_schema()["properties"]
    assert {name: properties[name]["description"] for name in fields} == {n: field.help for n, field in fields.items()}
    assert [name for name, field in fields.items() if not field.help] == []


@pytest.mark.parametrize("result_type", RESULTS)
def test_the_client_reads_what_the_server_writes(result_type: Any) -> None:
    result = make_result(result_type)
    row = write_row(ROW_MODELS[result_type], result, **EXTRA.get(result_type, {}))
    again = from_row(result_type, json.loads(row.model_dump_json()))
    for field in dataclasses.fields(result_type):
        np.testing.assert_equal(getattr(again, field.name), getattr(result, field.name))


@pytest.mark.parametrize("result_type", RESULTS)
def test_every_field_is_shown_everywhere_unless_it_says_otherwise(result_type: Any) -> None:
    hints = get_type_hints(result_type, include_extras=True)
    shown = {name for name, hint in hints.items() if split_hint(hint)[1].everywhere}
    row = to_row(make_result(result_type), "json", show_path)
    assert shown <= row.keys()
    assert json.loads(json.dumps(row)) == row
    assert hints.keys() - shown <= {"image", "frames"}  # pixels


@pytest.mark.parametrize("result_type", TOLD)
def test_language_models_are_told_of_the_fields_that_say_so(result_type: Any) -> None:
    told = result_to_tool(make_result(result_type))
    assert told.keys() - {"title"} == {row_field.name for row_field in list_row_fields(result_type, "mcp")}
    assert len(told) > 1


def test_the_columns_of_csv_are_those_of_the_moment() -> None:
    header, line, _end = to_csv([make_result(Moment)], query="dog").split("\r\n")
    columns = [row_field.name for row_field in list_row_fields(Moment, "csv")]
    assert header.split(",") == ["rank", "query", *columns]
    assert len(line.split(",")) == len(columns) + 2


@dataclasses.dataclass(frozen=True, slots=True)
class Rated(Hit):
    """A hit with one more field.

    Attributes:
        stars: How people rate it.
    """

    stars: Annotated[int, Shown(mcp=True, column=9)] = 0


def test_a_field_that_is_added_to_a_result_is_followed_everywhere() -> None:
    rated = Rated(**{field.name: getattr(make_result(Hit), field.name) for field in dataclasses.fields(Hit)}, stars=4)
    assert result_to_dict(rated)["stars"] == 4
    assert result_to_tool(rated)["stars"] == 4
    assert list_row_fields(Rated, "csv")[-1].name == "stars"

    @with_rows_of(Rated)
    class RatedRow(LinkedRow):
        """A row."""

    try:
        assert from_row(Rated, json.loads(write_row(RatedRow, rated).model_dump_json())) == rated
        assert RatedRow.model_json_schema()["properties"]["stars"]["description"] == "How people rate it."
    finally:
        del ROW_MODELS[Rated]


def test_the_attributes_of_a_docstring_are_read() -> None:
    assert read_attributes(Hit.__doc__ or "").keys() == {field.name for field in dataclasses.fields(Hit)}
    assert read_attributes(SharedFootage.__doc__ or "")["clip_end"] == "End of the footage in the clip, in seconds."
    indented = "A row.\n\n    Attributes:\n        path: Where it\n            lies.\n"
    for docstring in (indented, inspect.cleandoc(indented)):  # before Python 3.13, and as it leaves them
        assert read_attributes(docstring) == {"path": "Where it lies."}
    assert read_attributes("Nothing.") == {}
    assert "``cropped``, ``bars``" in read_attributes(CopiedFile.__doc__ or "")["differs"]


HIT = Hit(video=1, path="/a.mp4", segment=Segment(1, 0, 0.0, 3.0), time=1.5, score=0.5)
MOMENT = Moment(video=1, path="/a.mp4", start=1.0, end=2.0, score=0.5)


def test_dicts_are_those_of_the_command() -> None:
    hit, moment = json.loads(json.dumps(to_dicts([HIT, MOMENT])))
    assert (hit["path"], hit["segment"]["end"], hit["copies"]) == ("/a.mp4", 3.0, [])
    assert (moment["start"], moment["end"], moment["by"]) == (1.0, 2.0, "curve")
    assert to_dicts([]) == []


def test_a_table_has_a_row_for_each_result() -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    table = to_pandas([MOMENT, MOMENT])
    assert table["start"].tolist() == [1.0, 1.0]
    assert table.shape[0] == 2


def test_copies_are_below_their_result(capsys: pytest.CaptureFixture[str]) -> None:
    near_copies = (NearCopy(video=2, path="/small/a.mp4", time=65.0),)
    show_hits([replace(HIT, copies=("/twin/a.mp4",), near_copies=near_copies)])
    show_moments([replace(MOMENT, near_copies=near_copies)])
    show_grouped_moments([replace(MOMENT, near_copies=near_copies)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines if "small" in line] == 3 * [["~", "/small/a.mp4"]]
    assert [line.split()[0] for line in lines if "small" in line] == 3 * ["1:05.0"]
    assert lines[2].endswith("= /twin/a.mp4")
    (row,) = to_dicts([replace(HIT, near_copies=near_copies)])
    assert row["near_copies"] == [{"video": 2, "path": "/small/a.mp4", "time": 65.0}]
