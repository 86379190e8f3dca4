"""Prompt Switch's captioner: frame vectors have to tell a video's caption, in training alone.

What a vector must be able to say it must hold; at inference nothing of this module is left.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval", section 3.
"""

import re
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.encode.model import load_exactly
from vidret.encode.text import TextTower
from vidret.encode.weight_names import Names
from vidret.encode.weights import Weights, rename
from vidret.errors import EncoderError

FREQUENT_WORDS = "in on of to about this that a an the and there here is are . ,"
IGNORED = -100

PROMPT_SWITCH: Names = {
    **{f"caption_prenorm.{part}": f"prenorm.{part}" for part in ("weight", "bias")},
    **{
        f"caption_transformer.layers.*.{attention}.{part}": f"decoder.layers.*.{attention}.{part}"
        for attention in ("self_attn", "multihead_attn")
        for part in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    },
    **{
        f"caption_transformer.layers.*.{layer}.{part}": f"decoder.layers.*.{layer}.{part}"
        for layer in ("linear1", "linear2", "norm1", "norm2", "norm3")
        for part in ("weight", "bias")
    },
    **{f"caption_transformer.norm.{part}": f"decoder.norm.{part}" for part in ("weight", "bias")},
    **{f"caption_head.{part}": f"head.{part}" for part in ("weight", "bias")},
}
PROMPT_SWITCH_LEFT = re.compile(r"clip\.")


class Captioner(nn.Module):
    """A post-norm transformer decoder from frame vectors to the next token; its head starts as the token embedding."""

    def __init__(
        self, embedding: Float[Tensor, "vocabulary dim"], *, num_layers: int = 2, heads: int = 8, hidden: int = 2048
    ) -> None:
        """Build it for the token embedding of a text tower, which is copied, not shared."""
        vocabulary, dim = embedding.shape
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}, got {heads}")
        super().__init__()
        layer = nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.0, activation="relu", batch_first=True)
        self.prenorm = nn.LayerNorm(dim)
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(dim))
        self.head = nn.Linear(dim, vocabulary)
        with torch.no_grad():
            self.head.weight.copy_(embedding)
            self.head.bias.zero_()

    def forward(
        self, ids: Int[Tensor, "video word"], memory: Float[Tensor, "video frame dim"], text_tower: TextTower
    ) -> Float[Tensor, "video word-1 vocabulary"]:
        """Foretell each token of a caption from those before it and the video; the last one foretells nothing.

        Args:
            ids: Start token, words, end token, padding.
            memory: The raw projected frame vectors of one clip, not scaled to unit length.
            text_tower: Gives token and position embeddings; it is not trained from here.

        Returns:
            Logits: those at place k are for the token at place k + 1.
        """
        with torch.no_grad():
            words = text_tower.embedding(ids[:, :-1]) + text_tower.positions[: ids.shape[1] - 1]
        hidden = torch.ones(words.shape[1], words.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        states = self.decoder(self.prenorm(words), memory, tgt_mask=hidden, tgt_is_causal=True)
        logits: Tensor = self.head(states)
        return logits


def class_weights(
    vocabulary: int, frequent: Sequence[int], frequent_weight: float = 0.25, *, device: torch.device | None = None
) -> Float[Tensor, " vocabulary"]:
    """Weigh tokens by what they tell: ``frequent_weight`` for the frequent ones, 1 for all others."""
    weights = torch.ones(vocabulary, device=device)
    weights[list(frequent)] = frequent_weight
    return weights


def caption_loss(
    logits: Float[Tensor, "video word-1 vocabulary"],
    ids: Int[Tensor, "video word"],
    *,
    end: int,
    frequent: Sequence[int],
    frequent_weight: float = 0.25,
    weight: float = 0.5,
) -> Float[Tensor, ""]:
    """Score captions by cross-entropy: the mean over tokens up to the first ``end``, weighted by class.

    A caption's end is foretold once; what follows it is padding, whatever it holds. Without any token to foretell the
    loss is 0, with a gradient of 0.

    Args:
        logits: What ``Captioner`` gives.
        ids: What it was given.
        end: The end token.
        frequent: Tokens that weigh ``frequent_weight``.
        frequent_weight: Between 0 and 1.
        weight: What the mean is multiplied by.
    """
    targets = ids[:, 1:].long()
    is_word = (ids[:, :-1] == end).cumsum(dim=1) == 0
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = class_weights(logits.shape[-1], frequent, frequent_weight, device=logits.device).to(logits)
    total = functional.cross_entropy(
        rearrange(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            "video word vocabulary -> (video word) vocabulary",
        ),
        rearrange(targets.masked_fill(~is_word, IGNORED), "video word -> (video word)"),
        weight=weights,
        ignore_index=IGNORED,
        reduction="sum",
    )
    divisor = (weights[targets] * is_word).sum()
    return weight * total / divisor.where(divisor > 0, 1.0)


def frequent_ids(encode: Callable[[str], Sequence[int]], *, start: int, end: int) -> list[int]:
    """Give the tokens of the published frequent words, and start and end, by a tokenizer's ``encode``; they rise."""
    pieces = {piece for word in FREQUENT_WORDS.split() for piece in encode(word)}
    return sorted(pieces | {start, end})


def convert_captioner(weights: Weights, *, heads: int = 8) -> Captioner:
    """Take the captioner out of a Prompt Switch checkpoint; the number of heads is not in it.

    Raises:
        EncoderError: Lists the keys that are missing or unknown.
    """
    own = rename(weights, PROMPT_SWITCH, ignored=PROMPT_SWITCH_LEFT)
    head, widest = "head.weight", "decoder.layers.0.linear1.weight"
    if missing := [name for name in (head, widest) if name not in own]:
        raise EncoderError(f"{len(missing)} weights missing: {', '.join(missing)}")
    num_layers = len({name.split(".")[2] for name in own if name.startswith("decoder.layers.")})
    captioner = Captioner(own[head], num_layers=num_layers, heads=heads, hidden=len(own[widest]))
    load_exactly(captioner, own, "promptswitch captioner")
    return captioner.eval()
