"""Moments cut out of their videos with ffmpeg, one file each."""

import os
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from vidret.errors import VidretError
from vidret.present.export import cannot_write, check_moments
from vidret.present.ffmpeg import GENEROUS, FfmpegError, Limits, find_ffmpeg, run_ffmpeg
from vidret.text import NO_FILE, format_time, has_file, is_url, sanitize, show_path
from vidret.types import Moment
from vidret.video.files import LocalFile
from vidret.video.workers.image_pool import ImagePool

STEM_LETTERS = 50
PREROLL_US = 5_000_000
# How early a frame may come: ffmpeg subtracts the start of the container in whole ticks of the stream.
TICK_TOLERANCE_US = 500
PROBE_TIMEOUT_S = 600.0
MPEG_SUFFIXES = {".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"}


def cut_moments(
    moments: Sequence[Moment],
    folder: str | Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Cut each moment out of its video into a file of its own, named after its rank, video and times.

    Clips are H.264 and AAC in MP4, exact to the frame, and appear when they are complete. Clips of an AVI may start and
    end a frame or two early.

    Args:
        moments: The moments, best first.
        folder: Where the clips go; created if needed.
        overwrite: Replace existing clips.
        on_progress: Called after each clip with the number done and the total.

    Returns:
        The paths of the clips, in the order of the moments.

    Raises:
        VidretError: There is no ffmpeg, a video is at a URL or has no file, a clip exists already, or one cannot be
            cut. Clips that were cut before stay.
    """
    check_moments(moments)
    for moment in moments:
        if not has_file(moment.path):
            raise VidretError(f"{show_path(moment.path)}: {NO_FILE}")
        if is_url(moment.path):
            raise VidretError(f"{show_path(moment.path)}: only local files can be cut; download it first")
    folder = Path(folder)
    ffmpeg = find_ffmpeg()
    clips = [folder / name for name in name_clips(moments)]
    for clip in clips:
        if not overwrite and os.path.lexists(clip):
            raise VidretError(f"{sanitize(str(clip))}: exists already; choose another folder, or overwrite it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cutting-", dir=folder) as scratch:
            for done, (moment, clip) in enumerate(zip(moments, clips, strict=True), start=1):
                unfinished = Path(scratch) / clip.name
                with open_source(moment.path) as file:
                    cut_moment(moment, file.fileno(), unfinished, ffmpeg)
                unfinished.replace(clip)
                if on_progress is not None:
                    on_progress(done, len(clips))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return clips


def name_clips(moments: Sequence[Moment]) -> list[str]:
    """Return file names that any file system accepts and that sort best first.

    The second moment of ``My trip.mov``, from 75.25 s to 80 s, is ``02_My_trip_75.25-80.00.mp4``.
    """
    names = []
    digits = max(2, len(str(len(moments))))
    for rank, moment in enumerate(moments, start=1):
        name = Path(moment.path).stem
        stem = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)[:STEM_LETTERS]
        names.append(f"{rank:0{digits}}_{stem}_{moment.start:.2f}-{moment.end:.2f}.mp4")
    return names


def open_source(path: str) -> LocalFile:
    """Open a video to cut."""
    if not Path(path).is_file():
        raise VidretError(f"{show_path(path)}: no longer exists")
    return LocalFile(path)


def cut_moment(
    moment: Moment,
    descriptor: int,
    out: Path,
    ffmpeg: str,
    *,
    limits: Limits = GENEROUS,
    is_left: Callable[[], bool] = lambda: False,
) -> None:
    """Cut one moment of an open file into a new file; ``is_left`` returns whether nobody waits for it any more.

    Raises:
        VidretError: The video cannot be read, ffmpeg fails, exceeds a limit or is left, or the clip would have no
            frame.
    """
    path = show_path(moment.path)
    is_joined = Path(moment.path).suffix.lower() in MPEG_SUFFIXES and has_restarts(moment.path, descriptor, limits)
    before, after = ffmpeg_arguments(moment, out, can_seek=not is_joined)
    span = f"{format_time(moment.start)} to {format_time(moment.end)}"
    try:
        progress = run_ffmpeg(ffmpeg, descriptor, before, after, limits, is_left=is_left)
    except FfmpegError as error:
        raise VidretError(f"{path}: ffmpeg cannot cut {span}: {error}") from error
    if progress.get("frame") == "0" or progress.get("out_time_us", "N/A") == "N/A":
        raise VidretError(f"{path}: has no frame from {span}")


def has_restarts(path: str, descriptor: int, limits: Limits) -> bool:
    """Return whether the clock of a video restarts, which a separate process finds out: the file may be malicious."""
    pool = ImagePool(1, timeout_s=min(limits.time_s, PROBE_TIMEOUT_S))
    try:
        return bool(pool.read_facts(path, os.fstat(descriptor))["clock_restarts"])
    finally:
        pool.close()


def ffmpeg_arguments(moment: Moment, out: Path, *, can_seek: bool) -> tuple[list[str], list[str]]:
    """Return the arguments for ffmpeg before and after its input.

    The absolute path after ``file:`` keeps an unusual name from being read as an option or URL. Without ``can_seek``
    ffmpeg decodes from the start of the file, as it must where timestamps restart: it seeks by the timestamps as they
    are, but makes them continuous only in what it has read.
    """
    # Rounded down, so that a frame that starts exactly at a boundary is after it and never lost to rounding.
    start_us, end_us = (int(Fraction(time) * 1_000_000) for time in (moment.start, moment.end))
    # Seek to well before the start and let the filters drop the rest: right after a seek into an open group of pictures
    # some frames cannot be decoded.
    seek_us = max(start_us - PREROLL_US, 0) if can_seek else 0
    first_us = max(start_us - seek_us - TICK_TOLERANCE_US, 0)
    last_us = max(end_us - seek_us - TICK_TOLERANCE_US, first_us + 1)
    trim = f"trim=start={first_us}us:end={last_us}us"
    # A frame that came early starts with the clip: before its start a player would not show it. The filter setpts would
    # do the same, but in ffmpeg 7 it removes the durations of frames, so that players skip the last one.
    clamp = f"setts=pts='max(PTS,ceil({start_us - seek_us}/1000000/TB))'"
    # Frames keep their own times, to 1/90000 s, which all usual rates divide; video and audio are shifted together.
    timing = ["-fps_mode", "vfr", "-enc_time_base:v", "1:90000", "-output_ts_offset", f"{seek_us - start_us}us"]
    # H.264 with 4:2:0 chroma needs an even width and height.
    video = ["-vf", f"{trim},crop=trunc(iw/2)*2:trunc(ih/2)*2", "-pix_fmt", "yuv420p", "-c:v", "libx264"]
    quality = ["-preset", "veryfast", "-crf", "18", "-bsf:v", clamp, "-movflags", "+faststart"]
    encode = [*timing, *video, *quality, "-af", f"a{trim}", "-c:a", "aac"]
    target = f"file:{os.path.abspath(out)}"  # noqa: PTH100 keeps links
    # No seek to 0: for some containers that would be a seek to the second keyframe.
    seek = [*(["-ss", f"{seek_us}us"] if seek_us else []), "-t", f"{max(end_us, start_us + 1) - seek_us}us"]
    # The first video stream that is not a cover image, and all audio.
    return seek, ["-map", "0:V:0", "-map", "0:a?", *encode, target]
