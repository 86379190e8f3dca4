"""Placement of one video's picture in another's: cropped, with bars around it, stretched or mirrored.

Pictures are small and grey, whatever their aspect ratio. A placement is found by matching templates: one picture,
shrunk by each of some scales, is compared with every part of the other by normalised cross-correlation, which no change
of brightness or contrast affects (Lewis 1995, "Fast Normalized Cross-Correlation").
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view

SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)  # of the smaller picture in the larger one
COARSE = (18, 32)  # rows and columns of the pictures that are matched
LEAST_SPREAD = 2.0  # grey levels; the standard deviation below which a part counts as flat
LEAST_INSIDE = 0.2  # share of the clip's pixels that must show the film
REFINING_STEPS = (1 / 32, 1 / 64, 1 / 128)
MAX_MOVES = 6  # at each step

Greys = UInt8[np.ndarray, "_frame 36 64"]
Pixels = Float32[np.ndarray, "_frame row column"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePlacement:
    """The position and size of a clip's picture in a film's, in widths and heights of the film's.

    A clip that is cropped has a width or height below 1; one with bars around it has one above 1, and begins below 0.
    """

    left: float
    top: float
    width: float
    height: float
    mirrored: bool
    score: float = 0.0


def find_placement(
    clip: Greys, film: Greys, may_match: Bool[np.ndarray, "clip film"], *, aspect: float
) -> PicturePlacement:
    """Return the placement with the highest mean correlation of the clip's frames, each with its best film frame.

    Args:
        clip: Some frames of the clip.
        film: Frames of the film.
        may_match: Mask of the film frames that each clip frame may show.
        aspect: Aspect ratio of the film's pictures over that of the clip's.
    """
    best = PicturePlacement(left=0.0, top=0.0, width=1.0, height=1.0, mirrored=False, score=-1.0)
    small_clip, small_film = (resize_pixels(greys.astype(np.float32), *COARSE) for greys in (clip, film))
    placements = [
        _match_scale(small_clip, small_film, may_match, width, height) for width, height in list_scales(aspect)
    ]
    for side in zip(*placements, strict=True):  # plain ones first
        for placement in side:
            if placement.score > best.score + 1e-4:
                best = placement
    return best


def list_scales(aspect: float) -> Iterator[tuple[float, float]]:
    """Yield the sizes of the clip's picture in the film's: at most 1 if it is cropped, at least 1 if it has bars.

    The picture keeps its shape or is stretched to that of the film.
    """
    yield 1.0, 1.0
    shapes = {(1.0, 1.0), (min(1.0, 1 / aspect), min(1.0, aspect))}
    for shape_width, shape_height in sorted(shapes):
        for scale in SCALES:
            width, height = scale * shape_width, scale * shape_height
            if (width, height) != (1.0, 1.0) and min(width, height) >= SCALES[-1]:
                yield width, height
                yield 1 / height, 1 / width


def refine_placement(
    placement: PicturePlacement,
    clip: Float32[np.ndarray, "frame row column"],
    film: Float32[np.ndarray, "frame row column"],
) -> PicturePlacement:
    """Return a placement near the given one with a higher mean correlation of frames that show the same moment.

    Shifts and sizes are varied one at a time, in steps that are halved twice.
    """
    best = replace(placement, score=score_placement(placement, clip, film))
    for step in REFINING_STEPS:
        for _ in range(MAX_MOVES):
            moved = [replace(move, score=score_placement(move, clip, film)) for move in list_moves(best, step)]
            found = max(moved, key=lambda placement: placement.score)
            if found.score <= best.score + 1e-4:
                break
            best = found
    return best


def list_moves(placement: PicturePlacement, step: float) -> list[PicturePlacement]:
    """Return placements that are shifted, or grown or shrunk around their centre."""
    left, top, width, height = placement.left, placement.top, placement.width, placement.height
    moves = []
    for sign in (-step, step):
        moves += [replace(placement, left=left + sign), replace(placement, top=top + sign)]
        wider = {"left": left - sign / 2, "width": width + sign}
        taller = {"top": top - sign / 2, "height": height + sign}
        moves += [replace(placement, **changes) for changes in (wider, taller, wider | taller)]  # type: ignore[arg-type]
    return moves


def score_placement(
    placement: PicturePlacement,
    clip: Float32[np.ndarray, "frame row column"],
    film: Float32[np.ndarray, "frame row column"],
) -> float:
    """Return the mean correlation of a clip's frames with the parts of a film's that they show, 0 for flat ones."""
    seen, inside = view_through(placement, film)
    if inside.mean() < LEAST_INSIDE:
        return -1.0
    one, other = (pixels[:, inside] - pixels[:, inside].mean(axis=1, keepdims=True) for pixels in (clip, seen))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.einsum("ij,ij->i", one, other) / np.maximum(lengths, 1e-6)).mean())


def _match_scale(
    clip: Pixels, film: Pixels, may_match: Bool[np.ndarray, "clip film"], width: float, height: float
) -> tuple[PicturePlacement, PicturePlacement]:
    """Return the best placement of one size, and the best mirrored one."""
    is_inside = width <= 1 and height <= 1
    smaller, larger = (clip, film) if is_inside else (film, clip)
    rows = round(COARSE[0] * (height if is_inside else 1 / height))
    columns = round(COARSE[1] * (width if is_inside else 1 / width))
    template = resize_pixels(smaller, rows, columns)
    # (side, smaller frame, larger frame, row, column): the larger pictures are cut into parts once for both sides.
    both = correlate_everywhere(np.concatenate([template, template[:, :, ::-1]]), larger)
    both = both.reshape(2, len(template), *both.shape[1:])
    if not is_inside:
        both = both.swapaxes(1, 2)
    allowed = np.where(may_match[:, :, None, None], both, -1.0)
    means = allowed.max(axis=2).mean(axis=1)
    placements = []
    for mirrored in (False, True):
        row, column = np.unravel_index(int(np.argmax(means[int(mirrored)])), means.shape[1:])
        score = float(means[int(mirrored), row, column])
        if mirrored and not is_inside:  # the film was mirrored in place of the clip
            column = means.shape[2] - 1 - column
        left, top = float(column) / COARSE[1], float(row) / COARSE[0]
        w, h = columns / COARSE[1], rows / COARSE[0]
        if not is_inside:
            left, top, w, h = -left / w, -top / h, 1 / w, 1 / h
        placements.append(PicturePlacement(left=left, top=top, width=w, height=h, mirrored=mirrored, score=score))
    return placements[0], placements[1]


def correlate_everywhere(
    templates: Pixels, pictures: Float32[np.ndarray, "picture rows columns"]
) -> Float32[np.ndarray, "frame picture y x"]:
    """Return the correlation of each template with each part of each picture; 0 for flat parts."""
    rows, columns = templates.shape[1:]
    windows = sliding_window_view(pictures, (rows, columns), axis=(1, 2))
    num, height, width = windows.shape[:3]
    parts = np.ascontiguousarray(windows).reshape(num * height * width, rows * columns)
    flat = templates.reshape(len(templates), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    means = parts.mean(axis=1)
    squares = np.einsum("ij,ij->i", parts, parts) - parts.shape[1] * means * means
    lengths = np.sqrt(np.maximum(squares, 0.0))
    template_lengths = np.linalg.norm(flat, axis=1)
    least = LEAST_SPREAD * np.sqrt(parts.shape[1])
    products = flat @ parts.T
    scale = np.outer(
        np.where(template_lengths < least, np.inf, template_lengths), np.where(lengths < least, np.inf, lengths)
    )
    correlations: Float32[np.ndarray, "frame picture y x"] = (
        (products / scale).reshape(len(templates), num, height, width).astype(np.float32)
    )
    return correlations


def resize_pixels(pixels: Pixels, rows: int, columns: int) -> Float32[np.ndarray, "frame new_row new_column"]:
    """Return pictures averaged to fewer rows and columns."""
    vertical = average_weights(pixels.shape[1], rows)
    horizontal = average_weights(pixels.shape[2], columns)
    resized: Float32[np.ndarray, "frame new_row new_column"] = vertical @ pixels @ horizontal.T
    return resized


@lru_cache(maxsize=256)
def average_weights(size: int, new_size: int) -> Float32[np.ndarray, "new old"]:
    """Return the share of each old pixel in each new one, for means of equal stretches."""
    edges = np.linspace(0, size, new_size + 1)
    low = np.maximum(edges[:-1, None], np.arange(size)[None, :])
    high = np.minimum(edges[1:, None], np.arange(1, size + 1)[None, :])
    overlap = np.maximum(high - low, 0.0)
    weights: Float32[np.ndarray, "new old"] = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def view_through(
    placement: PicturePlacement, film: Float32[np.ndarray, "frame row column"]
) -> tuple[Pixels, Bool[np.ndarray, "row column"]]:
    """Return a film's pictures on the clip's pixels, and a mask of those pixels that are inside the film."""
    rows, row_inside = interpolation_weights(film.shape[1], placement.top, placement.height)
    columns, column_inside = interpolation_weights(film.shape[2], placement.left, placement.width)
    seen = rows @ film @ columns.T
    inside = row_inside[:, None] & column_inside[None, :]
    if placement.mirrored:
        seen, inside = seen[:, :, ::-1], inside[:, ::-1]
    return np.ascontiguousarray(seen, np.float32), np.ascontiguousarray(inside)


def interpolation_weights(
    size: int, begin: float, extent: float
) -> tuple[Float32[np.ndarray, "new old"], Bool[np.ndarray, " new"]]:
    """Return the weights of linear interpolation at the centres of pixels, and which centres are inside."""
    centres = (begin + extent * (np.arange(size) + 0.5) / size) * size - 0.5
    inside = (centres > -0.5) & (centres < size - 0.5)
    low: Int64[np.ndarray, " new"] = np.floor(centres.clip(0, size - 1)).astype(np.int64).clip(0, size - 2)
    share = centres.clip(0, size - 1) - low
    weights = np.zeros((size, size), np.float32)
    weights[np.arange(size), low] = 1 - share
    weights[np.arange(size), low + 1] += share
    return weights, inside
