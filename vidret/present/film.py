"""Cutting moments into one film, in their order."""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from vidret.errors import OptionError, VidretError
from vidret.present.cutting import (
    CONTAINER,
    ENCODE,
    Arguments,
    CopiedFrames,
    CutSpan,
    check_local,
    copy_arguments,
    cut_moment,
    name_output,
)
from vidret.present.editors.timecode import choose_editing_rate
from vidret.present.editors.timeline import DEFAULT_RATE, Footage, read_footage
from vidret.present.ffmpeg import GENEROUS, FfmpegError, find_ffmpeg, run_ffmpeg
from vidret.present.terminal import writing
from vidret.text import sanitize
from vidret.types import Moment
from vidret.video.files import LocalFile
from vidret.video.rendering import write_table

BT709 = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
SOUND = ("-c:a", "pcm_s16le", "-ar", "48000", "-ac", "2")  # uncompressed; encoded once, when the parts are joined


def cut_film(
    moments: Sequence[Moment],
    out: Path,
    *,
    copies: Sequence[CopiedFrames | None] = (),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Cut moments into one MP4, one after another; return whether the pictures were copied without encoding.

    They are copied if all moments are of one video and have ``copies``. Otherwise they are encoded with the size and
    frame rate of the first moment's video, and others are fitted into its picture. Colours are converted to BT.709, and
    a high dynamic range is tone-mapped as in ``vidret.video.rendering``, since a film describes its colours once.

    The film appears when it is complete. For the arguments see ``cut_moments``.

    Raises:
        VidretError: As in ``cut_moments``; or there are no moments.
    """
    check_local(moments)
    if not moments:
        raise VidretError("a film must have a moment, got none")
    if out.suffix.lower() != ".mp4":
        raise OptionError(f"a film must end in .mp4, got {sanitize(str(out))}")
    if not overwrite and out.exists():
        raise VidretError(f"{sanitize(str(out))}: exists already; choose another name, or overwrite it (--overwrite)")
    footage = {moment.path: read_footage(moment.path) for moment in moments}
    is_copied = len(footage) == 1 and len(copies) == len(moments) and None not in copies
    ffmpeg, first = find_ffmpeg(), footage[moments[0].path]
    has_sound = any(video.has_audio for video in footage.values())
    with writing(out), tempfile.TemporaryDirectory(prefix=".cutting-", dir=out.parent) as scratch:
        parts = [Path(scratch) / f"{moment_index}.mov" for moment_index in range(len(moments))]
        for moment_index, (moment, part) in enumerate(zip(moments, parts, strict=True)):
            frames = copies[moment_index] if is_copied else None
            video = footage[moment.path]
            plan = partial(film_arguments, first=first, footage=video, has_sound=has_sound, scratch=Path(scratch))
            if frames is not None:
                plan = partial(copy_arguments, frames=frames, audio=SOUND)
            with LocalFile(moment.path) as file:
                cut_moment(moment, file, part, ffmpeg, plan=plan)
            if on_progress is not None:
                on_progress(moment_index + 1, len(moments))
        join_parts(parts, Path(scratch) / "film.mp4", ffmpeg).replace(out)
    return is_copied


def film_arguments(
    span: CutSpan, out: Path, *, first: Footage, footage: Footage, has_sound: bool, scratch: Path
) -> Arguments:
    """Return the arguments for ffmpeg of one part of a film, with the size and the rate of the first video."""
    span = replace(span, repeats=True)  # so that a still at the start is shown from there
    size = ":".join(str(max(2, side // 2 * 2)) for side in (first.width, first.height))
    square = "scale=iw*sar:ih,setsar=1"
    scale = f"scale={size}:force_original_aspect_ratio=decrease"
    fit = f"{square},{convert_colours(scale, footage, scratch)},pad={size}:-1:-1,setsar=1"
    rate, length_s = choose_editing_rate(first.rate or DEFAULT_RATE), (span.end_us - span.start_us) / 1e6
    shift = f"PTS-{span.first_us / 1e6}/TB"
    pictures = f"{span.trim},setpts={shift},{fit},fps={rate}:start_time=0"
    sound = f"atrim={span.bounds},asetpts={shift},aresample=48000:async=1:first_pts=0,apad,atrim=end={length_s}"
    encode = ["-vf", pictures, *ENCODE, "-af", sound, *SOUND, *CONTAINER, name_output(out)]
    if has_sound and not footage.has_audio:
        silence = ["-f", "lavfi", "-t", f"{length_s}", "-i", "anullsrc=r=48000:cl=stereo"]
        return [*silence, *span.seek], ["-map", "1:V:0", "-map", "0:a", *encode]
    return span.seek, ["-map", "0:V:0", "-map", "0:a:0?", *encode]


def convert_colours(scale: str, footage: Footage, scratch: Path) -> str:
    """Return the filters that scale pictures and convert their colours to BT.709; ``scratch`` gets the table of HDR."""
    to_bt709 = f"out_color_matrix=bt709:out_range=tv,format=yuv420p,{BT709}"
    if not footage.transfer:
        return f"{scale}:{'in_color_matrix=bt709:' if footage.is_untagged_hd else ''}{to_bt709}"
    table = scratch / f"{footage.transfer}.cube"
    table.write_text(write_table(footage.transfer), encoding="ascii")
    name = re.sub(r"([\\':,;\[\]])", r"\\\1", re.sub(r"([\\':])", r"\\\1", table.absolute().as_posix()))
    return f"{scale}:in_color_matrix=bt2020,format=gbrp16le,lut3d={name}:interp=tetrahedral,scale={to_bt709}"


def join_parts(parts: Sequence[Path], out: Path, ffmpeg: str) -> Path:
    """Join parts with the same picture format and uncompressed sound to an MP4; return its path."""
    listing = out.with_suffix(".txt")
    names = [str(part.absolute()).replace("'", r"'\''") for part in parts]
    listing.write_text("".join(f"file '{name}'\n" for name in names), "utf-8", "surrogateescape")
    after = ["-map", "0", "-c:v", "copy", "-c:a", "aac", *CONTAINER, name_output(out)]
    try:
        with listing.open("rb") as file:
            before = ["-f", "concat", "-safe", "0"]
            run_ffmpeg(ffmpeg, file, before, after, GENEROUS, formats="concat,mov")
    except FfmpegError as error:
        raise VidretError(f"{sanitize(str(out))}: ffmpeg cannot join the film: {error}") from error
    return out
