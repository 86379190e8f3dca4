"""The terms of a full-text index in memory, in which those that are spelt nearly like another are found."""

from collections.abc import Sequence

import numpy as np

MIN_FUZZY_LETTERS = 5


class Vocabulary:
    """The terms of an index as read so far, with the letters of each as a bit mask: a cheap bound on edit distances."""

    def __init__(self) -> None:
        """Start with no terms."""
        self.last_id = 0
        self._terms: list[str] = []
        self._masks, self._lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, rows: Sequence[tuple[int, str, int]]) -> None:
        """Add terms, each with its id in the index and its mask."""
        if rows:
            self.last_id = rows[-1][0]
            self._terms += [term for _, term, _ in rows]
            self._masks = np.append(self._masks, np.array([mask for _, _, mask in rows], np.int64))
            self._lengths = np.append(self._lengths, np.array([len(term) for _, term, _ in rows], np.int64))

    def find_similar(self, stem: str) -> dict[str, float]:
        """Return other terms within one edit, or two from eight letters on, with their likeness.

        The first letter, which is rarely wrong, must be the same: "peach" is no misspelt "beach".
        """
        if len(stem) < MIN_FUZZY_LETTERS or stem.isdigit():
            return {}
        from rapidfuzz.distance import Levenshtein

        edits = 1 if len(stem) < 8 else 2
        differing = np.bitwise_count(np.bitwise_xor(self._masks, mask_letters(stem)))
        near = np.flatnonzero((np.abs(self._lengths - len(stem)) <= edits) & (differing <= 2 * edits))
        found = {}
        for row in near:
            term = self._terms[row]
            distance = Levenshtein.distance(stem, term, score_cutoff=edits)
            if term[0] == stem[0] and 0 < distance <= edits and not term.isdigit():
                found[term] = 1.0 - distance / max(len(stem), len(term))
        return found


def mask_letters(term: str) -> int:
    """Return the letters of a term as a bit mask."""
    mask = 0
    for letter in term:
        mask |= 1 << (ord(letter) % 61)
    return mask
