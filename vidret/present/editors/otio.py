"""Timelines in OpenTimelineIO's own format, which DaVinci Resolve, Premiere Pro, Avid and Nuke Studio read."""

import dataclasses
import importlib
import importlib.util
from fractions import Fraction
from typing import Any

from vidret.errors import MissingExtraError
from vidret.present.editors.timeline import Timeline, TimelineClip, list_remarks, media_url
from vidret.text import file_name, map_texts, sanitize


def check_installed() -> None:
    """Raise MissingExtraError unless OpenTimelineIO is installed."""
    if importlib.util.find_spec("opentimelineio") is None:
        raise MissingExtraError("the format otio", "editors")


def to_otio(timeline: Timeline) -> str:
    """Return a timeline as OpenTimelineIO's JSON: a picture track, and a sound track if a video has sound.

    A clip is cut at frames of its own video. Its marker spans the moment, with the query as name, and the score and
    the matching words as comment; the metadata of both hold all fields of the moment.
    """
    check_installed()
    import opentimelineio

    schema: Any = opentimelineio.schema
    rate = float(timeline.rate)
    start = opentimelineio.opentime.RationalTime(0, rate)
    document = schema.Timeline(
        timeline.title, global_start_time=start, metadata={"vidret": {"query": _clean(timeline.query)}}
    )
    pictures = schema.Track("V1", kind=schema.TrackKind.Video)
    pictures.extend([_make_clip(clip, timeline, with_marker=True) for clip in timeline.clips])
    document.tracks.append(pictures)
    if any(clip.footage.has_audio for clip in timeline.clips):
        sound = schema.Track("A1", kind=schema.TrackKind.Audio)
        for clip in timeline.clips:
            span = _make_range(clip.start, clip.end, clip.rate)
            has_audio = clip.footage.has_audio
            sound.append(_make_clip(clip, timeline) if has_audio else schema.Gap(source_range=span))
        document.tracks.append(sound)
    return f"{document.to_json_string(indent=2)}\n"


def _make_clip(clip: TimelineClip, timeline: Timeline, *, with_marker: bool = False) -> Any:
    """Return a clip with a reference to its whole video."""
    import opentimelineio

    schema: Any = opentimelineio.schema
    footage, first = clip.footage, clip.footage.first_frame
    available = None
    if footage.num_frames is not None:
        available = _make_range(first, first + footage.num_frames, clip.rate)
    name = sanitize(file_name(footage.path))
    reference = schema.ExternalReference(media_url(footage.path), available)
    reference.name = name
    made = schema.Clip(name, reference, _make_range(first + clip.start, first + clip.end, clip.rate))
    if with_marker:
        moment = map_texts(_clean, dataclasses.asdict(clip.moment))
        del moment["path"]  # a URL may hold a signature
        made.metadata["vidret"] = {"rank": clip.rank, "query": _clean(timeline.query), "moment": moment}
        made.markers.append(
            schema.Marker(
                timeline.title,
                marked_range=_make_range(first + clip.marked_start, first + clip.marked_end, clip.rate),
                color=schema.MarkerColor.YELLOW if clip.moment.weak else schema.MarkerColor.GREEN,
                comment="\n".join(list_remarks(clip.moment)),
            )
        )
    return made


def _make_range(start: int, end: int, rate: Fraction) -> Any:
    from opentimelineio.opentime import RationalTime, TimeRange

    return TimeRange(RationalTime(start, float(rate)), RationalTime(end - start, float(rate)))


def _clean(text: str) -> str:
    """Return valid text without NUL characters, at which OpenTimelineIO would cut it."""
    return "\n".join(map(sanitize, text.split("\n")))
