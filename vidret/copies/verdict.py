"""From checked windows to a verdict: the same footage or not, and its exact speed and offset."""

from collections.abc import Sequence
from dataclasses import dataclass

from vidret.align.placement import PicturePlacement
from vidret.copies.checking import MANY_CHANGES, CheckedWindow

LEAST_LIKENESS = 0.7  # of pictures; a large watermark leaves 0.8
FEW_CHANGES = 4  # fewer say nothing
# Agreement that is needed of many changes, and how much more of few. Copies reach 0.78 with 30 changes and more.
LEAST_AGREEMENT, CHANCE = 0.7, 0.5
STILL_LIKENESS = 0.985  # of pictures in which nothing moves
ODD_AGREEMENT = 0.45  # of one window, below which the other one does not count
MAX_SPEED_ERROR = 0.15  # of the speed between two windows, relative to that within them


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageVerdict:
    """What the decoded frames of two files say.

    Attributes:
        same: Whether they show the same footage.
        moves: Whether enough moves to tell; if not, only the likeness of the pictures decides.
        agreement: Mean correlation of changes.
        likeness: Mean correlation of pictures.
        speed: Seconds of the film per second of the clip.
        offset: Film time of the clip's time 0, in seconds.
        placement: Where the clip's picture lies in the film's.
    """

    same: bool
    moves: bool
    agreement: float
    likeness: float
    speed: float
    offset: float
    placement: PicturePlacement


def judge_windows(windows: Sequence[CheckedWindow]) -> FootageVerdict:
    """Return the verdict of one or two windows."""
    num_changes = sum(window.motion.num_changes for window in windows)
    weights = [window.motion.num_changes / num_changes if num_changes else 1 / len(windows) for window in windows]
    agreement = sum(weight * window.motion.agreement for weight, window in zip(weights, windows, strict=True))
    likeness = sum(window.motion.likeness for window in windows) / len(windows)
    speed, offset, is_straight = fit_line(windows)
    moves = num_changes >= FEW_CHANGES
    if not moves:
        agrees = likeness >= STILL_LIKENESS
    else:
        lowest = min((each.motion.agreement for each in windows if each.motion.num_changes >= MANY_CHANGES), default=1)
        agrees = agreement >= LEAST_AGREEMENT + CHANCE / num_changes**0.5 and lowest >= ODD_AGREEMENT
    return FootageVerdict(
        same=agrees and is_straight and likeness >= LEAST_LIKENESS,
        moves=moves,
        agreement=agreement,
        likeness=likeness,
        speed=speed,
        offset=offset,
        placement=max(windows, key=lambda window: window.motion.merit).placement,
    )


def fit_line(windows: Sequence[CheckedWindow]) -> tuple[float, float, bool]:
    """Return speed and offset through the centres of the windows, and whether the windows agree on the speed."""
    if len(windows) == 1:
        return windows[0].motion.speed, windows[0].motion.offset, True
    first, last = windows
    one, other = (each.motion.speed * each.centre_s + each.motion.offset for each in windows)
    speed = (other - one) / (last.centre_s - first.centre_s)
    expected = max(windows, key=lambda window: window.motion.merit).motion.speed
    return speed, one - speed * first.centre_s, abs(speed / expected - 1) <= MAX_SPEED_ERROR
