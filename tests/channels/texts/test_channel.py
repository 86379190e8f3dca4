"""Evidence in nats: naive twins of pictures and texts, and what must hold for any score."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vidret.channels.base import Clause, Match
from vidret.channels.picture.scales import (
    HINTED,
    MIN_DEVIATION,
    PICTURE_OFFSET,
    PICTURE_SLOPE,
    REPORTED,
    PictureScale,
    lower_hinted,
)
from vidret.channels.registry import KINDS
from vidret.channels.texts.channel import (
    ADJACENT,
    HUBNESS,
    MATCHES_HINT,
    MATCHES_REPORT,
    MEANING_OFFSET,
    MEANING_SLOPE,
    NAMES,
    SHORT,
    WORDS_OFFSET,
    WORDS_SLOPE,
    rate_texts,
)
from vidret.channels.texts.matching import TextMatches
from vidret.search.query.clauses import make_clause
from vidret.store.catalog.texts import FoundText
from vidret.types import TEXT_SOURCES, TextSource

CLAUSES = st.sampled_from(
    [
        make_clause("a red car"),
        make_clause("car"),
        replace(make_clause("car"), phrases=("car",)),
        make_clause("someone says that the line is busy"),
        make_clause("a voice"),
        make_clause("a town limit sign"),
        make_clause("a song by the fire"),
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


def rate_all(clause: Clause, matches: Sequence[OneMatch], levels: Mapping[TextSource, float]) -> list[float]:
    """Return the evidence of texts, which have as many words of the clause."""
    found = TextMatches(
        texts=[FoundText(row, 1, 0.0, 2.0, "words") for row in range(len(matches))],
        cosines=np.array([match.cosine for match in matches]),
        hubness=np.array([match.hubness for match in matches]),
        cover=np.array([match.cover for match in matches]),
        stems=[frozenset()] * len(matches),
        information=np.array([match.information for match in matches]),
        num_adjacent=np.array([match.num_adjacent for match in matches]),
        num_words=matches[0].num_words,
    )
    rated: list[float] = rate_texts(clause, found, [match.source for match in matches], levels).tolist()
    return rated


def rate(clause: Clause, match: OneMatch, level: float) -> float:
    return rate_all(clause, [match], {match.source: level})[0]


MATCHES = st.builds(
    OneMatch,
    source=st.sampled_from(TEXT_SOURCES),
    cosine=st.floats(-1, 1),
    cover=st.floats(0, 1),
    information=st.floats(0, 60),
    num_adjacent=st.integers(0, 6),
    hubness=st.floats(-0.2, 0.6),
    num_words=st.integers(0, 12),
)
LEVELS = st.floats(-0.2, 0.8)


def rate_naively(clause: Clause, match: OneMatch, level: float) -> float:
    """Return the evidence of a text from the two ways in which it may answer a clause."""
    words = WORDS_OFFSET if clause.phrases == () else 0.0
    words += match.cover * WORDS_SLOPE * match.information
    for _ in range(match.num_adjacent):
        words += match.cover * ADJACENT
    meaning = MEANING_OFFSET + MEANING_SLOPE * (match.cosine - level - HUBNESS * match.hubness)
    source = match.source
    if clause.source == source or (clause.source == "speech" and source == "subtitles"):
        meaning += MATCHES_HINT
        if clause.is_report:
            meaning += MATCHES_REPORT
    if source == "sound":
        meaning = meaning - NAMES if clause.source == "sound" else -1e9
    total = max(words, meaning) + math.log(1 + math.exp(-abs(words - meaning)))
    if clause.phrases == () and (clause.source is None or (clause.source == "sound" and source != "sound")):
        total -= SHORT / (match.num_words or 1)
    return total


@given(CLAUSES, st.lists(MATCHES, min_size=1, max_size=5), st.lists(LEVELS, min_size=5, max_size=5))
def test_evidence_of_texts_agrees_with_its_naive_twin(
    clause: Clause, drawn: list[OneMatch], drawn_levels: list[float]
) -> None:
    matches = [replace(match, num_words=drawn[0].num_words) for match in drawn]
    levels = dict(zip(TEXT_SOURCES, drawn_levels, strict=True))
    expected = [rate_naively(clause, match, levels[match.source]) for match in matches]
    assert rate_all(clause, matches, levels) == pytest.approx(expected, abs=1e-6)


@given(CLAUSES, MATCHES, LEVELS, st.data())
def test_evidence_of_a_text_rises_with_what_it_shares(
    clause: Clause, match: OneMatch, level: float, data: st.DataObject
) -> None:
    rated = rate(clause, match, level)
    better = replace(
        match,
        cosine=data.draw(st.floats(match.cosine, 1)),
        cover=data.draw(st.floats(match.cover, 1)),
        information=match.information + data.draw(st.floats(0, 9)),
        num_adjacent=match.num_adjacent + data.draw(st.integers(0, 2)),
        hubness=match.hubness - data.draw(st.floats(0, 0.3)),
    )
    assert rate(clause, better, level) >= rated - 1e-9
    assert rate(clause, better, level - data.draw(st.floats(0, 0.3))) >= rated - 1e-9


def test_a_word_by_itself_mostly_names_a_thing_that_is_seen() -> None:
    seen, quoted = make_clause("car"), replace(make_clause("car"), phrases=("car",))
    one, three = OneMatch(num_words=1), OneMatch(num_words=3)
    assert rate(seen, three, 0.2) - rate(seen, one, 0.2) == pytest.approx(SHORT - SHORT / 3)
    assert rate(quoted, one, 0.2) == rate(quoted, three, 0.2) > rate(seen, one, 0.2) + SHORT


def test_hints_raise_the_words_that_they_name_and_lower_pictures() -> None:
    plain, sign, voice = make_clause("the line is busy"), make_clause("a busy sign"), make_clause("a busy voice")
    report = make_clause("someone says that the line is busy")
    asked = {
        source: [KINDS[source].is_asked_for(each.source) for each in (plain, sign, voice, report)] for source in KINDS
    }
    assert asked["speech"] == asked["subtitles"] == [False, False, True, True]
    assert asked["screen"] == [False, True, False, False]
    losses = [lower_hinted(each) for each in (plain, sign, voice, report)]
    assert losses == pytest.approx([0, -HINTED, -HINTED, -HINTED - REPORTED])
    meant = replace(OneMatch(), information=0.0, cosine=0.9)  # nothing but its meaning
    assert rate(report, meant, 0.2) > rate(voice, meant, 0.2) > rate(sign, meant, 0.2)


@given(st.floats(0, 1), st.floats(-20, 20))
def test_only_a_text_without_a_word_of_the_clause_is_silent(cover: float, evidence: float) -> None:
    match = Match(video_id=1, source="speech", start=0.0, end=1.0, evidence=evidence, cover=cover)
    assert match.is_silent == (cover == 0 and evidence < 0)


# Pictures


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(-0.2, 0.4), st.floats(0, 0.3))
def test_evidence_of_pictures_agrees_with_its_naive_twin(scores: list[float], mean: float, deviation: float) -> None:
    rated = PictureScale(mean=mean, deviation=deviation).rate(np.array(scores))
    for score, own in zip(scores, rated, strict=True):
        standard = (score - mean) / (deviation if deviation > MIN_DEVIATION else MIN_DEVIATION)
        assert own == pytest.approx(PICTURE_SLOPE * standard + PICTURE_OFFSET)


@given(st.floats(-0.2, 0.4), st.floats(0, 0.3), st.floats(-1, 1), st.floats(-1, 1))
def test_pictures_keep_their_order(mean: float, deviation: float, one: float, other: float) -> None:
    assume(abs(one - other) > 1e-6)
    first, second = PictureScale(mean=mean, deviation=deviation).rate(np.array([one, other]))
    assert (first < second) == (one < other)
