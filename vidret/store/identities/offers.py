"""Faces and voices that go together more often than chance, to be offered to the user as one person.

A turn of a voice counts for a face that is seen in its middle. By chance, a face is seen then as often as it is seen at
all in that video. The count is a sum of independent draws, one a turn, and is measured in their standard deviation.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vidret.store.identities.tracks import TrackColumns

MIN_TURNS, MIN_SHARE, MIN_DEVIATIONS = 4, 0.5, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOffer:
    """A face and a voice that may be of one person.

    Attributes:
        face: The person who is seen.
        voice: The person who is heard.
        num_turns: Number of turns of the voice.
        num_seen: Those in which the face is seen.
        expected: How many these were by chance.
    """

    face: int
    voice: int
    num_turns: int
    num_seen: int
    expected: float


def find_pairs(faces: TrackColumns, voices: TrackColumns, durations: Mapping[str, float]) -> list[PairOffer]:
    """Return the pairs in which each is the best partner of the other, the surest first.

    Persons who are both seen and heard already are left out.

    Args:
        faces: The tracks of faces.
        voices: The tracks of voices.
        durations: In seconds, by the fingerprint of the video.
    """
    both = {*faces.persons.tolist()} & {*voices.persons.tolist()} | {0}
    turns: defaultdict[int, int] = defaultdict(int)
    seen: defaultdict[tuple[int, int], int] = defaultdict(int)
    expected: defaultdict[tuple[int, int], float] = defaultdict(float)
    variance: defaultdict[tuple[int, int], float] = defaultdict(float)
    for content in np.unique(voices.contents).tolist():
        own = (faces.contents == content) & ~np.isin(faces.persons, list(both))
        starts, ends, persons = faces.starts[own], faces.ends[own], faces.persons[own]
        shares = {
            person: min(measure_cover(starts[persons == person], ends[persons == person]) / durations[content], 1.0)
            for person in np.unique(persons).tolist()
            if durations.get(content, 0.0) > 0
        }
        for row in np.flatnonzero((voices.contents == content) & ~np.isin(voices.persons, list(both))).tolist():
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
    best = {
        pair: sure[pair]
        for pair in sure
        if sure[pair] >= MIN_DEVIATIONS
        and all(sure[pair] >= sure[other] for other in sure if other[0] == pair[0] or other[1] == pair[1])
    }
    return [
        PairOffer(
            face=face,
            voice=voice,
            num_turns=turns[voice],
            num_seen=seen[face, voice],
            expected=expected[face, voice],
        )
        for face, voice in sorted(best, key=lambda pair: (-best[pair], pair))
    ]


def measure_cover(starts: np.ndarray, ends: np.ndarray) -> float:
    """Return the length of the union of spans."""
    edges = np.unique(np.concatenate([starts, ends]))
    middles = [(low + high) / 2 for low, high in pairwise(edges.tolist())]
    is_covered = [bool(((starts <= middle) & (middle <= ends)).any()) for middle in middles]
    return float(np.diff(edges)[np.array(is_covered, bool)].sum())
