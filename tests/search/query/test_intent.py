"""What the wording of a query asks for."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tests.tool_loading import load_tool
from vidret.encode.sentences import DIM, load_sentence_encoder
from vidret.search.query.clauses import make_clause
from vidret.search.query.planning import CLASSES, WEIGHTS, _add_intents, estimate_intents
from vidret.types import Source


def read(*texts: str) -> list[Mapping[Source, float]]:
    clauses = [make_clause(text) for text in texts]
    return [clause.intent for clause in _add_intents(clauses, load_sentence_encoder().encode(texts))]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_probabilities_agree_with_a_naive_twin(seed: int, num_texts: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((num_texts, DIM)).astype(np.float32)
    tensors = load_file(WEIGHTS)
    for found, vector in zip(estimate_intents(vectors), vectors, strict=True):
        odds = [
            np.exp(sum(float(w) * float(x) for w, x in zip(row, vector, strict=True)) + float(offset))
            for row, offset in zip(tensors["weights"], tensors["offsets"], strict=True)
        ]
        assert found == pytest.approx([own / sum(odds) for own in odds], rel=1e-4)


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
        assert max(intent, key=lambda own: intent[own]) == source, query
        assert sum(intent.values()) == pytest.approx(1)


def test_another_language_than_english_tells_nothing() -> None:
    assert read("ein Hund am Strand", "собака на пляже") == [{}, {}]


def test_the_shipped_weights_are_those_of_the_tool() -> None:
    tool, shipped = load_tool("build_weights"), load_file(WEIGHTS)
    weights, offsets = tool.fit_intent(*tool.read_examples())
    assert shipped["weights"].shape == (len(CLASSES), DIM)
    assert shipped["weights"] == pytest.approx(weights, abs=0.02)
    assert shipped["offsets"] == pytest.approx(offsets, abs=0.02)
