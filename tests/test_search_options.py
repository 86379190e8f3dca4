"""The options of searches: each is a keyword in Python, an option of the command, a field over HTTP and of its client.

All are made from ``SearchOptions`` and ``LocateOptions``, so the tests give every option another value than its default
and follow it through, whatever options there are.
"""

import inspect
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from tests.cli.runner import Runner, load_commands
from vidret.client.messages import encode_options
from vidret.errors import OptionError
from vidret.serve.fields import collect_options
from vidret.serve.routes.search import LocateRequest, SearchRequest
from vidret.serve.routes.videos import VideosRequest
from vidret.types import (
    Filters,
    Hit,
    LocateOptions,
    Moment,
    NamedOption,
    Option,
    Query,
    Searchable,
    SearchOptions,
    VideoName,
    build_options,
    check_options,
    flatten_options,
    list_options,
)

Options = SearchOptions | LocateOptions
BOTH = (SearchOptions, LocateOptions)
REQUESTS: dict[Any, type[BaseModel]] = {
    SearchOptions: SearchRequest,
    LocateOptions: LocateRequest,
    Filters: VideosRequest,
}
DATE = datetime(2026, 1, 31, 18, 30)  # local time
COMMANDS = {SearchOptions: "search", LocateOptions: "locate"}


class Recorder(Searchable):
    """Finds nothing, and keeps the options of the last search."""

    def __init__(self) -> None:
        self.options: Options | None = None

    def search_with(self, query: Query, options: SearchOptions) -> list[Hit]:
        self.options = options
        return []

    def locate_with(self, query: Query, options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        self.options = options
        return []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


def other_value(named: NamedOption) -> Any:
    """Return a valid value of an option that is not its default."""
    if named.option.holds is not None:
        values = {"date": DATE.timestamp(), "folder": str(Path(__file__).parent), "times": ((7, 1.5), (9, 90.0))}
        return values[named.option.holds]
    if named.option.choices:
        return named.option.choices[-1]
    if named.type is bool:
        return not named.default
    if named.type in (int, float):
        return named.type((named.default or 0) + 1)
    return "other" if named.type is str else get_args(get_args(named.type)[0])[:2]


def other_options(options_type: Any) -> Any:
    """Return options of which none has its default."""
    return build_options(options_type, {option.name: other_value(option) for option in list_options(options_type)})


@pytest.mark.parametrize("options_type", [*BOTH, Filters])
def test_options_are_flattened_and_built_again(options_type: Any) -> None:
    options = other_options(options_type)
    values = flatten_options(options)
    assert list(values) == [option.name for option in list_options(options_type)]
    assert all(values[option.name] != option.default for option in list_options(options_type))
    assert build_options(options_type, values) == options
    assert build_options(options_type, {}) == options_type()


@pytest.mark.parametrize("options_type", BOTH)
def test_every_option_is_a_documented_keyword_in_python(options_type: Any) -> None:
    method = getattr(Searchable, COMMANDS[options_type])
    _self, _query, *parameters = inspect.signature(method).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name != "video"}
    assert defaults == {option.name: option.default for option in fields(options_type)}
    assert [name for name in defaults if f"    {name}: " not in method.__doc__] == []
    options, recorder = other_options(options_type), Recorder()
    getattr(recorder, COMMANDS[options_type])("dog", **{name: getattr(options, name) for name in defaults})
    assert recorder.options == options


@pytest.mark.parametrize("options_type", [*BOTH, Filters])
def test_every_option_is_sent_and_read_by_the_server(options_type: Any) -> None:
    options, request = other_options(options_type), REQUESTS[options_type]
    query: dict[str, Any] = {} if options_type is Filters else {"query": "dog"}
    body = json.loads(json.dumps(encode_options(options)))
    assert list(body) == [option.name for option in list_options(options_type)]
    assert collect_options(request(**query, **body), options_type) == options
    assert collect_options(request(**query), options_type) == options_type()


@pytest.mark.parametrize("options_type", BOTH)
def test_every_option_is_a_described_field_over_http(options_type: Any) -> None:
    schema = REQUESTS[options_type].model_json_schema()
    for option in list_options(options_type):
        field = schema["properties"][option.name]
        assert field["description"] == (option.option.http_help or option.option.help)
        assert json.dumps(field["default"]) == json.dumps(option.default)
        limits = json.dumps([option.option.minimum, option.option.maximum])
        found = {**field, **next(iter(field.get("anyOf", [])), {})}
        assert json.dumps([found.get("minimum"), found.get("maximum")]).replace(".0", "") == limits


def test_none_is_written_where_it_is_not_the_default() -> None:
    assert encode_options(SearchOptions(rerank=None))["rerank"] == "none"
    written = {option.name for option in list_options(SearchOptions) if option.default not in (None, ())}
    assert encode_options(SearchOptions()).keys() == written
    assert encode_options(SearchOptions(seen=()))["seen"] == ()
    assert encode_options(Filters()) == {}


@pytest.mark.parametrize("options_type", BOTH)
def test_every_option_is_one_of_the_command(options_type: Any, run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, name = Recorder(), COMMANDS[options_type]
    open_nothing: Callable[..., Recorder] = lambda *_arguments, **_options: recorder  # noqa: E731
    monkeypatch.setattr(f"vidret.cli.commands.{name}.open_engine_or_client", open_nothing)
    params = {parameter.name: parameter for parameter in load_commands()[name].params}
    arguments, options = [name, "dog"], other_options(options_type)
    for option in list_options(options_type):
        if option.option.panel is None:  # for Python and HTTP alone
            assert option.name in ("candidates", "seen")
            options = replace(options, **{option.name: option.default})
            continue
        param, value = params[option.name], other_value(option)
        assert (param.help, param.rich_help_panel) == (option.option.help, option.option.panel)
        if option.option.holds == "times":
            for video, seconds in value:
                arguments += [param.opts[0], f"{video}@{seconds:g}"]
            continue
        arguments.append(param.opts[0])
        if option.option.holds == "date":
            arguments.append(DATE.isoformat())
        elif isinstance(value, tuple):
            arguments.append(",".join(value))
        elif isinstance(value, bool) and option.option.metavar is not None:
            arguments.append("on" if value else "off")
        elif value is not True:
            arguments.append(str(value))
    assert run(*arguments)[0] == 0
    assert recorder.options == options
    assert run(name, "dog")[0] == 0
    assert recorder.options == options_type()


def test_a_switch_is_on_or_off(run: Runner) -> None:
    code, out, err = run("locate", "dog", "--snap", "maybe")
    assert (code, out) == (2, "")
    assert "must be one of on, off, got maybe" in err


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"k": "5"}, "k must be an integer, got '5'"),
        ({"k": 2.5}, "k must be an integer, got 2.5"),
        ({"k": None}, "k must be an integer, got None"),
        ({"k": True}, "k must be an integer, got True"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 2**70}, "k must be between 1 and 1000000000, got 1180591620717411303424"),
        ({"offset": 10**10}, "offset must be between 0 and 1000000000, got 10000000000"),
        ({"at_least": "x"}, "at_least must be a number, got 'x'"),
        ({"at_least": 1.5}, "at_least must be between 0 and 1, got 1.5"),
        ({"sources": "picture"}, "sources must be a list, got 'picture'"),
        ({"sources": ()}, "sources must have at least 1 item, got []"),
        ({"copies": None}, "copies must be a text, got None"),
        ({"copies": "keep"}, "copies must be fold or show, got keep"),
        ({"filters": None}, "filters must be Filters, got None"),
        ({"filters": Filters(folder=Path("a"))}, "folder must be a text, got "),  # type: ignore[arg-type]
        ({"filters": Filters(max_seconds=math.inf)}, "max_seconds must be between 0 and 1000000000, got inf"),
        ({"filters": Filters(min_fps=math.nan)}, "min_fps must be between 0 and 1000000, got nan"),
        ({"filters": Filters(min_seconds=-1.0)}, "min_seconds must be between 0 and 1000000000, got -1.0"),
        ({"filters": Filters(min_height=-1)}, "min_height must be at least 0, got -1"),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_refused_here_as_by_a_client(values: Any, rule: str) -> None:
    for options_type in BOTH:
        for check in (partial(check_options, error=OptionError), encode_options):
            with pytest.raises(OptionError, match=f"^{re.escape(rule)}"):
                check(options_type(**values))


def test_feedback_is_in_pairs_and_numbers_may_be_those_of_numpy() -> None:
    for wrong in ("ab", ["ab"], [(1, 2.0, 3)], [(1, "0:03")], 5):
        with pytest.raises(OptionError, match="like must be pairs of a video and a time in seconds"):
            check_options(SearchOptions(like=wrong), OptionError)  # type: ignore[arg-type]
    check_options(SearchOptions(k=np.int64(3), at_least=np.float32(0.5)), OptionError)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="after must be seconds since 1970 in the years 1 to 9999, got 1e"):
        encode_options(Filters(after=1e300))


def test_a_field_without_a_description_is_refused() -> None:
    @dataclass(frozen=True)
    class Undescribed:
        k: Annotated[int, Option(help="Number.", panel="Output")] = 1
        depth: int = 2

    with pytest.raises(TypeError, match=r"^Undescribed\.depth must be annotated with an Option, got <class 'int'>$"):
        list_options(Undescribed)
