"""Full-text search of timed texts: SQLite FTS5 with bm25, stems, phrases, and misspelt words.

The index is derived from the stored texts and can be built again from them at any time. It stores the stems (Porter) of
words, not the words. The stem of a stem may differ from it, so a query must not be stemmed twice. Scripts without
spaces between words are split into single characters, so that phrases match inside them.
"""

import contextlib
import math
import re
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR, Database
from vidret.store.catalog.schema import ids_to_json
from vidret.store.texts.postings import (
    MAX_TEXTS,
    express_allowed,
    keep_allowed,
    read_ids,
    read_varints,
    spread_over_tracks,
    text_id,
)
from vidret.store.texts.spoken import SpokenIndex
from vidret.store.texts.stems import TOKENIZER, UNSPACED, Stemmer, vary_numbers
from vidret.text import MARKS

MIN_FUZZY_LETTERS = 5
NUM_LETTERS = 61  # that masks distinguish
STEM_OF_ONE = "on"  # the stem of "on" too, which most texts contain


class Vocabulary:
    """The terms read from an index so far, with the letters of each as a bit mask: a cheap bound on edit distances."""

    def __init__(self) -> None:
        self.last_id = 0
        self._terms: list[str] = []
        self._masks, self._lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, last_id: int, lines: str) -> None:
        """Add terms, one per line, and set the id of the last one in the index."""
        self.last_id = last_id
        letters = np.array([f"{lines}\n"]).view(np.uint32)
        ends = np.flatnonzero(letters == ord("\n"))
        bits = np.left_shift(1, letters % NUM_LETTERS, dtype=np.int64)  # as ``mask_letters`` does
        bits[ends] = 0
        starts = np.append(0, ends[:-1] + 1)
        self._terms += lines.split("\n")
        self._masks = np.append(self._masks, np.bitwise_or.reduceat(bits, starts))
        self._lengths = np.append(self._lengths, ends - starts)

    def find_similar(self, stem: str, word: str) -> dict[str, float]:
        """Return other terms within one edit of a stem or its word, or two from eight letters on, with their likeness.

        A swap of neighbours is one edit. The first letter, which is rarely wrong, must be the same: "peach" is not a
        misspelt "beach". The word counts since names may lose their ends: the stem of "Alvares" is "alvar".
        """
        if len(stem) < MIN_FUZZY_LETTERS or stem.isdigit():
            return {}
        from rapidfuzz.distance import OSA

        edits = 1 if len(stem) < 8 else 2
        similarities: dict[str, float] = {}
        for spelling in dict.fromkeys((word, stem)):
            differing = np.bitwise_count(np.bitwise_xor(self._masks, mask_letters(spelling)))
            near = np.flatnonzero((np.abs(self._lengths - len(spelling)) <= edits) & (differing <= 2 * edits))
            for term in (term for row in near if (term := self._terms[row])[0] == stem[0]):
                distance = OSA.distance(spelling, term, score_cutoff=edits)
                if distance <= edits and term != stem and not term.isdigit():
                    likeness = 1.0 - distance / max(len(spelling), len(term))
                    similarities[term] = max(likeness, similarities.get(term, 0.0))
        return similarities


def mask_letters(term: str) -> int:
    """Return the letters of a term as a bit mask."""
    mask = 0
    for letter in term:
        mask |= 1 << (ord(letter) % NUM_LETTERS)
    return mask


FORMAT = 4
# A character of a script without spaces, or a word of another one.
_WORD = re.compile(rf"{UNSPACED}|(?:(?!{UNSPACED})\w)(?:(?!{UNSPACED})[\w{MARKS}])*")
VOCABULARY = ("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, texts, row)",)
MAX_TERMS = 32  # of one query
MAX_COUNTS, MAX_LISTED = 100_000, 4_000_000  # terms whose counts are cached, and ids in their cached lists of texts
MAX_FUZZY_TERMS = 12  # for one word of a query
MAX_RANKED = 3000  # texts that FTS5 ranks itself, in about 3 ms
MAX_MATCHES = 100_000  # texts with a phrase, of which the best of each track are chosen
MEASURED = 5  # texts whose lengths are read, in multiples of the requested number
BM25_SATURATION, BM25_LENGTH, LEAST_RARITY = 1.2, 0.75, 1e-6  # of FTS5's bm25


@dataclass(frozen=True, slots=True)
class Term:
    """A word of a query: its stem, the number of texts that contain it, and the stored terms with a similar spelling.

    ``similar`` maps those terms to their likeness, 0..1; and a small number in words to its digits, or the other way.
    """

    stem: str
    num_texts: int
    similar: dict[str, float]


class TextIndex:
    """A full-text index in a SQLite file, or ``in_memory``. One writer at a time; readers see whole transactions."""

    def __init__(self, path: Path | None, *, write: bool) -> None:
        """Open the index, or create it when writing.

        Raises:
            StoreError: It cannot be opened.
        """
        self._path, self._lock, self._stemming = path, threading.Lock(), threading.Lock()
        self.in_memory = path is None
        # Counts and lists of the texts that contain a term: slow for frequent words, which queries share.
        self._counts: dict[str, int] = {}
        self._listed: dict[str, Int64[np.ndarray, " id"]] = {}
        self._counted: object = None  # the version of the index for which they are valid
        self._vocabulary = Vocabulary()
        self._database = Database(path, write=write or path is None, create=write, prepare=VOCABULARY)
        self.spoken = SpokenIndex(self._database)
        try:
            if write or path is None:
                self._create()
            elif self._read_format() != FORMAT:
                raise StoreError(f"{path}: the text index is unfinished, or of another format; {REPAIR}")
        except StoreError:
            self._database.close()
            raise
        self._stemmer = Stemmer()

    def _read_format(self) -> int:
        return int(self._database.value("PRAGMA user_version"))

    def _create(self) -> None:
        if self._read_format() == FORMAT:
            return
        # After a power cut the last texts may be missing, which the next writer adds again.
        with self._database.transaction():
            self._database.run("DROP TABLE IF EXISTS texts")
            self._database.run("DROP TABLE IF EXISTS terms")
            # Every term that a text ever had, with its letters as a bit mask.
            self._database.run("CREATE TABLE terms (id INTEGER PRIMARY KEY, term TEXT UNIQUE, mask INTEGER)")
            self._database.run(f'CREATE VIRTUAL TABLE texts USING fts5(body, tokenize = "{TOKENIZER}")')
            self.spoken.create()
            self._database.run(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        """Close the index."""
        with self._lock, self._stemming:
            self._database.close()
            self._stemmer.close()

    def add(self, texts: Iterable[tuple[int, str]], spoken: Collection[int] = ()) -> None:
        """Add texts by id, all or none; existing ones are replaced. ``spoken`` are those of recognised English."""
        given = list(texts)
        stems = self.stems([body for _, body in given])
        rows = [(int(text_id), " ".join(text_stems)) for (text_id, _), text_stems in zip(given, stems, strict=True)]
        terms = [(term, mask_letters(term)) for term in sorted(set().union(*stems))]
        with self._database.transaction():
            self._database.run_many("INSERT OR REPLACE INTO texts (rowid, body) VALUES (?, ?)", rows)
            self._database.run_many("INSERT OR IGNORE INTO terms (term, mask) VALUES (?, ?)", terms)
            self.spoken.add([(text_id, body) for text_id, body in given if text_id in spoken])

    def remove(self, ids: Iterable[int]) -> None:
        """Remove texts by id; unknown ids are ignored."""
        self._remove([(int(text_id), int(text_id) + 1) for text_id in ids])

    def remove_track(self, track_id: int) -> None:
        """Remove the texts of a track."""
        self._remove([(text_id(track_id, 0), text_id(track_id + 1, 0))])

    def _remove(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Remove the texts whose ids are in some ranges, which exclude their ends."""
        with self._database.transaction():
            self._database.run_many("DELETE FROM texts WHERE rowid >= ? AND rowid < ?", ranges)
            self.spoken.remove(ranges)

    def find_damage(self) -> str:
        """Verify the whole index; return the damage, '' if there is none. The check runs on a copy."""
        with contextlib.closing(Database(None, write=True)) as copy:
            try:
                self._database.replace(copy)
                bad = [message for (message,) in copy.rows("PRAGMA integrity_check") if message != "ok"]
                copy.run("INSERT INTO texts (texts) VALUES ('integrity-check')")
                bad += SpokenIndex(copy).find_damage()
            except StoreError as error:
                bad = [str(error).partition(": ")[2].removesuffix(f"; {REPAIR}")]
        return f"{self._path}: {bad[0]}" if bad else ""

    def ids(self) -> Int64[np.ndarray, " id"]:
        """Return the ids of all texts, ascending."""
        rows = self._database.rows("SELECT id FROM texts_docsize ORDER BY id")
        return np.array([row[0] for row in rows], np.int64)

    def __len__(self) -> int:
        return int(self._database.value("SELECT count(*) FROM texts_docsize"))

    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the stems of each text, in order, as the index splits it."""
        with self._stemming:
            return self._stemmer.stems(texts)

    def read(self, ids: Int64[np.ndarray, " id"], texts: Sequence[str]) -> tuple[list[list[str]], list[str]]:
        """Return the stems of stored texts by id, and the phonemes of those that are spoken.

        Stems take half the time of ``stems``, which is used for lost ones.
        """
        is_spoken = "typeof(spoken.c1) = 'text' AND instr(spoken.c1, char(10)) = 0"  # and intact
        phonemes = f"group_concat(iif({is_spoken}, spoken.c1, ''), char(10))"
        sql = (
            f"SELECT group_concat(ifnull(stored.c0, ''), char(10)), {phonemes} FROM json_each(?) AS asked"
            " LEFT JOIN texts_content AS stored ON stored.id = asked.value"
            " LEFT JOIN spoken_content AS spoken ON spoken.id = asked.value"
        )
        lines, heard = ((lines or "").split("\n") for lines in self._database.rows(sql, ids_to_json(ids))[0])
        if len(lines) != len(texts):
            lines = [""] * len(texts)
        stems = [line.split() or self.stems([text])[0] for line, text in zip(lines, texts, strict=True)]
        return stems, heard[: len(texts)]

    def find_words(self, text: str, stems: Collection[str]) -> tuple[tuple[int, int], ...]:
        """Return the start and end, in characters, of each word of a text that has one of these stems."""
        words = list(_WORD.finditer(text))
        stems_by_word = self.stems([word[0] for word in words])
        return tuple(
            word.span()
            for word, word_stems in zip(words, stems_by_word, strict=True)
            if any(stem in stems for stem in word_stems)
        )

    def terms(self, text: str, silent: Collection[str] = ()) -> list[Term]:
        """Return the distinct words of a query as terms of the index.

        Words with ``silent`` stems are not counted next to others, and have 0 texts: counting a stop word takes 25 ns
        for each text that contains it, and most may.
        """
        variants = self.stems(vary_numbers(text))
        stems = list(dict.fromkeys(variants[0]))[:MAX_TERMS]
        words = _WORD.findall(text.lower())
        split = zip(words, self.stems(words), strict=True)
        spelt = {stem: word for word, word_stems in split for stem in word_stems[:1]}
        with self._lock:
            self._read_changes()
            near = {stem: self._vocabulary.find_similar(stem, spelt.get(stem, stem)) for stem in stems}
        for stem, *others in zip(*variants, strict=True):
            if stem in near:
                near[stem] |= {other: 1.0 for other in others if other not in (stem, STEM_OF_ONE)}
        return self._make_terms(near, silent)

    def _make_terms(self, near: Mapping[str, Mapping[str, float]], silent: Collection[str]) -> list[Term]:
        """Return terms, given their stems and the similar spellings of each."""
        silent = silent if any(stem not in silent for stem in near) else ()
        counts = {stem: 0 if stem in silent else self._count(stem) for stem in near}
        return [Term(stem, counts[stem], self._choose_similar(near_stems)) for stem, near_stems in near.items()]

    def _read_changes(self) -> None:
        """Read new terms, joined by SQLite, which takes a fifth of the time of rows; drop outdated counts."""
        version = "(SELECT block FROM texts_data WHERE id = 10)"  # the structure record, which changes with each write
        is_intact = "typeof(term) = 'text' AND instr(term, '\n') = 0"
        sql = f"SELECT {version}, max(id), group_concat(term, '\n') FROM terms WHERE id > ? AND {is_intact}"
        version, last_id, terms = self._database.rows(sql, self._vocabulary.last_id)[0]
        if last_id is not None:
            self._vocabulary.add(last_id, terms)
        if version != self._counted or len(self._counts) > MAX_COUNTS:
            self._counts, self._listed, self._counted = {}, {}, version
            self.spoken.frequent = set()

    def _count(self, term: str) -> int:
        """Return the number of texts that contain a term."""
        counts = self._counts  # another thread may replace the attribute
        if term not in counts:
            counts[term] = self._database.value("SELECT doc FROM temp.vocabulary WHERE term = ?", term) or 0
        return counts[term]

    def _choose_similar(self, near: Mapping[str, float]) -> dict[str, float]:
        counts = {term: self._count(term) for term in near}
        best = sorted((term for term in near if counts[term]), key=lambda term: (-near[term], -counts[term], term))
        return {term: near[term] for term in best[:MAX_FUZZY_TERMS]}

    def search(self, terms: Sequence[str], k: int, allowed: bytes | None = None) -> Int64[np.ndarray, " id"]:
        """Return the ids of the ``k`` texts with the best bm25 for any of these terms, best first, in turns by track.

        ``allowed`` has a byte per track, 1 for one whose texts may be returned; None for all. If many texts contain the
        terms, repetitions within a text are ignored: FTS5 takes eight times as long to count them.
        """
        if not terms:
            return np.zeros(0, np.int64)
        if sum(map(self._count, terms)) > MAX_RANKED:
            return self._rank_many(list(dict.fromkeys(terms)), k, allowed)
        return self._match(" OR ".join(_quote(term) for term in terms), k, allowed)

    def _rank_many(self, terms: Sequence[str], k: int, allowed: bytes | None) -> Int64[np.ndarray, " id"]:
        """Rank texts by the terms that they contain, and the best of them by their lengths too."""
        num_texts, num_words = read_varints(self._database.value("SELECT block FROM texts_data WHERE id = 1"))[:2]
        ids_of_terms = [self._list_texts(term) for term in terms if self._count(term)]
        rarity = [max(math.log((num_texts - len(ids) + 0.5) / (len(ids) + 0.5)), LEAST_RARITY) for ids in ids_of_terms]
        listed = np.concatenate(ids_of_terms)
        order = np.argsort(listed, kind="stable")  # stable, since this merges sorted lists
        firsts = np.flatnonzero(np.diff(listed[order], prepend=-1))
        ids = listed[order[firsts]]
        scores = np.add.reduceat(np.repeat(rarity, [len(matches) for matches in ids_of_terms])[order], firsts)
        kept = keep_allowed(ids, allowed)
        ids, scores = ids[kept], scores[kept]
        best = np.sort(spread_over_tracks(ids, scores, MEASURED * k))
        ids = ids[best]
        sizes = "CAST(group_concat(ifnull(sz, x'00'), '') AS BLOB)"  # 0 for a lost one
        sql = f"SELECT {sizes} FROM json_each(?) AS asked LEFT JOIN texts_docsize AS stored ON stored.id = asked.value"
        lengths = read_varints(self._database.value(sql, ids_to_json(ids)) or b"") + [0] * len(ids)
        relative = np.array(lengths[: len(ids)], np.int64) * num_texts / max(num_words, 1)
        ranks = scores[best] / (1 + BM25_SATURATION * (1 - BM25_LENGTH + BM25_LENGTH * relative))
        ranked: Int64[np.ndarray, " id"] = ids[spread_over_tracks(ids, ranks, k)]
        return ranked

    def _list_texts(self, term: str) -> Int64[np.ndarray, " id"]:
        """Return the ids of the texts that contain a term, ascending."""
        listed = self._listed  # another thread may replace the attribute
        if term not in listed:
            if sum(map(len, listed.values())) > MAX_LISTED:
                self._listed = listed = {}
            sql = "SELECT group_concat(rowid) FROM texts WHERE texts MATCH ?"
            listed[term] = read_ids(self._database.value(sql, _quote(term)))
        return listed[term]

    def find_phrase(self, phrase: str, k: int, allowed: bytes | None = None) -> Int64[np.ndarray, " id"]:
        """Return the ids of up to ``k`` texts that contain these words next to one another, in turns by track."""
        expression = self._express(phrase)
        return self._match(expression, k, allowed) if expression else np.zeros(0, np.int64)

    def find_tracks(self, phrase: str) -> Int64[np.ndarray, " track"]:
        """Return the tracks with a text that contains these words next to one another, in this order."""
        expression = self._express(phrase)
        sql = f"SELECT DISTINCT rowid / {MAX_TEXTS} FROM texts WHERE texts MATCH ?"
        rows = self._database.rows(sql, expression) if expression else []
        return np.array(sorted(row[0] for row in rows), np.int64)

    def _express(self, phrase: str) -> str:
        """Return the FTS5 expression of a phrase, with its numbers in words or in digits; empty without a word."""
        return " OR ".join(_quote(" ".join(stems)) for stems in self.stems(vary_numbers(phrase)) if stems)

    def _match(self, expression: str, k: int, allowed: bytes | None) -> Int64[np.ndarray, " id"]:
        rows = f"SELECT rowid FROM texts WHERE texts MATCH ?1 AND {express_allowed(allowed)} ORDER BY rank LIMIT ?2"
        values = expression, MAX_MATCHES, allowed
        ids = read_ids(self._database.value(f"SELECT group_concat(rowid) FROM ({rows})", *values))
        chosen: Int64[np.ndarray, " id"] = ids[spread_over_tracks(ids, -np.arange(len(ids), dtype=np.float64), k)]
        return chosen


def _quote(text: str) -> str:
    escaped = text.replace('"', '""')
    return f'"{escaped}"'
