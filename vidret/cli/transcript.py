"""The command ``vidret transcript``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import parse_names
from vidret.cli.opening import is_on_command_line, open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    SCOPE,
    IndexedVideoArgument,
    IndexOption,
    ServerOption,
    TokenOption,
)
from vidret.errors import VidretError
from vidret.present.terminal import write_stdout
from vidret.present.transcript import FORMATS, to_transcript
from vidret.types import TEXT_SOURCES, TextSource

if TYPE_CHECKING:
    from vidret.types import TimedText

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar=",".join(TEXT_SOURCES),
        help="Only what is said, what is written in the picture, the subtitles, or what a model generated; default: "
        "all of them.",
        rich_help_panel=SCOPE,
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="|".join(FORMATS), help="Format of stdout.", rich_help_panel=OUTPUT)
]


@app.command("transcript")
def transcript_command(
    context: typer.Context,
    video: IndexedVideoArgument,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    source: SourceOption = None,
    form: FormatOption = "txt",
) -> None:
    """Print the words of a video with their times: what is said and shown in it."""
    sources = None if source is None else parse_names(source, TEXT_SOURCES, option="--source")
    if server is None and not is_on_command_line(context, "token"):
        texts = read_local(index, video, sources)
    else:
        texts = open_engine_or_client(context, server, token, index, "auto", "auto").transcript(video, sources)
    if not texts:
        raise VidretError(f"{video}: the index has no words of this video{f' from {source}' if source else ''}")
    write_stdout(to_transcript(texts, form))


def read_local(index: Path, video: str, sources: Sequence[TextSource] | None) -> "list[TimedText]":
    """Return the texts of a video of a local index, without loading a model."""
    from vidret.store.lookup import look_up_video
    from vidret.store.store import Store
    from vidret.store.texts.upkeep import read_transcript

    with Store.open(index) as store:
        return read_transcript(store, look_up_video(store, video), sources)
