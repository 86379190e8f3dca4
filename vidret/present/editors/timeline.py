"""The plan of an edit, for all formats: the facts about each video, and the clips of the timeline in frames."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

from vidret.errors import VidretError
from vidret.present.editors.timecode import (
    DROP_FRAME_RATES,
    EDITING_RATES,
    choose_editing_rate,
    format_rate,
    nearest_frame,
    parse_rate,
    parse_timecode,
    snap_rate,
)
from vidret.present.show import describe_match
from vidret.text import NO_FILE, format_time, has_file, is_url, sanitize, show_path, strip_query
from vidret.types import LISTED, SOURCE_LABELS, Evidence, Moment
from vidret.video.probe import VideoInfo, probe
from vidret.video.rendering import UNTAGGED_HD

logger = logging.getLogger(__name__)
DEFAULT_RATE = Fraction(25)  # if no rate is known
MAX_TITLE_LETTERS = 70
# Streams without a container have no timestamps.
_RAW_STREAMS = {"h264", "hevc", "vvc", "mpegvideo", "m4v", "obu", "av1", "vc1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """The facts about a video that an edit needs; None, or a size of 0, if unknown.

    Attributes:
        path: The path or URL.
        rate: Frames per second.
        start_s: When its first frame is shown, in seconds on a player's clock.
        first_frame: The number of the first frame by its timecode; 0 without a timecode.
        drop_frame: Whether that timecode is drop-frame.
        transfer: The transfer function of an HDR video, a number of ITU-T H.273; 0 for other videos.
        is_untagged_hd: It has high definition and states no colour matrix, which is BT.709 then.
        note: What is unknown or assumed, for people; empty if nothing is.
    """

    path: str
    rate: Fraction | None = None
    num_frames: int | None = None
    start_s: float = 0.0
    first_frame: int = 0
    has_timecode: bool = False
    drop_frame: bool = False
    width: int = 0
    height: int = 0
    has_audio: bool = False
    transfer: int = 0
    is_untagged_hd: bool = False
    note: str = ""


def read_footage(path: str) -> Footage:
    """Return the facts about a video; all are unknown for an unreadable file or a URL."""
    if not has_file(path):
        return Footage(path=path, note=NO_FILE)
    if is_url(path):
        return Footage(path=path, note="is at a URL, where it is not read")
    try:
        info = probe(path)
    except VidretError as error:
        return Footage(path=path, note=str(error).removeprefix(f"{path}: "))
    rate, note = read_rate(info)
    first_frame, has_timecode, drop_frame = 0, False, False
    if info.timecode:
        try:
            first_frame, drop_frame = parse_timecode(info.timecode, rate)
            has_timecode = True
        except VidretError:
            ignored = f"its timecode {info.timecode} is not one of {format_rate(rate)}: frames count from 0"
            note = f"{note}; {ignored}" if note else ignored
    return Footage(
        path=path,
        rate=rate,
        num_frames=max(1, round(info.shown_seconds * rate)) if info.variable_rate else info.num_frames,
        start_s=info.start,
        first_frame=first_frame,
        has_timecode=has_timecode,
        drop_frame=drop_frame,
        width=info.width,
        height=info.height,
        has_audio=info.has_audio,
        transfer=info.transfer if info.hdr else 0,
        is_untagged_hd=info.rendering == UNTAGGED_HD,
        note=note,
    )


def read_rate(info: VideoInfo) -> tuple[Fraction, str]:
    """Return the frame rate of a video, and a note if it is assumed.

    The container's rate is used if the frames keep to it, with the last one less than half a frame off.
    """
    span_s = float(info.times[-1] - info.times[0])
    measured = (info.num_frames - 1) / span_s if span_s > 0 else 0.0
    stated = [rate for fps in (info.average_rate, info.real_rate, measured) if fps > 0 and (rate := snap_rate(fps))]
    fitting = [rate for rate in stated if abs((info.num_frames - 1) / rate - span_s) * rate < 0.5]
    if info.container in _RAW_STREAMS and fitting:
        return fitting[0], f"has no timestamps; the export assumes {format_rate(fitting[0])}"
    if fitting and not info.variable_rate:
        return fitting[0], ""
    average = measured or info.average_rate or float(DEFAULT_RATE)
    assumed = min(EDITING_RATES, key=lambda rate: abs(rate - Fraction(average)))
    what = "its frame rate varies" if info.variable_rate else "its frame rate is unknown"
    return assumed, f"{what}; the export assumes {format_rate(assumed)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineClip:
    """A moment as frames of its video, numbered from 0; ends are exclusive.

    Attributes:
        rank: The rank of the moment, from 1.
        rate: The rate of the video, known or assumed, in frames per second.
        start: The first frame of the clip, handles included.
        marked_start: The first frame of the moment.
        record_start: The first frame of the clip in the timeline, at the rate of the timeline.
    """

    moment: Moment
    rank: int
    footage: Footage
    rate: Fraction
    start: int
    end: int
    marked_start: int
    marked_end: int
    record_start: int = 0
    record_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The clips of a query one after another, best first, at a rate in frames per second."""

    query: str
    rate: Fraction
    clips: tuple[TimelineClip, ...]

    @property
    def title(self) -> str:
        """The query on one line, cut to a length that editing programs show."""
        return sanitize(self.query)[:MAX_TITLE_LETTERS]

    @property
    def drop_frame(self) -> bool:
        """Return whether its timecodes are drop-frame, as is usual at 29.97 and 59.94 frames per second."""
        return self.rate in DROP_FRAME_RATES

    @property
    def num_frames(self) -> int:
        """Return its length in frames."""
        return self.clips[-1].record_end if self.clips else 0


def plan_timeline(
    moments: Sequence[Moment],
    footage: Mapping[str, Footage],
    *,
    query: str,
    fps: float | None = None,
    handles_s: float = 0.0,
) -> Timeline:
    """Return the moments one after another, best first, cut at frames of their videos.

    Boundaries are rounded to the nearest frame of the video, and a clip has at least one frame. The timeline has
    ``fps`` frames per second, or else the rate of most clips, of the better ones in a tie; videos of unknown rate are
    assumed to have it, too. Up to ``handles_s`` seconds of the video are added before and after each moment. What is
    assumed, converted or shortened is logged once as a warning.

    Raises:
        VidretError: ``fps`` is not a rate of timelines.
        ValueError: ``handles_s`` is negative or not finite.
    """
    if not 0 <= handles_s < float("inf"):
        raise ValueError(f"handles_s must be finite and at least 0, got {handles_s}")
    rates = [rate for moment in moments if (rate := footage[moment.path].rate) is not None]
    usual = Counter(rates).most_common(1)[0][0] if rates else DEFAULT_RATE
    rate = choose_editing_rate(usual) if fps is None else parse_rate(fps)
    clips = [
        _cut_clip(rank, moment, footage[moment.path], footage[moment.path].rate or rate, handles_s)
        for rank, moment in enumerate(moments, start=1)
    ]
    lengths = [_count_frames(clip, rate) for clip in clips]
    ends = list(accumulate(lengths))
    placed = [
        replace(clip, record_start=end - length, record_end=end)
        for clip, length, end in zip(clips, lengths, ends, strict=True)
    ]
    for note in _list_notes(placed, rate):
        logger.warning("%s", note)
    return Timeline(query=query, rate=rate, clips=tuple(placed))


def list_remarks(moment: Moment) -> list[str]:
    """Return the lines of a marker: how likely the moment is, its score, and the words.

    A picked moment has its note instead, if it has one.
    """
    if moment.by == LISTED:
        return [sanitize(" ".join(moment.note.split()))] if moment.note else []
    match = describe_match(moment).strip()
    remarks = [f"{match}, score {moment.score:.3f}" if match else f"score {moment.score:.3f}"]
    return remarks + [_describe(evidence) for evidence in moment.evidence if evidence.text]


def media_url(path: str) -> str:
    """Return the URL of a video for editing programs, without its query string, which may hold a signature."""
    return strip_query(path) if is_url(path) else Path(path).absolute().as_uri()


def _describe(evidence: Evidence) -> str:
    words = " ".join(evidence.text.split())
    return f"{SOURCE_LABELS[evidence.source]} at {format_time(evidence.start)}: {sanitize(words)}"


def _cut_clip(rank: int, moment: Moment, footage: Footage, rate: Fraction, handles_s: float) -> TimelineClip:
    start, end = (nearest_frame(max(0.0, time_s - footage.start_s), rate) for time_s in (moment.start, moment.end))
    end = max(end, start + 1)
    if footage.num_frames is not None:
        end = min(end, footage.num_frames)
        start = min(start, end - 1)
    handle = nearest_frame(handles_s, rate)
    last = end + handle if footage.num_frames is None else min(end + handle, footage.num_frames)
    return TimelineClip(
        moment=moment,
        rank=rank,
        footage=footage,
        rate=rate,
        start=max(0, start - handle),
        end=last,
        marked_start=start,
        marked_end=end,
    )


def _count_frames(clip: TimelineClip, rate: Fraction) -> int:
    """Return the number of timeline frames of a clip: the nearest one that its video can fill, at least 1."""
    num_frames = nearest_frame((clip.end - clip.start) / clip.rate, rate)
    if clip.footage.num_frames is not None:
        num_frames = min(num_frames, int((clip.footage.num_frames - clip.start) / clip.rate * rate))
    return max(1, num_frames)


def _list_notes(clips: Sequence[TimelineClip], rate: Fraction) -> list[str]:
    """Return notes on assumptions about videos, on different rates, and on clips that are shorter than their moment."""
    notes = []
    for footage in {clip.footage.path: clip.footage for clip in clips}.values():
        if footage.note:
            assumed = "" if footage.rate else f"; the export assumes {format_rate(rate)}"
            notes.append(f"{show_path(footage.path)}: {footage.note}{assumed}")
    others = sorted({clip.rate for clip in clips} - {rate})
    if others:
        rates = " and ".join(format_rate(other) for other in others)
        notes.append(f"the timeline has {format_rate(rate)}, and clips of {rates} are fitted to its frames")
    for clip in clips:
        footage, moment = clip.footage, clip.moment
        last = None if footage.num_frames is None else footage.num_frames + 1
        if last is None or nearest_frame(moment.end - footage.start_s, clip.rate) <= last:
            continue
        end_s = footage.start_s + (last - 1) / clip.rate
        span = f"{format_time(moment.start)} to {format_time(moment.end)}"
        notes.append(f"{show_path(footage.path)}: ends at {format_time(float(end_s))}; the clip of {span} ends there")
    return notes
