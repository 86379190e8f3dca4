"""Prompt Switch's captioner, which predicts a video's caption from its frame vectors.

It is an auxiliary task of training, which makes frame vectors hold the content of captions. Inference does not use it.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval", section 3.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.encode.clip.model import ClipModel
from vidret.encode.clip.text import TextTower, clip_pieces
from vidret.train.gather import gather

FREQUENT_WORDS = "in on of to about this that a an the and there here is are . ,"
FREQUENT_WEIGHT = 0.25
IGNORED = -100


class Captioner(nn.Module):
    """A post-norm transformer decoder that predicts the next token from frame vectors.

    Its head is initialised with the token embedding, as published, or is that embedding itself, without a gradient.
    """

    def __init__(
        self,
        embedding: Float[Tensor, "vocabulary dim"],
        *,
        num_layers: int = 2,
        heads: int = 8,
        hidden: int = 2048,
        own_head: bool = True,
    ) -> None:
        """Build a captioner for the token embedding of a text tower, which is copied to the head, not shared.

        Raises:
            ValueError: ``heads`` does not divide the width of the embedding.
        """
        vocabulary, dim = embedding.shape
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}, got {heads}")
        super().__init__()
        layer = nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.0, activation="relu", batch_first=True)
        self.prenorm = nn.LayerNorm(dim)
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(dim))
        self.head = nn.Linear(dim, vocabulary) if own_head else None
        if self.head is not None:
            with torch.no_grad():
                self.head.weight.copy_(embedding)
                self.head.bias.zero_()

    def forward(
        self,
        ids: Int[Tensor, "video word"],
        memory: Float[Tensor, "video frame dim"],
        text_tower: TextTower,
        *,
        memory_mask: Bool[Tensor, "video frame"] | None = None,
        vocabulary: Int[Tensor, " entry"] | None = None,
    ) -> Float[Tensor, "video word-1 entry"]:
        """Predict each token of a caption from the tokens before it and the video; no prediction for the last token.

        Captions are a start token, words, an end token and padding. ``memory`` has the projected frame vectors of one
        clip, before normalisation; ``memory_mask`` is False for padding frames. No gradient flows into the text tower.
        The logits at position k predict the token at position k + 1, from the given vocabulary or all tokens.
        """
        with torch.no_grad():
            words = text_tower.embedding(ids[:, :-1]) + text_tower.positions[: ids.shape[1] - 1]
        future = torch.ones(words.shape[1], words.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        padding = None if memory_mask is None else ~memory_mask
        states = self.decoder(
            self.prenorm(words), memory, tgt_mask=future, tgt_is_causal=True, memory_key_padding_mask=padding
        )
        weight: Tensor = text_tower.embedding.weight.detach()
        bias: Tensor | None = None
        if self.head is not None:
            weight, bias = self.head.weight, self.head.bias
        if vocabulary is not None:
            weight, bias = weight[vocabulary], None if bias is None else bias[vocabulary]
        return functional.linear(states, weight, bias)


class RestrictedCaptions(NamedTuple):
    """Captions cut to the longest, the ascending tokens in the captions of all processes, and indices into these.

    ``labels`` are the indices of the captions' tokens, ``end`` of the end token, ``frequent`` of the frequent tokens.
    """

    ids: Int[Tensor, "video word"]
    vocabulary: Int[Tensor, " entry"]
    labels: Int[Tensor, "video word"]
    end: int
    frequent: list[int]


def restrict_vocabulary(ids: Int[Tensor, "video step"], *, end: int, frequent: Sequence[int]) -> RestrictedCaptions:
    """Return captions with the vocabulary of the captions of all processes, so that ``caption_loss`` is cheap.

    The loss is that of the whole vocabulary with a probability of 0 for all other tokens. Each caption must have an
    ``end``.
    """
    ids = ids[:, : int((ids == end).int().argmax(dim=1).max()) + 1]
    vocabulary = torch.unique(gather(ids))
    labels = torch.searchsorted(vocabulary, ids.contiguous())
    index = {token: position for position, token in enumerate(vocabulary.tolist())}
    return RestrictedCaptions(ids, vocabulary, labels, index[end], [index[word] for word in frequent if word in index])


def caption_loss(
    logits: Float[Tensor, "video step vocabulary"],
    ids: Int[Tensor, "video step+1"],
    *,
    end: int,
    frequent: Sequence[int],
    weight: float = 0.5,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of captions: the class-weighted mean over tokens up to the first ``end``.

    Everything after the first end token is padding. Without any token to predict, the loss is 0, with a gradient of 0.
    Frequent tokens have the class weight ``FREQUENT_WEIGHT``, all others 1; ``weight`` is a factor of the mean. The
    mean over processes of the result is the mean over all of their tokens, even if their numbers differ.
    """
    targets = ids[:, 1:].long()
    is_word = (ids[:, :-1] == end).cumsum(dim=1) == 0
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = logits.new_ones(logits.shape[-1])
    weights[list(frequent)] = FREQUENT_WEIGHT
    total = functional.cross_entropy(
        rearrange(logits, "video word vocabulary -> (video word) vocabulary"),
        rearrange(targets.masked_fill(~is_word, IGNORED), "video word -> (video word)"),
        weight=weights,
        ignore_index=IGNORED,
        reduction="sum",
    )
    divisor = gather((weights[targets] * is_word).sum()[None]).mean()
    return weight * total / divisor.where(divisor > 0, 1.0)


def start_captioner(encoder: ClipModel, *, num_layers: int = 2, own_head: bool = True) -> Captioner:
    """Return a captioner for towers; see ``Captioner``.

    Raises:
        ValueError: The width of the text tower is not that of the joint space.
    """
    width = encoder.card.text.width
    if width != encoder.card.vision.dim:
        raise ValueError(f"text width must be the joint dim for a captioner, got {width} and {encoder.card.vision.dim}")
    embedding = encoder.text.embedding.weight.detach()
    heads, hidden = max(1, width // 64), 4 * width
    return Captioner(embedding, num_layers=num_layers, heads=heads, hidden=hidden, own_head=own_head)


@cache
def read_tokens() -> tuple[list[int], int]:
    """Return the tokens of the published frequent words and of start and end, ascending, and the end token."""
    encode, start, end = clip_pieces()
    pieces = {piece for word in FREQUENT_WORDS.split() for piece in encode(word)}
    return sorted(pieces | {start, end}), end
