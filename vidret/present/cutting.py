"""Cutting moments out of their videos with ffmpeg, one file each."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any
from unicodedata import category

import numpy as np

from vidret.errors import VidretError
from vidret.present.export import check_moments
from vidret.present.ffmpeg import GENEROUS, FfmpegError, Limits, find_ffmpeg, run_ffmpeg
from vidret.present.terminal import writing
from vidret.text import NO_FILE, format_time, has_file, is_url, sanitize, show_path
from vidret.types import Moment
from vidret.video.files import LocalFile
from vidret.video.probe import VideoInfo, probe
from vidret.video.timeline import LONGEST_STILL_S
from vidret.video.workers.image_pool import ImagePool

Arguments = tuple[list[str], list[str]]  # of ffmpeg, before and after its input
STEM_LETTERS = 50
PREROLL_US = 5_000_000
LATE_S = 1.0  # maximum delay of the first picture of a clip
SHORTEST_PART_S = 2.0  # of joined recordings
ROOM_US = 1_000_000  # ffmpeg rounds durations to whole ticks of a stream, which may be frames
# How early a frame may be: ffmpeg subtracts the container's start in whole ticks of the stream.
TICK_TOLERANCE_US = 500
EARLY_US = 1000  # whole ticks of most containers, so that it rounds the same at the start and in output times
PROBE_TIMEOUT_S = 600.0
COPIED_CODECS = ("h264", "hevc", "av1")  # allowed in MP4
# Drops the timecode and the chapters of the whole video.
CONTAINER = ("-movflags", "+faststart", "-write_tmcd", "0", "-map_chapters", "-1")
ENCODE = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18")
MPEG_SUFFIXES = {".m2t", ".m2ts", ".m2v", ".mod", ".mpe", ".mpeg", ".mpg", ".mts", ".tod", ".ts", ".vob"}


def cut_moments(
    moments: Sequence[Moment],
    folder: str | Path,
    *,
    copies: "Sequence[CopiedFrames | None]" = (),
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Cut each moment out of its video into a separate file, named after its rank, video and times; return the paths.

    Clips are H.264 and AAC in MP4, exact to the frame, and appear when they are complete. Clips of an AVI, and of
    joined recordings, may start and end a frame or two off. ``copies`` has for each moment the frames whose packets
    are copied, None to encode them; see ``find_copies``. ``on_progress`` is called after each clip with the number
    done and the total.

    Raises:
        VidretError: There is no ffmpeg, a video is at a URL or has no file, a clip exists already, or one cannot be
            cut. Clips that were cut before stay.
    """
    check_local(moments)
    folder = Path(folder)
    ffmpeg = find_ffmpeg()
    clips = [folder / name for name in name_clips(moments)]
    for clip in clips:
        if not overwrite and os.path.lexists(clip):
            raise VidretError(
                f"{sanitize(str(clip))}: exists already; choose another folder, or overwrite it (--overwrite)"
            )
    with writing(folder):
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cutting-", dir=folder) as scratch:
            pairs = zip_longest(zip(moments, clips, strict=True), copies)
            for done, ((moment, clip), frames) in enumerate(pairs, start=1):
                unfinished = Path(scratch) / clip.name
                plan = ffmpeg_arguments if frames is None else partial(copy_arguments, frames=frames)
                with LocalFile(moment.path) as file:
                    cut_moment(moment, file, unfinished, ffmpeg, plan=plan)
                unfinished.replace(clip)
                if on_progress is not None:
                    on_progress(done, len(clips))
    return clips


def check_local(moments: Sequence[Moment]) -> None:
    """Raise VidretError unless all videos are local files, and ValueError for invalid spans."""
    check_moments(moments)
    for moment in moments:
        if not has_file(moment.path):
            raise VidretError(f"{show_path(moment.path)}: {NO_FILE}")
        if is_url(moment.path):
            raise VidretError(f"{show_path(moment.path)}: only local files can be cut; download it first")


def name_clips(moments: Sequence[Moment]) -> list[str]:
    """Return file names that any file system accepts and that sort by rank.

    The second moment of ``My trip.mov``, from 75.25 s to 80 s, is ``02_My_trip_75.25-80.00.mp4``.
    """
    names = []
    digits = max(2, len(str(len(moments))))
    for rank, moment in enumerate(moments, start=1):
        name = Path(moment.path).stem
        letters = (letter if letter in "-." or category(letter)[0] in "LMN" else "_" for letter in name)
        stem = "".join(letters)[:STEM_LETTERS]
        names.append(f"{rank:0{digits}}_{stem}_{moment.start:.2f}-{moment.end:.2f}.mp4")
    return names


def cut_moment(
    moment: Moment,
    file: IO[bytes],
    out: Path,
    ffmpeg: str,
    *,
    plan: "Callable[[CutSpan, Path], Arguments] | None" = None,
    limits: Limits = GENEROUS,
    is_left: Callable[[], bool] = lambda: False,
) -> None:
    """Cut one moment of an open file into a new file; ``is_left`` returns whether the caller has given up waiting.

    ``plan`` returns the arguments for ffmpeg; None for ``ffmpeg_arguments``.

    Raises:
        VidretError: The video cannot be read, ffmpeg fails, exceeds a limit or is left, or the clip would have no
            frame.
    """
    path = show_path(moment.path)
    is_mpeg = Path(moment.path).suffix.lower() in MPEG_SUFFIXES
    span = CutSpan.of_moment(moment, read_facts(moment.path, file, limits) if is_mpeg else {})
    times = f"{format_time(moment.start)} to {format_time(moment.end)}"
    for attempt in (span, replace(span, repeats=True)):
        try:
            progress = run_ffmpeg(ffmpeg, file, *(plan or ffmpeg_arguments)(attempt, out), limits, is_left=is_left)
        except FfmpegError as error:
            raise VidretError(f"{path}: ffmpeg cannot cut {times}: {error}") from error
        has_frames = progress.get("frame", "0") != "0" and progress.get("out_time_us", "N/A") != "N/A"
        if has_frames and (attempt.repeats or probe(out).start < LATE_S):
            return
    raise VidretError(f"{path}: has no frame from {times}")


def read_facts(path: str, file: IO[bytes], limits: Limits) -> dict[str, Any]:
    """Return the facts about a video, read by a separate process, since the file may be malicious."""
    pool = ImagePool(1, timeout_s=min(limits.time_s, PROBE_TIMEOUT_S))
    try:
        return pool.read_facts(path, os.fstat(file.fileno()))
    finally:
        pool.close()


@dataclass(frozen=True, slots=True)
class CutSpan:
    """A moment in whole microseconds, rounded down, so that a frame that starts exactly at a boundary is after it.

    Attributes:
        start_us: Start of the moment.
        end_us: Its end.
        seek_us: Where ffmpeg starts to read: well before the start, since right after a seek into an open group of
            pictures some frames cannot be decoded. Filters drop the rest. It is a whole second, which is a whole number
            of frames if a tick is a frame, and not near the start of the video, where ffmpeg would seek to the
            second keyframe in some containers.
        longest_gap_s: The largest step ahead of timestamps; a larger one is a restart of the clock.
        repeats: Frames are repeated for as long as they are shown, so that a span has one at its start.
    """

    start_us: int
    end_us: int
    seek_us: int
    longest_gap_s: float
    repeats: bool = False

    @classmethod
    def of_moment(cls, moment: Moment, facts: Mapping[str, Any]) -> "CutSpan":
        """Return the span of a moment; ``facts`` are those of its video if the format is one of MPEG, else empty.

        In these formats ffmpeg seeks by raw timestamps, and not to keyframes. So it decodes from the start of the file
        if groups of pictures are long or timestamps restart; it makes these continuous as it reads.
        """
        restarts, is_raw = bool(facts.get("clock_restarts")), facts.get("container") == "mpegvideo"
        start_us, end_us = (int(Fraction(time) * 1_000_000) for time in (moment.start, moment.end))
        seek_us = (start_us - PREROLL_US) // 1_000_000 * 1_000_000
        if restarts or is_raw or seek_us < PREROLL_US or facts.get("longest_group", 0.0) >= PREROLL_US / 1e6:
            seek_us = 0
        # Sound from before a restart may follow pictures from after it: this step ahead must be undone.
        return cls(start_us, end_us, seek_us, SHORTEST_PART_S if restarts else LONGEST_STILL_S)

    @property
    def seek(self) -> list[str]:
        """The arguments before the input; filters cut the exact end."""
        clock = ["-dts_delta_threshold", f"{self.longest_gap_s}"]
        seek = ["-ss", f"{self.seek_us}us"] if self.seek_us else []
        length_us = max(self.end_us, self.start_us + 1) - self.seek_us + ROOM_US
        # Includes the previous frame, from which ffmpeg would count a duration.
        return [*clock, *seek, *(["-noaccurate_seek"] if self.repeats else ["-t", f"{length_us}us"])]

    @property
    def first_us(self) -> int:
        """The time after the seek from which frames are kept."""
        return max(self.start_us - self.seek_us - TICK_TOLERANCE_US, 0)

    @property
    def trim(self) -> str:
        """The filters that keep the span's pictures, whose timestamps may be whole frames, and deinterlace them."""
        repeat = "fps=60," if self.repeats else ""
        return f"{repeat}settb=AVTB,trim={self.bounds},yadif=deint=interlaced"

    @property
    def bounds(self) -> str:
        """The options of the filters trim and atrim that keep the span."""
        last_us = max(self.end_us - self.seek_us - TICK_TOLERANCE_US, self.first_us + 1)
        return f"start={self.first_us}us:end={last_us}us"


def ffmpeg_arguments(span: CutSpan, out: Path) -> Arguments:
    """Return the arguments for ffmpeg before and after its input.

    The absolute path after ``file:`` keeps an unusual name from being read as an option or URL.
    """
    before_us = span.start_us - span.seek_us
    # An early frame is moved to the start of the clip, before which a player would not show it. The filter setpts would
    # do the same, but in ffmpeg 7 it removes the durations of frames, so that players skip the last one.
    clamp = f"setts=pts='max(PTS,ceil({before_us}/1000000/TB))'"
    # Frames keep their timestamps to 1/360000 s, of which frames at all usual rates last whole numbers; video and audio
    # are shifted together.
    timing = ["-fps_mode", "vfr", "-enc_time_base:v", "1:360000", "-output_ts_offset", f"{-before_us}us"]
    # H.264 with 4:2:0 chroma needs an even width and height.
    video = ["-vf", f"{span.trim},crop=trunc(iw/2)*2:trunc(ih/2)*2", *ENCODE, "-bsf:v", clamp]
    encode = [*timing, *video, *CONTAINER, "-af", f"atrim={span.bounds}", "-c:a", "aac"]
    # The first video stream that is not a cover image, and all audio.
    return span.seek, ["-map", "0:V:0", "-map", "0:a?", *encode, name_output(out)]


def name_output(out: Path) -> str:
    """Return the URL of an output file for ffmpeg, which may have any name."""
    return f"file:{os.path.abspath(out)}"  # noqa: PTH100 keeps links


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFrames:
    """Consecutive frames of a video that decode without any others, so that their packets can be copied.

    Attributes:
        start_s: When the first one is shown, in seconds.
        count: Their number.
        codec: Their codec.
    """

    start_s: float
    count: int
    codec: str


def find_copies(moments: Sequence[Moment]) -> list[CopiedFrames | None]:
    """Return the frames of each moment that can be cut exactly without re-encoding its pictures, None for the others.

    Such moments begin at a keyframe, and end before another one or at a frame that no earlier frame in the file needs.
    """
    check_local(moments)
    for moment in moments:
        LocalFile(moment.path).close()
    infos = {path: probe(path) for path in {moment.path for moment in moments}}
    return [_find_whole_groups(moment, infos[moment.path]) for moment in moments]


def _find_whole_groups(moment: Moment, info: VideoInfo) -> CopiedFrames | None:
    odd = info.open_gop or info.edit_list or info.by_order or info.clock_restarts or info.rotation or info.mirrored
    if odd or info.damage or info.codec not in COPIED_CODECS:
        return None
    tolerance_s = TICK_TOLERANCE_US / 1e6
    first, last = np.searchsorted(info.times, [moment.start - tolerance_s, moment.end - tolerance_s]).tolist()
    ends_whole = last == info.num_frames or info.keyframes[last : last + 1].any() or not info.reordered
    is_missed = first == 0 and info.container == "flv"  # a seek to the first keyframe ends at a later one
    if first == last or not info.keyframes[first] or not ends_whole or is_missed:
        return None
    start_s = float(info.times[first])
    return CopiedFrames(start_s=start_s, count=last - first, codec=info.codec)


def copy_arguments(
    span: CutSpan, out: Path, *, frames: CopiedFrames, audio: Sequence[str] = ("-c:a", "aac")
) -> Arguments:
    """Return the arguments for ffmpeg that copy the packets of frames, and encode the sound, which is cut exactly."""
    # With reordered frames, ffmpeg seeks to an earlier keyframe in all containers but MP4, and drops packets before the
    # time. It is a little before the keyframe, lest rounding drop that too; output times are shifted by as much.
    start_us = int(frames.start_s * 1_000_000)
    early_us = min(EARLY_US, start_us)
    seek_us = start_us - early_us
    end_us = span.end_us - seek_us
    tag = ["-tag:v", "hvc1"] if frames.codec == "hevc" else []
    picture = ["-c:v", "copy", "-copypriorss:v", "0", "-frames:v", str(frames.count), *tag]
    sound = ["-af", f"atrim=start={early_us}us:end={max(end_us, early_us + 1)}us", *audio]
    output = ["-output_ts_offset", f"{-early_us}us", *CONTAINER, name_output(out)]
    seek = ["-ss", f"{seek_us}us"] if seek_us else []
    return seek, ["-map", "0:V:0", "-map", "0:a?", *picture, *sound, *output]
