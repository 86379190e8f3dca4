"""Test double of an encoder that provides its layers."""

from collections.abc import Sequence

import numpy as np

from tests.data.captioned import RESIZE
from vidret.types import Frames, LayerTokens, LayerWords, Sampling, SegmentEmbedding, TextEmbedding

WIDTH, TEXT_WIDTH = 6, 5


class LayeredFake:
    """An encoder with four tokens per frame, the mean colours of its quarters; ``merging`` removes one per layer."""

    name, dim, resize, sampling = "layered", WIDTH, RESIZE, Sampling()

    def __init__(self, fingerprint: str = "one", *, merging: bool = False) -> None:
        self.fingerprint, self._merging = fingerprint, merging
        self.encodes_frames_alone = not merging
        self.num_frames = self.num_texts = 0

    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        self.num_frames += len(frames)
        quarters = (
            frames.pixels.reshape(len(frames), 2, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(len(frames), 4, 3) / 256
        )
        tokens = np.concatenate([quarters, 1 - quarters], axis=2).astype(np.float32)
        layers = tuple(tokens[:, : 4 - self._merging * layer] * (layer + 1) for layer in range(num_layers))
        if not self._merging:
            return LayerTokens(layers, frames.times)
        masks = tuple(np.ones(layer.shape[:2], bool) for layer in layers)
        masks[-1][:, -1] = False
        return LayerTokens(layers, frames.times, tuple(mask * np.float32(2) for mask in masks), masks)

    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        self.num_texts += len(texts)
        return [LayerWords(text, word_layers(text, num_layers)) for text in texts]

    def encode_frames(self, batch: object, *, tokens: bool = False, num_layers: int = 0) -> list[SegmentEmbedding]:
        raise NotImplementedError

    def encode_text(self, texts: object) -> list[TextEmbedding]:
        raise NotImplementedError


def word_layers(text: str, num_layers: int) -> np.ndarray:
    """Return the fake's layers of a text."""
    rng = np.random.default_rng(len(text))
    return rng.standard_normal((num_layers, 2 + len(text.split()), TEXT_WIDTH)).astype(np.float32)
