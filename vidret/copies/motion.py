"""A comparison of motion in two stretches of pictures, which separates copies from other recordings of a place.

Two recordings of one place agree in what stands still. Only the same footage also agrees in how the picture changes
from moment to moment. Changes over a fraction of a second are therefore correlated, at every possible offset and speed.
The offset of the best correlation is exact to about a frame.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

CHANGES_S = (0.3, 1.0)  # of the clip, over which changes are measured; the second is for slow ones
LEAST_CHANGE = 0.5  # grey levels, root mean square; less is noise of compression
ENOUGH = 8  # changes; with fewer, the likeness of the pictures counts more
LIKENESS_WEIGHT = 0.2
OCTAVE_COST = 0.15  # of an octave: most copies play at normal speed
LEAST_REACHED = 0.5  # of the clip's pictures, that must have one of the film at their time
CUT_CHANGE = 40.0  # grey levels; more is a cut, which agrees whatever is on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionMatch:
    """The agreement of a clip's motion with a film's, on a line.

    Attributes:
        speed: Seconds of the film per second of the clip.
        offset: Film time of the clip's time 0, in seconds.
        agreement: Mean correlation of changes, at most 1; 0 if nothing moves.
        num_changes: Number of moments at which both pictures change.
        likeness: Mean correlation of the pictures themselves.
        merit: The score by which the line was chosen.
    """

    speed: float
    offset: float
    agreement: float
    num_changes: int
    likeness: float
    merit: float


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Inner products of mean-free pictures: of a clip with a film, and of each with itself, per pixel.

    Times are those of the pictures in seconds, rising.
    """

    cross: Float32[np.ndarray, "clip film"]
    clip: Float32[np.ndarray, "clip clip"]
    film: Float32[np.ndarray, "film film"]
    clip_times: Float64[np.ndarray, " clip"]
    film_times: Float64[np.ndarray, " film"]


def multiply_pictures(
    clip: Float32[np.ndarray, "clip row column"],
    film: Float32[np.ndarray, "film row column"],
    inside: Bool[np.ndarray, "row column"],
    clip_times: Float64[np.ndarray, " clip"],
    film_times: Float64[np.ndarray, " film"],
) -> Products:
    """Return the inner products of pictures on the pixels that both show."""
    one, other = (pixels[:, inside] - pixels[:, inside].mean(axis=1, keepdims=True) for pixels in (clip, film))
    num = max(one.shape[1], 1)
    return Products(one @ other.T / num, one @ one.T / num, other @ other.T / num, clip_times, film_times)


def match_motion(
    products: Products,
    speeds: Float64[np.ndarray, " speed"],
    offsets: Float64[np.ndarray, " offset"],
    *,
    centre_s: float,
) -> MotionMatch | None:
    """Return the best of some lines; None if the film has too few frames on all of them.

    Args:
        products: Inner products of the pictures.
        speeds: Speeds to try.
        offsets: Film times of the clip's time ``centre_s`` to try, in seconds.
        centre_s: A time of the clip, about its middle, so that speed and offset are tried independently.
    """
    # Every second offset first: pictures change little in less than the time between two of them.
    coarse = match_lines(products, speeds, offsets[::2], centre_s=centre_s)
    if coarse is None:
        return None
    expected, step_s = coarse.speed * centre_s + coarse.offset, np.abs(np.diff(offsets[:3])).sum(initial=0.0)
    near = offsets[np.abs(offsets - expected) <= step_s + 1e-9]
    return match_lines(products, np.array([coarse.speed]), near, centre_s=centre_s)


def match_lines(
    products: Products,
    speeds: Float64[np.ndarray, " speed"],
    offsets: Float64[np.ndarray, " offset"],
    *,
    centre_s: float,
) -> MotionMatch | None:
    """Return the best line of all speeds and offsets; see ``match_motion``."""
    speeds, offsets = (axis.ravel() for axis in np.meshgrid(speeds, offsets, indexing="ij"))
    expected = offsets[:, None] + speeds[:, None] * (products.clip_times - centre_s)
    columns, reached = find_nearest_times(products.film_times, expected)
    agreement, counts = np.zeros(len(offsets)), np.zeros(len(offsets), np.int64)
    for change_s in CHANGES_S:
        slow, num_slow = _agree(products, change_s, columns, reached)
        takes = (counts < ENOUGH) & (num_slow > counts)
        agreement, counts = np.where(takes, slow, agreement), np.where(takes, num_slow, counts)
        if counts.min() >= ENOUGH:
            break
    likeness = correlate_pictures(products, columns, reached)
    # Where little moves, the pictures themselves decide between lines.
    merit = agreement * np.minimum(counts / ENOUGH, 1) + LIKENESS_WEIGHT * likeness
    merit -= OCTAVE_COST * np.abs(np.log2(speeds))
    merit[reached.mean(axis=1) < LEAST_REACHED] = -np.inf
    best = int(np.argmax(merit))
    if not np.isfinite(merit[best]):
        return None
    return MotionMatch(
        speed=float(speeds[best]),
        offset=float(offsets[best] - float(speeds[best]) * centre_s),
        agreement=float(agreement[best]),
        num_changes=int(counts[best]),
        likeness=float(likeness[best]),
        merit=float(merit[best]),
    )


def _agree(
    products: Products,
    change_s: float,
    columns: Int64[np.ndarray, "offset clip"],
    reached: Bool[np.ndarray, "offset clip"],
) -> tuple[Float64[np.ndarray, " offset"], Int64[np.ndarray, " offset"]]:
    """Return the mean correlation of changes over some seconds on lines, and the number of changes."""
    times = products.clip_times
    later = np.searchsorted(times, times + change_s - 1e-6)
    pairs = np.flatnonzero(later < len(times))
    changes, moves = correlate_changes(products, pairs, later[pairs], columns)
    valid = moves & reached[:, pairs] & reached[:, later[pairs]]
    counts = valid.sum(axis=1)
    means = np.where(valid, changes, 0.0).sum(axis=1) / np.maximum(counts, 1)
    return means.astype(np.float64), counts


def find_nearest_times(
    times: Float64[np.ndarray, " film"], expected: Float64[np.ndarray, "offset clip"]
) -> tuple[Int64[np.ndarray, "offset clip"], Bool[np.ndarray, "offset clip"]]:
    """Return the index of the nearest time to each expected one, and whether it is at most a step away."""
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    after = np.searchsorted(times, expected).clip(0, len(times) - 1)
    before = (after - 1).clip(0)
    nearest = np.where(np.abs(times[before] - expected) <= np.abs(times[after] - expected), before, after)
    return nearest.astype(np.int64), np.abs(times[nearest] - expected) <= step_s


def correlate_changes(
    products: Products,
    earlier: Int64[np.ndarray, " pair"],
    later: Int64[np.ndarray, " pair"],
    columns: Int64[np.ndarray, "offset clip"],
) -> tuple[Float32[np.ndarray, "offset pair"], Bool[np.ndarray, "offset pair"]]:
    """Return the correlation of changes between two moments on lines, and whether both move without a cut."""
    first, second = columns[:, earlier], columns[:, later]
    cross = (
        products.cross[later, second]
        - products.cross[later, first]
        - products.cross[earlier, second]
        + products.cross[earlier, first]
    )
    clip_changes = products.clip[later, later] + products.clip[earlier, earlier] - 2 * products.clip[earlier, later]
    film_changes = products.film[second, second] + products.film[first, first] - 2 * products.film[first, second]
    low, high = LEAST_CHANGE**2, CUT_CHANGE**2
    moves = (clip_changes[None] > low) & (film_changes > low) & (clip_changes[None] < high) & (film_changes < high)
    correlations = cross / np.sqrt(np.maximum(clip_changes[None] * film_changes, 1e-6))
    return correlations.astype(np.float32), moves


def correlate_pictures(
    products: Products, columns: Int64[np.ndarray, "offset clip"], reached: Bool[np.ndarray, "offset clip"]
) -> Float64[np.ndarray, " offset"]:
    """Return the mean correlation of the pictures on lines."""
    rows = np.arange(columns.shape[1])[None, :]
    lengths = np.sqrt(np.maximum(products.clip[rows, rows] * products.film[columns, columns], 1e-6))
    correlations = np.where(reached, products.cross[rows, columns] / lengths, 0.0)
    means: Float64[np.ndarray, " offset"] = correlations.sum(axis=1) / np.maximum(reached.sum(axis=1), 1)
    return means
