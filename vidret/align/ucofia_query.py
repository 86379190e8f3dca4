"""Training-free UCoFiA of a query in NumPy: importing torch takes longer than the rest of a search.

The scores are those of ``Aligner`` without a trained head; see ``ucofia`` for the reference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from vidret.align.stacking import pad_rows, unpack_arrays
from vidret.types import TextEmbedding
from vidret.types.arrays import widen_rows

TAU = 0.01
BLOCK = 32  # videos scored at once, whose frames and tokens fit a core's cache: 1 MB
CHUNK = 256  # packed tokens multiplied at once: 0.5 MB of float32
LEAST_LOGIT = np.float32(-80)  # below the maximum; exponentials of less are denormals, with which a CPU is slow

Array = Float32[np.ndarray, "..."]
Mask = Bool[np.ndarray, "video item"]


class QueryLevels(NamedTuple):
    """Scores of one text for videos by level, coarse to fine, and the index of the best frame of each video."""

    segment: Float32[np.ndarray, " video"]
    frames: Float32[np.ndarray, " video"]
    words: Float32[np.ndarray, " video"]
    best: Int64[np.ndarray, " video"]


def score_queries(
    texts: Sequence[TextEmbedding],
    packed: Sequence[bytes | memoryview],
    frames: Sequence[Float[np.ndarray, "_frame dim"]],
) -> list[QueryLevels]:
    """Score each of a few texts against videos.

    ``packed`` is from ``pack_video`` for each video without a trained head; if any is empty, frames are tokens.

    Raises:
        AlignerError: The bytes have another format version.
    """
    # If any is empty, frames are the tokens of all.
    packed = packed if all(map(len, packed)) else [b""] * len(packed)
    starts = range(0, len(packed), BLOCK)
    blocks = [_score_block(texts, packed[i : i + BLOCK], frames[i : i + BLOCK]) for i in starts]
    return [QueryLevels(*map(np.concatenate, zip(*levels, strict=True))) for levels in zip(*blocks, strict=True)]


def _score_block(
    texts: Sequence[TextEmbedding],
    packed: Sequence[bytes | memoryview],
    frames: Sequence[Float[np.ndarray, "_frame dim"]],
) -> list[QueryLevels]:
    stored, frame_mask = pad_rows(frames)
    rows = widen_rows(stored)
    videos = _scale(_scale(rows).sum(1))  # padding is zeros
    tokens, token_mask, sizes, scales = rows, frame_mask, None, None
    if len(packed[0]):
        (scales, _), (sizes, _), _, (tokens, token_mask) = unpack_arrays(packed)
        scales = scales[..., 0] if scales.shape[1] else None
        sizes = np.pad(sizes[..., 0], ((0, 0), (0, tokens.shape[1] - sizes.shape[1]))) if sizes.shape[1] else None
        sizes = None if sizes is None else np.maximum(sizes, 1).astype(np.float32)
    levels = []
    for text in texts:
        sentence, words = _scale(text.sentence.astype(np.float32)), _scale(text.words.astype(np.float32))
        similarities = rows @ sentence
        real = similarities if frame_mask is None else np.where(frame_mask, similarities, -np.inf)
        by_word = compare_packed(words, tokens, scales)
        fine = aggregate_last(by_word, token_mask, sizes).mean(0)
        middle = aggregate_last(similarities, frame_mask)
        levels.append(QueryLevels(videos @ sentence, middle, fine, real.argmax(-1)))
    return levels


def compare_packed(
    words: Float32[np.ndarray, "word dim"],
    tokens: Shaped[np.ndarray, "video token dim"],
    scales: Float32[np.ndarray, "video token"] | None,
) -> Float32[np.ndarray, "word video token"]:
    """Return the similarity of every word and every token, which are unpacked in chunks that fit a core's cache."""
    num_videos, num_tokens, dim = tokens.shape
    products, step = np.empty((len(words), num_videos, num_tokens), np.float32), max(CHUNK // num_tokens, 1)
    for start in range(0, num_videos, step):
        chunk = tokens[start : start + step].astype(np.float32, copy=False).reshape(-1, dim)
        products[:, start : start + step] = (chunk @ words.T).T.reshape(len(words), -1, num_tokens)
    return products if scales is None else products * scales


def aggregate_last(
    similarities: Float32[np.ndarray, "*any video item"],
    mask: Mask | None,
    sizes: Float32[np.ndarray, "video item"] | None = None,
) -> Float32[np.ndarray, "*any video"]:
    """Return the sums of similarities along the last axis, weighted by softmax(softmax(s / tau) / tau) (ISA).

    ``mask`` is False where an item is padding; ``sizes`` is the number of equal items that each one represents.
    """
    bias = np.float32(0) if sizes is None else np.log(sizes)
    weights = _softmax(similarities / np.float32(TAU) + bias, mask)
    weights = weights if sizes is None else weights / sizes
    weights = _softmax(weights / np.float32(TAU) + bias, mask)
    total: Float32[np.ndarray, "*any video"] = (weights * similarities).sum(-1)
    return total


def _softmax(logits: Array, mask: Mask | None) -> Array:
    logits = logits if mask is None else np.where(mask, logits, np.float32(-np.inf))
    weights = np.exp(np.maximum(logits - logits.max(-1, keepdims=True), LEAST_LOGIT))
    weights = weights if mask is None else weights * mask
    shares: Array = weights / weights.sum(-1, keepdims=True)
    return shares


def _scale(vectors: Array) -> Array:
    """Return vectors (..., dim) of unit length; zeros stay zeros."""
    lengths = np.sqrt(np.vecdot(vectors, vectors))[..., None]
    units: Array = vectors / np.maximum(lengths, np.float32(1e-12))
    return units
