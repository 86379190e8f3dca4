"""Sentence vectors of MiniLM: unit length, meaning, and texts that no tokenizer accepts."""

import numpy as np
import pytest

from vidret.encode.sentences import DIM, load_sentence_encoder


def test_vectors_have_unit_length_and_compare_meanings() -> None:
    texts = ["how to sand a door", "smooth the wood before painting", "the train leaves at nine", ""]
    vectors = load_sentence_encoder().encode(texts)
    assert vectors.shape == (4, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert load_sentence_encoder().encode([]).shape == (0, DIM)


def test_long_text_is_truncated_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    long = "wood " * 200
    first, _, again = load_sentence_encoder().encode([long, "short", long])
    np.testing.assert_allclose(first, again, atol=1e-5)
    load_sentence_encoder().encode([long])
    assert [record.getMessage()[:29] for record in caplog.records] == ["only the first 128 word piece"]


def test_lone_surrogates_are_replaced() -> None:
    """Arguments and file names that are no UTF-8 hold them."""
    vectors = load_sentence_encoder().encode(["red \udcff car", "red ? car", "\ud800"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.isfinite(vectors).all()
