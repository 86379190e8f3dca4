"""Contact sheets for the commands that have ``--sheet``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.errors import VidretError
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.present.sheet import Tile
    from vidret.types import Hit, Moment


def write_hit_sheet(hits: "Sequence[Hit]", heading: str, out: Path) -> None:
    """Write a contact sheet with the best frame of each hit, and print its path to stderr.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import tiles_of_hits

    _write_sheet(tiles_of_hits(hits), heading, out)


def write_moment_sheet(moments: "Sequence[Moment]", heading: str, out: Path) -> None:
    """Write a contact sheet with four frames of each moment, and print its path to stderr.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import tiles_of_moments

    _write_sheet(tiles_of_moments(moments), heading, out)


def _write_sheet(tiles: "list[Tile]", heading: str, out: Path) -> None:
    """Write a contact sheet; without results no file is written."""
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
