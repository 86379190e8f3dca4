"""An encoder of your own in twenty lines: PYTHONPATH=examples vidret index VIDEOS --model colour_encoder:ColourNames.

A frame's vector is its mean colour, a text's the mean of the colours that it names. Vectors have unit length.
"""

from collections.abc import Sequence

import numpy as np

from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


def unit(rows: np.ndarray) -> np.ndarray:
    """Return vectors (..., dim) scaled to unit length."""
    scaled: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
    return scaled


class ColourNames:
    """Attributes and methods are those of ``vidret.encode.encoder.Encoder``."""

    name = "colour names"  # set by vidret to the name it was loaded by
    dim = 3
    fingerprint = "colour names 1"  # must change with whatever changes vectors
    resize = Resize(shorter=32, crop=32)
    sampling = Sampling(num_frames=8, fps=1.0)
    encodes_frames_alone = True  # a frame's vector does not depend on its neighbours

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each item as one segment."""
        rows = [unit(frames.pixels.mean(axis=(1, 2)) + 0.01) for frames in batch]
        return [SegmentEmbedding(unit(row.mean(0)), row, frames.times) for row, frames in zip(rows, batch, strict=True)]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one that names no colour is grey."""
        words = [
            [COLOURS[word] for word in text.lower().split() if word in COLOURS] or [(1.0, 1.0, 1.0)] for text in texts
        ]
        rows = [unit(np.array(colours)) for colours in words]
        return [TextEmbedding(text, unit(row.mean(0)), row) for text, row in zip(texts, rows, strict=True)]
