"""The commands that look into videos: ``vidret transcript``, ``vidret shots`` and ``vidret duplicates``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import parse_names
from vidret.cli.opening import open_engine_or_client, read_contents
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    SCOPE,
    IndexedVideoArgument,
    IndexOption,
    JsonOption,
    ServerOption,
    TokenOption,
    argument,
    option,
)
from vidret.errors import VidretError
from vidret.present.contents import SHOT_FORMATS, format_copies, format_shots, show_copies, show_shots
from vidret.present.progress import show_count
from vidret.present.terminal import write_stdout
from vidret.present.transcript import FORMATS, to_transcript
from vidret.text import absolute_path
from vidret.types import TEXT_SOURCES

if TYPE_CHECKING:
    pass

SourceOption = Annotated[
    str | None,
    option(
        "Only what is said, what is written in the picture, the subtitles, or what a model generated; default: "
        "all of them.",
        SCOPE,
        ",".join(TEXT_SOURCES),
    ),
]
TranscriptFormatOption = Annotated[str, option("Format of stdout.", OUTPUT, "|".join(FORMATS), flag="--format")]


@app.command("transcript")
def transcript_command(
    context: typer.Context,
    video: IndexedVideoArgument,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    source: SourceOption = None,
    form: TranscriptFormatOption = "txt",
) -> None:
    """Print the words of a video with their times: what is said and shown in it."""
    from vidret.store.lookup import look_up_video
    from vidret.store.texts.upkeep import read_transcript

    sources = None if source is None else parse_names(source, TEXT_SOURCES, option="--source")
    texts = read_contents(
        context,
        server,
        token,
        index,
        lambda store: read_transcript(store, look_up_video(store, video), sources),
        lambda client: client.transcript(video, sources),
    )
    if not texts:
        raise VidretError(f"{video}: the index has no words of this video{f' from {source}' if source else ''}")
    write_stdout(to_transcript(texts, form))


ShotsFormatOption = Annotated[str, option("Format of stdout.", OUTPUT, "|".join(SHOT_FORMATS), flag="--format")]
StoryboardOption = Annotated[
    Path | None, option("Write a storyboard: the frame in the middle of each shot (.jpg or .png).", OUTPUT, "FILE")
]


@app.command("shots")
def shots_command(
    context: typer.Context,
    video: IndexedVideoArgument,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    form: ShotsFormatOption = "table",
    sheet: StoryboardOption = None,
) -> None:
    """Print the shots of a video, and how each begins; draw a storyboard of them."""
    from vidret.store.lookup import look_up_video, read_shots

    shots = read_contents(
        context,
        server,
        token,
        index,
        lambda store: read_shots(store, look_up_video(store, video)),
        lambda client: client.shots(video),
    )
    if not shots:
        again = "to find them, index it again in a new index"
        raise VidretError(f"{video}: the index has no shots of this video, which it cut at fixed lengths; {again}")
    if form == "table":
        show_shots(shots)
    else:
        write_stdout(format_shots(shots, form))
    if sheet is not None:
        from vidret.present.sheet import write_storyboard

        write_storyboard(absolute_path(video), shots, sheet)


PathsArgument = Annotated[
    list[str] | None, argument("Indexed files or folders to find copies of; default: all.", "[PATH]...", panel=SCOPE)
]
CopiesSheetOption = Annotated[
    Path | None, option("Write a contact sheet: the same moment of each file (.jpg or .png).", OUTPUT, "FILE")
]


@app.command("duplicates")
def duplicates_command(
    context: typer.Context,
    paths: PathsArgument = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
    sheet: CopiesSheetOption = None,
) -> None:
    """Find files that show the same footage, and the best file of each group; nothing is deleted."""
    engine = open_engine_or_client(context, server, token, index, "cpu", "auto")
    with show_count("comparing", "pairs") as on_count:
        groups = engine.duplicates(paths or (), on_progress=on_count)
    if as_json:
        write_stdout(format_copies(groups))
    else:
        show_copies(groups)
    if sheet is not None:
        from vidret.present.sheet import tiles_of_copies, write_sheet

        write_sheet(tiles_of_copies(groups), f"{len(groups)} groups of copies", sheet)
