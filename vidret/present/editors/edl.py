"""Timelines as edit decision lists in the format of CMX 3600.

OpenTimelineIO's adapter is not used: it writes no frame code mode, puts markers in capitals and at source times, and
its reels may collide. The tests read the lists back with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from vidret.errors import VidretError
from vidret.present.editors.timecode import count_day, format_timecode, nearest_frame, parse_timecode
from vidret.present.editors.timeline import Timeline, TimelineClip, list_remarks
from vidret.text import file_name, sanitize
from vidret.types import LISTED

MAX_EVENTS = 999  # event numbers have three digits
REEL_LETTERS = 8
MAX_COMMENT_LETTERS = 160


def to_edl(timeline: Timeline) -> str:
    """Return a timeline as a CMX 3600 list, with a locator at the start of each moment.

    Each video has its own reel, and each event has its file name, by which editing programs find it. Events of videos
    with sound have picture and sound. A list has one frame rate: source timecodes of videos at other rates keep their
    hours, minutes and seconds, and their frames are scaled.

    Raises:
        VidretError: The timeline has more than 999 clips, or times of 24 hours or more.
    """
    if len(timeline.clips) > MAX_EVENTS:
        raise VidretError(f"an EDL must have at most {MAX_EVENTS} moments, got {len(timeline.clips)}")
    reels = name_reels([clip.moment.path for clip in timeline.clips])
    lines = [f"TITLE: {timeline.title}", f"FCM: {'DROP FRAME' if timeline.drop_frame else 'NON-DROP FRAME'}", ""]
    for clip in timeline.clips:
        lines += _list_event(clip, timeline, reels[clip.moment.path])
    return "\n".join(lines) + "\n"


def to_markers(timeline: Timeline) -> str:
    """Return timeline markers in DaVinci Resolve's EDL format: an event of one frame per moment.

    Moments of one video are marked at its own timecodes, for a timeline that holds the video; those of several videos
    at their place in the edit. A line has the remarks on a moment, the colour, the name and the length in frames.

    Raises:
        VidretError: As in ``to_edl``.
    """
    if len(timeline.clips) > MAX_EVENTS:
        raise VidretError(f"an EDL must have at most {MAX_EVENTS} markers, got {len(timeline.clips)}")
    is_one = len({clip.moment.path for clip in timeline.clips}) == 1
    name, mode, lines = timeline.title.replace("|", "/"), "NON-DROP FRAME", list[str]()
    for clip in timeline.clips:
        note, colour = "; ".join(list_remarks(clip.moment)).replace("|", "/"), "Yellow" if clip.moment.weak else "Green"
        if note[:1].isdigit():  # else it parses as an event
            note = f"- {note}"
        length = max(1, nearest_frame((clip.marked_end - clip.marked_start) / clip.rate, timeline.rate))
        span = " ".join(_mark_timecodes(clip, timeline, in_source=is_one))
        mode = "DROP FRAME" if ";" in span else mode
        lines += [f"{clip.rank:03}  001      V     C        {span} {span}"]
        lines += [f"{note} |C:ResolveColor{colour} |M:{name} {clip.rank} |D:{length}", ""]
    return "\n".join([f"TITLE: {timeline.title}", f"FCM: {mode}", "", *lines])


def _mark_timecodes(clip: TimelineClip, timeline: Timeline, *, in_source: bool) -> tuple[str, str]:
    """Return the timecodes of the first frame of a moment and of the next one, in its video or in the timeline."""
    if in_source:
        return _source_timecodes(replace(clip, start=clip.marked_start, record_start=0, record_end=1), timeline)
    frame = clip.record_start + nearest_frame((clip.marked_start - clip.start) / clip.rate, timeline.rate)
    first, second = (
        format_timecode(index, timeline.rate, drop_frame=timeline.drop_frame) for index in (frame, frame + 1)
    )
    return first, second


def _list_event(clip: TimelineClip, timeline: Timeline, reel: str) -> list[str]:
    """Return the lines of one event: the edit, its file, its locator and its comments."""
    rate, drop_frame = timeline.rate, timeline.drop_frame
    codes = [*_source_timecodes(clip, timeline)]
    codes += [format_timecode(frame, rate, drop_frame=drop_frame) for frame in (clip.record_start, clip.record_end)]
    before = nearest_frame((clip.marked_start - clip.start) / clip.rate, rate)
    marked = format_timecode(min(clip.record_start + before, clip.record_end - 1), rate, drop_frame=drop_frame)
    channel = "B" if clip.footage.has_audio else "V"
    remarks = list_remarks(clip.moment)
    if clip.moment.by != LISTED:
        remarks[0] = remarks[0].upper()
    colour = "YELLOW" if clip.moment.weak else "GREEN"
    return [
        f"{clip.rank:03}  {reel:<{REEL_LETTERS}} {channel}     C        {' '.join(codes)}",
        f"* FROM CLIP NAME: {sanitize(file_name(clip.moment.path))}",
        f"* LOC: {marked} {colour:<7} {timeline.title}",
        *(f"* COMMENT: {line[:MAX_COMMENT_LETTERS]}" for line in remarks),
    ]


def _source_timecodes(clip: TimelineClip, timeline: Timeline) -> tuple[str, str]:
    """Return the timecodes of the first frame of a clip and of the one after its last, at the rate of the timeline."""
    footage, rate = clip.footage, timeline.rate
    drop_frame = footage.drop_frame if footage.has_timecode and clip.rate == rate else timeline.drop_frame
    first = footage.first_frame + clip.start
    if clip.rate != rate:
        first = _convert_frame(first, clip.rate, rate, from_drop=footage.drop_frame, to_drop=drop_frame)
    frames = first, first + clip.record_end - clip.record_start
    if footage.has_timecode:  # a camera's timecode restarts at midnight
        day = count_day(rate, drop_frame=drop_frame)
        frames = frames[0] % day, frames[1] % day
    start, end = (format_timecode(frame, rate, drop_frame=drop_frame) for frame in frames)
    return start, end


def _convert_frame(frame_index: int, rate: Fraction, to_rate: Fraction, *, from_drop: bool, to_drop: bool) -> int:
    """Return the frame at another rate whose timecode has the same hours, minutes and seconds."""
    if rate.denominator not in (1, 1001):  # such as 12.5, without timecode: take the frame at the same time
        return nearest_frame(frame_index / rate, to_rate)
    days, frame_index = divmod(frame_index, count_day(rate, drop_frame=from_drop))
    code = format_timecode(frame_index, rate, drop_frame=from_drop)
    frames = int(code[9:]) * round(to_rate) // round(rate)
    try:
        converted, _ = parse_timecode(f"{code[:8]}{';' if to_drop else ':'}{frames:02}", to_rate)
    except VidretError:  # drop-frame timecode skips this label: take the next one
        converted, _ = parse_timecode(f"{code[:8]};{round(to_rate) // 15:02}", to_rate)
    return converted + days * count_day(to_rate, drop_frame=to_drop)


def name_reels(paths: Sequence[str]) -> dict[str, str]:
    """Return a unique reel name of up to eight letters and digits for each path."""
    reels: dict[str, str] = {}
    taken = {"BL", "AX"}  # reserved: black, and no reel
    for path in dict.fromkeys(paths):
        stem = (
            "".join(letter for letter in Path(file_name(path)).stem.upper() if letter.isascii() and letter.isalnum())
            or "REEL"
        )
        reel, suffix = stem[:REEL_LETTERS], 1
        while reel in taken:
            suffix += 1
            reel = stem[: REEL_LETTERS - len(str(suffix))] + str(suffix)
        taken.add(reel)
        reels[path] = reel
    return reels
