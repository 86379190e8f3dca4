"""Search of spoken texts by how they sound: SQLite FTS5 over runs of four consonants.

What is found is then compared phoneme by phoneme, with ``align_phonemes``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from vidret.store.catalog.database import Database
from vidret.store.texts.phonemes import PHONEMES, SYMBOLS, pronounce
from vidret.store.texts.postings import express_allowed, read_ids, spread_over_tracks
from vidret.text import format_count

# Consonants that may be heard for each other; misheard words often keep them. Vowels, H and Y are left out.
CONSONANTS = "P B", "T D TH DH", "K G", "F V", "S Z", "CH JH SH ZH", "M", "N NG", "L", "R ER", "W"
FIRST_PAIR = 0xC0  # the first character of a pair: none is a quote
MAX_LISTED = 2000  # texts with one run of consonants
MAX_JOINED = 3  # runs, each a consonant after the one before


_SYMBOLS = dict(zip(PHONEMES.split(), SYMBOLS, strict=True))
_GROUPS = {_SYMBOLS[name]: number for number, names in enumerate(CONSONANTS) for name in names.split()}


def pair_consonants(phonemes: str) -> str:
    """Return each two adjacent consonants of some phonemes as one character, so that a trigram is of four consonants.

    >>> said, heard = pronounce(["Kubernetes", "Cooper Netties"])
    >>> len(pair_consonants(said)), pair_consonants(said) == pair_consonants(heard)
    (5, True)
    """
    groups = [_GROUPS[symbol] for symbol in phonemes if symbol in _GROUPS]
    return "".join(chr(FIRST_PAIR + len(CONSONANTS) * first + second) for first, second in pairwise(groups))


class SpokenIndex:
    """The phonemes of spoken texts, in the database of the full-text index."""

    def __init__(self, database: Database) -> None:
        """Use a database with the table of ``create``."""
        self._database = database
        self.frequent = set[str]()  # expressions that more than ``MAX_LISTED`` texts match

    def create(self) -> None:
        """Create the table anew; the checksums are of what the full-text index does not verify itself."""
        columns = "pairs, phonemes UNINDEXED, checksum UNINDEXED"
        tokenizer = "tokenize = 'trigram case_sensitive 1', detail = none, columnsize = 0"
        self._database.run("DROP TABLE IF EXISTS spoken")
        self._database.run(f"CREATE VIRTUAL TABLE spoken USING fts5({columns}, {tokenizer})")

    def add(self, texts: Sequence[tuple[int, str]]) -> None:
        """Add English texts by id; existing ones are replaced."""
        phonemes = pronounce([text for _, text in texts])
        rows = [
            (int(text_id), pair_consonants(text_phonemes), text_phonemes)
            for (text_id, _), text_phonemes in zip(texts, phonemes, strict=True)
        ]
        checksum = "crc('q', ?1, CAST(?3 AS BLOB))"
        sql = f"INSERT OR REPLACE INTO spoken (rowid, pairs, phonemes, checksum) VALUES (?1, ?2, ?3, {checksum})"
        self._database.run_many(sql, rows)

    def remove(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Remove the texts whose ids are in some ranges, which exclude their ends."""
        self._database.run_many("DELETE FROM spoken WHERE rowid >= ? AND rowid < ?", ranges)

    def find_damage(self) -> list[str]:
        """Verify the whole table, by writing; return the damage.

        Raises:
            StoreError: The full-text index does not match its rows.
        """
        self._database.run("INSERT INTO spoken (spoken) VALUES ('integrity-check')")
        sql = "SELECT count(*) FROM spoken_content WHERE crc('q', id, CAST(c1 AS BLOB)) IS NOT c2"
        num_damaged = self._database.value(sql)
        return [f"the phonemes of {format_count(num_damaged, 'text')} are damaged"] if num_damaged else []

    def search(self, phonemes: str, k: int, allowed: bytes | None = None) -> Int64[np.ndarray, " id"]:
        """Return the ids of the ``k`` texts that share the most, and the rarest, runs of consonants with phonemes.

        Where more than ``MAX_LISTED`` allowed texts have a run, it is joined with the next ones.
        """
        pairs = pair_consonants(phonemes)
        runs = [f'"{pairs[place : place + 3]}"' for place in range(len(pairs) - 2)]
        lists, size = [np.zeros(0, np.int64)], 1
        for place in range(len(runs)):
            listed, size = self._list_texts(runs[place : place + MAX_JOINED], size, allowed)
            lists.append(listed)
        ids, _, rows = np.unique(np.concatenate(lists), return_index=True, return_inverse=True)  # by merging the lists
        weights = [np.full(len(listed), 1.0 / (1.0 + math.log1p(len(listed)))) for listed in lists]
        scores = np.bincount(rows, np.concatenate(weights), len(ids)).astype(np.float64)  # integers without any
        ranked: Int64[np.ndarray, " id"] = ids[spread_over_tracks(ids, scores, k)]
        return ranked

    def _list_texts(
        self, runs: Sequence[str], size: int, allowed: bytes | None
    ) -> tuple[Int64[np.ndarray, " id"], int]:
        """Return the texts with the first runs, at least ``size - 1``, and their number; none if all have many."""
        rows = f"SELECT rowid FROM spoken WHERE spoken MATCH ?1 AND {express_allowed(allowed)} LIMIT ?2"
        frequent = self.frequent  # another thread may replace the attribute
        for joined in range(max(size - 1, 1), len(runs) + 1):
            values = " AND ".join(runs[:joined]), MAX_LISTED + 1, allowed
            if allowed is None and values[0] in frequent:
                continue
            listed = read_ids(self._database.value(f"SELECT group_concat(rowid) FROM ({rows})", *values))
            if len(listed) <= MAX_LISTED:
                return listed, joined
            if allowed is None:
                frequent.add(values[0])
        return np.zeros(0, np.int64), size
