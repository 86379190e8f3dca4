"""A grounding head over the frame vectors that an index stores, of any encoder: R2-Tuning with K = 1.

Nothing is decoded, encoded or prepared. The head has one layer. A frame has one token, its vector, followed by two
numbers: its similarity to the query, standardised over the video, and its distance from the frame before. A head over
vectors of an arbitrary space would have to learn both from many labels: what matches, and where the picture changes. A
query has a token for each word, and a last one for the whole query. The two numbers are ours; R2-Tuning reads layers of
CLIP only.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from vidret.devices import choose_device
from vidret.encode.encoder import Encoder
from vidret.errors import StoreError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.ground.head import GroundingHead, GroundingResult
from vidret.ground.spans import Span
from vidret.ground.windows import choose_frames, cut_windows, join_results, place_steps
from vidret.search.heads.base import FPS, GroundedVideo, answer_each, one_torch_thread, shape_spans
from vidret.text import strip_query
from vidret.types import LayerWords, Segment, TextEmbedding

NUM_EXTRA = 2  # inputs besides the vector
_EPS = 1e-6


def place_vectors(
    segments: Sequence[Segment],
    frames: Sequence[Float[np.ndarray, "_frame dim"]],
    times: Sequence[Float64[np.ndarray, " _frame"]],
    *,
    first: float,
    fps: float,
) -> Float32[np.ndarray, "step dim"]:
    """Return the stored vector that is nearest to the middle of each step of a video, up to its first gap.

    Segments are in time order, each with its frames; see ``place_steps``.
    """
    parts = [
        np.asarray(rows, np.float32)[choose_frames(frame_times, segment.start, segment.end, first=first, fps=fps)]
        for segment, rows, frame_times in zip(segments, frames, times, strict=True)
    ]
    placed = place_steps([(segment.start, segment.end) for segment in segments], first=first, fps=fps)
    starts = np.cumsum([0, *(len(part) for part in parts)])
    vectors: Float32[np.ndarray, "step dim"] = np.concatenate(parts)[starts[placed.segments] + placed.offsets]
    return vectors


def make_inputs(
    vectors: Float32[np.ndarray, "step dim"], sentence: Float[np.ndarray, " dim"]
) -> Float32[np.ndarray, "step input"]:
    """Return the head's input of each step for a query: its unit vector, its similarity and its change."""
    similarity = vectors @ sentence.astype(np.float32)
    standardised = (similarity - similarity.mean()) / max(float(similarity.std()), _EPS)
    change = np.concatenate([[0.0], 1 - (vectors[1:] * vectors[:-1]).sum(axis=1)])
    return np.concatenate([vectors, np.stack([standardised, change], axis=1)], axis=1, dtype=np.float32)


def stack_words(text: TextEmbedding) -> LayerWords:
    """Return the head's input of a query: one layer with the vectors of its words, then that of the whole query."""
    return LayerWords(text.text, np.concatenate([text.words, text.sentence[None]])[None].astype(np.float32))


@torch.inference_mode()
def ground_vectors(
    head: GroundingHead,
    vectors: Float32[np.ndarray, "step dim"],
    words: LayerWords,
    *,
    fps: float,
    device: torch.device,
) -> GroundingResult:
    """Return the result of a query in a video, window by window as for a head that reads layers."""
    inputs = torch.from_numpy(make_inputs(vectors, words.layers[0, -1])).to(device)
    query = torch.from_numpy(words.layers)[None].to(device)
    windows = cut_windows(len(inputs))
    results = []
    for window in windows:
        projected = head.prepare([inputs[None, window.first : window.last, None]])
        results += head.decode(head(projected, query), fps=fps)
    return join_results(windows, results, fps=fps)


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
        """Return the vectors of a query's words, and of the whole query."""
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
            raise StoreError(f"{strip_query(video.path)}: no segment is stored yet; index it again")
        vectors = place_vectors(stored.segments, stored.frames, stored.times, first=video.start, fps=self.fps)
        with one_torch_thread():
            return ground_vectors(self._head, vectors, text, fps=self.fps, device=self._device)
