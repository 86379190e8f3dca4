"""Text queries: the positive part, the negative terms, and what the wording asks for."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.tool_loading import load_tool
from vidret.encode.sentences import DIM, load_sentence_encoder
from vidret.errors import VidretError
from vidret.search.query.clauses import make_clause
from vidret.search.query.planning import CLASSES, WEIGHTS, _add_intents, estimate_intents, parse_query
from vidret.types import Source


@pytest.mark.parametrize(
    ("query", "positive", "negatives"),
    [
        ("a dog", "a dog", ()),
        ("dog -beach", "dog", ("beach",)),
        ("-beach dog", "dog", ("beach",)),
        ('dog  -"two cats"  on grass -snow', "dog on grass", ("two cats", "snow")),
        ("a black-and-white film", "a black-and-white film", ()),
        ("dog - beach", "dog - beach", ()),
        ("dog --beach", "dog --beach", ()),
        ("  two  spaces. ", "two spaces", ()),
        (
            "hund -strand -\N{LATIN SMALL LETTER O WITH STROKE}l",
            "hund",
            ("strand", "\N{LATIN SMALL LETTER O WITH STROKE}l"),
        ),
        ("it's 5-10 -6", "it's 5-10 -6", ()),
        ('it\'s 5-10 -"6"', "it's 5-10", ("6",)),
    ],
)
def test_negative_terms_are_parsed(query: str, positive: str, negatives: tuple[str, ...]) -> None:
    assert parse_query(query) == (positive, negatives)


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("", "must contain a word, got"),
        ("  ", "must contain a word, got"),
        ("-beach", "must contain a positive word, got '-beach'"),
        ('dog -" "', "must contain a word between"),
    ],
)
def test_query_without_a_positive_word_or_with_an_empty_negative_one_is_refused(query: str, rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        parse_query(query)


def read(*texts: str) -> list[Mapping[Source, float]]:
    clauses = [make_clause(text) for text in texts]
    return [clause.intent for clause in _add_intents(clauses, load_sentence_encoder().encode(texts))]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_probabilities_agree_with_a_naive_twin(seed: int, num_texts: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((num_texts, DIM)).astype(np.float32)
    tensors = load_file(WEIGHTS)
    for probabilities, vector in zip(estimate_intents(vectors), vectors, strict=True):
        odds = [
            np.exp(sum(float(w) * float(x) for w, x in zip(row, vector, strict=True)) + float(offset))
            for row, offset in zip(tensors["weights"], tensors["offsets"], strict=True)
        ]
        assert probabilities == pytest.approx([source_odds / sum(odds) for source_odds in odds], rel=1e-4)


@pytest.mark.parametrize(
    ("source", "queries"),
    [
        ("picture", ["a fox runs across the snow", "two men paddle a canoe", "lighthouse", "a woman peels an apple"]),
        ("speech", ["the pharmacist explains how often to take the pills", "he regrets that he sold the farm"]),
        ("screen", ["a plaque with the name of the architect", "a form with the date of birth"]),
    ],
)
def test_wording_tells_what_is_asked_for(source: str, queries: list[str]) -> None:
    for query, intent in zip(queries, read(*queries), strict=True):
        assert max(intent, key=lambda name: intent[name]) == source, query
        assert sum(intent.values()) == pytest.approx(1)


def test_another_language_than_english_tells_nothing() -> None:
    assert read("ein Hund am Strand", "собака на пляже") == [{}, {}]


def test_the_shipped_weights_are_those_of_the_tool() -> None:
    tool, shipped = load_tool("build_weights"), load_file(WEIGHTS)
    weights, offsets = tool.fit_intent(*tool.read_examples())
    assert shipped["weights"].shape == (len(CLASSES), DIM)
    assert shipped["weights"] == pytest.approx(weights, abs=0.02)
    assert shipped["offsets"] == pytest.approx(offsets, abs=0.02)
