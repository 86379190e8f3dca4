"""The plan of an edit: which frames of which video follow each other, whatever format says so."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

from vidret.present.editors.footage import DEFAULT_RATE, Footage
from vidret.present.editors.timecode import (
    DROP_FRAME_RATES,
    choose_editing_rate,
    format_rate,
    nearest_frame,
    parse_rate,
)
from vidret.present.show import SOURCE_NAMES, describe_match
from vidret.text import format_time, is_url, sanitize, show_path, strip_query
from vidret.types import Evidence, Moment

logger = logging.getLogger(__name__)

MAX_TITLE_LETTERS = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineClip:
    """A moment as frames of its video, the first of which is frame 0.

    Attributes:
        moment: The moment.
        rank: Its rank, from 1.
        footage: Its video, whose rate is known or assumed.
        rate: The rate of the video, in frames per second.
        start: The first frame of the clip, handles included.
        end: The frame after the last one of the clip.
        marked_start: The first frame of the moment.
        marked_end: The frame after the last one of the moment.
        record_start: Where the clip begins in the timeline, in frames of the timeline.
        record_end: Where it ends there.
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
    """Clips one after another, from frame 0 of a timeline on.

    Attributes:
        query: The query that the moments answer.
        rate: The rate of the timeline, in frames per second.
        clips: The clips, best first.
    """

    query: str
    rate: Fraction
    clips: tuple[TimelineClip, ...]

    @property
    def title(self) -> str:
        """Return the query on one line, cut to a length that editing programs show."""
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

    Boundaries are rounded to the nearest frame, and a clip has at least one frame. The timeline has the rate of most
    clips, of the better ones in a tie. What is assumed, converted or shortened is logged once as a warning.

    Args:
        moments: The moments, best first.
        footage: Facts about the video at each of their paths.
        query: The query that they answer.
        fps: The rate of the timeline in frames per second, and of videos whose rate is unknown.
        handles_s: Seconds of the video to add before and after each moment, as far as it has them.

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
    lengths = [max(1, nearest_frame((clip.end - clip.start) / clip.rate, rate)) for clip in clips]
    ends = list(accumulate(lengths))
    placed = [
        replace(clip, record_start=end - length, record_end=end)
        for clip, length, end in zip(clips, lengths, ends, strict=True)
    ]
    for note in _list_notes(placed, rate):
        logger.warning("%s", note)
    return Timeline(query=query, rate=rate, clips=tuple(placed))


def list_remarks(moment: Moment) -> list[str]:
    """Return what a marker says about a moment: how likely it is, its score, and the words, each on one line."""
    match = describe_match(moment).strip()
    remarks = [f"{match}, score {moment.score:.3f}" if match else f"score {moment.score:.3f}"]
    return remarks + [_describe(each) for each in moment.evidence if each.text]


def media_url(path: str) -> str:
    """Return the URL of a video for editing programs, without the query string of a URL, which may hold a signature."""
    return strip_query(path) if is_url(path) else Path(path).absolute().as_uri()


def _describe(evidence: Evidence) -> str:
    words = " ".join(evidence.text.split())
    return f"{SOURCE_NAMES[evidence.source]} at {format_time(evidence.start)}: {sanitize(words)}"


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


def _list_notes(clips: Sequence[TimelineClip], rate: Fraction) -> list[str]:
    """Return what was assumed about each video, that rates differ, and which clips are shorter than their moment."""
    notes = []
    for footage in {clip.footage.path: clip.footage for clip in clips}.values():
        if footage.note:
            assumed = "" if footage.rate else f"; the export assumes {format_rate(rate)}"
            notes.append(f"{_name(footage)}: {footage.note}{assumed}")
    others = sorted({clip.rate for clip in clips} - {rate})
    if others:
        rates = " and ".join(format_rate(each) for each in others)
        notes.append(f"the timeline has {format_rate(rate)}, and clips of {rates} are fitted to its frames")
    for clip in clips:
        footage, moment = clip.footage, clip.moment
        if (
            footage.num_frames is None
            or nearest_frame(moment.end - footage.start_s, clip.rate) <= footage.num_frames + 1
        ):
            continue
        end_s = footage.start_s + footage.num_frames / clip.rate
        span = f"{format_time(moment.start)} to {format_time(moment.end)}"
        notes.append(f"{_name(footage)}: ends at {format_time(float(end_s))}; the clip of {span} ends there")
    return notes


def _name(footage: Footage) -> str:
    return show_path(footage.path)
