"""Contact sheets of results, written where a command was told to."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from vidret.errors import VidretError
from vidret.show import talk

if TYPE_CHECKING:
    from vidret.sheet import Shot


def write_sheet(shots: "list[Shot]", heading: str, out: Path) -> None:
    """Write a contact sheet, and say where it is."""
    from vidret.sheet import draw_sheet

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(shots, heading, out)
    except (OSError, ValueError) as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error
    talk.print(f"contact sheet: {escape(str(out))}", highlight=False, soft_wrap=True)
