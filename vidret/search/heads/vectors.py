"""A grounding head over the frame vectors that an index stores: nothing is decoded, encoded or prepared."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vidret.devices import choose_device
from vidret.encode.encoder import Encoder
from vidret.errors import StoreError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.ground.head import GroundingResult
from vidret.ground.spans import Span
from vidret.ground.vectors import NUM_EXTRA, ground_vectors, place_vectors, stack_words
from vidret.search.heads.base import FPS, GroundedVideo, answer_each, one_torch_thread, shape_spans
from vidret.text import strip_query
from vidret.types import LayerWords


class VectorGrounder:
    """A head that reads stored vectors, with the encoder of the index."""

    def __init__(self, path: Path, encoder: Encoder, *, device: str = "cpu") -> None:
        """Load a head.

        Raises:
            VidretError: It cannot be loaded, or was trained for vectors of another encoder.
        """
        self.path = path.absolute()
        self._head, self.card = load_head(path)
        if self.card.backbone != encoder.name:
            raise VidretError(f"{path}: must read vectors of {self.card.backbone}, got an index of {encoder.name}")
        expected = next(self._head.block.video_map.parameters()).numel() - 2 * self.card.tef - NUM_EXTRA
        if encoder.dim != expected:
            raise VidretError(f"{path}: vectors must have {expected} dimensions, got {encoder.dim} of {encoder.name}")
        self._encoder, self._device = encoder, torch.device(choose_device(device))
        self._head.to(self._device)
        self.fps, self.similarity_weight = self.card.fps or FPS, self.card.similarity_weight

    def read(self, query: str) -> LayerWords:
        """Return the vectors of a query's words, and of the whole."""
        return stack_words(self._encoder.encode_text([query])[0])

    def answer(self, text: LayerWords, video: GroundedVideo) -> list[Span]:
        """Return the spans of a query in one video, best first."""
        return shape_spans(self._query(text, video), self.card, video)

    def answer_many(self, text: LayerWords, videos: Sequence[GroundedVideo]) -> list[list[Span] | None]:
        """Return the spans of a query in each video; None for one of which nothing is stored, which is logged."""
        return answer_each(partial(self.answer, text), videos)

    def rate_frames(self, text: LayerWords, video: GroundedVideo) -> Float[np.ndarray, " frame"]:
        """Return the saliency of each frame of a video; frame n is (n + 0.5) / fps seconds after the first."""
        return self._query(text, video).saliency

    def _query(self, text: LayerWords, video: GroundedVideo) -> GroundingResult:
        stored = None if video.read is None else video.read()
        if stored is None or not stored.segments:
            raise StoreError(f"{strip_query(video.path)}: nothing of it is stored yet")
        vectors = place_vectors(stored.segments, stored.frames, stored.times, first=video.start, fps=self.fps)
        with one_torch_thread():
            return ground_vectors(self._head, vectors, text, fps=self.fps, device=self._device)
