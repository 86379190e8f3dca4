"""Evidence of texts in nats, and the background of unrelated texts that it is measured against: naive twins."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from tests.indexed_texts import DIM, create_words, make_texts, random_vectors
from vidret.channels.base import ASKED, Clause
from vidret.channels.picture.evidence import HINTED, REPORTED, weigh_pictures
from vidret.channels.picture.query_bank import SENTENCES, UNRELATED
from vidret.channels.registry import KINDS, list_asked
from vidret.channels.texts import channel, sentence_models
from vidret.channels.texts.channel import (
    ADJACENT,
    FOREIGN_MEANING,
    HUBNESS,
    MATCHES_HINT,
    MATCHES_REPORT,
    MEANING_OFFSET,
    MEANING_SLOPE,
    NAMED,
    NAMES,
    PRIOR_TEXTS,
    SHORT_MEANING,
    SHORT_WORDS,
    SOUND_OFFSET,
    SOUND_SLOPE,
    UNSCALED,
    WORDS_OFFSET,
    WORDS_SLOPE,
    ClosenessScale,
    TextBackground,
    is_background_current,
    load_background,
    measure_background,
    rate_texts,
    save_background,
)
from vidret.channels.texts.matching import TextMatches
from vidret.search.query.clauses import make_clause
from vidret.store.texts.store import FoundText, TextStore
from vidret.types import SOURCES, TEXT_SOURCES, Source, TextSource

CLAUSES = st.sampled_from(
    [
        make_clause("a red car"),
        make_clause("car"),
        replace(make_clause("car"), phrases=("car",)),
        make_clause("someone says that the line is busy"),
        make_clause("a voice"),
        make_clause("a town limit sign"),
        make_clause("a song by the fire"),
        make_clause("un chien sur la plage"),
        replace(make_clause("a red car"), intent={"picture": 0.8, "speech": 0.1, "screen": 0.1}),
        replace(make_clause("a town limit sign"), intent={"picture": 0.2, "speech": 0.1, "screen": 0.7}),
    ]
)


@dataclass(frozen=True, kw_only=True)
class OneMatch:
    """A text that may match a clause, as one of ``TextMatches``."""

    source: TextSource = "speech"
    cosine: float = 0.5
    cover: float = 1.0
    information: float = 12.0
    num_adjacent: int = 1
    hubness: float = 0.0
    num_words: int = 3
    likeness: float = -math.inf


def rate_all(
    clause: Clause,
    matches: Sequence[OneMatch],
    levels: Mapping[TextSource, float],
    compared: Sequence[Source],
    scale: ClosenessScale = UNSCALED,
) -> list[float]:
    """Return the evidence of texts, which have as many words of the clause."""
    found = TextMatches(
        texts=[FoundText(row, 1, 0.0, 2.0, "words", ["word"]) for row in range(len(matches))],
        cosines=np.array([match.cosine for match in matches]),
        hubness=np.array([match.hubness for match in matches]),
        cover=np.array([match.cover for match in matches]),
        stems=[frozenset()] * len(matches),
        information=np.array([match.information for match in matches]),
        num_adjacent=np.array([match.num_adjacent for match in matches]),
        likeness=np.array([match.likeness for match in matches]),
        num_words=matches[0].num_words,
    )
    sources = [match.source for match in matches]
    rated: list[float] = rate_texts(clause, found, sources, levels, compared=compared, scale=scale).tolist()
    return rated


MATCHES = st.builds(
    OneMatch,
    source=st.sampled_from(TEXT_SOURCES),
    cosine=st.floats(-1, 1),
    cover=st.floats(0, 1) | st.just(1.0),
    information=st.floats(0, 60),
    num_adjacent=st.integers(0, 6),
    hubness=st.floats(-0.2, 0.6),
    num_words=st.integers(0, 12),
    likeness=st.floats(-50, 100) | st.just(-math.inf),
)
LEVELS = st.floats(-0.2, 0.8)


def rate_naively(clause: Clause, match: OneMatch, level: float, compared: Sequence[Source]) -> float:
    """Return the evidence of a text from the two ways in which it may answer a clause."""
    words = WORDS_OFFSET if clause.phrases == () else 0.0
    words += match.cover * WORDS_SLOPE * match.information
    for _ in range(match.num_adjacent):
        words += match.cover * ADJACENT
    if clause.source == match.source == "sound" and match.cover == 1:
        words = max(words, NAMED)
    words = max(words, SOUND_OFFSET + SOUND_SLOPE * match.likeness)
    meaning = MEANING_OFFSET + MEANING_SLOPE * (match.cosine - level - HUBNESS * match.hubness)
    if clause.text == "un chien sur la plage":
        meaning -= FOREIGN_MEANING
    source = match.source
    if clause.source == source or (clause.source == "speech" and source == "subtitles"):
        meaning += MATCHES_HINT
        if clause.is_report:
            meaning += MATCHES_REPORT
    if clause.intent and source != "sound":
        asked = {**clause.intent, "subtitles": clause.intent["speech"], "generated": clause.intent["picture"]}
        spoken, seen = {"speech", "subtitles"} & {*compared}, {"picture", "generated"} & {*compared}
        total = (
            asked["speech"] * bool(spoken) + asked["picture"] * bool(seen) + asked["screen"] * ("screen" in compared)
        )
        meaning += math.log(asked[source] / total) - math.log(ASKED)
    if source == "sound":
        meaning = meaning - NAMES if clause.source == "sound" else -1e9
    if clause.phrases == () and (clause.source is None or (clause.source == "sound" and source != "sound")):
        words -= SHORT_WORDS / (match.num_words or 1) if "picture" in compared else 0
        meaning -= SHORT_MEANING / (match.num_words or 1)
    return max(words, meaning) + math.log(1 + math.exp(-abs(words - meaning)))


@given(CLAUSES, st.lists(MATCHES, min_size=1, max_size=5), st.lists(LEVELS, min_size=5, max_size=5), st.booleans())
def test_evidence_of_texts_agrees_with_its_naive_twin(
    clause: Clause, drawn: list[OneMatch], drawn_levels: list[float], with_pictures: bool
) -> None:
    matches = [replace(match, num_words=drawn[0].num_words) for match in drawn]
    levels = dict(zip(TEXT_SOURCES, drawn_levels, strict=True))
    compared = SOURCES if with_pictures else TEXT_SOURCES
    expected = [rate_naively(clause, match, levels[match.source], compared) for match in matches]
    assert rate_all(clause, matches, levels, compared) == pytest.approx(expected, abs=1e-6)


def test_misread_texts_are_no_evidence_for_queries_in_languages_that_the_model_does_not_know() -> None:
    texts = [OneMatch(source="screen", cosine=cosine, cover=0.0, num_adjacent=0, num_words=5) for cosine in (0.3, 0.6)]
    misread, right = rate_all(make_clause("un chien sur la plage"), texts, dict.fromkeys(TEXT_SOURCES, 0.0), SOURCES)
    assert misread < 0 < right
    scale = ClosenessScale(1.1, 0.0)  # of another model, which may know it
    assert (
        rate_all(make_clause("un chien sur la plage"), texts, dict.fromkeys(TEXT_SOURCES, 0.0), SOURCES, scale)[0] > 0
    )


def test_hints_ask_for_the_words_that_they_name_and_lower_pictures() -> None:
    queries = ("the line is busy", "a busy sign", "a busy voice", "someone says that the line is busy")
    clauses = [make_clause(query) for query in queries]
    asked = {source: [source in list_asked(clause.source) for clause in clauses] for source in KINDS}
    assert asked["speech"] == asked["subtitles"] == [False, False, True, True]
    assert asked["screen"] == [False, True, False, False]
    added = [weigh_pictures(clause, SOURCES) for clause in clauses]
    assert added == pytest.approx([0, -HINTED, -HINTED, -HINTED - REPORTED])


def test_wording_divides_its_weight_among_the_sources_that_are_compared() -> None:
    clause = replace(make_clause("hikers are warned"), intent={"picture": 0.2, "speech": 0.5, "screen": 0.3})
    assert weigh_pictures(clause, SOURCES) == pytest.approx(math.log(0.2 / ASKED))
    assert clause.weigh("subtitles", SOURCES) == clause.weigh("speech", SOURCES) == pytest.approx(math.log(0.5 / ASKED))
    assert clause.weigh("screen", ("screen", "speech")) == pytest.approx(math.log(0.3 / 0.8 / ASKED))
    assert clause.weigh("picture", ["picture"]) == clause.weigh("generated", ["generated"]) == 0
    assert clause.weigh("sound", SOURCES) == make_clause("hikers").weigh("speech", SOURCES) == 0


def test_wording_weighs_exactly_the_same_in_every_process() -> None:
    """Sets of names are in another order in each, and sums in another order differ in the last digit."""
    for seen in np.linspace(0.1, 0.6, 50).tolist():
        shares = (seen, 0.31 * (1 - seen), 0.69 * (1 - seen))
        clause = replace(make_clause("hikers"), intent=dict(zip(("picture", "speech", "screen"), shares, strict=True)))
        assert clause.weigh("speech", SOURCES) == math.log(shares[1] / sum(shares) / ASKED)


# The background.

SAID: dict[TextSource, Sequence[str]] = {
    "speech": ("hold the line", "the line is busy", "call again"),
    "screen": ("platform nine",),
}


class CountedSentences:
    """Random vectors, and the sentences that were encoded."""

    encoded: list[str]

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        CountedSentences.encoded += texts
        return encode(texts)


def encode(texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
    return random_vectors(make_texts(texts))


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the sentences that are encoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(CountedSentences, "encoded", [], raising=False)
    monkeypatch.setattr(sentence_models, "load_sentence_encoder", CountedSentences)
    return CountedSentences.encoded


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[TextStore]:
    with create_words(tmp_path / "texts") as store:
        for source, words in SAID.items():
            add(store, source, words)
        yield store


def add(store: TextStore, source: TextSource, words: Sequence[str]) -> None:
    timed = make_texts(words, source)
    track = store.begin(f"film {len(store)}", source, "model", duration_s=60.0)
    store.add(track, timed, random_vectors(timed), until_s=60.0)
    store.finish(track)
    store.save()


def average(rows: Iterable[np.ndarray]) -> list[float]:
    vectors = list(rows)
    return [sum(float(row[axis]) for row in vectors) / len(vectors) for axis in range(DIM)]


def test_background_agrees_with_its_naive_twin(texts: TextStore, tmp_path: Path) -> None:
    background = measure_background(texts)
    assert background.num_texts == 4
    assert background.typical == pytest.approx(average(encode([*SENTENCES, *UNRELATED])), abs=1e-5)
    assert dict(background.counts) == {"speech": 3, "screen": 1}
    for source, words in SAID.items():
        assert background.means[source] == pytest.approx(average(encode(words)), abs=1e-2)
    with create_words(tmp_path / "empty") as store:
        nothing = measure_background(store)
    assert (nothing.num_texts, dict(nothing.means), dict(nothing.counts)) == (0, {}, {})


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_level_is_that_of_all_texts_and_of_some_typical_sentences(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    typical, mean, vector = rng.standard_normal((3, DIM)).astype(np.float32)
    background = TextBackground(
        num_texts=count, typical=typical, means={"speech": mean}, counts={"speech": float(count)}
    )
    total, weight = (PRIOR_TEXTS * sum(float(a * b) for a, b in zip(typical, vector, strict=True)), PRIOR_TEXTS + count)
    total += count * sum(float(a * b) for a, b in zip(mean, vector, strict=True))
    assert background.level("speech", vector) == pytest.approx(total / weight, abs=1e-4)
    assert background.level("screen", vector) == pytest.approx(float(typical @ vector), abs=1e-5)


def test_large_store_is_measured_on_a_sample_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SAMPLE", 10)
    with create_words(tmp_path) as store:
        add(store, "speech", [f"word {index}" for index in range(30)])
        add(store, "screen", [f"sign {index}" for index in range(10)])
        background = measure_background(store)
    assert background.num_texts == 40
    assert sum(background.counts.values()) == pytest.approx(40)
    assert background.counts["speech"] == pytest.approx(30, abs=4)


def test_background_is_stored_with_its_words(texts: TextStore) -> None:
    assert load_background(texts) is None
    background = measure_background(texts)
    save_background(texts)
    assert is_background_current(texts)
    again = load_background(texts)
    assert again is not None
    assert (again.num_texts, dict(again.counts)) == (background.num_texts, dict(background.counts))
    vector = encode(["busy"])[0]
    for source in TEXT_SOURCES:
        assert again.level(source, vector) == pytest.approx(background.level(source, vector), abs=1e-6)
    add(texts, "speech", ["one more"])
    assert not is_background_current(texts)


def test_typical_sentences_are_encoded_once_by_each_encoder(
    texts: TextStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    save_background(texts)
    assert encoded == [*SENTENCES, *UNRELATED]
    assert measure_background(texts).num_texts == 4
    assert len(encoded) == len([*SENTENCES, *UNRELATED]), "they are stored"
    with create_words(tmp_path / "other", "sentences-2") as other:
        keys = texts.store.metadata.keys("background")
        other.store.metadata.set_many({key: texts.store.metadata.get(key) or "" for key in keys})
        assert load_background(other) is None, "those of another encoder are not used"
    encoded.clear()
    monkeypatch.setattr(channel, "SENTENCES", SENTENCES[1:])
    assert load_background(texts) is None, "nor those of another list"
    measure_background(texts)
    assert encoded == [*SENTENCES[1:], *UNRELATED]
