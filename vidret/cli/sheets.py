"""Contact sheets of results, written where a command was told to."""

from pathlib import Path
from typing import TYPE_CHECKING

from vidret.errors import VidretError
from vidret.present.terminal import say

if TYPE_CHECKING:
    from vidret.present.sheet import Shot


def write_sheet(shots: "list[Shot]", heading: str, out: Path) -> None:
    """Write a contact sheet and print its path to stderr; without results there is none.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import draw_sheet

    if not shots:
        say("no contact sheet: there are no results")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(shots, heading, out)
    except (OSError, ValueError) as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error
    say(f"contact sheet: {out}")
