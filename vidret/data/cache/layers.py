"""On-disk cache of a frozen encoder's last layers for videos and texts, in float16.

Videos are cut into segments and sampled as an index does, so that a head trains on the features that it is used with:
also where an encoder sees a segment as a whole, or frames that hardly differ share a picture. Of these frames, the
cache has those that a head reads at its own rate (see ``vidret.ground.windows``).

For ViT-B/32 a frame takes 307 kB: 150 s at 0.5 frames per second take 23 MB.
"""

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vidret.data.cache.entries import KnownFiles, ReadResult, SegmentsResult, read_segments
from vidret.data.cache.shards import ArrayShards, name_folder
from vidret.data.frames import VideoSpan
from vidret.encode.clip.outputs import join_layers
from vidret.encode.encoder import LayeredEncoder, encode_shared_layers
from vidret.errors import VidretError
from vidret.ground.windows import choose_frames, place_steps
from vidret.types import LayerTokens
from vidret.video.workers.pool import DecodePool

logger = logging.getLogger(__name__)

TEXT_BATCH_SIZE = 256
LOG_EVERY = 100  # videos


class VideoLayers(NamedTuple):
    """A video's layers as read-only arrays, earliest first, and its duration in seconds; see ``LayerTokens``."""

    layers: tuple[Float[np.ndarray, "frame _token width"], ...]
    duration: float
    sizes: tuple[Float[np.ndarray, "frame _token"], ...] | None = None
    masks: tuple[Bool[np.ndarray, "frame _token"], ...] | None = None


class LayersCache:
    """An on-disk cache of the layers of videos, sampled at ``fps`` frames per second, and of texts.

    Each combination of encoder, rate and number of layers has a folder of its own. An interrupted build can be resumed.
    """

    def __init__(
        self, folder: str | Path, encoder: LayeredEncoder, *, num_layers: int, fps: float, shots: bool = True
    ) -> None:
        """Open the cache below a folder; it need not exist yet. ``shots``: whether segments follow shots."""
        self._resize, self._num_layers, self._fps = encoder.resize, num_layers, fps
        self._sampling, self._follows_shots = encoder.sampling, shots and not encoder.sampling.whole
        self._settings = {
            "encoder": encoder.fingerprint,
            "layers": num_layers,
            "fps": fps,
            "resize": asdict(self._resize),
            "frames_at_once": encoder.sampling.num_frames,
            "sampling_fps": encoder.sampling.fps,
            "segments": "shots" if self._follows_shots else "grid",
        }
        self.shards = ArrayShards(Path(folder) / name_folder("layers", self._settings))
        self.known = KnownFiles(self.shards)

    def build(
        self, encoder: LayeredEncoder, spans: Sequence[VideoSpan], texts: Sequence[str], num_workers: int
    ) -> None:
        """Compute missing layers. Videos are decoded in ``num_workers`` processes and encoded in this one.

        Raises:
            VidretError: The folder cannot be written, or a worker process died.
            EncoderError: The encoder has fewer layers.
        """
        new_texts = (text for text in dict.fromkeys(texts) if _text_key(text) not in self.shards)
        if not any(self.known.find(span).is_new for span in spans) and next(new_texts, None) is None:
            return
        with self.shards.writing():
            if "about" not in self.shards:
                self.shards.append("about", {}, self._settings)
            self._add_texts(encoder, [text for text in dict.fromkeys(texts) if _text_key(text) not in self.shards])
            new_spans = [span for span in spans if self.known.find(span).is_new]
            logger.info("%s: %d of %d videos to encode", self.shards.folder, len(new_spans), len(spans))
            for num_done, result in enumerate(self._read_all(new_spans, num_workers), start=1):
                if result.segments and result.read.key not in self.shards:
                    self._add_video(result.read, self._encode(encoder, result))
                self.known.record(result.read)
                if num_done % LOG_EVERY == 0:
                    logger.info("%s: encoded %d of %d videos", self.shards.folder, num_done, len(new_spans))

    def _read_all(self, spans: Sequence[VideoSpan], num_workers: int) -> Iterator[SegmentsResult]:
        """Yield the decoded segments of each file, in order, at most ``num_workers`` files ahead."""
        num_workers = max(1, num_workers)
        pool = DecodePool(
            num_workers,
            resize=self._resize,
            num_frames=self._sampling.num_frames,
            fps=self._sampling.fps,
            shot_sampling="exact" if self._follows_shots else None,
        )
        with pool, ThreadPoolExecutor(num_workers) as threads:
            waiting: deque[Future[SegmentsResult]] = deque()
            for span in spans:
                waiting.append(threads.submit(read_segments, span, pool))
                if len(waiting) > num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _encode(self, encoder: LayeredEncoder, result: SegmentsResult) -> LayerTokens:
        """Return the layers of the frames that a head reads of a video, at its rate."""
        parts = []
        for segment in result.segments:
            frames = segment.frames
            chosen = choose_frames(frames.times, segment.start, segment.end, first=result.start_s, fps=self._fps)
            parts.append(
                encode_shared_layers(
                    encoder, frames.pictures, frames.times, frames.rows, self._num_layers, chosen=chosen
                )
            )
        placed = place_steps(
            [(segment.start, segment.end) for segment in result.segments], first=result.start_s, fps=self._fps
        )
        starts = np.cumsum([0, *(len(part.times) for part in parts)])
        return join_layers(parts).take(starts[placed.segments] + placed.offsets)

    def read_video(self, key: str) -> VideoLayers:
        """Return a video's layers as views of the cache.

        Raises:
            VidretError: The data on disk is corrupt.
        """
        arrays, indices = self.shards.read(key), range(self._num_layers)
        return VideoLayers(
            layers=tuple(arrays[f"layer{index}"] for index in indices),
            duration=self.shards.facts(key)["duration"],
            sizes=tuple(arrays[f"sizes{index}"] for index in indices) if "sizes0" in arrays else None,
            masks=tuple(arrays[f"mask{index}"] for index in indices) if "mask0" in arrays else None,
        )

    def read_text(self, text: str) -> Float[np.ndarray, "layer word width"]:
        """Return a text's layers as a view of the cache.

        Raises:
            VidretError: The cache lacks the text, or its data is corrupt.
        """
        key = _text_key(text)
        if key not in self.shards:
            raise VidretError(f"{self.shards.folder}: must contain the layers of every query, got none for {text!r}")
        return self.shards.read(key)["words"]

    def _add_texts(self, encoder: LayeredEncoder, texts: Sequence[str]) -> None:
        pending: Iterator[str] = iter(texts)
        while batch := list(islice(pending, TEXT_BATCH_SIZE)):
            for words in encoder.encode_text_layers(batch, self._num_layers):
                self.shards.append(_text_key(words.text), {"words": to_float16(words.layers, words.text)})

    def _add_video(self, result: ReadResult, tokens: LayerTokens) -> None:
        by_name = {
            "layer": tuple(to_float16(layer, result.span.path) for layer in tokens.layers),
            "sizes": tokens.sizes or (),
            "mask": tokens.masks or (),
        }
        arrays = {f"{name}{index}": array for name, arrays in by_name.items() for index, array in enumerate(arrays)}
        self.shards.append(result.key, arrays, {"duration": result.duration_s, "lost": result.lost})


def to_float16(values: Float[np.ndarray, "*shape"], name: str) -> Float[np.ndarray, "*shape"]:
    """Return the values rounded to float16."""
    with np.errstate(over="ignore"):
        half = np.asarray(values, np.float16)
    if not np.isfinite(half).all():
        invalid = np.asarray(values)[~np.isfinite(half)][0]
        raise VidretError(f"{name}: layers must be finite and below 65,504, got {invalid}")
    return half


def _text_key(text: str) -> str:
    return f"text {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
