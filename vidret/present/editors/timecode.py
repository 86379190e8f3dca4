"""Frame rates as exact fractions, and timecodes that number frames, as in SMPTE ST 12-1.

A timecode numbers frames at a whole rate: 30 labels a second for 29.97 frames. Drop-frame timecode skips the first
labels of each minute except every tenth, to keep up with the clock. It has a semicolon: ``00:01:00;02``.
"""

import re
from fractions import Fraction

from vidret.errors import OptionError, VidretError

EDITING_RATES = tuple(
    Fraction(rate) for rate in ("24000/1001", "24", "25", "30000/1001", "30", "48", "50", "60000/1001", "60")
)
DROP_FRAME_RATES = (Fraction(30000, 1001), Fraction(60000, 1001))
_TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_SAME_RATE = 2e-4  # 29.97 and 30 differ by five times as much


def parse_rate(fps: float) -> Fraction:
    """Return the frame rate of a timeline as a fraction: 29.97 is 30000/1001.

    Raises:
        VidretError: It is neither a whole number in 1..100 nor 1000/1001 of one.
    """
    if 0.9 < fps < 100.01:
        rounded = round(fps)
        for rate in (Fraction(rounded), Fraction(rounded * 1000, 1001)):
            if abs(fps - rate) < 0.001:
                return rate
    raise OptionError(f"fps must be a whole number in 1..100, or 1000/1001 of one, got {fps:g}")


def snap_rate(fps: float) -> Fraction:
    """Return a container's frame rate as a fraction: a whole rate, 1000/1001 of one, or else the nearest fraction.

    >>> snap_rate(29.97), snap_rate(119.8801), snap_rate(12.5)
    (Fraction(30000, 1001), Fraction(120000, 1001), Fraction(25, 2))
    """
    for rate in (Fraction(round(fps)), Fraction(round(fps * 1.001) * 1000, 1001)):
        if rate and abs(fps / rate - 1) < _SAME_RATE:
            return rate
    return Fraction(fps).limit_denominator(1001)


def choose_editing_rate(rate: Fraction) -> Fraction:
    """Return the rate of ``EDITING_RATES`` that shows frames of another rate most evenly; the slower one in a tie.

    >>> choose_editing_rate(Fraction(15)), choose_editing_rate(Fraction(120000, 1001))
    (Fraction(30, 1), Fraction(60000, 1001))
    """
    if rate in EDITING_RATES:
        return rate
    ratios = {option: max(option / rate, rate / option) for option in EDITING_RATES}
    even = [option for option in EDITING_RATES if ratios[option].denominator == 1]
    return min(even or EDITING_RATES, key=lambda option: ratios[option])


def nearest_frame(time_s: float | Fraction, rate: Fraction) -> int:
    """Return the index of the frame that starts nearest to a non-negative time; the later one in a tie."""
    return int(Fraction(time_s) * rate + Fraction(1, 2))


def count_day(rate: Fraction, *, drop_frame: bool) -> int:
    """Return the number of timecodes in 24 hours."""
    return 24 * 6 * (round(rate) * 600 - 9 * _count_dropped(rate, drop_frame=drop_frame))


def format_timecode(frame_index: int, rate: Fraction, *, drop_frame: bool = False) -> str:
    """Return the timecode of a frame as hours:minutes:seconds:frames.

    >>> format_timecode(90061, Fraction(25)), format_timecode(1800, Fraction(30000, 1001), drop_frame=True)
    ('01:00:02:11', '00:01:00;02')

    Raises:
        VidretError: The frame is at 24 hours or later.
    """
    if frame_index >= count_day(rate, drop_frame=drop_frame):
        hours = frame_index / rate / 3600
        raise VidretError(f"the timecodes of an EDL must be below 24 hours, got {float(hours):.1f} hours")
    nominal, dropped = round(rate), _count_dropped(rate, drop_frame=drop_frame)
    tens, rest = divmod(frame_index, nominal * 600 - 9 * dropped)
    minutes = 0 if rest < nominal * 60 else 1 + (rest - nominal * 60) // (nominal * 60 - dropped)
    seconds, frames = divmod(frame_index + dropped * (9 * tens + minutes), nominal)
    separator = ";" if drop_frame else ":"
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{frames:02}"


def parse_timecode(text: str, rate: Fraction) -> tuple[int, bool]:
    """Return the index of the frame that has a timecode, and whether it is drop-frame.

    >>> parse_timecode("00:01:00;02", Fraction(30000, 1001))
    (1800, True)

    Raises:
        VidretError: No frame has this timecode at this rate.
    """
    match = _TIMECODE.fullmatch(text)
    if match:
        hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
        drop_frame = match[4] != ":"
        dropped = _count_dropped(rate, drop_frame=drop_frame)
        is_skipped = seconds == 0 and frames < dropped and minutes % 10 > 0
        is_label = hours < 24 and minutes < 60 and seconds < 60 and frames < round(rate) and not is_skipped
        if is_label and (rate in DROP_FRAME_RATES or not drop_frame):
            minutes += 60 * hours
            labels = (60 * minutes + seconds) * round(rate) + frames
            return labels - dropped * (minutes - minutes // 10), drop_frame
    raise VidretError(f"a timecode at {format_rate(rate)} must be one of its labels, got {text}")


def format_rate(rate: Fraction) -> str:
    """Return a frame rate as text.

    >>> format_rate(Fraction(30000, 1001)), format_rate(Fraction(25))
    ('29.97 fps', '25 fps')
    """
    return f"{float(rate):.3f}".rstrip("0").rstrip(".") + " fps"


def _count_dropped(rate: Fraction, *, drop_frame: bool) -> int:
    """Return the number of labels that a minute skips."""
    return round(rate) // 15 if drop_frame else 0
