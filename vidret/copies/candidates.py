"""Pairs of videos that may share footage, by the nearest neighbours of their frames."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vidret.align.footage import Alignment, align_footage
from vidret.align.whitening import Whitening, fit_whitening
from vidret.copies.frames import FrameTable
from vidret.store.vectors.flat import find_nearest_rows

SAMPLE = 20_000  # frames to which the whitening is fitted
NEIGHBOURS = 48  # of each frame, among which those of other videos count
DISTINCT = 0.85  # similarity up to which a frame is kept besides the last kept one of its video
MAX_PARTNERS = 12  # videos that each video is aligned with
MAX_CHECKED = 5  # of them, that are checked on decoded frames


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPair:
    """Two videos, given by their index in the table, of which the clip has fewer frames; and their alignment."""

    clip: int
    film: int
    alignment: Alignment


def whiten_table(table: FrameTable) -> tuple[Whitening, Float32[np.ndarray, "frame small"]]:
    """Return the whitening of the frames of a table, and all its frames whitened."""
    rng, num_frames = np.random.default_rng(0), len(table.times)
    sample = np.sort(rng.choice(num_frames, min(SAMPLE, num_frames), replace=False))
    whitening = fit_whitening(table.vectors[sample], table.owners[sample])
    parts = [whitening.apply(table.vectors[first : first + SAMPLE]) for first in range(0, num_frames, SAMPLE)]
    return whitening, np.concatenate(parts)


def find_distinct(
    vectors: Float32[np.ndarray, "frame dim"], bounds: Int64[np.ndarray, " bound"]
) -> Bool[np.ndarray, " frame"]:
    """Return which frames differ from the last such frame of their video; the first of a video does."""
    starts = set(bounds[:-1].tolist())
    steps = np.einsum("ij,ij->i", vectors[1:], vectors[:-1])
    distinct = np.ones(len(vectors), bool)
    last = 0
    for row in range(1, len(vectors)):
        if row in starts:
            last = row
            continue
        similarity = steps[row - 1] if last == row - 1 else float(vectors[row] @ vectors[last])
        distinct[row] = similarity < DISTINCT
        last = row if distinct[row] else last
    return distinct


def find_partners(
    vectors: Float32[np.ndarray, "frame dim"], bounds: Int64[np.ndarray, " bound"], level: float
) -> list[tuple[int, int]]:
    """Return the pairs of videos of which many frames are near neighbours, the best ``MAX_PARTNERS`` of each video.

    A pair is worth the sum, over the distinct frames of one video, of how far the nearest frame of the other one is
    above the level of unrelated frames.
    """
    rows = np.flatnonzero(find_distinct(vectors, bounds))
    owners = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))[rows]
    scores, nearest = find_nearest_rows(vectors[rows], NEIGHBOURS)
    first = np.repeat(owners, nearest.shape[1])
    second = owners[nearest.ravel()]
    frames = np.repeat(np.arange(len(rows)), nearest.shape[1])
    kept = (nearest.ravel() >= 0) & (first != second) & (scores.ravel() > level)
    first, second, frames, gains = first[kept], second[kept], frames[kept], scores.ravel()[kept] - level
    # The best neighbour of each frame in each video: neighbours come best first.
    _, best = np.unique(frames.astype(np.int64) * len(bounds) + second, return_index=True)
    keys, inverse = np.unique(first[best].astype(np.int64) * len(bounds) + second[best], return_inverse=True)
    worth = np.bincount(inverse, weights=gains[best])
    pairs: set[tuple[int, int]] = set()
    counts = np.zeros(len(bounds), np.int64)
    for key in keys[np.argsort(-worth, kind="stable")].tolist():
        one, other = divmod(key, len(bounds))
        if counts[one] < MAX_PARTNERS:
            counts[one] += 1
            pairs.add((min(one, other), max(one, other)))
    return sorted(pairs)


def find_video_pairs(table: FrameTable) -> list[VideoPair]:
    """Return the pairs of videos whose frames agree in their order as well, most alike first."""
    whitening, vectors = whiten_table(table)
    found = []
    for one, other in find_partners(vectors, table.bounds, whitening.level):
        clip, film = sorted((one, other), key=lambda video: table.rows(video).stop - table.rows(video).start)
        clip_rows, film_rows = table.rows(clip), table.rows(film)
        scores = vectors[clip_rows] @ vectors[film_rows].T - whitening.level
        alignment = align_footage(scores, table.times[clip_rows], table.times[film_rows])
        if alignment is not None:
            found.append(VideoPair(clip=clip, film=film, alignment=alignment))
    return limit_pairs(sorted(found, key=lambda each: -each.alignment.score))


def limit_pairs(pairs: Sequence[VideoPair]) -> list[VideoPair]:
    """Return the pairs that are among the best ``MAX_CHECKED`` of either video, best first."""
    counts = Counter[int]()
    kept = []
    for pair in pairs:
        if min(counts[pair.clip], counts[pair.film]) < MAX_CHECKED:
            counts.update((pair.clip, pair.film))
            kept.append(pair)
    return kept
