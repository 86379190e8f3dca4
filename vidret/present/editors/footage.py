"""What an edit must know of a video: its frame rate as editors count it, its length and its own timecode."""

from dataclasses import dataclass
from fractions import Fraction

from vidret.errors import VidretError
from vidret.present.editors.timecode import EDITING_RATES, format_rate, parse_timecode, snap_rate
from vidret.text import NO_FILE, has_file, is_url
from vidret.video.probe import VideoInfo, probe

DEFAULT_RATE = Fraction(25)  # where nothing is known
# Streams without a container have no timestamps.
_RAW_STREAMS = {"h264", "hevc", "vvc", "mpegvideo", "m4v", "obu", "av1", "vc1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """Facts about a video, as an edit needs them.

    Attributes:
        path: The path or URL.
        rate: Frames per second; None if unknown.
        num_frames: Its length in frames; None if unknown.
        start_s: When its first frame is shown, in seconds on a player's clock.
        first_frame: The number that its own timecode gives to the first frame; 0 without a timecode.
        has_timecode: Whether it has a timecode of its own.
        drop_frame: Whether that timecode is drop-frame.
        width: In pixels; 0 if unknown.
        height: In pixels; 0 if unknown.
        has_audio: Whether it has sound.
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
    note: str = ""


def read_footage(path: str) -> Footage:
    """Return the facts about a video. Of a file that cannot be read, and of one at a URL, nothing is known."""
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
        note=note,
    )


def read_rate(info: VideoInfo) -> tuple[Fraction, str]:
    """Return the frame rate of a video, and a note if it is assumed.

    A rate that its container states is taken if the frames keep to it: if the last one is less than half a frame off.
    """
    span_s = float(info.times[-1] - info.times[0])
    measured = (info.num_frames - 1) / span_s if span_s > 0 else 0.0
    stated = [snap_rate(fps) for fps in (info.average_rate, info.real_rate, measured) if fps > 0]
    fitting = [rate for rate in stated if abs((info.num_frames - 1) / rate - span_s) * rate < 0.5]
    if info.container in _RAW_STREAMS and fitting:
        return fitting[0], f"has no timestamps; the export assumes {format_rate(fitting[0])}"
    if fitting and not info.variable_rate:
        return fitting[0], ""
    average = measured or info.average_rate or float(DEFAULT_RATE)
    assumed = min(EDITING_RATES, key=lambda rate: abs(rate - Fraction(average)))
    what = "its frame rate varies" if info.variable_rate else "its frame rate is unknown"
    return assumed, f"{what}; the export assumes {format_rate(assumed)}"
