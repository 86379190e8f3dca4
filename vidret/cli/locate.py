"""vidret locate: find moments, draw their curve, hand them on to other programs."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import (
    DEFAULT_INDEX,
    QUERY_HELP,
    AfterOption,
    BeforeOption,
    DeviceOption,
    FolderOption,
    HeadOption,
    IndexOption,
    JsonOption,
    MaxSecondsOption,
    MinSecondsOption,
    PrecisionOption,
    SheetOption,
    TokenOption,
    UrlOption,
    open_asked,
    read_filters,
)
from vidret.cli.sheets import write_sheet
from vidret.errors import VidretError
from vidret.present.show import as_row, say_no_moments, show_count, show_moments
from vidret.present.terminal import say
from vidret.text import file_name

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.types import Moment

FORMATS = ("table", "json", "csv", "edl", "chapters")


@app.command()
def locate(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help=QUERY_HELP)],
    video: Annotated[str | None, typer.Argument(help="One indexed video; all unless given.")] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[int, typer.Option("-k", min=1, help="How many moments.")] = 5,
    videos: Annotated[int, typer.Option(min=1, help="Of all videos, how many of the best are looked into.")] = 10,
    folder: FolderOption = None,
    min_seconds: MinSecondsOption = None,
    max_seconds: MaxSecondsOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    overlapping: Annotated[
        bool, typer.Option("--overlapping", help="Also show moments that overlap better ones.")
    ] = False,
    weak: Annotated[
        bool,
        typer.Option(
            "--weak",
            help="Also show moments of videos in which most unrelated queries score as high, and those that stand out "
            "less than half as much as the best of their video.",
        ),
    ] = False,
    head: HeadOption = "auto",
    form: Annotated[
        str, typer.Option("--format", help="table, json, csv, edl (for editing programs) or chapters (for ffmpeg).")
    ] = "table",
    fps: Annotated[float, typer.Option(help="The frame rate that an edl counts in.")] = 25.0,
    curve: Annotated[
        Path | None, typer.Option(help="Draw the query's score over the (best) video with its moments (.png).")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Cut the moments out into this folder; needs ffmpeg.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pieces that are in that folder.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Find the moments, with start and end, that answer a query."""
    if form not in FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(FORMATS)}, got {form}", param_hint="--format")
    filters = read_filters(folder, min_seconds, max_seconds, after, before)
    engine = open_asked(context, url, token, index, device, precision, head=head)
    find = partial(engine.locate, query, video=video, videos=videos, filters=filters)
    moments = find(k, overlapping=overlapping, weak=weak)
    if not moments:
        say_no_moments([] if weak else find(1, weak=True))
    print_moments(moments, query, "json" if as_json else form, fps)
    if sheet is not None:
        from vidret.present.sheet import shots_of_moments

        write_sheet(shots_of_moments(moments), query, sheet)
    if curve is not None and moments:
        draw_moments(engine, query, moments, curve)
    if export is not None and moments:
        from vidret.present.export import cut_moments

        with show_count("cutting", "moments") as count:
            pieces = cut_moments(moments, export, overwrite=overwrite, on_progress=count)
        say(f"{len(pieces)} pieces in {export}")


def print_moments(moments: "Sequence[Moment]", query: str, form: str, fps: float) -> None:
    """Print moments in the form asked for."""
    from vidret.present.export import to_chapters, to_csv, to_edl

    match form:
        case "json":
            print(json.dumps([as_row(moment) for moment in moments], indent=2))
        case "csv":
            put(to_csv(moments, query=query))
        case "edl":
            put(to_edl(moments, query=query, fps=fps))
        case "chapters":
            put(to_chapters(moments, query=query))
        case _ if moments:
            show_moments(moments)


def put(text: str) -> None:
    """Write to stdout as it stands: a path that is no text goes out as the bytes that it has on disk."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def draw_moments(engine: "Engine | RemoteEngine", query: str, moments: "Sequence[Moment]", out: Path) -> None:
    """Draw the score curve of the best moment's video, with the moments of that video."""
    from vidret.present.chart import draw_curve

    best = moments[0]
    found = engine.curve(query, best.video)
    own = [(rank, moment) for rank, moment in enumerate(moments, start=1) if moment.video == best.video]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_curve(
            found.times,
            found.scores,
            own,
            out,
            query=query,
            title=file_name(best.path),
            end=found.end,
            typical=found.typical,
        )
    except (OSError, ValueError) as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error
    say(f"score curve: {out}")
