"""Encoding of texts in batches; long texts are split into clauses, whose embeddings are combined."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

import numpy as np

from vidret.text import format_count
from vidret.types import TextEmbedding

logger = logging.getLogger(__name__)

# From the ends of sentences to spaces: a long text is split at the first kind that it has, long parts at the next kind.
BREAKS = (
    r"(?<=[.!?;\u3002\uff01\uff1f\uff1b])\s*",  # including the full-width stops of Chinese and Japanese
    r"(?<=[,:\uff0c\u3001\uff1a])\s*|\s+(?=(?:and|then|while|but|before|after)\s)",
    r"\s+",
)
ENDS = 4  # maximum number of tokens besides those of the text
BATCH = 64  # clauses encoded at a time; a text tower needs megabytes per clause


def encode_clauses(
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], list[TextEmbedding]],
    fits: Callable[[str], bool],
    *,
    context: int,
    name: str,
) -> list[TextEmbedding]:
    """Encode texts in batches; split those that do not fit into clauses, and combine their vectors, which is logged.

    Memory beyond the result does not grow with the number of texts. ``fits`` returns whether a text fits the model; it
    is not called for texts of few bytes. The model takes ``context`` tokens, with start and end.
    """

    def is_short(part: str) -> bool:
        """Return whether a text fits. No token is shorter than a byte, so most texts need not be tokenized twice."""
        return len(part.encode("utf-8", "replace")) + ENDS <= context or fits(part)

    if not texts:
        return []  # models cannot encode an empty batch
    parts = [split_text(text, is_short) for text in texts]
    if split := [(text, len(clauses)) for text, clauses in zip(texts, parts, strict=True) if len(clauses) > 1]:
        _note_split(name, context, *split[0], len(split) - 1)
    waiting = [clause for clauses in parts for clause in clauses]
    batches = (encode(waiting[start : start + BATCH]) for start in range(0, len(waiting), BATCH))
    encoded = chain.from_iterable(batches)
    return [
        join_clauses(text, [next(encoded) for _ in clauses]) if len(clauses) > 1 else next(encoded)
        for text, clauses in zip(texts, parts, strict=True)
    ]


@lru_cache(maxsize=256)
def _note_split(name: str, context: int, text: str, num_clauses: int, num_others: int) -> None:
    """Log once that texts are split, since a search may encode them for pictures and for moments."""
    logger.warning(
        "%s only reads %d tokens, so a text is split into %d parts: %s",
        *(name, context, num_clauses, quote_first(text, num_others)),
    )


def quote_first(text: str, num_others: int) -> str:
    """Return the start of the first of some texts, and the number of the others.

    >>> quote_first("a dog", 0), quote_first("a dog", 1)
    ('a dog...', 'a dog... (and 1 other text)')
    """
    others = f" (and {format_count(num_others, 'other text')})" if num_others else ""
    return f"{text:.60}...{others}"


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Split a text into parts that fit, at the ends of sentences, else of clauses, else of words, else anywhere.

    Neighbouring parts are joined again while they fit, so that there are few parts.

    >>> split_text("A dog runs. It barks, then sleeps.", lambda part: len(part.split()) <= 3)
    ['A dog runs.', 'It barks,', 'then sleeps.']
    """
    return list(_split(text.strip(), fits, 0)) or [text]


def _split(text: str, fits: Callable[[str], bool], level: int) -> Iterator[str]:
    """Yield the parts of a text, split at the first of ``BREAKS`` from ``level`` on that it has, else in the middle."""
    if fits(text) or len(text) < 2:
        yield text
        return
    breaks = ([piece for piece in re.split(pattern, text) if piece] for pattern in BREAKS[level:])
    found = next(((index, pieces) for index, pieces in enumerate(breaks, level) if len(pieces) > 1), None)
    if found is None:
        middle = len(text) // 2
        yield from _split(text[:middle], fits, level)
        yield from _split(text[middle:], fits, level)
        return
    waiting = ""
    for piece in found[1]:
        if waiting and fits(joined := f"{waiting} {piece}"):
            waiting = joined
            continue
        if waiting:
            yield waiting
        *done, waiting = _split(piece, fits, found[0] + 1)
        yield from done
    yield waiting


def join_clauses(text: str, clauses: Sequence[TextEmbedding]) -> TextEmbedding:
    """Return the embedding of a text from those of its clauses: their weighted mean, and all their words.

    Clauses are weighted by their number of characters. The states are those of all clauses except their ends, followed
    by the mean of the ends.
    """
    lengths = np.array([len(clause.text) for clause in clauses], np.float32)
    weights = lengths / lengths.sum()
    mean = weights @ np.stack([clause.sentence for clause in clauses])
    words = np.concatenate([clause.words for clause in clauses])
    states = [clause.states for clause in clauses if clause.states is not None]
    joined = None
    if len(states) == len(clauses):
        end = weights @ np.stack([rows[-1] for rows in states])
        joined = np.concatenate([*(rows[:-1] for rows in states), end[None]])
    return TextEmbedding(text, (mean / np.linalg.norm(mean)).astype(np.float32), words, joined)
