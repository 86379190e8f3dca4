"""Contact sheets for the commands that have ``--sheet``."""

from pathlib import Path
from typing import TYPE_CHECKING

from vidret.errors import VidretError
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.present.sheet import Tile


def write_sheet(tiles: "list[Tile]", heading: str, out: Path) -> None:
    """Write a contact sheet and print its path to stderr; without results no file is written.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import draw_sheet

    if not tiles:
        print_message("no contact sheet: there are no results")
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(tiles, heading, out)
    except (OSError, ValueError) as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error
    print_message(f"contact sheet: {out}")
