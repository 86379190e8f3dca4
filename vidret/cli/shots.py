"""The command ``vidret shots``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import is_on_command_line, open_engine_or_client
from vidret.cli.options import DEFAULT_INDEX, OUTPUT, IndexedVideoArgument, IndexOption, ServerOption, TokenOption
from vidret.cli.sheets import write_shot_sheet
from vidret.errors import VidretError
from vidret.present.shots import FORMATS, format_shots, show_shots
from vidret.present.terminal import write_stdout
from vidret.text import absolute_path

if TYPE_CHECKING:
    from vidret.types import Shot

FormatOption = Annotated[
    str, typer.Option("--format", metavar="|".join(FORMATS), help="Format of stdout.", rich_help_panel=OUTPUT)
]
StoryboardOption = Annotated[
    Path | None,
    typer.Option(
        "--sheet",
        metavar="FILE",
        help="Write a storyboard: the frame in the middle of each shot (.jpg or .png).",
        rich_help_panel=OUTPUT,
    ),
]


@app.command("shots")
def shots_command(
    context: typer.Context,
    video: IndexedVideoArgument,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    form: FormatOption = "table",
    sheet: StoryboardOption = None,
) -> None:
    """Print the shots of a video, and how each begins; draw a storyboard of them."""
    if server is None and not is_on_command_line(context, "token"):
        shots = read_local_shots(index, video)
    else:
        shots = open_engine_or_client(context, server, token, index, "auto", "auto").shots(video)
    if not shots:
        again = "to find them, index it again in a new index"
        raise VidretError(f"{video}: the index has no shots of this video, which it cut at fixed lengths; {again}")
    if form == "table":
        show_shots(shots)
    else:
        write_stdout(format_shots(shots, form))
    if sheet is not None:
        write_shot_sheet(absolute_path(video), shots, sheet)


def read_local_shots(index: Path, video: str) -> "list[Shot]":
    """Return the shots of a video of a local index, without loading a model."""
    from vidret.store.contents import read_shots
    from vidret.store.lookup import look_up_video
    from vidret.store.store import Store

    with Store.open(index) as store:
        return read_shots(store, look_up_video(store, video))
