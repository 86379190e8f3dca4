"""Interactive similarity aggregation (ISA): sums of similarities, weighted by softmax and a learned matrix."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

TAU = 0.01
PADDING_LOGIT = -1e30  # below every real logit; finite, so that an item of padding only gives 0, not NaN


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
    own = matrix.diagonal().mean()
    other = (matrix.sum() - matrix.diagonal().sum()) / max(1, trained * (trained - 1))
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    inside = functional.pad(torch.ones_like(matrix), (0, size - trained, 0, size - trained))
    padded = functional.pad(matrix, (0, size - trained, 0, size - trained))
    return padded + (1 - inside) * (own * eye + other * (1 - eye))


def aggregate(
    similarities: Float[Tensor, "first ..."],
    dim: int,
    *,
    mixing: Float[Tensor, "m m"] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    sizes: Float[Tensor, "..."] | None = None,
    tau: float = TAU,
) -> Float[Tensor, "first ..."]:
    """Return the sums of similarities along an axis, weighted by softmax(softmax(s / tau) @ mixing / tau).

    Args:
        similarities: The similarities, from which the weights are computed too.
        dim: The axis to sum over: 1 or the last.
        mixing: A square matrix over that axis, resized by ``resize_mixing``; None for the identity.
        mask: False where an entry is padding; must broadcast to the similarities.
        sizes: The number of equal entries that each one represents, positive; must broadcast to the similarities.
        tau: Temperature; the smaller, the closer the result is to the maximum.

    Reference: Wang et al. 2023, UCoFiA, section 3.3, equations 4 and 5.
    """
    sizes = None if sizes is None else sizes.to(similarities.dtype)
    bias = None if sizes is None else sizes.log()
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=similarities.dtype) if bias is None else bias
        bias = bias.masked_fill(~mask, PADDING_LOGIT)
    logits = similarities / tau
    weights = torch.softmax(logits if bias is None else logits + bias, dim)
    if sizes is not None:
        weights = weights / sizes  # the weight of a single one of the equal entries, as if they were listed separately
    weights = _mix(weights, mixing, dim, tau)
    weights = torch.softmax(weights if bias is None else weights + bias, dim)
    return (weights * similarities).sum(dim)


def _mix(weights: Tensor, mixing: Tensor | None, dim: int, tau: float) -> Tensor:
    """Return the weights with one axis, as a row vector, multiplied by the matrix / tau."""
    if mixing is None:
        return weights / tau
    matrix = resize_mixing(mixing, weights.shape[dim]) / tau
    if dim in (-1, weights.ndim - 1):
        return weights @ matrix
    if dim != 1:
        raise ValueError(f"dim must be 1 or the last, got {dim}")
    return torch.matmul(matrix.T, rearrange(weights, "text n ... -> text n (...)")).view_as(weights)


def aggregate_both_ways(
    similarities: Float[Tensor, "text word video token"],
    *,
    words_then: tuple[Tensor | None, Tensor | None] = (None, None),
    tokens_then: tuple[Tensor | None, Tensor | None] = (None, None),
    word_mask: Bool[Tensor, "text word"] | None = None,
    token_mask: Bool[Tensor, "video token"] | None = None,
    sizes: Float[Tensor, "video token"] | None = None,
    tau: float = TAU,
) -> Float[Tensor, "text video"]:
    """Return the mean of two aggregations: words then tokens, and tokens then words (Bi-ISA).

    Args:
        similarities: Similarity of each word and each token.
        words_then: Mixing matrices of the first order: over words, then over tokens.
        tokens_then: Mixing matrices of the second order: over tokens, then over words.
        word_mask: False where a word is padding.
        token_mask: False where a token is padding.
        sizes: Number of patches that each token is the mean of, and counts as.
        tau: Temperature.

    Reference: Wang et al. 2023, UCoFiA, section 3.3, equations 6 to 8.
    """
    by_token = aggregate(
        similarities,
        1,
        mixing=words_then[0],
        mask=None if word_mask is None else rearrange(word_mask, "text word -> text word 1 1"),
        tau=tau,
    )
    first = aggregate(by_token, -1, mixing=words_then[1], mask=token_mask, sizes=sizes, tau=tau)
    by_word = aggregate(similarities, -1, mixing=tokens_then[0], mask=token_mask, sizes=sizes, tau=tau)
    mask = None if word_mask is None else rearrange(word_mask, "text word -> text word 1")
    second = aggregate(by_word, 1, mixing=tokens_then[1], mask=mask, tau=tau)
    return (first + second) / 2
