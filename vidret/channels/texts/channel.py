"""The channels of an index's timed texts: the texts that match a clause, their evidence, and the background of all.

All kinds are found together, in one index of words and one of vectors, and rated separately.

Evidence is the log-likelihood ratio of a score, in nats: how much likelier it is if a video answers a query than if it
does not. So scores of different channels are comparable. Any channel may be the one that a query is about, so a video's
evidence for a clause is the log of the sum of its channels' ratios: one strong channel suffices, and a channel without
a match changes nothing.

The constants were fitted by maximum likelihood on libraries of clips and films with speech and on-screen text, split by
video; docs/measured.md has their quality on the other half.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from vidret.channels.base import ChannelQuery, Clause, Match, VideoTexts
from vidret.channels.picture.query_bank import SENTENCES, UNRELATED
from vidret.channels.registry import HINT_NEEDED, list_asked
from vidret.channels.texts.matching import TextMatcher, TextMatches
from vidret.channels.texts.sentence_models import is_bundled, load_model_of
from vidret.encode.sentences import SentenceModel, is_english
from vidret.encode.text_cache import encode_once
from vidret.store.catalog.schema import reading_metadata
from vidret.store.lookup import spread_evenly
from vidret.store.snapshots.bitmap import Ids
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import TEXT_SOURCES, Source, TextEmbedding, TextSource, Vector

# Words that a text shares with a clause: nats per nat of their information, and for each pair in the same order.
WORDS_OFFSET, WORDS_SLOPE, ADJACENT = -6.2, 1.8, 4.5
# Words that sound like those of a clause: nats per nat of their likeness. Of phrases with misheard words the log-odds
# are 2.6 and 0.47 a nat (tools/build_phonemes.py); about one phrase in fifteen has such words.
SOUND_OFFSET, SOUND_SLOPE = -0.1, 0.47
# Meaning: nats for cosines above the level of the clause; texts that resemble every sentence are lowered.
MEANING_OFFSET, MEANING_SLOPE, HUBNESS = -3.0, 30.0, 0.35
# Mean and deviation of this closeness between different typical sentences, with the bundled model used for the fit.
MEAN_CLOSENESS, CLOSENESS_SPREAD = -0.0283, 0.0895
MATCHES_HINT, MATCHES_REPORT = 1.4, 0.8  # added to a kind that a clause hints at, and more if it reports speech
NAMES = 6.5  # subtracted from the meaning of names of sounds, which resemble one another
NAMED = 10.0  # least evidence of the name of a sound that a clause asks for, however common it is
# Subtracted for a single word without a hint or quotes, by meaning and by words, since it mostly names a visible thing;
# n words lose 1/n of it. If only texts are searched, those with the word lose nothing.
SHORT_MEANING, SHORT_WORDS = 6.5, 3.0
# Subtracted from the meaning of a clause in another language than English, with the bundled model: all its sentences
# resemble one another. Right texts in that language had 6 to 19, other and misread ones up to 10, but mostly below 5.
FOREIGN_MEANING = 6.5
EPSILON = 1e-9  # of a cover, which is a quotient of sums
# The background: the level of unrelated texts.
PRIOR_TEXTS = 30  # weight of typical sentences in a level, in texts of the index
SAMPLE = 1024  # texts that levels are measured on
DRIFT = 1.25  # growth of the words above which they are measured again
_KEY, _TYPICAL = "background", "background.typical"
_DIGEST_BYTES = 16


class ClosenessScale(NamedTuple):
    """A linear map from the closeness of texts with one sentence model to that with the bundled model."""

    factor: float = 1.0
    shift: float = 0.0


UNSCALED = ClosenessScale()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextBackground:
    """The mean vectors of texts.

    Attributes:
        num_texts: Number of texts in the index when it was measured.
        typical: Mean vector of typical sentences.
        scale: Map of closeness with the sentence model of the index to that with the bundled one.
        means: Mean vector of the texts of each source.
        counts: Number of texts of each source.
    """

    num_texts: int
    typical: Vector
    scale: ClosenessScale = UNSCALED
    means: Mapping[TextSource, Vector] = field(default_factory=dict)
    counts: Mapping[TextSource, float] = field(default_factory=dict)

    def level(self, source: TextSource, vector: Vector) -> float:
        """Return the mean cosine of a clause with texts of a source, shrunk to that with typical sentences."""
        count, prior = self.counts.get(source, 0.0), float(self.typical @ vector)
        if not count:
            return prior
        return (count * float(self.means[source] @ vector) + PRIOR_TEXTS * prior) / (count + PRIOR_TEXTS)

    def share(self, sources: Set[TextSource]) -> float:
        """Return the share of all texts that are of some sources."""
        total = sum(self.counts.values())
        return sum(self.counts.get(source, 0.0) for source in sources) / total if total else 0.0


class TextChannel:
    """The texts of an index open for reading."""

    def __init__(self, texts: TextStore, pictures: Store) -> None:
        """Set the texts, and the index whose videos they are of."""
        self.texts, self._pictures = texts, pictures
        self.has_bundled_model = is_bundled(texts.store.encoder_name)
        self._matcher = TextMatcher(texts)
        self._intact: set[int] = set()  # the videos whose rows were checked
        # With the generation and the stored background for which it is valid.
        self._background: tuple[tuple[int, str | bytes | None], TextBackground] | None = None

    @cached_property
    def model(self) -> SentenceModel:
        """The model that has made the vectors of the texts."""
        return load_model_of(self.texts)

    def count(self, query: ChannelQuery) -> int:
        """Return the number of texts that a query is compared with: names of sounds only if it asks for sounds."""
        sources = set[TextSource]().union(*(_find_compared(clause, query.sources) for clause in query.clauses))
        return round(self.background.share(sources) * len(self.texts)) if sources else 0

    def find(self, query: ChannelQuery) -> dict[int, VideoTexts]:
        """Return the best matches of each clause by video."""
        if not any(source in TEXT_SOURCES for source in query.sources):
            return {}
        select = partial(self.texts.select, self._pictures, query.within)
        background, plain = self.background, tuple(source for source in query.sources if source not in HINT_NEEDED)
        found = self._matcher.find(
            query.clauses,
            query.vectors,
            select(query.sources),
            typical=background.typical,
            num_texts=self._count_texts(query),
            unasked=None if plain == query.sources else select(plain),
        )
        return self._rate(query, found, background)

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> dict[int, VideoTexts]:
        """Return all texts of some videos as matches of each clause."""
        if not any(source in TEXT_SOURCES for source in query.sources):
            return {}
        text_ids, background = self.list_texts(query, video_ids), self.background
        found = self._matcher.score(
            text_ids, query.clauses, query.vectors, typical=background.typical, num_texts=self._count_texts(query)
        )
        return self._rate(query, found, background)

    def list_texts(self, query: ChannelQuery, video_ids: Sequence[int]) -> Ids:
        """Return the texts of some videos that a query is compared with."""
        return self.texts.list_texts(self._pictures, video_ids, query.sources)

    def _count_texts(self, query: ChannelQuery) -> list[int]:
        """Return the number of texts by which the rarity of each clause's words is measured, whatever the sources."""
        heard = tuple(source for source in TEXT_SOURCES if source in query.sources or source not in HINT_NEEDED)
        shares = [self.background.share(_find_compared(clause, heard)) for clause in query.clauses]
        return [round(share * len(self.texts)) for share in shares]

    def _rate(
        self, query: ChannelQuery, found: Sequence[TextMatches], background: TextBackground
    ) -> dict[int, VideoTexts]:
        """Return texts as matches with their evidence, best first, without those of videos with damaged rows."""
        rated: dict[int, VideoTexts] = {}
        for index, (clause, vector, matches) in enumerate(zip(query.clauses, query.vectors, found, strict=True)):
            texts = matches.texts
            owners, codes = self.texts.find_owners(self._pictures, np.array([text.track for text in texts], np.int64))
            video_ids, text_sources = owners.tolist(), [TEXT_SOURCES[code] for code in codes.tolist()]
            levels = {source: background.level(source, vector) for source in TEXT_SOURCES}
            evidence = rate_texts(clause, matches, text_sources, levels, compared=query.sources, scale=background.scale)
            if new := set(video_ids) - self._intact - {-1}:
                self._intact |= self._pictures.videos.find_intact(new)
            cover, nats, misheard = matches.cover.tolist(), evidence.tolist(), matches.list_misheard()
            for row in np.argsort(-evidence, kind="stable").tolist():
                video_id, source = video_ids[row], text_sources[row]
                if video_id not in self._intact or source not in query.sources:
                    continue
                if video_id not in rated:
                    rated[video_id] = [[] for _ in query.clauses]
                start, end, text = texts[row][2:5]
                found_words = matches.stems[row], cover[row], misheard[row]
                rated[video_id][index].append(Match(video_id, source, start, end, nats[row], text, *found_words))
        return rated

    def holds(self, text: str) -> bool:
        """Return whether a text of the index has exactly these words."""
        return bool(self._matcher.holds(text))

    def find_holders(self, terms: Iterable[str]) -> frozenset[int]:
        """Return the videos with a text that contains one of some terms."""
        held: set[str] = set().union(*(self._matcher.holds(term) for term in terms))
        return frozenset(self._pictures.find_contents(held).values())

    def mark(self, match: Match) -> tuple[tuple[int, int], ...]:
        """Return the spans of the clause's words in a match, as start and end in characters."""
        stems = self._matcher.find_misheard(match.misheard, match.text) if match.misheard else match.stems
        return self.texts.index.find_words(match.text, stems)

    @property
    def sources(self) -> Set[TextSource]:
        """The kinds of texts in the index."""
        return self.background.counts.keys()

    @property
    def background(self) -> TextBackground:
        """The background of the texts: as stored, or measured now if there are many more since."""
        state = self.texts.store.generation, self.texts.store.metadata.get(_KEY)
        known = self._background
        if known is None or known[0] != state:
            if known is not None and known[0][1] == state[1]:
                background: TextBackground | None = known[1]
            else:
                background = load_background(self.texts)
            if background is None or len(self.texts) > DRIFT * background.num_texts:
                background = measure_background(self.texts)
            self._background = known = state, background
        return known[1]


def _find_compared(clause: Clause, sources: Sequence[Source]) -> set[TextSource]:
    """Return those of some sources whose texts a clause is compared with by meaning."""
    asked = list_asked(clause.source)
    return {source for source in TEXT_SOURCES if source in sources and (source not in HINT_NEEDED or source in asked)}


def rate_texts(
    clause: Clause,
    matches: TextMatches,
    sources: Sequence[TextSource],
    levels: Mapping[TextSource, float],
    *,
    compared: Sequence[Source],
    scale: ClosenessScale = UNSCALED,
) -> Float64[np.ndarray, " text"]:
    """Return the evidence of texts of some sources for a clause.

    ``levels`` are the cosines that texts of each source have on average. If the clause is not compared with pictures,
    it asks for words, and texts that contain a single word lose nothing.
    """
    by_words = matches.cover * (WORDS_SLOPE * matches.information + ADJACENT * matches.num_adjacent)
    by_words += 0.0 if clause.phrases else WORDS_OFFSET  # a quoted phrase asks for words
    asked = list_asked(clause.source)
    named = asked & HINT_NEEDED
    is_named = np.array([source in named for source in sources], bool) & (matches.cover > 1 - EPSILON)
    by_words = np.where(is_named, np.maximum(by_words, NAMED), by_words)
    by_words = np.maximum(by_words, SOUND_OFFSET + SOUND_SLOPE * matches.likeness)  # the words, perhaps misheard
    text_levels = np.array([levels[source] for source in sources], np.float64)
    closeness = matches.cosines - text_levels - HUBNESS * matches.hubness
    by_meaning = MEANING_OFFSET + MEANING_SLOPE * (scale.factor * closeness + scale.shift)
    if scale == UNSCALED and not is_english(clause.text):
        by_meaning -= FOREIGN_MEANING
    hint = MATCHES_HINT + clause.is_report * MATCHES_REPORT
    hints = {source: -math.inf if source in HINT_NEEDED else 0.0 for source in levels}
    hints |= {source: hint - NAMES * (source in named) for source in asked}
    added = {source: hints[source] + clause.weigh(source, compared) for source in levels}
    by_meaning += np.array([added[source] for source in sources], np.float64)
    # A hint at sounds says nothing about words.
    is_short = clause.source is None or clause.source in HINT_NEEDED
    share = 0.0 if clause.phrases or not is_short else 1 / max(matches.num_words, 1)
    shares = np.array([0.0 if source == clause.source else share for source in sources], np.float64)
    short_words = SHORT_WORDS if "picture" in compared else 0.0
    return np.logaddexp(by_words - short_words * shares, by_meaning - SHORT_MEANING * shares)


@dataclass(frozen=True, slots=True)
class _Sentences:
    """A method of a sentence model as an encoder of texts without words."""

    fingerprint: str
    encode: Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        rows = zip(texts, self.encode(texts), strict=True)
        return [TextEmbedding(text, vector, vector[None][:0]) for text, vector in rows]

    def encode_typical(self) -> Float32[np.ndarray, "text dim"]:
        """Return the vectors of typical sentences."""
        return np.stack([embedding.sentence for embedding in encode_once(self, [*SENTENCES, *UNRELATED])])


def measure_typical(texts: TextStore) -> tuple[Vector, ClosenessScale]:
    """Return the mean vector of typical sentences with the model of some texts, and the scale of its closeness."""
    model, fingerprint = load_model_of(texts), texts.store.encoder_fingerprint
    vectors = _Sentences(fingerprint, model.encode).encode_typical()
    typical: Vector = np.mean(vectors, axis=0)
    if is_bundled(texts.store.encoder_name):
        return typical, UNSCALED
    queries = _Sentences(f"{fingerprint} queries", model.encode_queries).encode_typical()
    return typical, fit_scale(queries, vectors)


def fit_scale(queries: Float32[np.ndarray, "text dim"], texts: Float32[np.ndarray, "text dim"]) -> ClosenessScale:
    """Return the scale that gives the closeness of different texts the mean and spread of the bundled model."""
    typical = texts.mean(axis=0)
    closeness = queries @ texts.T - (queries @ typical)[:, None] - HUBNESS * (texts @ typical)
    different = closeness[~np.eye(len(texts), dtype=bool)].astype(np.float64)
    factor = CLOSENESS_SPREAD / max(float(different.std()), EPSILON)
    return ClosenessScale(factor, MEAN_CLOSENESS - factor * float(different.mean()))


def measure_background(texts: TextStore) -> TextBackground:
    """Measure the background of the words of an index on a sample of them."""
    ids = texts.store.searchable()
    sample = ids[spread_evenly(len(ids), SAMPLE)]
    rows = texts.read_segments(sample)
    vectors = texts.intact_vectors([row.id for row in rows])
    by_source = {
        source: [vectors[row.id] for row in rows if row.text.source == source and row.id in vectors]
        for source in TEXT_SOURCES
    }
    (typical, scale), share = _read_typical(texts) or measure_typical(texts), len(ids) / max(len(sample), 1)
    return TextBackground(
        num_texts=len(ids),
        typical=typical,
        scale=scale,
        means={
            source: np.mean(source_vectors, axis=0) for source, source_vectors in by_source.items() if source_vectors
        },
        counts={source: len(source_vectors) * share for source, source_vectors in by_source.items() if source_vectors},
    )


def load_background(texts: TextStore) -> TextBackground | None:
    """Return the background that is stored with the words of an index; None if there is none."""
    stored, known = texts.store.metadata.get(_KEY), _read_typical(texts)
    if not isinstance(stored, bytes) or not stored or known is None:
        return None
    typical, scale = known
    with reading_metadata(texts.store.path, "the background of its words"), np.load(io.BytesIO(stored)) as file:
        sources = [source for source in TEXT_SOURCES if f"mean.{source}" in file]
        return TextBackground(
            num_texts=int(file["num_texts"]),
            typical=typical,
            scale=scale,
            means={source: file[f"mean.{source}"] for source in sources},
            counts={source: float(file[f"count.{source}"]) for source in sources},
        )


def is_background_current(texts: TextStore) -> bool:
    """Return whether the stored background was measured on as many texts as there are."""
    background = load_background(texts)
    return background is not None and background.num_texts == len(texts)


def save_background(texts: TextStore) -> None:
    """Measure the background of the words of an index, and store it with them."""
    background, file = measure_background(texts), io.BytesIO()
    arrays = {f"mean.{source}": mean.astype(np.float32) for source, mean in background.means.items()}
    arrays |= {f"count.{source}": np.array(count) for source, count in background.counts.items()}
    np.savez(file, num_texts=np.array(background.num_texts), allow_pickle=False, **arrays)
    scale = () if is_bundled(texts.store.encoder_name) else background.scale
    typical = _digest_typical(texts) + np.array([*background.typical, *scale], np.float32).tobytes()
    texts.store.metadata.set_many({_KEY: file.getvalue(), _TYPICAL: typical})


def _read_typical(texts: TextStore) -> tuple[Vector, ClosenessScale] | None:
    """Return the stored result of ``measure_typical``; None unless it is of this list and this sentence model."""
    stored = texts.store.metadata.get(_TYPICAL)
    if not isinstance(stored, bytes) or stored[:_DIGEST_BYTES] != _digest_typical(texts):
        return None
    typical, scale = np.split(np.frombuffer(stored, np.float32, offset=_DIGEST_BYTES), [texts.store.dim])
    return typical, ClosenessScale(*scale.tolist())


def _digest_typical(texts: TextStore) -> bytes:
    encoder = texts.store.encoder_fingerprint
    return hashlib.blake2b("\0".join((encoder, *SENTENCES, *UNRELATED)).encode(), digest_size=_DIGEST_BYTES).digest()
