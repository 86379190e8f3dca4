"""Batches of text and video embeddings, padded to tensors: the input of the aligners."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from vidret.align.stacking import Padded, pad_rows, unpack_arrays
from vidret.errors import AlignerError
from vidret.types import SegmentEmbedding, TextEmbedding

Stacked = tuple[Shaped[Tensor, "item row column"], Bool[Tensor, "item row"] | None]
Fields = TypeVar("Fields", bound=tuple[Tensor | None, ...])


class TextBatch(NamedTuple):
    """Texts; ``mask`` is False where a word is padding, None if none is."""

    sentences: Float[Tensor, "text dim"]
    words: Float[Tensor, "text word dim"]
    mask: Bool[Tensor, "text word"] | None = None

    def to(self, dtype: torch.dtype) -> "TextBatch":
        """Return a copy with vectors of another dtype."""
        return TextBatch(self.sentences.to(dtype), self.words.to(dtype), self.mask)


class VideoBatch(NamedTuple):
    """Videos of one segment each, as encoded.

    ``tokens`` are the patches of all frames, frame by frame, equally many for each frame; or, with ``sizes``, any
    number of merged tokens of the whole video. Masks are False where there is padding, None if there is none.
    """

    frames: Float[Tensor, "video frame dim"]
    tokens: Float[Tensor, "video token dim"] | None = None
    frame_mask: Bool[Tensor, "video frame"] | None = None
    token_mask: Bool[Tensor, "video token"] | None = None
    sizes: Float[Tensor, "video token"] | None = None

    def to(self, dtype: torch.dtype) -> "VideoBatch":
        """Return a copy with vectors of another dtype; sizes are unchanged."""
        tokens = None if self.tokens is None else self.tokens.to(dtype)
        return self._replace(frames=self.frames.to(dtype), tokens=tokens)


def map_fields(batch: Fields, change: Callable[[Tensor], Tensor]) -> Fields:
    """Return a named tuple of tensors with each of them changed; None stays None."""
    changed = [None if field is None else change(field) for field in batch]
    return type(batch)(*changed)  # type: ignore[arg-type]


def move_batch(batch: Fields, device: torch.device | str) -> Fields:
    """Return a named tuple of tensors on a device."""
    return map_fields(batch, lambda field: field.to(device))


def take_rows(batch: Fields, rows: Tensor | slice) -> Fields:
    """Return the selected texts or videos, in the given order."""
    return map_fields(batch, lambda field: field[rows])


def fill_mask(mask: Tensor | None, rows: Tensor) -> Bool[Tensor, "item row"]:
    """Return the mask of rows (item, row, dim), or one that is all True if there is none.

    Raises:
        ValueError: The mask is not bool or has the wrong shape.
    """
    if mask is None:
        return torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
    if mask.dtype != torch.bool or mask.shape != rows.shape[:2]:
        raise ValueError(f"mask must be bool {tuple(rows.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    return mask


def collate_texts(texts: Sequence[TextEmbedding], *, raw: bool = False) -> TextBatch:
    """Collate texts, padded to the longest; ``raw`` ones have the text tower's states, from start to end token.

    Raises:
        AlignerError: The encoder does not provide raw states.
    """
    if not raw:
        words, mask = stack_rows([text.words for text in texts])
        return TextBatch(torch.from_numpy(np.stack([text.sentence for text in texts])).float(), words, mask)
    states = [text.states for text in texts if text.states is not None]
    if len(states) < len(texts):
        raise AlignerError("the encoder of a trained aligner must be a vidret CLIP model, got one without raw states")
    words, mask = stack_rows(states)
    return TextBatch(torch.from_numpy(np.stack([state[-1] for state in states])).float(), words, mask)


def collate_segments(segments: Sequence[SegmentEmbedding], *, raw: bool = False) -> VideoBatch:
    """Collate segments, with frames and tokens padded to the longest.

    Tokens are omitted unless all segments have them, and sizes if every token is a single patch. ``raw`` undoes the
    scaling of vectors to unit length.

    Raises:
        AlignerError: The encoder does not provide the original lengths of vectors.
    """
    frames, frame_mask = stack_rows([_rescale(segment.frames, segment.frame_lengths, raw=raw) for segment in segments])
    segment_tokens = [
        _rescale(segment.tokens, segment.token_lengths, raw=raw) for segment in segments if segment.tokens is not None
    ]
    if len(segment_tokens) < len(segments):
        return VideoBatch(frames, frame_mask=frame_mask)
    tokens, token_mask = stack_rows(segment_tokens)
    counts = [
        np.ones(len(rows), np.float32) if segment.sizes is None else segment.sizes
        for rows, segment in zip(segment_tokens, segments, strict=True)
    ]
    if all((count == 1).all() for count in counts):
        return VideoBatch(frames, tokens, frame_mask, token_mask)
    sizes = stack_rows([count[:, None] for count in counts])[0].squeeze(-1).clamp(min=1)
    return VideoBatch(frames, tokens, frame_mask, token_mask, sizes)


def _rescale(
    units: Float[np.ndarray, "row dim"], lengths: Float[np.ndarray, " row"] | None, *, raw: bool
) -> Float[np.ndarray, "row dim"]:
    """Return unit vectors, scaled to their original lengths if ``raw``."""
    if not raw:
        return units
    if lengths is None:
        raise AlignerError("the encoder of a trained aligner must be a vidret CLIP model, got one without lengths")
    rescaled: Float[np.ndarray, "row dim"] = units * lengths[:, None]
    return rescaled


def stack_rows(
    arrays: Sequence[Float[np.ndarray, "_row dim"]],
) -> tuple[Float[Tensor, "item row dim"], Bool[Tensor, "item row"] | None]:
    """Stack arrays as ``pad_rows`` does, and return float32 tensors."""
    rows, mask = _as_tensors(pad_rows(arrays))
    return rows.float(), mask


def unpack_stacked(packed: Sequence[bytes | memoryview]) -> list[Stacked]:
    """Deserialize items as ``unpack_arrays`` does, and return tensors."""
    return [_as_tensors(padded) for padded in unpack_arrays(packed)]


def _as_tensors(padded: Padded) -> Stacked:
    rows, mask = padded
    return torch.from_numpy(rows), None if mask is None else torch.from_numpy(mask)
