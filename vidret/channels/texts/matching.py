"""How well timed texts match a clause: by meaning, and by the words that they share with it.

*Cosine* is the inner product of sentence vectors. *Information* is what the shared words tell: the logarithm of how
rarely a text holds them, in this index and in English, misspelt ones in part, stop words nothing. *Cover* is its share
of what all words of the clause would tell.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32

from vidret.channels.base import Clause
from vidret.encode.sentences import RARE_SHARE, find_word_share
from vidret.store.catalog.texts import StoredText
from vidret.store.texts.allowed import AllowedTexts
from vidret.store.texts.index import Term
from vidret.store.texts.store import TextStore
from vidret.types import TextSource, Vector

TEXTS = 150  # candidates by meaning, and as many by words
PHRASES = 200  # texts that hold a phrase
COMMON = 0.01  # share of the texts above which a word chooses no candidates
MIN_COMMON = 500  # texts
FUZZY_WEIGHT = 0.9
PRIOR_TEXTS = 30  # texts that English counts for beside those of the index, in how rarely a text holds a word
TYPICAL_WORDS = 6  # of a text
_WORD = re.compile(r"\w+")
# Words that say little about a text, as Porter's stems.
_STOP_WORDS = (
    "a an the of in on at to is are be it its and or with for by from as that thi there which who what where when how "
    "ha have had wa were will can do doe did no not you your i we he she thei their hi her our my me us so if then "
    "someon somebodi person peopl one m s t d ll re ve"  # the last ones as in "I'm"
)
STOP_STEMS = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMatch:
    """A text that may match a clause.

    Attributes:
        stored: The text.
        cosine: Of their sentence vectors.
        cover: Share of what the words of the clause tell that the text holds, in 0..1.
        stems: The stems that they share, but for stop words.
        information: What these tell, in nats.
        num_adjacent: Pairs of neighbouring words of the clause that are neighbours in the text too.
        hubness: Mean cosine of the text with typical sentences.
        num_words: Distinct words of the clause, but for stop words.
    """

    stored: StoredText
    cosine: float
    cover: float
    stems: frozenset[str]
    information: float = 0.0
    num_adjacent: int = 0
    hubness: float = 0.0
    num_words: int = 1

    @property
    def source(self) -> TextSource:
        """The source of the text."""
        return self.stored.text.source


class TextMatcher:
    """Finds and scores the texts of one index."""

    def __init__(self, store: TextStore) -> None:
        self._store = store

    def find(
        self,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        allowed: AllowedTexts | None = None,
        *,
        typical: Vector,
    ) -> list[list[TextMatch]]:
        """Return the candidates of each clause; of one with phrases only texts that hold one of them.

        A clause without content or phrases has none.

        Args:
            clauses: The clauses.
            vectors: The sentence vector of each.
            allowed: The texts to choose from; None for all.
            typical: Mean vector of typical sentences.
        """
        nearest = self._store.search(vectors, TEXTS, allowed)
        terms = [self._store.index.terms(clause.content) for clause in clauses]
        found = []
        for clause, own_terms, own_nearest in zip(clauses, terms, nearest, strict=True):
            if clause.phrases or not clause.content:
                found.append(self._find_phrases(clause.phrases, allowed))
                continue
            searched = [
                *_search_terms(own_terms, len(self._store)),
                *self._join(pairwise(term.stem for term in own_terms)).values(),
            ]
            by_words = self._store.search_words(searched, TEXTS, allowed)
            found.append(np.unique(np.concatenate([own_nearest, by_words])))
        texts = self._read(np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64))
        return [
            self._score([texts[row] for row in ids.tolist() if row in texts], clause, own_terms, vector, typical)
            for clause, ids, own_terms, vector in zip(clauses, found, terms, vectors, strict=True)
        ]

    def score_content(
        self,
        fingerprint: str,
        clauses: Sequence[Clause],
        vectors: Float32[np.ndarray, "clause dim"],
        *,
        typical: Vector,
    ) -> list[list[TextMatch]]:
        """Return all texts of one content as matches of each clause, as ``find`` does."""
        tracks = [track for track in self._store.tracks(fingerprint) if track.num_texts]
        ids = np.array([row for track in tracks for row in self._store.store.segments.ids_of_video(track.id)], np.int64)
        texts = self._read(ids)
        matches = []
        for clause, vector in zip(clauses, vectors, strict=True):
            is_held = clause.phrases or not clause.content
            own = np.intersect1d(ids, self._find_phrases(clause.phrases)) if is_held else ids
            rows, terms = [texts[row] for row in own.tolist() if row in texts], self._store.index.terms(clause.content)
            matches.append(self._score(rows, clause, terms, vector, typical))
        return matches

    def holds(self, term: str) -> set[str]:
        """Return the fingerprints of contents of which a text holds a term: a word, or several in this order."""
        return self._store.find_contents(self._store.index.find_tracks(term))

    def mark(self, text: str, stems: frozenset[str]) -> tuple[tuple[int, int], ...]:
        """Return the places of the words of a text that have one of these stems, in characters."""
        return self._store.index.find_words(text, stems)

    def _find_phrases(self, phrases: Sequence[str], allowed: AllowedTexts | None = None) -> np.ndarray:
        ids = [self._store.find_phrase(phrase, PHRASES, allowed) for phrase in phrases]
        return np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.int64)

    def _read(self, ids: np.ndarray) -> dict[int, tuple[StoredText, list[str], Float32[np.ndarray, " dim"]]]:
        texts = self._store.read_segments(ids)
        stems = self._store.index.stems([each.text.text for each in texts])
        vectors = self._store.intact_vectors([each.id for each in texts])
        pairs = zip(texts, stems, strict=True)
        return {each.id: (each, own, vectors[each.id]) for each, own in pairs if each.id in vectors}

    def _score(
        self,
        texts: Sequence[tuple[StoredText, list[str], Float32[np.ndarray, " dim"]]],
        clause: Clause,
        terms: Sequence[Term],
        vector: Float32[np.ndarray, " dim"],
        typical: Vector,
    ) -> list[TextMatch]:
        weights = weigh_terms(terms, len(self._store), self._find_shares(clause.content))
        phrases = self._store.index.stems(list(clause.phrases))
        # Stemming is slow, so only pairs that begin as a term does are joined.
        beginnings = {term.stem[:length] for term in terms for length in range(1, len(term.stem))}
        pairs = {pair for _, stems, _ in texts for pair in pairwise(stems) if pair[0] in beginnings}
        own_stems, own_pairs = {term.stem for term in terms}, set(pairwise(term.stem for term in terms))
        joined = self._join([*pairs, *own_pairs])
        compounds = {pair: stem for pair, stem in joined.items() if stem in own_stems or pair in own_pairs}
        num_words = sum(weight > 0 for weight in weights)
        matches = []
        for stored, stems, text_vector in texts:
            information, shared = match_terms(stems, terms, weights, compounds)
            num_adjacent = len(own_pairs.intersection(pairwise(stems)))
            shared -= STOP_STEMS  # they are evidence only in quotes
            for phrase in phrases:
                if holds_phrase(stems, phrase):
                    information, shared = sum(weights), shared | set(phrase)
                    num_adjacent = max(num_adjacent, len(phrase) - 1)
            matches.append(
                TextMatch(
                    stored=stored,
                    cosine=float(text_vector @ vector),
                    cover=information / (sum(weights) or 1.0),
                    stems=frozenset(shared),
                    information=information,
                    num_adjacent=num_adjacent,
                    hubness=float(text_vector @ typical),
                    num_words=num_words,
                )
            )
        return matches

    def _find_shares(self, text: str) -> dict[str, float]:
        """Return how often each stem of a text occurs in English, by the most frequent of its words."""
        words = _WORD.findall(text)
        shares: dict[str, float] = {}
        for word, stems in zip(words, self._store.index.stems(words), strict=True):
            for stem in stems:
                shares[stem] = max(shares.get(stem, 0.0), find_word_share(word))
        return shares

    def _join(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the stem of the compound of each two words."""
        words = list(pairs)
        stems = self._store.index.stems([first + second for first, second in words]) if words else []
        return {pair: own[0] for pair, own in zip(words, stems, strict=True) if len(own) == 1}


def weigh_terms(terms: Sequence[Term], num_texts: int, shares: Mapping[str, float]) -> list[float]:
    """Return what it tells that a text holds each term, in nats; 0 for stop words, unless there is nothing else.

    Args:
        terms: The terms.
        num_texts: Number of texts in the index.
        shares: How often each stem occurs among the words of English texts; the index counts more as it grows.
    """
    has_content = any(term.stem not in STOP_STEMS for term in terms)
    weights = []
    for term in terms:
        expected = 1 - (1 - shares.get(term.stem, RARE_SHARE)) ** TYPICAL_WORDS
        held = (term.num_texts + PRIOR_TEXTS * expected) / (num_texts + PRIOR_TEXTS)
        is_silent = has_content and term.stem in STOP_STEMS
        weights.append(0.0 if is_silent else -math.log(min(held, 1.0)))
    return weights


def match_terms(
    stems: Sequence[str],
    terms: Sequence[Term],
    weights: Sequence[float],
    compounds: Mapping[tuple[str, str], str] | None = None,
) -> tuple[float, set[str]]:
    """Return the sum of the weights of the terms that a text holds, and the stems that match.

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
        elif matching or term.similar:
            likeness, own = _match_term(term, held, matching)
            covered += weight * likeness
            shared.update(own)
    return covered, shared


def _match_term(term: Term, held: Set[str], compounds: Mapping[str, tuple[str, ...]]) -> tuple[float, tuple[str, ...]]:
    """Return how far a text holds a term that is not one of its words, in 0..1, and its stems that match it."""
    if term.stem in compounds:
        return 1.0, compounds[term.stem]
    likeness, stem = max(((term.similar[stem], stem) for stem in held & term.similar.keys()), default=(0.0, ""))
    return (FUZZY_WEIGHT * likeness, (stem,)) if stem else (0.0, ())


def holds_phrase(stems: Sequence[str], phrase: Sequence[str]) -> bool:
    """Return whether a text holds these stems next to one another, in this order."""
    width = len(phrase)
    return width > 0 and any(list(stems[i : i + width]) == list(phrase) for i in range(len(stems) - width + 1))


def _search_terms(terms: Sequence[Term], num_texts: int) -> list[str]:
    """Return the terms to look up, with those spelt nearly alike.

    Stop words and words that many texts hold are left out, unless there is nothing else: they choose no candidates, and
    ranking all texts that hold them takes long.
    """
    most = max(MIN_COMMON, COMMON * num_texts)
    kept = [term for term in terms if term.stem not in STOP_STEMS and term.num_texts <= most]
    kept = kept or sorted(terms, key=lambda term: (term.stem in STOP_STEMS, term.num_texts))[:1]
    return [stem for term in kept for stem in (term.stem, *term.similar)]
