"""CLIP's tokenizer, with a context length of one's choice as training uses it."""

from collections.abc import Callable, Sequence

import open_clip
from jaxtyping import Int
from torch import Tensor


def clip_words(texts: Sequence[str], num_words: int) -> Int[Tensor, "text word"]:
    """Return each text's start token, word pieces and end token, padded with zeros to ``num_words``.

    A longer text keeps its first ``num_words - 2`` pieces; the end token is always present.
    """
    if num_words < 3:
        raise ValueError(f"num_words must be at least 3, got {num_words}")
    ids: Tensor = open_clip.tokenize(list(texts), context_length=num_words)
    return ids


def clip_pieces() -> tuple[Callable[[str], list[int]], int, int]:
    """Return a function from text to CLIP's word piece ids, the start token and the end token."""
    tokenizer = open_clip.SimpleTokenizer()
    return tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id
