"""The options of ``vidret search`` and ``vidret locate`` to look for the footage of a clip, and their answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.options import SCOPE, option
from vidret.present.contents import format_footage, show_footage
from vidret.present.terminal import write_stdout
from vidret.text import file_name

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.types import Filters

ClipOption = Annotated[
    str | None,
    option(
        "Video whose footage to find, in place of a query: also if it is cropped, mirrored or sped up there.",
        SCOPE,
        "FILE",
    ),
]
FromOption = Annotated[float | None, option("Where the clip begins in FILE.", SCOPE, "SECONDS", flag="--from", min=0)]
ToOption = Annotated[float | None, option("Where the clip ends in FILE.", SCOPE, "SECONDS", flag="--to", min=0)]


def check_clip(clip: str | None, start: float | None, end: float | None) -> None:
    """Refuse a clip without a name, a part of a clip without a clip, and an empty part.

    Raises:
        typer.BadParameter: The clip has no name, ``--from`` or ``--to`` is without ``--clip``, or they are not
            in order.
    """
    if clip == "":
        raise typer.BadParameter("must be a file, got an empty name", param_hint="--clip")
    for name, value in (("--from", start), ("--to", end)):
        if value is not None and clip is None:
            raise typer.BadParameter("needs --clip FILE, got none", param_hint=name)
    if start is not None and end is not None and not start < end:
        raise typer.BadParameter(f"must be less than --to {end:g}, got {start:g}", param_hint="--from")


def answer_clip(
    engine: "Engine | RemoteEngine",
    clip: str,
    start: float | None,
    end: float | None,
    *,
    k: int,
    filters: "Filters",
    video: str | None = None,
    repeated: bool = False,
    as_json: bool,
    sheet: Path | None,
) -> None:
    """Print where the footage of a clip is found, and draw a contact sheet of it; for the arguments see ``Engine``."""
    found = engine.find_footage(clip, k, start=start, end=end, video=video, filters=filters, repeated=repeated)
    if as_json:
        write_stdout(format_footage(found))
    else:
        show_footage(found)
    if sheet is not None:
        from vidret.present.sheet import tiles_of_footage, write_sheet

        write_sheet(tiles_of_footage(found), f"the footage of {file_name(clip)}", sheet)
