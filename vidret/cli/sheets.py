"""Contact sheets for the commands that have ``--sheet``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.errors import VidretError
from vidret.present.terminal import print_message, show_status
from vidret.text import file_name

if TYPE_CHECKING:
    from vidret.present.sheet import Tile
    from vidret.types import CopyGroup, Hit, Moment, SharedFootage, Shot


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


def write_copies_sheet(groups: "Sequence[CopyGroup]", out: Path) -> None:
    """Write a contact sheet with the same moment of each file of groups of copies, and print its path to stderr.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import tiles_of_copies

    _write_sheet(tiles_of_copies(groups), f"{len(groups)} groups of copies", out)


def write_footage_sheet(found: "Sequence[SharedFootage]", heading: str, out: Path) -> None:
    """Write a contact sheet with four frames of each find of a clip, and print its path to stderr.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import tiles_of_footage

    _write_sheet(tiles_of_footage(found), heading, out)


def write_shot_sheet(path: str, shots: "Sequence[Shot]", out: Path) -> None:
    """Write a storyboard with the middle frame of each shot of a video, and print its path to stderr.

    Raises:
        VidretError: ``out`` cannot be written.
    """
    from vidret.present.sheet import MAX_SHOTS, tiles_of_shots

    if len(shots) > MAX_SHOTS:
        print_message(f"the storyboard shows the {MAX_SHOTS} longest of {len(shots)} shots")
    heading = f"{file_name(path)}: {len(shots)} shot{'' if len(shots) == 1 else 's'}"
    with show_status("drawing the storyboard"):
        _write_sheet(tiles_of_shots(path, shots), heading, out, kind="storyboard")


def _write_sheet(tiles: "list[Tile]", heading: str, out: Path, *, kind: str = "contact sheet") -> None:
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
    print_message(f"{kind}: {out}")
