"""Vectors of phrases, each encoded once."""

from pathlib import Path

import numpy as np

from tests.fakes import PatchEncoder
from vidret.corpus.vectors import RememberedTexts, encode_phrases

PHRASES = ["a long phrase of five words", "b", "c d", "b"]


def test_texts_are_kept_by_encoder(tmp_path: Path) -> None:
    encoder, counts = PatchEncoder(), list[int]()
    expected = np.stack([text.sentence for text in encoder.encode_text(PHRASES)])
    first = encode_phrases(RememberedTexts(encoder, tmp_path, on_new=counts.append), PHRASES)
    again = encode_phrases(RememberedTexts(encoder, tmp_path, on_new=counts.append), ["new", *PHRASES])
    assert counts == [3, 1]
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(again[1:], expected)
    other = PatchEncoder()
    other.fingerprint = "another"
    encode_phrases(RememberedTexts(other, tmp_path, on_new=counts.append), PHRASES)
    assert counts[2:] == [3]
    assert len(list(tmp_path.iterdir())) == 2  # and no unfinished file


def test_damaged_and_locked_files_are_no_error(tmp_path: Path) -> None:
    encoder, counts = PatchEncoder(), list[int]()
    expected = encode_phrases(RememberedTexts(encoder, tmp_path, on_new=counts.append), PHRASES)
    (file,) = tmp_path.iterdir()
    for content in (b"", b"no archive", file.read_bytes()[:-40]):
        file.write_bytes(content)
        found = encode_phrases(RememberedTexts(encoder, tmp_path, on_new=counts.append), PHRASES)
        np.testing.assert_array_equal(found, expected)
    encode_phrases(RememberedTexts(encoder, file / "no folder", on_new=counts.append), PHRASES)
    assert counts == [3] * 5
