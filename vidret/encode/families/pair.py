"""Two encoders as one: vectors are concatenated, so that a similarity is the weighted mean of both similarities.

A pair works wherever an encoder does. If one encoder sees whole segments and the other single frames, both rank videos,
and only the latter distinguishes the frames of a segment.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, UInt8

from vidret.encode.encoder import Encoder, average_units, has_frame_vectors
from vidret.encode.names import PAIR, ModelName, parse_model_name
from vidret.errors import EncoderError
from vidret.types import Frames, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

SCALE = 100.0  # factor of cosines in CLIP's softmax, and roughly in similar models


class PairEncoder:
    """Two encoders of the same frames."""

    def __init__(self, first: Encoder, second: Encoder) -> None:
        """Join two encoders: the second gets frames with the first one's crop, at its own size.

        Raise EncoderError if one samples whole videos and the other segments.
        """
        if first.sampling.whole != second.sampling.whole:
            raise EncoderError(f"{first.name} and {second.name} must both see whole videos, or segments")
        self._parts = first, second
        names = [parse_model_name(encoder.name) for encoder in self._parts]
        parts = (str(ModelName(part.base, part.merge)) for part in names)  # common marks are written once, at the end
        self.name = str(replace(names[0], base=PAIR.join(parts), merge="off"))
        self.dim = first.dim + second.dim
        self.device = str(getattr(first, "device", "cpu"))
        self.fingerprint = hashlib.blake2b(
            f"{first.fingerprint} {second.fingerprint}".encode(), digest_size=16
        ).hexdigest()
        largest = max(first.resize.crop, second.resize.crop)
        self.resize = replace(first.resize, shorter=first.resize.shorter * largest // first.resize.crop, crop=largest)
        if first.resize.squash != second.resize.squash:
            logger.warning("%s sees frames cut as for %s, not as in its training", second.name, first.name)
        segmented = [encoder for encoder in self._parts if not has_frame_vectors(encoder)]
        self.sampling = (segmented or [first])[0].sampling
        self.has_frame_vectors = len(segmented) < 2
        self.encodes_frames_alone = all(getattr(encoder, "encodes_frames_alone", False) for encoder in self._parts)
        scales = np.array([getattr(encoder, "scale", SCALE) for encoder in self._parts], np.float32)
        self._weights = scales / np.linalg.norm(scales)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment by both.

        Raise EncoderError if ``tokens`` are requested, since those of two encoders cannot be joined.
        """
        if tokens:
            raise EncoderError(f"rerank must be none or mean for a pair of models, got tokens of {self.name}")
        rows = []
        for encoder in self._parts:
            size = encoder.resize.crop
            resized = [replace(frames, pixels=resize_square(frames.pixels, size)) for frames in batch]
            rows.append([embedding.frames for embedding in encoder.encode_frames(resized)])
        joined = [
            np.concatenate(pair, axis=1, dtype=np.float32) / np.float32(np.sqrt(2)) for pair in zip(*rows, strict=True)
        ]
        return [
            SegmentEmbedding(average_units(units), units, frames.times)
            for units, frames in zip(joined, batch, strict=True)
        ]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text by both, weighted by their scales: a similarity is the scaled sum of their logits."""
        pairs = zip(*(encoder.encode_text(texts) for encoder in self._parts), strict=True)
        return [self._join(text, [part.sentence for part in pair]) for text, pair in zip(texts, pairs, strict=True)]

    def _join(self, text: str, sentences: Sequence[Float32[np.ndarray, " _dim"]]) -> TextEmbedding:
        weighted = [weight * sentence for weight, sentence in zip(self._weights, sentences, strict=True)]
        sentence = np.concatenate(weighted, dtype=np.float32)
        return TextEmbedding(text, sentence, sentence[None])


def resize_square(pixels: UInt8[np.ndarray, "frame side side 3"], size: int) -> UInt8[np.ndarray, "frame size size 3"]:
    """Return square frames resized to ``size``, with antialiasing."""
    if pixels.shape[1] == size:
        return pixels
    import torch
    from torch.nn import functional

    images = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
    resized = functional.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
