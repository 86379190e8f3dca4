"""Embeddings of any length, padded to tensors: what the aligner takes in."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidret.errors import AlignerError
from vidret.types import SegmentEmbedding, TextEmbedding


class TextBatch(NamedTuple):
    """Texts; ``mask`` is False where a word is padding, None when all are real."""

    sentences: Float[Tensor, "text dim"]
    words: Float[Tensor, "text word dim"]
    mask: Bool[Tensor, "text word"] | None = None

    def to(self, dtype: torch.dtype) -> "TextBatch":
        """Return the vectors in another precision."""
        return TextBatch(self.sentences.to(dtype), self.words.to(dtype), self.mask)


class VideoBatch(NamedTuple):
    """Videos, one segment each, as an encoder gives them.

    ``tokens`` are the patches of all frames, frame after frame, as many for each; or, with ``sizes``, merged tokens of
    the whole video, in any number. Masks are False where there is padding, None when all is real.
    """

    frames: Float[Tensor, "video frame dim"]
    tokens: Float[Tensor, "video token dim"] | None = None
    frame_mask: Bool[Tensor, "video frame"] | None = None
    token_mask: Bool[Tensor, "video token"] | None = None
    sizes: Float[Tensor, "video token"] | None = None

    def to(self, dtype: torch.dtype) -> "VideoBatch":
        """Return the vectors in another precision; sizes stay as they are."""
        tokens = None if self.tokens is None else self.tokens.to(dtype)
        return self._replace(frames=self.frames.to(dtype), tokens=tokens)


def collate_texts(texts: Sequence[TextEmbedding], *, raw: bool = False) -> TextBatch:
    """Pad texts to the words of the longest; ``raw`` gives what a text tower's states were, markers included.

    Raises:
        AlignerError: Raw states are asked for, and the encoder has none.
    """
    if not raw:
        words, mask = _pad([text.words for text in texts])
        return TextBatch(torch.from_numpy(np.stack([text.sentence for text in texts])).float(), words, mask)
    states = [text.states for text in texts if text.states is not None]
    if len(states) < len(texts):
        raise AlignerError("a trained aligner must have a CLIP model of ours as encoder, got one without raw states")
    words, mask = _pad(states)
    return TextBatch(torch.from_numpy(np.stack([each[-1] for each in states])).float(), words, mask)


def collate_segments(segments: Sequence[SegmentEmbedding], *, raw: bool = False) -> VideoBatch:
    """Pad segments to the frames and tokens of the longest; ``raw`` undoes the scaling to unit length.

    Tokens are left out unless all segments have some; sizes, where every token is one patch.

    Raises:
        AlignerError: Raw vectors are asked for, and the encoder told no lengths.
    """
    frames, frame_mask = _pad([_stretch(segment.frames, segment.frame_lengths, raw=raw) for segment in segments])
    parts = [
        _stretch(segment.tokens, segment.token_lengths, raw=raw) for segment in segments if segment.tokens is not None
    ]
    if len(parts) < len(segments):
        return VideoBatch(frames, frame_mask=frame_mask)
    tokens, token_mask = _pad(parts)
    counts = [
        np.ones(len(part), np.float32) if segment.sizes is None else segment.sizes
        for part, segment in zip(parts, segments, strict=True)
    ]
    if all((count == 1).all() for count in counts):
        return VideoBatch(frames, tokens, frame_mask, token_mask)
    sizes = _pad([count[:, None] for count in counts])[0].squeeze(-1).clamp(min=1)
    return VideoBatch(frames, tokens, frame_mask, token_mask, sizes)


def _stretch(
    units: Float[np.ndarray, "row dim"], lengths: Float[np.ndarray, " row"] | None, *, raw: bool
) -> Float[np.ndarray, "row dim"]:
    """Give rows the lengths they had."""
    if not raw:
        return units
    if lengths is None:
        raise AlignerError("a trained aligner must have a CLIP model of ours as encoder, got one that tells no lengths")
    stretched: Float[np.ndarray, "row dim"] = units * lengths[:, None]
    return stretched


def _pad(rows: Sequence[Float[np.ndarray, "row dim"]]) -> tuple[Tensor, Tensor | None]:
    """Stack what has different numbers of rows, zeros below; the mask is None when all have the same."""
    lengths = [len(each) for each in rows]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.from_numpy(np.stack(rows)).float(), None
    padded = torch.zeros(len(rows), longest, rows[0].shape[-1])
    for row, each in zip(padded, rows, strict=True):
        row[: len(each)] = torch.from_numpy(each)
    return padded, torch.arange(longest) < torch.tensor(lengths)[:, None]
