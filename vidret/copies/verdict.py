"""From checked windows to a verdict: the same footage or not, and its exact speed and offset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidret.copies.checking import (
    LEAST_AGREEMENT,
    MANY_CHANGES,
    WINDOW_S,
    CheckedWindow,
    FootageGuess,
    FootageReader,
    check_guess,
    check_middle,
)
from vidret.copies.registration import PicturePlacement

LEAST_LIKENESS = 0.7  # of pictures; a large watermark leaves 0.8
FEW_CHANGES = 4  # fewer say nothing
CHANCE = 0.5  # how much more agreement is needed of few changes
STILL_LIKENESS = 0.985  # of pictures in which nothing moves
ODD_AGREEMENT = 0.45  # of one window, below which the other one does not count
MAX_BEND_S = 0.25  # by which the middle may be beside the line through the ends
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
        start: When in the clip this begins to hold, in seconds.
        end: When it ends to hold.
        placement: Where the clip's picture is in the film's.
    """

    same: bool
    moves: bool
    agreement: float
    likeness: float
    speed: float
    offset: float
    start: float
    end: float
    placement: PicturePlacement


def judge_footage(guess: FootageGuess, reader: FootageReader) -> FootageVerdict | None:
    """Return the verdict on two files; None if there are no frames to compare.

    Raises:
        DecodeError: A file cannot be read.
    """
    windows = check_guess(guess, reader)
    if len(windows) == 2 and is_straight(windows):  # two films may share clips at both ends, and nothing between them
        placement = max(windows, key=lambda window: window.motion.merit).placement
        middle = check_middle(guess, fit_line(windows), placement, reader)
        windows = windows if middle is None else [windows[0], middle, windows[1]]
    return judge_windows(windows) if windows else None


def judge_windows(windows: Sequence[CheckedWindow]) -> FootageVerdict:
    """Return the verdict of one to three windows, which are in order.

    Where one film lacks a moment of the other, two of three windows are on one line: the verdict is that of these.
    """
    start, end = -np.inf, np.inf
    if len(windows) == 3 and not is_straight(windows):
        reach_s = WINDOW_S / 2
        if are_certainly_straight(windows[:2]):
            windows, end = windows[:2], windows[1].centre_s + reach_s
        elif are_certainly_straight(windows[1:]):
            windows, start = windows[1:], windows[1].centre_s - reach_s
    num_changes = sum(window.motion.num_changes for window in windows)
    weights = [window.motion.num_changes / num_changes if num_changes else 1 / len(windows) for window in windows]
    agreement = sum(weight * window.motion.agreement for weight, window in zip(weights, windows, strict=True))
    likeness = sum(window.motion.likeness for window in windows) / len(windows)
    speed, offset = fit_line(windows)
    moves = num_changes >= FEW_CHANGES
    if not moves:
        agrees = likeness >= STILL_LIKENESS
    else:
        lowest = min(
            (window.motion.agreement for window in windows if window.motion.num_changes >= MANY_CHANGES), default=1
        )
        agrees = agreement >= LEAST_AGREEMENT + CHANCE / num_changes**0.5 and lowest >= ODD_AGREEMENT
    return FootageVerdict(
        same=agrees and is_straight(windows) and likeness >= LEAST_LIKENESS,
        moves=moves,
        agreement=agreement,
        likeness=likeness,
        speed=speed,
        offset=offset,
        start=start,
        end=end,
        placement=max(windows, key=lambda window: window.motion.merit).placement,
    )


def fit_line(windows: Sequence[CheckedWindow]) -> tuple[float, float]:
    """Return speed and offset of the line through the centres of the first and the last window."""
    first, last = windows[0], windows[-1]
    if len(windows) == 1:
        return first.motion.speed, first.motion.offset
    speed = (_find_film_time(last) - _find_film_time(first)) / (last.centre_s - first.centre_s)
    return speed, _find_film_time(first) - speed * first.centre_s


def is_straight(windows: Sequence[CheckedWindow]) -> bool:
    """Return whether the windows are on one line and agree on its speed."""
    if len(windows) == 1:
        return True
    speed, offset = fit_line(windows)
    bends = (
        abs(speed * window.centre_s + offset - _find_film_time(window)) for window in windows[1:-1] if _moves(window)
    )
    expected = max(windows[0], windows[-1], key=lambda window: window.motion.merit).motion.speed
    return max(bends, default=0.0) <= MAX_BEND_S and abs(speed / expected - 1) <= MAX_SPEED_ERROR


def are_certainly_straight(windows: Sequence[CheckedWindow]) -> bool:
    """Return whether the windows are on one line, and each of them shows the same footage by itself."""
    return is_straight(windows) and all(
        _moves(window) and window.motion.agreement >= LEAST_AGREEMENT for window in windows
    )


def _moves(window: CheckedWindow) -> bool:
    return window.motion.num_changes >= MANY_CHANGES


def _find_film_time(window: CheckedWindow) -> float:
    return window.motion.speed * window.centre_s + window.motion.offset
