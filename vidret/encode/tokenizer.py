"""Texts as CLIP's text towers read them in training: word pieces, cut to a length of one's own."""

from collections.abc import Callable, Sequence

import open_clip
from jaxtyping import Int
from torch import Tensor


def clip_words(texts: Sequence[str], num_words: int) -> Int[Tensor, "text word"]:
    """Give each text's start token, word pieces, end token, and zeros up to ``num_words``.

    A text that is too long keeps its first ``num_words - 2`` pieces; the end token is always there.
    """
    if num_words < 3:
        raise ValueError(f"num_words must be at least 3, got {num_words}")
    ids: Tensor = open_clip.tokenize(list(texts), context_length=num_words)
    return ids


def clip_pieces() -> tuple[Callable[[str], list[int]], int, int]:
    """Give what turns text into CLIP's word pieces, its start token and its end token."""
    tokenizer = open_clip.SimpleTokenizer()
    return tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id
