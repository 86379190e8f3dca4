"""On-disk cache of a frozen encoder's last layers for videos and texts, in float16.

For ViT-B/32 a frame takes 307 kB: 150 s at 0.5 frames per second take 23 MB.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from vidret.data.cache.entries import KnownFiles, ReadResult, read_span
from vidret.data.cache.shards import ArrayShards, name_folder
from vidret.data.frames import VideoSpan
from vidret.data.workers import map_in_workers
from vidret.encode.encoder import LayeredEncoder
from vidret.errors import VidretError
from vidret.types import LayerTokens
from vidret.video.probe import VideoInfo
from vidret.video.sampling import at_rate, nearest

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

    def __init__(self, folder: str | Path, encoder: LayeredEncoder, *, num_layers: int, fps: float) -> None:
        """Open the cache below a folder; it need not exist yet."""
        self._resize, self._num_layers, self._fps = encoder.resize, num_layers, fps
        self._settings = {
            "encoder": encoder.fingerprint,
            "layers": num_layers,
            "fps": fps,
            "resize": asdict(self._resize),
            "frames_at_once": encoder.sampling.num_frames,
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
            choose_frames = partial(_choose_at_rate, fps=self._fps)
            read = partial(read_span, choose_frames=choose_frames, resize=self._resize)
            for num_done, result in enumerate(map_in_workers(read, new_spans, num_workers), start=1):
                if result.frames is not None and result.key not in self.shards:
                    self._add_video(result, encoder.encode_layers(result.frames, self._num_layers))
                self.known.record(result)
                if num_done % LOG_EVERY == 0:
                    logger.info("%s: encoded %d of %d videos", self.shards.folder, num_done, len(new_spans))

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
    """Return the values rounded to float16.

    Raises:
        VidretError: A value is not finite, or outside the range of float16.
    """
    with np.errstate(over="ignore"):
        half = np.asarray(values, np.float16)
    if not np.isfinite(half).all():
        invalid = np.asarray(values)[~np.isfinite(half)][0]
        raise VidretError(f"{name}: layers must be finite and below 65,504, got {invalid}")
    return half


def _choose_at_rate(info: VideoInfo, span: VideoSpan, fps: float) -> Int64[np.ndarray, " frame"]:
    return nearest(info.times, info.start + at_rate(info.unbroken_seconds, fps))


def _text_key(text: str) -> str:
    return f"text {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
