"""CLIP's tokenizer with a chosen context length."""

import pytest

from vidret.encode.clip.text import clip_words

START, END = 49406, 49407


def test_a_short_text_is_padded_with_zeros() -> None:
    ids = clip_words(["a dog", "", "A  DOG"], 6).tolist()
    assert ids == [[START, 320, 1929, END, 0, 0], [START, END, 0, 0, 0, 0], [START, 320, 1929, END, 0, 0]]


@pytest.mark.parametrize("num_words", [3, 8, 32, 77])
def test_a_truncated_text_keeps_its_end_token(num_words: int) -> None:
    (whole,) = clip_words(["dog " * 200], 300).tolist()
    (cut,) = clip_words(["dog " * 200], num_words).tolist()
    assert cut == [*whole[: num_words - 1], END]
    (exact,) = clip_words(["dog " * (num_words - 2)], num_words).tolist()
    assert exact == cut


def test_no_texts_give_no_rows_and_short_lengths_are_rejected() -> None:
    assert clip_words([], 9).shape == (0, 9)
    with pytest.raises(ValueError, match="context_length must be at least 3, got 2"):
        clip_words(["a"], 2)
