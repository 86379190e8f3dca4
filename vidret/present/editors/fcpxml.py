"""Timelines as FCPXML, the format of Final Cut Pro, which DaVinci Resolve also reads.

OpenTimelineIO's adapter is not used: it supports whole frame rates only, writes one format for all others, and drops
the notes of markers. The tests read the projects back with it.
"""

from collections.abc import Sequence
from fractions import Fraction
from xml.etree import ElementTree

from vidret.present.editors.timecode import DROP_FRAME_RATES
from vidret.present.editors.timeline import Timeline, TimelineClip, list_remarks, media_url
from vidret.text import file_name, sanitize

# The version of Final Cut Pro 10.4.1; later ones read it, too.
VERSION = "1.8"
UNKNOWN_SIZE = (1920, 1080)
# The rates that the format allows for clips whose rate differs from that of the timeline.
_RATE_NAMES = {
    Fraction(24000, 1001): "23.98",
    Fraction(24): "24",
    Fraction(25): "25",
    Fraction(30000, 1001): "29.97",
    Fraction(30): "30",
    Fraction(48): "48",
    Fraction(50): "50",
    Fraction(60000, 1001): "59.94",
    Fraction(60): "60",
}
Size = tuple[int, int]


def to_fcpxml(timeline: Timeline) -> str:
    """Return a timeline as an FCPXML project, with one asset per video and a marker per moment.

    Times are exact fractions of a second. The picture has the size of the best moment's video.
    """
    root = ElementTree.Element("fcpxml", version=VERSION)
    resources = ElementTree.SubElement(root, "resources")
    sizes = [(clip.footage.width, clip.footage.height) for clip in timeline.clips if clip.footage.width]
    size = sizes[0] if sizes else UNKNOWN_SIZE
    formats = {(timeline.rate, size): _add_format(resources, "r1", timeline.rate, size)}
    for clip in timeline.clips:
        key = _find_format(clip, size)
        if key not in formats:
            formats[key] = _add_format(resources, f"r{len(formats) + 1}", *key)
    assets: dict[str, str] = {}
    for clip in timeline.clips:
        path = clip.moment.path
        if path not in assets:
            assets[path] = f"r{len(formats) + len(assets) + 1}"
            its_clips = [its_clip for its_clip in timeline.clips if its_clip.moment.path == path]
            _add_asset(resources, assets[path], formats[_find_format(clip, size)], its_clips)
    event = ElementTree.SubElement(root, "event", name="vidret")
    project = ElementTree.SubElement(event, "project", name=timeline.title)
    sequence = ElementTree.SubElement(
        project,
        "sequence",
        format="r1",
        duration=_seconds(timeline.num_frames, timeline.rate),
        tcStart="0s",
        tcFormat="DF" if timeline.drop_frame else "NDF",
    )
    spine = ElementTree.SubElement(sequence, "spine")
    for clip in timeline.clips:
        _add_clip(spine, clip, timeline, assets[clip.moment.path])
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n\n{text}\n'


def _find_format(clip: TimelineClip, size: Size) -> tuple[Fraction, Size]:
    """Return the rate and the size of a clip's video, which is ``size`` if it is unknown."""
    return clip.rate, (clip.footage.width, clip.footage.height) if clip.footage.width else size


def _add_format(resources: ElementTree.Element, name: str, rate: Fraction, size: Size) -> str:
    """Add a format, and return its id."""
    width, height = map(str, size)
    ElementTree.SubElement(resources, "format", id=name, frameDuration=_seconds(1, rate), width=width, height=height)
    return name


def _add_asset(resources: ElementTree.Element, name: str, form: str, clips: Sequence[TimelineClip]) -> None:
    """Add a video; if its duration is unknown, it lasts until the end of its last clip."""
    footage, rate = clips[0].footage, clips[0].rate
    num_frames = footage.num_frames or max(clip.end for clip in clips)
    attributes = {
        "id": name,
        "name": sanitize(file_name(footage.path)),
        "src": media_url(footage.path),
        "start": _seconds(footage.first_frame, rate),
        "duration": _seconds(num_frames, rate),
        "hasVideo": "1",
        "format": form,
    }
    if footage.has_audio:
        attributes |= {"hasAudio": "1", "audioSources": "1"}
    ElementTree.SubElement(resources, "asset", attributes)


def _add_clip(spine: ElementTree.Element, clip: TimelineClip, timeline: Timeline, asset: str) -> None:
    """Add a clip with its marker, whose times are those of the video."""
    footage, rate = clip.footage, clip.rate
    is_drop_frame = footage.drop_frame if footage.has_timecode else rate in DROP_FRAME_RATES
    element = ElementTree.SubElement(
        spine,
        "asset-clip",
        ref=asset,
        name=sanitize(file_name(footage.path)),
        offset=_seconds(clip.record_start, timeline.rate),
        start=_seconds(footage.first_frame + clip.start, rate),
        duration=_seconds(clip.record_end - clip.record_start, timeline.rate),
        tcFormat="DF" if is_drop_frame else "NDF",
    )
    if rate != timeline.rate:
        attributes = {"scaleEnabled": "0"}  # keep the speed
        if rate in _RATE_NAMES:
            attributes["srcFrameRate"] = _RATE_NAMES[rate]
        ElementTree.SubElement(element, "conform-rate", attributes)
    ElementTree.SubElement(
        element,
        "marker",
        start=_seconds(footage.first_frame + clip.marked_start, rate),
        duration=_seconds(clip.marked_end - clip.marked_start, rate),
        value=timeline.title,
        note="; ".join(list_remarks(clip.moment)),
    )


def _seconds(num_frames: int, rate: Fraction) -> str:
    """Return the duration of frames as an exact fraction in the format's notation, such as ``1001/30000s``."""
    time_s = num_frames / rate
    return f"{time_s}s"
