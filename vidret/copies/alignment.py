"""Alignment in time of videos that share footage: straight lines in the matrix of their frames' scores.

A line is an offset and a speed: film time = speed * clip time + offset. Frames are sampled, so the film may have none
that equals a frame of the clip. A frame is therefore compared with the two film frames around its expected time, with a
small cost for the distance. The best line maximises the sum of the scores on its best stretch, so scores must be
negative for unlike frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

OCTAVE_STEPS = 12
SPEEDS: Float64[np.ndarray, " speed"] = 2.0 ** (np.arange(-OCTAVE_STEPS, OCTAVE_STEPS + 1) / OCTAVE_STEPS)
STEP_S = 1.0  # between two frames; footage that ends this close to an end of a video reaches it
LAG_COST = 0.01  # per second between the expected and the compared time
SPEED_COST = 0.2  # share of the gain, per octave: in slow scenes many lines score alike, and most copies play normally
NUM_NEAREST = 3  # film frames of each clip frame that vote for lines
NUM_LINES = 6  # offsets that are scored for each speed
_OUTSIDE = -1e6  # more than any stretch can gain


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """A stretch of a clip and the stretch of a film that shows the same footage.

    Attributes:
        speed: Seconds of the film per second of the clip.
        offset: Film time of the clip's time 0, in seconds.
        first: Index of the first clip frame on the stretch.
        last: Index of the last one.
        gain: Sum of the scores on the stretch.
    """

    speed: float
    offset: float
    first: int
    last: int
    gain: float

    @property
    def score(self) -> float:
        """The mean of the scores on the stretch."""
        return self.gain / (self.last - self.first + 1)


def align_footage(
    scores: Float[np.ndarray, "clip film"],
    clip_times: Float64[np.ndarray, " clip"],
    film_times: Float64[np.ndarray, " film"],
) -> Alignment | None:
    """Return the best line between a clip and a film; None if no pair of frames scores more than its lag costs.

    Args:
        scores: Similarity of the frames, above 0 if more alike than unrelated ones.
        clip_times: Times of the clip's frames in seconds, rising.
        film_times: The same for the film.
    """
    rows, columns = _choose_voters(scores)
    if not len(rows):
        return None
    # All speeds at once: with few frames, the calls cost more than the sums.
    lines, offsets = vote_offsets(
        film_times[columns] - SPEEDS[:, None] * clip_times[rows], scores[rows, columns], STEP_S / 2
    )
    speeds = SPEEDS[lines]
    firsts, lasts, gains = find_best_runs(score_lines(scores, clip_times, film_times, speeds, offsets))
    # On a slow line, more frames of the clip share one film frame, which adds no evidence.
    worth = gains * np.minimum(speeds, 1) * (1 - SPEED_COST * np.abs(np.log2(speeds)))
    best = int(np.argmax(worth))
    if not gains[best] > 0:
        return None
    return Alignment(
        speed=float(speeds[best]),
        offset=float(offsets[best]),
        first=int(firsts[best]),
        last=int(lasts[best]),
        gain=float(gains[best]),
    )


def align_repeatedly(
    scores: Float[np.ndarray, "clip film"],
    clip_times: Float64[np.ndarray, " clip"],
    film_times: Float64[np.ndarray, " film"],
    *,
    max_num: int,
) -> Iterator[Alignment]:
    """Yield the best lines, best first; none overlaps the parts of the film that earlier ones cover."""
    remaining = np.array(scores)
    for _ in range(max_num):
        found = align_footage(remaining, clip_times, film_times)
        if found is None:
            return
        yield found
        start, end = (found.speed * clip_times[index] + found.offset for index in (found.first, found.last))
        remaining[:, (film_times >= start - STEP_S) & (film_times <= end + STEP_S)] = -1.0


def _choose_voters(
    scores: Float[np.ndarray, "clip film"],
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Return the rows and columns of each clip frame's best film frames, and the reverse, if the score is positive."""
    num_film = min(NUM_NEAREST, scores.shape[1])
    nearest = np.argpartition(-scores, num_film - 1, axis=1)[:, :num_film]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, nearest, values=True, axis=1)
    rows, columns = np.nonzero(chosen & (scores > 0))
    return rows, columns


def vote_offsets(
    offsets: Float64[np.ndarray, "speed pair"], weights: Float[np.ndarray, " pair"], bin_s: float
) -> tuple[Int64[np.ndarray, " line"], Float64[np.ndarray, " line"]]:
    """Return the lines that most pairs agree on: the index of the speed and the offset of each, the best first.

    Offsets are the centres of the ``NUM_LINES`` bins of ``bin_s`` seconds with most weight, for each speed.
    """
    bins = np.round(offsets / bin_s).astype(np.int64)
    lowest, span = bins.min(), int(np.ptp(bins)) + 3  # no bin of a speed is next to one of another
    keys = bins - lowest + span * np.arange(len(bins))[:, None]
    kept, inverse = np.unique(keys, return_inverse=True)
    votes = np.bincount(inverse.reshape(-1), weights=np.tile(weights, len(bins)))
    wide = votes.copy()  # of a bin and its neighbours, so that no vote is lost at an edge
    adjacent = np.diff(kept) == 1
    wide[1:] += np.where(adjacent, votes[:-1], 0)
    wide[:-1] += np.where(adjacent, votes[1:], 0)
    order = np.lexsort((-wide, kept // span))  # by speed, then by votes
    speeds = kept[order] // span
    rank = np.arange(len(order)) - np.searchsorted(speeds, speeds)
    chosen = order[rank < NUM_LINES]
    return kept[chosen] // span, (kept[chosen] % span + lowest) * bin_s


def score_lines(
    scores: Float[np.ndarray, "clip film"],
    clip_times: Float64[np.ndarray, " clip"],
    film_times: Float64[np.ndarray, " film"],
    speeds: Float64[np.ndarray, " line"],
    offsets: Float64[np.ndarray, " line"],
) -> Float64[np.ndarray, "line clip"]:
    """Return the score of each clip frame on lines; far below 0 where the film has no frame nearby."""
    expected = speeds[:, None] * clip_times[None, :] + offsets[:, None]
    after = np.searchsorted(film_times, expected)
    rows = np.arange(len(clip_times))[None, :]
    values = np.full(expected.shape, _OUTSIDE)
    for columns in (after - 1, after):
        inside = (columns >= 0) & (columns < len(film_times))
        columns = columns.clip(0, len(film_times) - 1)
        lag = np.abs(film_times[columns] - expected)
        near = inside & (lag <= STEP_S)
        values = np.where(near, np.maximum(values, scores[rows, columns] - LAG_COST * lag), values)
    return values


def bound_gain(scores: Float[np.ndarray, "clip film"]) -> float:
    """Return an upper bound of the gain of lines between a clip and a film: the sum of the best score of each frame."""
    return float(np.maximum(scores.max(axis=1, initial=0.0), 0.0).sum())


def find_best_runs(
    values: Float64[np.ndarray, "line clip"],
) -> tuple[Int64[np.ndarray, " line"], Int64[np.ndarray, " line"], Float64[np.ndarray, " line"]]:
    """Return the first and last index and the sum of the stretch of each row with the greatest sum."""
    sums = np.cumsum(values, axis=1)
    before = np.concatenate([np.zeros((len(values), 1)), sums[:, :-1]], axis=1)
    lowest = np.minimum.accumulate(before, axis=1)
    gains = sums - lowest
    lines, columns, lasts = np.arange(len(values)), np.arange(values.shape[1]), np.argmax(gains, axis=1)
    may_start = (before <= lowest[lines, lasts][:, None]) & (columns <= lasts[:, None])
    firsts = np.where(may_start, columns, -1).max(axis=1)
    return firsts, lasts, gains[lines, lasts]
