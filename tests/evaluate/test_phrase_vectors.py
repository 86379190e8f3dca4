"""Vectors of phrases, each encoded once."""

import numpy as np

from tests.fakes import PatchEncoder
from vidret.evaluate.phrase_vectors import RememberedTexts, encode_phrases

PHRASES = ["a long phrase of five words", "b", "c d", "b"]


def test_phrases_keep_their_order() -> None:
    encoder = PatchEncoder()
    expected = np.stack([each.sentence for each in encoder.encode_text(PHRASES)])
    np.testing.assert_array_equal(encode_phrases(encoder, PHRASES), expected)


def test_each_text_is_encoded_once() -> None:
    encoder = PatchEncoder()
    texts = RememberedTexts(encoder)
    first, second = encode_phrases(texts, PHRASES), encode_phrases(texts, [*PHRASES, "new"])
    assert sorted(encoder.encoded_texts) == sorted({*PHRASES, "new"})
    np.testing.assert_array_equal(second[:4], first)
