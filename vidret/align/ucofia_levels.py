"""UCoFiA's three levels of similarity, coarse to fine: video-sentence, frame-sentence, patch-word.

Each is aggregated by interactive similarity aggregation (ISA): sums weighted by softmax and a learned matrix.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from vidret.layers import mask_bias

TAU = 0.01  # temperature; the smaller, the closer a sum is to the maximum


def resize_mixing(matrix: Float[Tensor, "n n"], size: int) -> Float[Tensor, "size size"]:
    """Return a trained mixing matrix, resized for another number of frames, words or tokens.

    A smaller size takes the leading square, so that position i remains position i, as on a longer, padded axis. For a
    larger size, new diagonal entries are the mean of the trained diagonal, and all other new entries the mean of the
    trained off-diagonal ones. A matrix that treats all positions alike, such as the identity, still does then. For the
    trained size the matrix itself is returned.

    Example:
        The identity of size 2 becomes that of size 3; [[2, 1], [1, 4]] becomes [[2, 1, 1], [1, 4, 1], [1, 1, 3]].
    """
    trained = len(matrix)
    if size == trained:
        return matrix
    if size < trained:
        return matrix[:size, :size]
    diagonal_mean = matrix.diagonal().mean()
    other_mean = (matrix.sum() - matrix.diagonal().sum()) / max(1, trained * (trained - 1))
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    inside = functional.pad(torch.ones_like(matrix), (0, size - trained, 0, size - trained))
    padded = functional.pad(matrix, (0, size - trained, 0, size - trained))
    return padded + (1 - inside) * (diagonal_mean * eye + other_mean * (1 - eye))


def aggregate(
    similarities: Float[Tensor, "first ..."],
    dim: int,
    *,
    mixing: Float[Tensor, "m m"] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    sizes: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "first ..."]:
    """Return the sums of similarities along an axis, weighted by softmax(softmax(s / TAU) @ mixing / TAU).

    Args:
        similarities: The similarities, from which the weights are computed too.
        dim: The axis to sum over: 1 or the last.
        mixing: A square matrix over that axis, resized by ``resize_mixing``; None for the identity.
        mask: False where an entry is padding; must broadcast to the similarities.
        sizes: The number of equal entries that each one represents, positive; must broadcast to the similarities.

    Reference: Wang et al. 2023, UCoFiA, section 3.3, equations 4 and 5.
    """
    sizes = None if sizes is None else sizes.to(similarities.dtype)
    bias = None if sizes is None else sizes.log()
    if mask is not None:
        padding = mask_bias(similarities, mask)
        bias = padding if bias is None else torch.where(mask, bias, padding)
    logits = similarities / TAU
    weights = torch.softmax(logits if bias is None else logits + bias, dim)
    if sizes is not None:
        weights = weights / sizes  # the weight of a single one of the equal entries, as if they were listed separately
    weights = _mix(weights, mixing, dim)
    weights = torch.softmax(weights if bias is None else weights + bias, dim)
    return (weights * similarities).sum(dim)


def _mix(weights: Tensor, mixing: Tensor | None, dim: int) -> Tensor:
    """Return the weights with one axis, as a row vector, multiplied by the matrix / TAU."""
    if mixing is None:
        return weights / TAU
    matrix = resize_mixing(mixing, weights.shape[dim]) / TAU
    if dim in (-1, weights.ndim - 1):
        return weights @ matrix
    if dim != 1:
        raise ValueError(f"dim must be 1 or the last, got {dim}")
    return torch.matmul(matrix.T, rearrange(weights, "text n ... -> text n (...)")).view_as(weights)


CHUNK = 256  # packed tokens multiplied at once: 0.5 MB of float32


class LevelScores(NamedTuple):
    """Scores of texts for videos by level, higher is better, and the index of the frame most similar to each text."""

    video_sentence: Float[Tensor, "text video"]
    frame_sentence: Float[Tensor, "text video"]
    patch_word: Float[Tensor, "text video"]
    best_frame: Int[Tensor, "text video"]

    @property
    def mean(self) -> Float[Tensor, "text video"]:
        """Return the mean of the three levels, which is the final score."""
        return (self.video_sentence + self.frame_sentence + self.patch_word) / 3


class Mixing(nn.Module):
    """The mixing matrices of a trained head, square and initialised to the identity; used as row vector @ matrix."""

    def __init__(self, dim: int, *, num_frames: int, num_words: int, num_tokens: int) -> None:
        """Create identity matrices; ``num_tokens`` is the number of tokens kept per video."""
        super().__init__()
        self.sentence, self.video = _identity(dim), _identity(dim)
        self.frames = _identity(num_frames)
        self.word, self.token = _identity(dim), _identity(dim)
        self.words_first, self.tokens_second = _identity(num_words), _identity(num_tokens)
        self.tokens_first, self.words_second = _identity(num_tokens), _identity(num_words)


def _identity(size: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(size))


def aggregate_both_ways(
    similarities: Float[Tensor, "text word video token"],
    mixing: Mixing,
    *,
    word_mask: Bool[Tensor, "text word"] | None = None,
    token_mask: Bool[Tensor, "video token"] | None = None,
    sizes: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text video"]:
    """Return the mean of two aggregations: words then tokens, and tokens then words (Bi-ISA); see ``aggregate``.

    Reference: Wang et al. 2023, UCoFiA, section 3.3, equations 6 to 8.
    """
    real = None if word_mask is None else rearrange(word_mask, "text word -> text word 1")
    by_token = aggregate(similarities, 1, mixing=mixing.words_first, mask=None if real is None else real[..., None])
    first = aggregate(by_token, -1, mixing=mixing.tokens_second, mask=token_mask, sizes=sizes)
    by_word = aggregate(similarities, -1, mixing=mixing.tokens_first, mask=token_mask, sizes=sizes)
    second = aggregate(by_word, 1, mixing=mixing.words_second, mask=real)
    return (first + second) / 2


def score_frames(
    sentences: Float[Tensor, "text dim"],
    frames: Float[Tensor, "video frame dim"],
    *,
    mixing: Float[Tensor, "n n"] | None = None,
    mask: Bool[Tensor, "video frame"] | None = None,
) -> tuple[Float[Tensor, "text video"], Int[Tensor, "text video"]]:
    """Return the aggregated similarities (ISA) of sentences and frames, and the index of the most similar frame."""
    flat = sentences @ rearrange(frames, "video frame dim -> dim (video frame)")
    similarities = rearrange(flat, "text (video frame) -> text video frame", frame=frames.shape[1])
    real = similarities if mask is None else similarities.masked_fill(~mask, -torch.inf)
    return aggregate(similarities, -1, mixing=mixing, mask=mask), real.argmax(dim=-1)


def compare_words(
    words: Float[Tensor, "text word dim"],
    tokens: Shaped[Tensor, "video token dim"],
    scales: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text word video token"]:
    """Return the similarity of every word and every token.

    Packed tokens are unpacked in chunks that fit a core's cache: one query for 200 videos takes two thirds of the time
    of unpacking all tokens first (measured).
    """
    texts, rows = rearrange(words, "t w d -> (t w) d"), rearrange(tokens, "v p d -> (v p) d")
    chunks = [rows] if rows.dtype == texts.dtype else torch.split(rows, CHUNK)
    products = torch.cat([texts @ chunk.to(texts.dtype).T for chunk in chunks], dim=1)
    if scales is not None:
        products = products * rearrange(scales, "v p -> (v p)")
    (t, w, _), (v, p, _) = words.shape, tokens.shape
    return rearrange(products, "(t w) (v p) -> t w v p", t=t, w=w, v=v, p=p)  # there may be none of each


def score_words(
    words: Float[Tensor, "text word dim"],
    tokens: Shaped[Tensor, "video token dim"],
    *,
    mixing: Mixing | None = None,
    word_mask: Bool[Tensor, "text word"] | None = None,
    token_mask: Bool[Tensor, "video token"] | None = None,
    sizes: Float[Tensor, "video token"] | None = None,
    scales: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text video"]:
    """Return the aggregated similarities of words and tokens.

    Trained matrices aggregate in both orders (Bi-ISA). Without them, tokens are aggregated for each word, and words
    have equal weights: in Bi-ISA the best word dominates, which only helps after training (measured with the starter:
    R@1 of the word level falls from 40 to 31, and lowers the mean of the levels too).
    """
    similarities = compare_words(words, tokens, scales)
    if mixing is None:
        by_word = aggregate(similarities, -1, mask=token_mask, sizes=sizes)
        if word_mask is None:
            return by_word.mean(dim=1)
        real = word_mask[..., None]
        return by_word.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return aggregate_both_ways(similarities, mixing, word_mask=word_mask, token_mask=token_mask, sizes=sizes)
