"""Options of ``vidret search`` and ``vidret locate``: the fields of their dataclasses, and the footage of a clip."""

import inspect
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from vidret.cli.options import (
    OUTPUT,
    SCOPE,
    Expansion,
    expand_fields,
    make_parameter,
    name_index,
    option,
    option_field,
    with_fields,
)
from vidret.cli.values import CLOCK, parse_clock, parse_names
from vidret.present.contents import show_footage
from vidret.present.show import print_result
from vidret.present.terminal import print_message
from vidret.text import absolute_path, file_name, is_url
from vidret.types import (
    LocateOptions,
    NamedOption,
    SavedCollection,
    SearchOptions,
    TimePoint,
    VideoLibrary,
    build_options,
    list_options,
)

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.types import CopyGroup, Hit, Moment, SharedFootage

SWITCH = {True: "on", False: "off"}


def expand_options(kind: Any, defaults: Mapping[str, Any]) -> Expansion:
    """Return the fields of ``SearchOptions`` or ``LocateOptions`` as parameters of a command; see ``with_fields``."""
    if not issubclass(kind, SearchOptions | LocateOptions):
        return expand_fields(kind, defaults)
    listed = [choice for choice in list_options(kind) if choice.option.panel is not None]

    def build(given: dict[str, Any]) -> Any:
        values = {choice.name: parse_option(choice, given[choice.name]) for choice in listed}
        if given.get("server") is None:
            check_folders(listed, values)
        return build_options(kind, values)

    return [describe_parameter(choice) for choice in listed], build


with_search_fields = with_fields(expand=expand_options)


def describe_parameter(named: NamedOption) -> inspect.Parameter:
    """Return an option as a parameter of a command; lists of names and on/off switches are texts."""
    is_text = get_origin(named.type) is tuple or is_switch(named)
    is_list = named.option.holds == "times"
    hint: Any = datetime if named.option.holds == "date" else str if is_text else named.type
    hint = list[str] if is_list else hint
    default = SWITCH.get(named.default) if is_switch(named) else named.default or None if is_list else named.default
    hint = hint | None if default is None else hint
    return make_parameter(named.name, default, Annotated[hint, make_option(named)])


def make_option(named: NamedOption) -> Any:
    """Return the flag of an option with its help and limits."""
    annotation = named.option
    return option(annotation.help, annotation.panel, annotation.metavar, flag=flag_of(named), min=annotation.minimum)


def check_folders(listed: Sequence[NamedOption], values: Mapping[str, Any]) -> None:
    """Check that the folders among the values exist on this machine."""
    for named in listed:
        folder = values[named.name] if named.option.holds == "folder" else None
        if folder is not None and not is_url(folder) and not os.path.isdir(folder):  # noqa: PTH112  any bytes
            raise typer.BadParameter(f"must be an existing folder, got {folder}", param_hint=flag_of(named))


def is_switch(named: NamedOption) -> bool:
    """Return whether an option is a boolean that is written as on or off, not as a flag."""
    return named.type is bool and named.option.metavar is not None


def parse_time_point(text: str, *, option: str) -> TimePoint:
    """Return a time of a video, written as ``FILE@TIME``; digits in place of a file are the id of the video.

    >>> parse_time_point("trip/a.mp4@1:30.5", option="--like"), parse_time_point("7@90", option="--like")
    (('trip/a.mp4', 90.5), (7, 90.0))
    """
    file, _, clock = text.rpartition("@")
    if not file or CLOCK.fullmatch(clock) is None:
        rule = "must be a file and a time, such as a.mp4@1:30 or a.mp4@90"
        raise typer.BadParameter(f"{rule}, got {text}", param_hint=option)
    return int(file) if file.isdecimal() and len(file) < 19 else file, parse_clock(clock)


def flag_of(named: NamedOption) -> str:
    """Return the flag of an option, such as ``--min-seconds``."""
    return named.option.flag or f"--{named.name.replace('_', '-')}"


def parse_option(named: NamedOption, value: Any) -> Any:
    """Return the value of a command's option as ``SearchOptions`` takes it; dates without a time zone are local."""
    if named.option.holds == "times":
        return tuple(parse_time_point(text, option=flag_of(named)) for text in value or ())
    if value is None:
        return None
    if is_switch(named):
        if value not in SWITCH.values():
            raise typer.BadParameter(f"must be on or off, got {value}", param_hint=flag_of(named))
        return value == SWITCH[True]
    if named.option.holds == "date":
        return value.timestamp()
    if named.option.holds == "folder":
        from vidret.video.files import find_spelling

        return find_spelling(absolute_path(os.path.expanduser(value)))  # noqa: PTH111  Path would break a URL
    if get_origin(named.type) is tuple:
        return parse_names(value, get_args(get_args(named.type)[0]), option=flag_of(named))
    return value


SaveOption = Annotated[
    str | None,
    option("Keep this search in the index under this name: vidret collection show NAME runs it again.", OUTPUT, "NAME"),
]


def save_search(engine: "Engine | RemoteEngine", name: str, query: str, options: SearchOptions | LocateOptions) -> None:
    """Save a search in the index, and print how to run it again."""
    from vidret.client import RemoteEngine

    engine.save_collection(SavedCollection.of_search(name, query, options))
    if isinstance(engine, RemoteEngine):
        print_message(f"saved at {engine.url}")
    else:
        print_message(f"saved; to run it again: vidret collection show {shlex.quote(name)}{name_index(engine.path)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipChoice:
    """The options for a clip whose footage to find, in place of a query."""

    clip: str | None = option_field(
        "Video whose footage to find, in place of QUERY, even where it is cropped, mirrored or sped up.", SCOPE, "FILE"
    )
    start: float | None = option_field("Start of the clip in FILE.", SCOPE, "TIME", flag="--from", parser=parse_clock)
    end: float | None = option_field("End of the clip in FILE.", SCOPE, "TIME", flag="--to", parser=parse_clock)

    def check(self, options: SearchOptions | LocateOptions) -> None:
        """Refuse an empty clip name, a part without a clip, an empty part, and options that need a query."""
        if self.clip == "":
            raise typer.BadParameter("must be a file, got an empty name", param_hint="--clip")
        for name, value in (("--from", self.start), ("--to", self.end)):
            if value is not None and self.clip is None:
                raise typer.BadParameter("needs --clip FILE, got none", param_hint=name)
        if self.start is not None and self.end is not None and not self.start < self.end:
            rule = f"must be less than --to {self.end:g}, got {self.start:g}"
            raise typer.BadParameter(rule, param_hint="--from")
        if self.clip is not None and options != type(options)(k=options.k, filters=options.filters):
            raise typer.BadParameter("takes -k and filters only, got another option of a query", param_hint="--clip")


def answer_clip(
    engine: VideoLibrary, footage: ClipChoice, k: int, *, as_json: bool, sheet: Path | None, **where: Any
) -> None:
    """Print where the footage of a clip occurs, and draw a contact sheet of it; see ``Engine.find_footage``."""
    assert footage.clip is not None
    results = engine.find_footage(footage.clip, k, start=footage.start, end=footage.end, **where)
    print_result(results, show_footage, as_json=as_json, digits=4)
    draw_results(results, f"the footage of {file_name(footage.clip)}", sheet)


def draw_results(
    results: "Sequence[Hit | Moment | SharedFootage | CopyGroup]",
    heading: str,
    sheet: Path | None,
    *,
    first_rank: int = 1,
) -> None:
    """Write the contact sheet of results, numbered from ``first_rank``, unless ``sheet`` is None."""
    if sheet is not None:
        from vidret.present.sheet import tiles_of_results, write_sheet

        write_sheet(tiles_of_results(results, first_rank=first_rank), heading, sheet)
