"""Vectors of phrases, each encoded once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import PatchEncoder
from vidret.corpus.vectors import KeptSentences, encode_phrases
from vidret.types import TextEmbedding

PHRASES = ["a long phrase of five words", "b", "c d", "b"]


def test_phrases_are_in_their_order_and_kept_by_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder, counts, encode = PatchEncoder(), list[int](), PatchEncoder.encode_text

    def count(encoder: PatchEncoder, texts: Sequence[str]) -> list[TextEmbedding]:
        counts.append(len(texts))
        return encode(encoder, texts)

    expected = np.stack([text.sentence for text in encoder.encode_text(PHRASES)])
    monkeypatch.setattr(PatchEncoder, "encode_text", count)
    for _ in range(2):
        np.testing.assert_array_equal(encode_phrases(KeptSentences(encoder), PHRASES), expected)
    assert counts == [4, 1], "the second time, only to see that the encoder is the same"
    other = PatchEncoder()
    other.fingerprint = "another"
    encode_phrases(KeptSentences(other), PHRASES)
    encode_phrases(encoder, PHRASES)
    assert counts[2:] == [4, 4]
