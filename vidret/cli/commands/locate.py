"""The command ``vidret locate``."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vidret.cli.app import app
from vidret.cli.opening import interpret_query, open_engine_or_client
from vidret.cli.options import (
    OUTPUT,
    QUERY_HELP,
    HeadOption,
    JsonOption,
    Loading,
    Places,
    SheetOption,
    TrustedModelOption,
    argument,
    option,
    option_field,
)
from vidret.cli.search_options import ClipChoice, SaveOption, answer_clip, draw_results, save_search, with_search_fields
from vidret.errors import DecodeError, MissingVideoError
from vidret.present.editors import TIMELINES
from vidret.present.progress import show_count
from vidret.present.show import explain_nothing, print_json, show_interpretation, show_moments
from vidret.present.terminal import print_message, write_stdout, writing
from vidret.text import file_name, format_count, has_file, is_url, show_path
from vidret.types import LocateOptions, VideoLibrary
from vidret.video.scan import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from vidret.store.records import FileRecord
    from vidret.types import Moment

logger = logging.getLogger(__name__)
FORMATS = ("table", "json", "csv", *TIMELINES, "chapters", "srt", "html")
EXPORT = "Export"
CLIP_RULE = "needs at most a VIDEO, as a table or JSON, without --curve and --export"


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentFormat:
    """The options for printing moments."""

    form: str = option_field(
        "Format of stdout: otio, fcpxml and edl are timelines for editing programs, with a clip and a marker per "
        "moment; markers are for a timeline of DaVinci Resolve, chapters for ffmpeg; html is a page with frames.",
        EXPORT,
        "|".join(FORMATS),
        default="table",
        flag="--format",
    )
    fps: float | None = option_field("Frame rate of a timeline; default: that of most moments.", EXPORT, "FPS")
    handles: float = option_field(
        "Seconds before and after each moment in a timeline, as far as the video allows.",
        EXPORT,
        "SECONDS",
        default=0.0,
        min=0,
    )

    def check(self) -> None:
        """Check, before a model is loaded, that the format's extra is installed and that it has the given options."""
        for name, is_given in (("--fps", self.fps is not None), ("--handles", self.handles > 0)):
            if is_given and self.form not in TIMELINES:
                rule = f"needs --format {', '.join(TIMELINES)}, got {self.form}"
                raise typer.BadParameter(rule, param_hint=name)
        if self.form == "otio":
            from vidret.present.editors.otio import check_installed

            check_installed()


@app.command("locate")
@with_search_fields
def locate_command(
    *,
    query: str | None = argument(QUERY_HELP, "QUERY", default=None),
    video: str | None = argument(
        "One indexed video, by its path or a unique ending of it; default: all.", "VIDEO", default=None
    ),
    footage: ClipChoice,
    place: Places,
    options: LocateOptions,
    sheet: SheetOption = None,
    curve: Path | None = option(
        "Draw the scores of the best video over time, with its moments (.png).", OUTPUT, "FILE", default=None
    ),
    save: SaveOption = None,
    as_json: JsonOption = False,
    shape: MomentFormat,
    export: Path | None = option(
        "Cut the moments out as files in this folder (needs ffmpeg).", EXPORT, "DIR", default=None
    ),
    overwrite: bool = option("Replace existing clips in that folder.", EXPORT, default=False),
    head: HeadOption = "auto",
    model: TrustedModelOption = None,
    loading: Loading,
) -> None:
    """Find the moments that match a query, with start and end."""
    shape.check()
    footage.check(options)
    clip = footage.clip
    if clip is not None and (video is not None or shape.form not in ("table", "json") or curve or export):
        raise typer.BadParameter(CLIP_RULE, param_hint="--clip")
    if save is not None and (clip is not None or video is not None):
        raise typer.BadParameter("needs a QUERY of all videos, got a VIDEO or --clip", param_hint="--save")
    if export is not None and export.suffix.lower() in VIDEO_SUFFIXES:
        rule = f"must be a folder, got {export}; for a film: --save NAME, then vidret cut NAME FILE.mp4"
        raise typer.BadParameter(rule, param_hint="--export")
    if overwrite and export is None:
        raise typer.BadParameter("needs --export DIR, got none", param_hint="--overwrite")
    if query is None and clip is None:
        raise typer.BadParameter("give a query or --clip FILE, got neither", param_hint="QUERY")
    if as_json:
        shape = replace(shape, form="json")
    engine = open_engine_or_client(place, loading, head=head, model=model)
    if clip is not None:  # a clip replaces the query, so the only argument is the video to look in
        where = {"filters": options.filters, "video": query, "repeated": True}
        answer_clip(engine, footage, options.k, as_json=shape.form == "json", sheet=sheet, **where)
        return
    assert query is not None
    if save is not None:
        save_search(engine, save, query, options)
    show_interpretation(interpret_query(engine, query, options.sources))
    try:
        moments = engine.locate_with(query, options, video=video)
    except MissingVideoError as error:
        if video is None or " " in query or Path(video).suffix:
            raise
        joined = f"{error} A" if str(error).endswith("?") else f"{error}; a"
        raise MissingVideoError(f"{joined} query of several words goes in quotes") from error
    if not moments:
        print_message(explain_nothing(options))
    if export is not None or shape.form in TIMELINES:
        from vidret.engine import Engine

        if isinstance(engine, Engine):
            warn_of_changes(engine.file, moments)
    print_moments(moments, query, shape, first_rank=options.offset + 1)
    draw_results(moments, query, sheet, first_rank=options.offset + 1)
    if curve is not None and moments:
        draw_best_curve(engine, query, moments, curve, first_rank=options.offset + 1)
    if export is not None and moments:
        from vidret.present.cutting import cut_moments

        with show_count("cutting", "moments") as on_count:
            clips = cut_moments(moments, export, overwrite=overwrite, on_progress=on_count)
        print_message(f"{format_count(len(clips), 'clip')} in {export}")


def warn_of_changes(find_file: "Callable[[str], FileRecord | None]", moments: "Sequence[Moment]") -> None:
    """Warn of moments whose files have changed since they were indexed, given the records of files by path."""
    from vidret.video.files import has_changed, stat_files

    paths = dict.fromkeys(moment.path for moment in moments if has_file(moment.path) and not is_url(moment.path))
    for path, found in stat_files(list(paths)):
        record = find_file(path)
        if record is None or isinstance(found, DecodeError):
            continue
        if has_changed(found, record.num_bytes, record.mtime_ns):
            logger.warning(
                "%s: has changed since it was indexed; index it again, or its moments may be wrong", show_path(path)
            )


def print_moments(moments: "Sequence[Moment]", query: str, shape: MomentFormat, *, first_rank: int = 1) -> None:
    """Print moments to stdout in one of ``FORMATS``; they are numbered from ``first_rank``."""
    if shape.form == "json":
        print_json(moments)
    elif shape.form != "table":
        from vidret.present.export import format_moments

        text = format_moments(
            moments, shape.form, query=query, first_rank=first_rank, fps=shape.fps, handles_s=shape.handles
        )
        write_stdout(text)
    elif moments:
        show_moments(moments, first_rank=first_rank)


def draw_best_curve(
    engine: VideoLibrary, query: str, moments: "Sequence[Moment]", out: Path, *, first_rank: int
) -> None:
    """Draw the score curve of the video with the best moment, with all moments of that video, by their ranks."""
    from vidret.present.chart import draw_curve

    best = moments[0]
    curve = engine.curve(query, best.video)
    numbered = enumerate(moments, start=first_rank)
    ranked = [(rank, moment) for rank, moment in numbered if moment.video == best.video]
    with writing(out):
        draw_curve(curve, ranked, out, query=query, title=file_name(best.path))
    print_message(f"score curve: {out}")
