"""Interactive similarity aggregation: many similarities to one, weighed by themselves and by a learned matrix."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

TAU = 0.01
NEVER = -1e30  # a logit that no real one falls below; finite, so that an item of padding alone gives 0, not NaN


def resize_mixing(matrix: Float[Tensor, "n n"], size: int) -> Float[Tensor, "size size"]:
    """Fit a trained mixing matrix to another number of frames, words or tokens.

    Fewer take the leading square: position i stays position i, as it does on a longer, padded axis. For more, the new
    positions are nobody in particular: the mean of the trained diagonal on theirs, the mean of the trained rest
    everywhere else; so a matrix that treats all positions alike (the identity, for one) still does. The trained size is
    returned untouched, the same tensor.

    Example:
        The identity of 2 fitted to 3 is the identity of 3; [[2, 1], [1, 4]] becomes [[2, 1, 1], [1, 4, 1], [1, 1, 3]].
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
    """Sum similarities along one axis, weighed by softmax(softmax(s / tau) @ mixing / tau).

    Args:
        similarities: What is summed; also what decides its weights.
        dim: The axis to sum along: 1 or the last.
        mixing: A square matrix over that axis, fitted by ``resize_mixing``; the identity if None.
        mask: False where an entry is padding and gets no weight; must broadcast to the similarities.
        sizes: How many equal entries each stands for; must broadcast to the similarities, and be positive.
        tau: Temperature: the smaller, the more the best decides alone.

    Reference: Wang et al. 2023, UCoFiA, section 3.3, equations 4 and 5.
    """
    sizes = None if sizes is None else sizes.to(similarities.dtype)
    bias = None if sizes is None else sizes.log()
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=similarities.dtype) if bias is None else bias
        bias = bias.masked_fill(~mask, NEVER)
    logits = similarities / tau
    weights = torch.softmax(logits if bias is None else logits + bias, dim)
    if sizes is not None:
        weights = weights / sizes  # of each of the equal entries, as the matrix and the outer softmax see them
    weights = _mix(weights, mixing, dim, tau)
    weights = torch.softmax(weights if bias is None else weights + bias, dim)
    return (weights * similarities).sum(dim)


def _mix(weights: Tensor, mixing: Tensor | None, dim: int, tau: float) -> Tensor:
    """Multiply an axis, as a row vector, by a matrix / tau."""
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
    """Aggregate words then tokens, and tokens then words, and give the mean of both (Bi-ISA).

    Args:
        similarities: Of each word with each token.
        words_then: The matrices over words, then over tokens, of the first way.
        tokens_then: The matrices over tokens, then over words, of the second way.
        word_mask: False where a word is padding.
        token_mask: False where a token is padding.
        sizes: Of how many patches each token is the mean: it counts as that many.
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
