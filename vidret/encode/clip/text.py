"""CLIP's text tower, and its tokenizer with any context length, for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vidret.encode.open_clip_parts import import_part
from vidret.layers import Block

NUM_PIECES = 49408  # word pieces of CLIP's tokenizer, with the start and the end token
KEPT_POSITIONS = 20  # of CLIP's, which Long-CLIP does not stretch: few of CLIP's training captions are longer


@dataclass(frozen=True, slots=True)
class TextShape:
    """The sizes of a text tower; ``context`` is the maximum number of tokens, ``dim`` the width of the joint space."""

    context: int
    vocabulary: int
    width: int
    layers: int
    heads: int
    dim: int
    quick_gelu: bool = False
    mlp_ratio: float = 4.0


class TextTower(nn.Module):
    """CLIP's causal text transformer; a text's vector is the projected state at its end token."""

    def __init__(self, shape: TextShape, *, lora_rank: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Parameter(torch.randn(shape.context, shape.width) * 0.01)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, quick_gelu=shape.quick_gelu, mlp_ratio=shape.mlp_ratio, lora_rank=lora_rank)
            for _ in range(shape.layers)
        )
        self.ln_final = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(torch.randn(shape.width, shape.dim) * shape.width**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, ids: Int[Tensor, "text word"]
    ) -> tuple[Float[Tensor, "text dim"], Float[Tensor, "text kept dim"]]:
        """Encode token ids: start token, words, end token (the highest id), padding.

        Attention is causal, so padding needs no mask; states after the batch's last end token are not computed.

        Returns:
            The texts' vectors and the projected states up to the batch's last end token, neither normalised.
        """
        x, ends = self._embed(ids)
        for block in self.blocks:
            x = block(x, causal=True)
        words = self.ln_final(x) @ self.proj
        return words[torch.arange(len(words), device=words.device), ends], words

    def layers(self, ids: Int[Tensor, "text word"], *, num_layers: int) -> Float[Tensor, "layer text kept width"]:
        """Return the residual stream after each of the last ``num_layers`` layers, earliest first, before any norm.

        Words run from the start token to the batch's last end token, as in ``forward``.
        """
        x, _ = self._embed(ids)
        kept = []
        for layer, block in enumerate(self.blocks):
            x = block(x, causal=True)
            if layer >= self.shape.layers - num_layers:
                kept.append(x)
        return torch.stack(kept)

    def _embed(self, ids: Int[Tensor, "text word"]) -> tuple[Float[Tensor, "text kept width"], Int[Tensor, " text"]]:
        """Return the embeddings of all words up to the batch's last end token, and each text's end token index."""
        ends = ids.argmax(dim=-1)
        ids = ids[:, : int(ends.max()) + 1]
        return self.embedding(ids) + self.positions[: ids.shape[1]], ends


def stretch_positions(table: Float[Tensor, "word width"], *, factor: int = 4) -> Float[Tensor, "longer width"]:
    """Return positions for longer texts: ``KEPT_POSITIONS`` unchanged, and ``factor`` times as many of the others.

    New positions are interpolated between neighbours, and extrapolated after the last from the last two. CLIP's 77
    positions become 248. Raise ValueError if there are fewer than two positions after those kept, or ``factor`` is not
    positive. Reference: Zhang et al. 2024, "Long-CLIP: Unlocking the Long-Text Capability of CLIP", section 3.2.
    """
    if factor < 1 or len(table) < KEPT_POSITIONS + 2:
        rule = f"table must have at least {KEPT_POSITIONS + 2} positions and factor be positive"
        raise ValueError(f"{rule}, got {len(table)}, {factor}")
    tail = table[KEPT_POSITIONS:]
    following = torch.cat([tail[1:], 2 * tail[-1:] - tail[-2:-1]])
    steps = torch.arange(factor, dtype=table.dtype, device=table.device)[:, None] / factor
    stretched = tail[:, None] + steps * (following - tail)[:, None]
    return torch.cat([table[:KEPT_POSITIONS], stretched.flatten(0, 1)])


def clip_words(texts: Sequence[str], context_length: int) -> Int[Tensor, "text word"]:
    """Return each text's start token, word pieces and end token, padded with zeros to ``context_length``.

    Longer texts keep their first ``context_length - 2`` pieces; the end token is always present.
    """
    if context_length < 3:
        raise ValueError(f"context_length must be at least 3, got {context_length}")
    ids: Tensor = import_part("tokenizer").tokenize(list(texts), context_length=context_length)
    return ids


def clip_pieces() -> tuple[Callable[[str], list[int]], int, int]:
    """Return a function from a text to CLIP's word piece ids; and the start and end tokens."""
    tokenizer = import_part("tokenizer").SimpleTokenizer()
    return tokenizer.encode, tokenizer.sot_token_id, tokenizer.eot_token_id
