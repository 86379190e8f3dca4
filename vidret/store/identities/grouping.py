"""Grouping of tracks into persons by their vectors, and pairing of faces with voices by their times.

Tracks join their nearest persons; the rest are grouped by average linkage. Existing persons only gain tracks, so that
ids and names survive new videos.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.store.identities.tracks import TrackColumns

NEAREST = 3  # tracks of a person that a new one is compared with, so that a single wrong one does not decide
MAX_LINKED = 4096  # tracks linked at once, whose distances take 134 MB
BLOCK = 1 << 24  # distances computed at once
NO_ROWS = np.zeros(0, np.int64)
Labels = Int64[np.ndarray, " track"]


def group_tracks(
    vectors: Float32[np.ndarray, "track dim"],
    persons: Labels,
    apart: Int64[np.ndarray, "pair 2"],
    rejected: Set[tuple[int, int]],
    link_distance: float,
) -> Labels:
    """Return the person of each track: an existing one, 0 for none, or -1, -2, ... for new ones of two tracks or more.

    Grouping again changes nothing.

    Args:
        vectors: Vector of each track, compared by Euclidean distance.
        persons: The current person of each track, which is kept; 0 for none.
        apart: Rows of tracks that must not be of one person.
        rejected: Rows of tracks, each with a person that it does not belong to.
        link_distance: Mean distance below which tracks are of one person.
    """
    labels = persons.copy()
    rivals: dict[int, set[int]] = {}
    for one, other in apart.tolist():
        rivals.setdefault(one, set()).add(other)
        rivals.setdefault(other, set()).add(one)
    last = 0  # the label of the last new person
    while True:
        while _join(labels, vectors, rivals, rejected, link_distance):
            pass
        alone, known = np.flatnonzero(labels == 0), last
        for component in split_components(vectors[alone], link_distance):
            rows = alone[component[:MAX_LINKED]]
            for group in _link(vectors[rows], [rivals.get(row, set()) for row in rows.tolist()], rows, link_distance):
                last -= 1
                labels[group] = last
        if last == known:
            return labels


def score_tracks(
    vectors: Float32[np.ndarray, "track dim"], others: Float32[np.ndarray, "other dim"]
) -> Float64[np.ndarray, " track"]:
    """Return the mean distance of tracks from a person's nearest other tracks; infinite if there are none."""
    if not len(others):
        return np.full(len(vectors), np.inf)
    distances = measure_distances(vectors, others)
    num_nearest = min(NEAREST, len(others))
    means: Float64[np.ndarray, " track"] = np.partition(distances, num_nearest - 1, 1)[:, :num_nearest].mean(1)
    return means


def measure_distances(
    one: Float[np.ndarray, "row dim"], other: Float[np.ndarray, "column dim"]
) -> Float64[np.ndarray, "row column"]:
    """Return the Euclidean distances between the vectors of two sets."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    distances: Float64[np.ndarray, "row column"] = np.sqrt(np.maximum(squares, 0))
    return distances


def _join(
    labels: Labels,
    vectors: Float32[np.ndarray, "track dim"],
    rivals: dict[int, set[int]],
    rejected: Set[tuple[int, int]],
    link_distance: float,
) -> bool:
    """Assign tracks to their nearest persons, the nearest first; return whether any was assigned."""
    alone, held = np.flatnonzero(labels == 0), np.flatnonzero(labels)
    held = held[np.argsort(labels[held], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[held], prepend=0))
    pairs: list[tuple[float, int, int]] = []
    for rows in np.array_split(alone, -(-len(alone) * len(held) // BLOCK)) if len(alone) and len(held) else ():
        distances = measure_distances(vectors[rows], vectors[held])
        near = np.argwhere(np.minimum.reduceat(distances, starts, axis=1) < link_distance)
        bounds = [*starts.tolist(), len(held)]
        for row, group_index in near.tolist():
            nearest = np.sort(distances[row, bounds[group_index] : bounds[group_index + 1]])[:NEAREST]
            pairs.append((float(nearest.mean()), int(rows[row]), int(labels[held[bounds[group_index]]])))
    joined = False
    for score, row, person in sorted(pairs):
        is_free = labels[row] == 0 and (row, person) not in rejected
        if score < link_distance and is_free and all(labels[rival] != person for rival in rivals.get(row, ())):
            labels[row], joined = person, True
    return joined


def split_components(
    vectors: Float32[np.ndarray, "track dim"], link_distance: float
) -> Iterator[Int64[np.ndarray, " _row"]]:
    """Yield the rows of each set of two or more tracks that are connected by distances below the limit.

    Average linkage never joins tracks of different sets, so each can be linked by itself.
    """
    unreached = np.arange(len(vectors))
    while len(unreached):
        reached, frontier, unreached = [unreached[:1]], unreached[:1], unreached[1:]
        while len(frontier) and len(unreached):
            near = np.zeros(len(unreached), bool)
            for rows in np.array_split(frontier, -(-len(frontier) * len(unreached) // BLOCK)):
                near |= (measure_distances(vectors[unreached], vectors[rows]) < link_distance).any(1)
            frontier, unreached = unreached[near], unreached[~near]
            reached.append(frontier)
        if len(component := np.sort(np.concatenate(reached))) > 1:
            yield component


def _link(
    vectors: Float32[np.ndarray, "track dim"], rivals: Sequence[Set[int]], rows: Labels, link_distance: float
) -> list[Int64[np.ndarray, " _row"]]:
    """Return the groups of two or more rows that average linkage makes of tracks."""
    distances = measure_distances(vectors, vectors)
    positions = {row: position for position, row in enumerate(rows.tolist())}
    for position, row_rivals in enumerate(rivals):
        distances[position, [positions[rival] for rival in row_rivals if rival in positions]] = np.inf
    labels = link_by_average(distances, link_distance)
    groups = [rows[labels == label] for label in np.unique(labels)]
    return [group for group in groups if len(group) > 1]


def link_by_average(distances: Float[np.ndarray, "row row"], link_distance: float) -> Int64[np.ndarray, " row"]:
    """Return the group of each row: the two groups with the least mean distance are merged while it is below the limit.

    Rows at an infinite distance are never in one group, since its mean is infinite. ``distances`` is overwritten.
    """
    labels, sizes = np.arange(len(distances)), np.ones(len(distances))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(1)
    least = distances[labels, nearest]
    while len(distances) and least[i := int(least.argmin())] < link_distance:
        j = int(nearest[i])
        merged = (sizes[i] * distances[i] + sizes[j] * distances[j]) / (sizes[i] + sizes[j])
        merged[[i, j]] = np.inf
        distances[i], distances[:, i], distances[j], distances[:, j] = merged, merged, np.inf, np.inf
        sizes[i] += sizes[j]
        labels[labels == j] = i
        stale = np.flatnonzero((nearest == i) | (nearest == j))  # a mean is never nearer than its parts
        nearest[stale] = distances[stale].argmin(1)
        least[stale] = distances[stale, nearest[stale]]
        least[j] = np.inf
    return labels


def find_overlaps(
    contents: np.ndarray, starts: Float64[np.ndarray, " track"], ends: Float64[np.ndarray, " track"]
) -> Int64[np.ndarray, "pair 2"]:
    """Return the rows of pairs of tracks that overlap in time in one video."""
    order = np.lexsort((starts, contents))
    pairs: list[tuple[int, int]] = []
    new_video = np.flatnonzero(contents[order][1:] != contents[order][:-1]) + 1
    for rows in np.split(order, new_video):
        video_starts = starts[rows]
        for position, row in enumerate(rows.tolist()):
            later = rows[position + 1 : np.searchsorted(video_starts, ends[row])]
            pairs += [
                (row, other) for other in later.tolist() if ends[other] > starts[other] and ends[row] > starts[row]
            ]
    return np.array(pairs, np.int64).reshape(-1, 2)


MIN_TURNS, MIN_SHARE, MIN_DEVIATIONS = 4, 0.5, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOffer:
    """A face and a voice that may be of one person, given by the ids of their persons.

    The face is seen in ``num_seen`` of ``num_turns`` turns of the voice; by chance it would be in ``expected`` of them.
    """

    face: int
    voice: int
    num_turns: int
    num_seen: int
    expected: float


def find_pairs(faces: TrackColumns, voices: TrackColumns, durations: Mapping[str, float]) -> list[PairOffer]:
    """Return the pairs in which each is the best partner of the other, most certain first.

    Persons who are both seen and heard already are left out. ``durations`` are in seconds, by the fingerprint of the
    video. A turn of a voice counts for a face that is seen in its middle. By chance, that happens as often as the face
    is seen in the whole video. The count is a sum of independent draws, one per turn; certainty is its excess in
    standard deviations.
    """
    both = [*({*faces.persons.tolist()} & {*voices.persons.tolist()} | {0})]
    seen_in, heard_in = (_split_by_content(columns, both) for columns in (faces, voices))
    turns: defaultdict[int, int] = defaultdict(int)
    seen: defaultdict[tuple[int, int], int] = defaultdict(int)
    expected: defaultdict[tuple[int, int], float] = defaultdict(float)
    variance: defaultdict[tuple[int, int], float] = defaultdict(float)
    for content, heard in heard_in.items():
        face_rows = seen_in.get(content, NO_ROWS)
        starts, ends, persons = faces.starts[face_rows], faces.ends[face_rows], faces.persons[face_rows]
        shares = {
            person: min(_measure_cover(starts[persons == person], ends[persons == person]) / durations[content], 1.0)
            for person in np.unique(persons).tolist()
            if durations.get(content, 0.0) > 0
        }
        for row in heard.tolist():
            middle, voice = (voices.starts[row] + voices.ends[row]) / 2, int(voices.persons[row])
            turns[voice] += 1
            shown = {*persons[(starts <= middle) & (middle <= ends)].tolist()}
            for person, share in shares.items():
                seen[person, voice] += person in shown
                expected[person, voice] += share
                variance[person, voice] += share * (1 - share)
    sure = {
        pair: (seen[pair] - expected[pair]) / variance[pair] ** 0.5
        for pair in seen
        if seen[pair] >= max(MIN_TURNS, MIN_SHARE * turns[pair[1]]) and variance[pair] > 0
    }
    most: defaultdict[int, float] = defaultdict(lambda: MIN_DEVIATIONS)  # of a person, seen or heard
    for pair, deviations in sure.items():
        for person in pair:
            most[person] = max(most[person], deviations)
    best = {pair: sure[pair] for pair in sure if sure[pair] >= max(most[pair[0]], most[pair[1]])}
    return [
        PairOffer(
            face=face, voice=voice, num_turns=turns[voice], num_seen=seen[face, voice], expected=expected[face, voice]
        )
        for face, voice in sorted(best, key=lambda pair: (-best[pair], pair))
    ]


def _split_by_content(columns: TrackColumns, without: Sequence[int]) -> dict[str, Int64[np.ndarray, " _row"]]:
    """Return the rows of tracks by the fingerprint of their video, without the tracks of some persons."""
    rows = np.flatnonzero(~np.isin(columns.persons, without))
    rows = rows[np.argsort(columns.contents[rows], kind="stable")]
    contents, firsts = np.unique(columns.contents[rows], return_index=True)
    return dict(zip(contents.tolist(), np.split(rows, firsts[1:]), strict=True)) if len(rows) else {}


def _measure_cover(starts: np.ndarray, ends: np.ndarray) -> float:
    """Return the length of the union of spans."""
    edges = np.unique(np.concatenate([starts, ends]))
    middles = [(low + high) / 2 for low, high in pairwise(edges.tolist())]
    is_covered = [bool(((starts <= middle) & (middle <= ends)).any()) for middle in middles]
    return float(np.diff(edges)[np.array(is_covered, bool)].sum())
