"""A check on decoded frames of whether two files show the same footage, and of its exact times.

Two or three windows of the footage are compared, and then judged together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float64

from vidret.copies.alignment import OCTAVE_STEPS, SPEEDS
from vidret.copies.motion import MotionMatch, find_nearest_times, match_motion, multiply_pictures
from vidret.copies.registration import (
    COARSE,
    PicturePlacement,
    find_placement,
    refine_placement,
    resize_pixels,
    view_through,
)
from vidret.video.files import stat_file
from vidret.video.workers.image_pool import ImagePool
from vidret.video.workers.messages import GreyStretch

WINDOW_S = 4.0  # of the clip, compared at once
SHORT_S = 6.0  # footage up to this long is compared as a whole
MARGIN_S = 0.5  # left out at the ends of longer footage, which frame vectors locate to a second
VAGUE_S = 15.0  # of footage, up to which frame vectors say little about speed and offset
SLACK_S = 1.5  # by which the offset of an alignment of frame vectors may be wrong
VAGUE_STRETCH = 2.0  # how many times as long as the clip vague footage may take in the film
STEP_S = 0.05  # of offsets that are tried
NUM_PLACED = 4  # clip frames whose place in the film's picture is searched
NUM_REFINED = 6  # frames on which a placement is refined
LEAST_GAIN = 0.01  # for which a placement is refined further
HOPELESS = 0.3  # agreement below which no better placement and no second window are tried
UNCHANGED = PicturePlacement(left=0.0, top=0.0, width=1.0, height=1.0, mirrored=False)
WELL_PLACED = 0.97  # likeness of pictures whose placement is certain
MIDDLE_SLACK_S = 0.15  # by which the time of the middle may be wrong once both ends are known
LEAST_AGREEMENT = 0.7  # of many changes, from which on footage is the same; copies reach 0.78 with 30 changes and more
MANY_CHANGES = 8  # from which on an agreement is not by chance
CERTAIN = 0.85  # agreement of well placed pictures, from which on no other placement is tried
RATE = 10.0  # pictures per second that are compared
BLOCK_S = 4.0  # footage is read in blocks of this length
NUM_WORKERS = 2  # processes that decode, and also the number of concurrent comparisons
MAX_BLOCKS = 10_000  # kept in memory, of 92 kB at most


class FootageReader:
    """Reads small grey pictures of files, which are decoded in worker processes and cached."""

    def __init__(self) -> None:
        self._pool = ImagePool(NUM_WORKERS)
        self._read_block = lru_cache(MAX_BLOCKS)(partial(_decode_block, self._pool))

    @property
    def is_closed(self) -> bool:
        """Whether the processes were ended, so that reading fails."""
        return self._pool.processes.is_closed

    def close(self) -> None:
        """End the processes; reading in progress and later fails."""
        self._pool.close()

    def forget(self) -> None:
        """Clear the cache of pictures; the processes stay."""
        self._read_block.cache_clear()

    def read(self, path: str, start: float, end: float) -> GreyStretch:
        """Return the pictures of a stretch, given in seconds.

        Raises:
            DecodeError: The file cannot be read.
        """
        block_indices = range(int(max(start, 0.0) // BLOCK_S), int(max(end, 0.0) // BLOCK_S) + 1)
        blocks = [self._read_block(path, block_index) for block_index in block_indices]
        times = np.concatenate([block.times for block in blocks])
        greys = np.concatenate([block.greys for block in blocks])
        _, first = np.unique(times, return_index=True)  # a frame may be the nearest to the ends of two blocks
        kept = first[(times[first] >= start) & (times[first] <= end)]
        return GreyStretch(greys[kept], times[kept], blocks[0].size)


def _decode_block(pool: ImagePool, path: str, block_index: int) -> GreyStretch:
    start = block_index * BLOCK_S
    return pool.read_greys(path, stat_file(path), start, start + BLOCK_S - 1 / RATE, RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageGuess:
    """An estimate from frame vectors of the footage that a clip and a film share.

    ``start`` and ``end`` are in seconds of the clip; film time = speed * clip time + offset.
    """

    clip_path: str
    film_path: str
    start: float
    end: float
    speed: float
    offset: float

    @property
    def is_vague(self) -> bool:
        """Whether the footage is too short to estimate speed and offset from frame vectors."""
        return self.end - self.start <= VAGUE_S

    @property
    def slack_s(self) -> float:
        """The maximum error of the offset in seconds."""
        return 2 * SLACK_S if self.is_vague else SLACK_S


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedWindow:
    """The comparison of the decoded frames of one stretch; ``centre_s`` is its middle in the clip."""

    centre_s: float
    placement: PicturePlacement
    motion: MotionMatch

    @property
    def moves(self) -> bool:
        """Whether there are so many changes that an agreement is not by chance."""
        return self.motion.num_changes >= MANY_CHANGES

    @property
    def is_certain(self) -> bool:
        """Whether no other placement or offset can be much better."""
        return self.moves and self.motion.likeness > WELL_PLACED and self.motion.agreement >= CERTAIN

    @property
    def film_s(self) -> float:
        """The film time of the middle, in seconds."""
        return self.motion.speed * self.centre_s + self.motion.offset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FramePair:
    """Pictures of a clip around ``centre_s`` seconds, and pictures of a film that may show the same.

    ``offsets`` are the film times of ``centre_s`` to try.
    """

    clip: GreyStretch
    film: GreyStretch
    centre_s: float
    speeds: Float64[np.ndarray, " speed"]
    offsets: Float64[np.ndarray, " offset"]

    def compare(self, placement: PicturePlacement) -> CheckedWindow | None:
        """Return the comparison of motion on the best line; None if no line has enough frames."""
        clip, film = self.clip, self.film
        seen, inside = view_through(placement, film.greys.astype(np.float32))
        halved_inside = inside[::2, ::2] & inside[1::2, ::2] & inside[::2, 1::2] & inside[1::2, 1::2]
        small_clip, small_seen = (resize_pixels(pixels, *COARSE) for pixels in (clip.greys.astype(np.float32), seen))
        products = multiply_pictures(small_clip, small_seen, halved_inside, clip.times, film.times)
        motion = match_motion(products, self.speeds, self.offsets, centre_s=self.centre_s)
        return None if motion is None else CheckedWindow(centre_s=self.centre_s, placement=placement, motion=motion)


def check_guess(guess: FootageGuess, reader: FootageReader) -> list[CheckedWindow]:
    """Compare both ends of the footage that two files may share, or all of it if it is short."""
    checked = []
    for start, end in choose_windows(guess.start, guess.end):
        window = check_window(guess, start, end, reader)
        if window is not None:
            checked.append(window)
            if window.motion.agreement < HOPELESS and window.moves:
                break
    return checked


def choose_windows(start: float, end: float) -> list[tuple[float, float]]:
    """Return the stretches of the clip to compare, in seconds."""
    if end - start <= SHORT_S:
        return [(start, end)]
    return [(start + MARGIN_S, start + MARGIN_S + WINDOW_S), (end - MARGIN_S - WINDOW_S, end - MARGIN_S)]


def check_middle(
    guess: FootageGuess, line: tuple[float, float], placement: PicturePlacement, reader: FootageReader
) -> CheckedWindow | None:
    """Compare the middle of two files, given speed and offset to ``MIDDLE_SLACK_S``; None if too short."""
    if guess.end - guess.start < 2 * (WINDOW_S + MARGIN_S):  # the windows at its ends meet
        return None
    start = (guess.start + guess.end - WINDOW_S) / 2
    refined = replace(guess, speed=line[0], offset=line[1])
    pair = read_pair(refined, start, start + WINDOW_S, reader, slack_s=MIDDLE_SLACK_S, stretch=1.1 * refined.speed)
    on_line = None if pair is None else pair.compare(placement)
    if on_line is not None and on_line.motion.agreement >= LEAST_AGREEMENT:
        return on_line
    return check_window(guess, start, start + WINDOW_S, reader)


def check_window(guess: FootageGuess, start: float, end: float, reader: FootageReader) -> CheckedWindow | None:
    """Compare one stretch of the clip with the part of the film that may show it; None if there are no frames.

    Most copies show the whole picture, which is tried first.
    """
    stretch = VAGUE_STRETCH if guess.is_vague else 1.1 * guess.speed
    pair = read_pair(guess, start, end, reader, slack_s=guess.slack_s, stretch=stretch)
    unchanged = None if pair is None else pair.compare(UNCHANGED)
    if pair is None or (unchanged is not None and unchanged.is_certain):
        return unchanged
    placed = place_clip(pair.clip, pair.film, guess)
    if placed.mirrored:
        unchanged = pair.compare(replace(UNCHANGED, mirrored=True))
    windows = [window for window in (unchanged, pair.compare(placed)) if window is not None]
    if not windows:
        return None
    best = max(windows, key=lambda window: window.motion.merit)
    if best.motion.agreement < HOPELESS or best.is_certain:
        return best
    refined = pair.compare(refine_at(pair.clip, pair.film, best.placement, best.motion))
    return best if refined is None or refined.motion.merit <= best.motion.merit + LEAST_GAIN else refined


def read_pair(
    guess: FootageGuess, start: float, end: float, reader: FootageReader, *, slack_s: float, stretch: float
) -> FramePair | None:
    """Return the pictures of a stretch of the clip and of the part of the film that may show it; None if there are few.

    The film may take ``stretch`` times as long as the clip, and begin ``slack_s`` seconds before or after the guess.
    """
    middle = (start + end) / 2
    film_s, half_s = guess.speed * middle + guess.offset, (end - start) / 2 * stretch + slack_s
    clip = reader.read(guess.clip_path, start, end)
    film = reader.read(guess.film_path, film_s - half_s, film_s + half_s)
    if min(len(clip.times), len(film.times)) < 2:
        return None
    speeds = SPEEDS if guess.is_vague else SPEEDS[np.abs(np.log2(SPEEDS / guess.speed)) < 1.5 / OCTAVE_STEPS]
    offsets = film_s + np.arange(-slack_s, slack_s + STEP_S / 2, STEP_S)
    return FramePair(clip=clip, film=film, centre_s=middle, speeds=speeds, offsets=offsets)


def place_clip(clip: GreyStretch, film: GreyStretch, guess: FootageGuess) -> PicturePlacement:
    """Return the placement of the clip's picture in the film's."""
    shown = np.unique(np.linspace(0, len(clip.times) - 1, NUM_PLACED + 2)[1:-1].round().astype(int))
    compared = np.arange(0, len(film.times), max(1, round(RATE / 3)))
    expected = guess.speed * clip.times[shown] + guess.offset
    near = np.abs(film.times[compared][None, :] - expected[:, None]) <= guess.slack_s
    aspect = (film.size[0] / film.size[1]) / (clip.size[0] / clip.size[1])
    return find_placement(clip.greys[shown], film.greys[compared], near, aspect=aspect)


def refine_at(
    clip: GreyStretch, film: GreyStretch, placement: PicturePlacement, motion: MotionMatch
) -> PicturePlacement:
    """Return a better placement, found on frames that show the same moment."""
    expected = motion.speed * clip.times + motion.offset
    columns, reached = find_nearest_times(film.times, expected[None, :])
    rows = np.flatnonzero(reached[0])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_REFINED).round().astype(int))]
    shown = film.greys[columns[0, rows]].astype(np.float32)
    return refine_placement(placement, clip.greys[rows].astype(np.float32), shown)


LEAST_LIKENESS = 0.7  # of pictures; a large watermark leaves 0.8
FEW_CHANGES = 4  # with fewer, agreement says nothing
CHANCE = 0.5  # how much more agreement few changes need
STILL_LIKENESS = 0.985  # of pictures in which nothing moves
ODD_AGREEMENT = 0.45  # of one window, below which the other one does not count
MAX_BEND_S = 0.25  # by which the middle may be beside the line through the ends
MAX_SPEED_ERROR = 0.15  # of the speed between two windows, relative to that within them


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageVerdict:
    """The evidence of decoded frames that two files show the same footage.

    Attributes:
        moves: Whether enough moves to compare changes; if not, only the likeness of the pictures was compared.
        agreement: Mean correlation of changes.
        speed: Seconds of the film per second of the clip.
        offset: Film time of the clip's time 0, in seconds.
        start: Start of the shared footage in the clip, in seconds.
        end: End of the shared footage in the clip, in seconds.
        placement: The placement of the clip's picture in the film's.
    """

    moves: bool
    agreement: float
    speed: float
    offset: float
    start: float
    end: float
    placement: PicturePlacement


def judge_footage(guess: FootageGuess, reader: FootageReader) -> FootageVerdict | None:
    """Return the verdict on two files; None if they do not show the same footage, or have no frames to compare.

    Raises:
        DecodeError: A file cannot be read.
    """
    windows = check_guess(guess, reader)
    if len(windows) == 2 and is_straight(windows):  # two films may share clips at both ends only
        placement = max(windows, key=lambda window: window.motion.merit).placement
        middle = check_middle(guess, fit_line(windows), placement, reader)
        windows = windows if middle is None else [windows[0], middle, windows[1]]
    return judge_windows(windows) if windows else None


def judge_windows(windows: Sequence[CheckedWindow]) -> FootageVerdict | None:
    """Return the verdict of one to three windows, which are in order; None if they do not show the same footage.

    Where one film lacks a moment of the other, only two of three windows are on one line, and the verdict is theirs. A
    short moment hardly changes the speed between the other two, so those whose speed fits better are chosen.
    """
    start, end = -np.inf, np.inf
    if len(windows) == 3 and not is_straight(windows):
        first, middle, last = windows
        straight = [pair for pair in ((first, middle), (middle, last)) if are_certainly_straight(pair)]
        windows = min(straight, key=find_speed_error, default=windows)
        start = middle.centre_s - WINDOW_S / 2 if windows[0] is middle else start
        end = middle.centre_s + WINDOW_S / 2 if windows[-1] is middle else end
    num_changes = sum(window.motion.num_changes for window in windows)
    weights = [window.motion.num_changes / num_changes if num_changes else 1 / len(windows) for window in windows]
    agreement = sum(weight * window.motion.agreement for weight, window in zip(weights, windows, strict=True))
    likeness = sum(window.motion.likeness for window in windows) / len(windows)
    moves = num_changes >= FEW_CHANGES
    if not moves:
        agrees = likeness >= STILL_LIKENESS
    else:
        lowest = min((window.motion.agreement for window in windows if window.moves), default=1)
        agrees = agreement >= LEAST_AGREEMENT + CHANCE / num_changes**0.5 and lowest >= ODD_AGREEMENT
    if not (agrees and is_straight(windows) and likeness >= LEAST_LIKENESS):
        return None
    speed, offset = fit_line(windows)
    return FootageVerdict(
        moves=moves,
        agreement=agreement,
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
    speed = (last.film_s - first.film_s) / (last.centre_s - first.centre_s)
    return speed, first.film_s - speed * first.centre_s


def is_straight(windows: Sequence[CheckedWindow]) -> bool:
    """Return whether the windows are on one line and agree on its speed."""
    if len(windows) == 1:
        return True
    speed, offset = fit_line(windows)
    bends = (abs(speed * window.centre_s + offset - window.film_s) for window in windows[1:-1] if window.moves)
    return max(bends, default=0.0) <= MAX_BEND_S and find_speed_error(windows) <= MAX_SPEED_ERROR


def find_speed_error(windows: Sequence[CheckedWindow]) -> float:
    """Return how far the speed from the first to the last window is from that within the better of them, as a share."""
    expected = max(windows[0], windows[-1], key=lambda window: window.motion.merit).motion.speed
    return abs(fit_line(windows)[0] / expected - 1)


def are_certainly_straight(windows: Sequence[CheckedWindow]) -> bool:
    """Return whether the windows are on one line, and each of them alone shows the same footage."""
    return is_straight(windows) and all(
        window.moves and window.motion.agreement >= LEAST_AGREEMENT for window in windows
    )
