"""Matching of timed texts with a clause: by meaning, and by shared words.

*Cosine* is the inner product of sentence vectors. *Information* is that of the shared words: the negative logarithm of
the share of texts with them, in this index and in English; misspelt words count in part, stop words nothing. *Cover* is
its share of the information of all words of the clause.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vidret.channels.base import Clause
from vidret.channels.registry import HINT_NEEDED
from vidret.encode.sentences import RARE_SHARE, find_word_share, list_words, load_sentence_encoder
from vidret.store.snapshots.snapshot import Selection, find_rows
from vidret.store.texts.index import Term, Vocabulary
from vidret.store.texts.phonemes import align_phonemes, locate_phonemes, pronounce
from vidret.store.texts.stems import vary_numbers
from vidret.store.texts.store import FoundText, TextStore
from vidret.types import Vector

TEXTS = 150  # candidates by meaning, and as many by words
PHRASES = 1000  # texts that contain a phrase
SPOKEN = 50  # candidates by sound
MIN_PHONEMES, MAX_PHONEMES = 5, 40  # of a clause that may have been misheard
LIKE = 0.0  # likeness, in nats, above which words are shown as misheard
COMMON = 0.01  # share of the texts, above which a word selects no candidates
MIN_COMMON = 500  # texts
FUZZY_WEIGHT = 0.9
SAME_WORD = 0.3  # cosine above which two English words of similar spelling are taken for one, as "color" and "colour"
ENGLISH_TEXTS = 300  # weight of English in the rarity of a word, in texts of the index
TYPICAL_WORDS = 6  # of a text
_WORD = re.compile(r"\w+")
# Words that say little about a text, as Porter's stems.
_STOP_WORDS = (
    "a an the of in on at to is are be it its and or with for by from as that thi there which who what where when how "
    "ha have had wa were will can do doe did no not you your i we he she thei their hi her our my me us so if then "
    "someon somebodi person peopl one m s t d ll re ve"  # the last ones as in "I'm"
)
STOP_STEMS = frozenset(_STOP_WORDS.split())
NOTHING = 0.0, frozenset[str](), 0  # the information, stems and neighbours of a text that shares no word


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextMatches:
    """The texts that may match a clause.

    Attributes:
        texts: The texts.
        cosines: Of their sentence vectors with that of the clause.
        hubness: Mean cosines of the texts with typical sentences.
        cover: Share of the information of the clause's words that each text has, in 0..1.
        stems: The stems that they share with the clause, without stop words.
        information: Information of these stems, in nats.
        num_adjacent: Number of pairs of adjacent words of the clause that are also adjacent in the text.
        num_words: Number of distinct words of the clause, without stop words.
        likeness: How the clause sounds like a part of each text, in nats; minus infinity for texts that nobody said.
            See ``align_phonemes``.
        said: The phonemes of the clause, as ``pronounce_clause`` returns them.
    """

    texts: Sequence[FoundText]
    cosines: Float64[np.ndarray, " text"]
    hubness: Float64[np.ndarray, " text"]
    cover: Float64[np.ndarray, " text"]
    stems: Sequence[frozenset[str]]
    information: Float64[np.ndarray, " text"]
    num_adjacent: Int64[np.ndarray, " text"]
    likeness: Float64[np.ndarray, " text"]
    num_words: int = 1
    said: str = ""

    def list_misheard(self) -> list[str]:
        """Return the phonemes of the clause for each text that shares no word with it, but sounds like it; else ''."""
        likeness = self.likeness.tolist()
        return [
            self.said if like > LIKE and not stems else "" for like, stems in zip(likeness, self.stems, strict=True)
        ]


class TextMatcher:
    """Finds and scores the texts of one index."""

    def __init__(self, store: TextStore) -> None:
        self._store = store

    def find(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        allowed: Selection | None = None,
        *,
        typical: Vector,
        num_texts: Sequence[int],
        unasked: Selection | None = None,
    ) -> list[TextMatches]:
        """Return the candidates of each clause; for one with phrases, only texts that contain one of them.

        A clause without content or phrases has none.

        Args:
            clauses: The clauses.
            vectors: The sentence vector of each.
            allowed: The texts to choose from; None for all.
            typical: Mean vector of typical sentences.
            num_texts: Number of texts by which the rarity of each clause's words is measured.
            unasked: The allowed texts that a clause without a hint at the others may match by meaning; None for all.
        """
        nearest = self._search(clauses, vectors, allowed, unasked)
        found = list[np.ndarray]()
        terms = [self._find_terms(clause.content) for clause in clauses]
        said = [pronounce_clause(clause) for clause in clauses]
        for clause, clause_terms, clause_said, clause_nearest, clause_num_texts in zip(
            clauses, terms, said, nearest, num_texts, strict=True
        ):
            if clause.phrases or not clause.content:
                ids = [self._store.find_phrase(phrase, PHRASES, allowed) for phrase in clause.phrases]
                found.append(np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64))
                continue
            searched = [
                *_search_terms(clause_terms, clause_num_texts),
                *self._join(pairwise(term.stem for term in clause_terms)).values(),
            ]
            by_words = self._store.search_words(searched, TEXTS, allowed)
            by_sound = self._store.search_spoken(clause_said, SPOKEN, allowed)
            found.append(np.unique(np.concatenate([clause_nearest, by_words, by_sound])))
        return self._score(clauses, vectors, typical, num_texts, terms, said, found)

    def _search(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        allowed: Selection | None,
        unasked: Selection | None,
    ) -> list[Int64[np.ndarray, " _text"]]:
        """Return the texts nearest to each clause."""
        if unasked is None:
            return self._store.search(vectors, TEXTS, allowed)
        asks = np.array([clause.source in HINT_NEEDED for clause in clauses])
        nearest = [np.zeros(0, np.int64) for _ in clauses]
        for rows, within in ((np.flatnonzero(~asks), unasked), (np.flatnonzero(asks), allowed)):
            for row, text_ids in zip(rows.tolist(), self._store.search(vectors[rows], TEXTS, within), strict=True):
                nearest[row] = text_ids
        return nearest

    def score(
        self,
        text_ids: Int64[np.ndarray, " text"],
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        *,
        typical: Vector,
        num_texts: Sequence[int],
    ) -> list[TextMatches]:
        """Return texts as matches of each clause, as ``find`` does."""
        found = [text_ids if clause.phrases or clause.content else text_ids[:0] for clause in clauses]
        terms = [self._find_terms(clause.content) for clause in clauses]
        said = [pronounce_clause(clause) for clause in clauses]
        return self._score(clauses, vectors, typical, num_texts, terms, said, found)

    def find_misheard(self, said: str, text: str) -> frozenset[str]:
        """Return the stems of the words of a text that sound like the phonemes of a clause."""
        words, heard, place = text.split(), list[str](), 0
        pronounced = pronounce(words)
        start, end = locate_phonemes(said, "".join(pronounced))
        for word, phonemes in zip(words, pronounced, strict=True):
            if min(end, place + len(phonemes)) - max(start, place) > len(phonemes) / 2:
                heard.append(word)
            place += len(phonemes)
        return frozenset(chain.from_iterable(self._store.index.stems(heard))) - STOP_STEMS

    def holds(self, term: str) -> set[str]:
        """Return the fingerprints of contents with a text that contains a term: a word, or several in this order."""
        return self._store.find_contents(self._store.index.find_tracks(term))

    def _find_terms(self, text: str) -> list[Term]:
        """Return the words of a text as terms of the index, similar to which are no other English words.

        A text with "bench" is no evidence for "beach", whereas "beachs" and "baech" may be misspelt.
        """
        words = set(_WORD.findall(text.lower()))
        terms = [
            replace(term, similar=self._respell(term.stem) | term.similar) if term.stem in words else term
            for term in self._store.index.terms(text, STOP_STEMS)
        ]
        return [replace(term, similar=self._keep_misspelt(term)) for term in terms]

    def _respell(self, word: str) -> dict[str, float]:
        """Return the stems of the English words with an ending that a word without one may be, with their likeness.

        The stem of "fallign" is not similar to that of "falling", since it keeps the ending.
        """
        if find_word_share(word) > RARE_SHARE:
            return {}
        stems = dict[str, float]()
        for other, likeness in _load_english().find_similar(word, word).items():
            (stem,) = self._store.index.stems([other])[0]
            if len(other) - len(stem) > 1 and likeness > 1 - 2 / max(len(word), len(other)):  # one edit
                stems[stem] = max(likeness, stems.get(stem, 0.0))
        return stems

    def _keep_misspelt(self, term: Term) -> dict[str, float]:
        """Return the similar terms that may be the same word: those of no English word, or of words used alike."""
        words = self._list_forms(term.stem) if term.similar else []
        return {
            stem: likeness
            for stem, likeness in term.similar.items()
            if not words
            or not (others := self._list_forms(stem))
            or load_sentence_encoder().compare_words(words, others) > SAME_WORD
        }

    def _list_forms(self, stem: str) -> list[str]:
        """Return the English words with a stem."""
        words = list_words(stem.removesuffix("i"))  # as of "happi", the stem of "happy"
        return [word for word, stems in zip(words, self._store.index.stems(words), strict=True) if stems == [stem]]

    def _score(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        typical: Vector,
        num_texts: Sequence[int],
        terms: Sequence[Sequence[Term]],
        said: Sequence[str],
        found: Sequence[np.ndarray],
    ) -> list[TextMatches]:
        """Return the matches of each clause, from those of its texts that are intact and hold one of its phrases."""
        texts, rows = self._store.read_found(np.unique(np.concatenate([np.zeros(0, np.int64), *found])))
        ids, hubness = np.array([text.id for text in texts], np.int64), np.vecdot(rows, typical).astype(np.float64)
        matches, given = [], zip(clauses, vectors, num_texts, terms, said, found, strict=True)
        for clause, vector, clause_num_texts, clause_terms, clause_said, clause_ids in given:
            clause_rows = find_rows(ids, clause_ids)
            clause_rows = clause_rows[clause_rows >= 0]
            if clause.phrases:
                phrases = self._stem_phrases(clause)
                held = [any(holds_phrase(texts[row].stems, phrase) for phrase in phrases) for row in clause_rows]
                clause_rows = clause_rows[np.array(held, bool)]
            weights = weigh_terms(clause_terms, clause_num_texts, self._find_shares(clause.content))
            shared = self._share(clause, clause_terms, weights, [texts[row].stems for row in clause_rows.tolist()])
            information = np.array([nats for nats, _, _ in shared], np.float64)
            matches.append(
                TextMatches(
                    texts=[texts[row] for row in clause_rows.tolist()],
                    cosines=np.vecdot(rows[clause_rows], vector).astype(np.float64),
                    hubness=hubness[clause_rows],
                    cover=information / (sum(weights) or 1.0),
                    stems=[shared_stems for _, shared_stems, _ in shared],
                    information=information,
                    num_adjacent=np.array([num_adjacent for _, _, num_adjacent in shared], np.int64),
                    likeness=align_phonemes(clause_said, [texts[row].phonemes for row in clause_rows.tolist()]),
                    num_words=sum(weight > 0 for weight in weights),
                    said=clause_said,
                )
            )
        return matches

    def _share(
        self, clause: Clause, terms: Sequence[Term], weights: Sequence[float], texts: Sequence[Sequence[str]]
    ) -> list[tuple[float, frozenset[str], int]]:
        """Return the information, the stems and the neighbours that texts, given as stems, share with a clause."""
        stem, phrases = self._store.index.stems, self._stem_phrases(clause)
        variants = [list(dict.fromkeys(stems)) for stems in stem(vary_numbers(clause.content))]
        # Stemming is slow, so only pairs with the beginning of a term are joined.
        beginnings = {term.stem[:length] for term in terms for length in range(1, len(term.stem))}
        some = (stems for stems in texts if not beginnings.isdisjoint(stems))
        pairs = {pair for stems in some for pair in pairwise(stems) if pair[0] in beginnings}
        term_stems, term_pairs = {term.stem for term in terms}, set(pairwise(term.stem for term in terms))
        joined = self._join([*pairs, *term_pairs])
        compounds = {pair: stem for pair, stem in joined.items() if stem in term_stems or pair in term_pairs}
        neighbours = term_pairs.union(*map(pairwise, variants))
        # A text without any of these shares no words.
        telling = {term.stem for term, weight in zip(terms, weights, strict=True) if weight} | term_stems - STOP_STEMS
        telling.update(*(term.similar for term in terms), (compounds[pair] for pair in term_pairs & compounds.keys()))
        telling.update(pair[0] for pair, stem in compounds.items() if stem in term_stems)
        shared = []
        for stems in texts:
            if not phrases and telling.isdisjoint(stems):
                shared.append(NOTHING)
                continue
            information, shared_stems = match_terms(stems, terms, weights, compounds)
            num_adjacent = len(neighbours.intersection(pairwise(stems)))
            shared_stems -= STOP_STEMS  # stop words are evidence only in quotes
            for phrase in phrases:
                if holds_phrase(stems, phrase):
                    information, shared_stems = sum(weights), shared_stems | set(phrase)
                    num_adjacent = max(num_adjacent, len(phrase) - 1)
            shared.append((information, frozenset(shared_stems), num_adjacent))
        return shared

    def _stem_phrases(self, clause: Clause) -> list[list[str]]:
        return self._store.index.stems([variant for phrase in clause.phrases for variant in vary_numbers(phrase)])

    def _find_shares(self, text: str) -> dict[str, float]:
        """Return the frequency of each stem of a text in English, by the most frequent of its words."""
        words = _WORD.findall(text)
        shares: dict[str, float] = {}
        for word, stems in zip(words, self._store.index.stems(words), strict=True):
            for stem in stems:
                shares[stem] = max(shares.get(stem, 0.0), find_word_share(word))
        return shares

    def _join(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the stem of the compound of each pair of words."""
        words = list(pairs)
        stems = self._store.index.stems([first + second for first, second in words]) if words else []
        return {pair: pair_stems[0] for pair, pair_stems in zip(words, stems, strict=True) if len(pair_stems) == 1}


@cache
def _load_english() -> Vocabulary:
    vocabulary = Vocabulary()
    vocabulary.add(0, "\n".join(list_words("")))
    return vocabulary


def pronounce_clause(clause: Clause) -> str:
    """Return the phonemes of a clause that may have been misheard; of one that cannot, none.

    A few phonemes sound like part of many texts, a quoted phrase is meant as it is, and a long description is no quote.
    """
    phonemes = "" if clause.phrases else pronounce([clause.content])[0]
    return phonemes if MIN_PHONEMES <= len(phonemes) <= MAX_PHONEMES else ""


def weigh_terms(terms: Sequence[Term], num_texts: int, shares: Mapping[str, float]) -> list[float]:
    """Return the information of each term in a text, in nats; 0 for stop words, unless there are no other terms.

    The fewer other texts contain a term, the more information it has. ``shares`` are the frequencies of stems among the
    words of English texts; the index counts more as it grows.
    """
    has_content = any(term.stem not in STOP_STEMS for term in terms)
    weights = []
    for term in terms:
        expected = 1 - (1 - shares.get(term.stem, RARE_SHARE)) ** TYPICAL_WORDS
        num_others = max(term.num_texts - 1, 0)  # without the rated text itself
        held = (num_others + ENGLISH_TEXTS * expected) / (num_texts + ENGLISH_TEXTS)
        is_silent = has_content and term.stem in STOP_STEMS
        weights.append(0.0 if is_silent else -math.log(min(held, 1.0)))
    return weights


def match_terms(
    stems: Sequence[str],
    terms: Sequence[Term],
    weights: Sequence[float],
    compounds: Mapping[tuple[str, str], str] | None = None,
) -> tuple[float, set[str]]:
    """Return the sum of the weights of the terms that a text contains, and the stems that match.

    A misspelt word counts by its likeness. Two words of the text may match one term ("file name", "filename"), and two
    terms one word: ``compounds`` are the stems of two words written as one.
    """
    held, compounds = set(stems), compounds or {}
    matching: dict[str, tuple[str, ...]] = {}
    if compounds:
        matching |= {compounds[pair]: pair for pair in pairwise(stems) if pair in compounds}
        for pair in pairwise(term.stem for term in terms):
            if compounds.get(pair) in held:
                matching |= dict.fromkeys(pair, (compounds[pair],))
    covered, shared = 0.0, set[str]()
    for term, weight in zip(terms, weights, strict=True):
        if term.stem in held:  # the usual case, and the shortest
            covered += weight
            shared.add(term.stem)
        elif term.stem in matching:
            covered += weight
            shared.update(matching[term.stem])
        elif similar := held & term.similar.keys():
            likeness, stem = max((term.similar[stem], stem) for stem in similar)
            covered += weight * (FUZZY_WEIGHT * likeness)
            shared.add(stem)
    return covered, shared


def holds_phrase(stems: Sequence[str], phrase: Sequence[str]) -> bool:
    """Return whether a text contains these stems next to one another, in this order."""
    width = len(phrase)
    return width > 0 and any(list(stems[i : i + width]) == list(phrase) for i in range(len(stems) - width + 1))


def _search_terms(terms: Sequence[Term], num_texts: int) -> list[str]:
    """Return the terms to look up, including similarly spelt ones.

    Stop words and common words are left out, unless there are no others: they select no candidates, and ranking all
    texts that contain them takes long.
    """
    most = max(MIN_COMMON, COMMON * num_texts)
    kept = [term for term in terms if term.stem not in STOP_STEMS and term.num_texts <= most]
    kept = kept or sorted(terms, key=lambda term: (term.stem in STOP_STEMS, term.num_texts))[:1]
    return [stem for term in kept for stem in (term.stem, *term.similar)]
