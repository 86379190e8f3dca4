"""On-disk cache of a frozen encoder's last layers for videos and texts, in float16.

Videos are cut into segments and sampled as in an index, so that a head trains on the features of its later use, even if
an encoder encodes a segment as a whole, or frames that hardly differ share a picture. Of these frames, the cache has
those that a head reads at its own rate (see ``vidret.ground.windows``).

For ViT-B/32 a frame takes 307 kB: 150 s at 0.5 frames per second take 23 MB.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vidret.data.cache_entries import CacheEntries, Entry, try_entry
from vidret.data.records import VideoSpan
from vidret.encode.clip.outputs import join_layers
from vidret.encode.encoder import LayeredEncoder, encode_shared_layers
from vidret.errors import DecodeError, VidretError
from vidret.ground.windows import choose_frames, place_steps
from vidret.types import Sampling
from vidret.video.probe import probe
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool

TEXT_BATCH_SIZE = 256


class VideoLayers(NamedTuple):
    """A video's layers, earliest first, and its duration and start in seconds; see ``LayerTokens``."""

    layers: tuple[Float[np.ndarray, "frame _token width"], ...]
    duration: float
    sizes: tuple[Float[np.ndarray, "frame _token"], ...] | None = None
    masks: tuple[Bool[np.ndarray, "frame _token"], ...] | None = None
    start: float = 0.0


class DecodedVideo(NamedTuple):
    """The segments of a whole file as in an index, its start and duration in seconds, and a description of any loss."""

    path: str
    segments: Sequence[DecodedSegment]
    start_s: float
    duration_s: float
    lost: str


def decode_video(span: VideoSpan, *, pool: DecodePool) -> DecodedVideo:
    """Decode a whole file, with the sampling of the pool."""
    segments: list[DecodedSegment] = []
    start_s, lost = 0.0, ""
    for message in pool.stream(span.path):
        match message:
            case OpenedVideo():
                start_s = message.start
            case DecodedSegment():
                segments.append(message)
            case Finished():
                lost = message.salvaged
    if not segments:
        raise DecodeError(span.path, "no frame of it can be read")
    info = probe(span.path)
    return DecodedVideo(span.path, segments, start_s, info.unbroken_seconds, lost or info.damage)


class LayersCache:
    """An on-disk cache of the layers of videos, sampled at ``fps`` frames per second, and of texts.

    Each combination of encoder, rate and number of layers has its own folder.
    """

    def __init__(
        self, folder: str | Path, encoder: LayeredEncoder, *, num_layers: int, fps: float, shots: bool = True
    ) -> None:
        """Open the cache below a folder, which need not exist yet. ``shots``: whether segments follow shots."""
        self._resize, self._num_layers, self._fps = encoder.resize, num_layers, fps
        self._sampling, self._follows_shots = encoder.sampling, shots and not encoder.sampling.whole
        settings = {
            "encoder": encoder.fingerprint,
            "layers": num_layers,
            "fps": fps,
            "resize": asdict(self._resize),
            "frames_at_once": encoder.sampling.num_frames,
            "sampling_fps": encoder.sampling.fps,
            "segments": "shots" if self._follows_shots else "grid",
            "facts": ("duration", "start"),
        }
        self.entries = CacheEntries(folder, "layers", settings)

    def build(
        self, encoder: LayeredEncoder, spans: Sequence[VideoSpan], texts: Sequence[str], num_workers: int
    ) -> None:
        """Compute missing layers. Videos are decoded in ``num_workers`` processes and encoded in this one.

        Raises:
            VidretError: The folder cannot be written.
            EncoderError: The encoder has fewer layers.
        """
        missing = iter([text for text in dict.fromkeys(texts) if _text_key(text) not in self.entries])
        while batch := list(islice(missing, TEXT_BATCH_SIZE)):
            for words in encoder.encode_text_layers(batch, self._num_layers):
                self.entries.write(_text_key(words.text), ({"words": to_float16(words.layers, words.text)}, {}))
        self.entries.build(spans, partial(self._encode_all, encoder, num_workers=max(1, num_workers)))

    def _encode_all(self, encoder: LayeredEncoder, spans: Sequence[VideoSpan], num_workers: int) -> Iterator[Entry]:
        """Yield the entries of files, in order; at most ``num_workers`` files are decoded ahead."""
        pool = DecodePool(
            num_workers,
            resize=self._resize,
            sampling=Sampling(self._sampling.num_frames, self._sampling.fps),
            shot_sampling="exact" if self._follows_shots else None,
        )
        with pool, ThreadPoolExecutor(num_workers) as threads:
            waiting: deque[Future[DecodedVideo]] = deque()

            def encode(decoding: Future[DecodedVideo]) -> Entry:
                return self._encode(encoder, decoding.result())

            for span in spans:
                waiting.append(threads.submit(decode_video, span, pool=pool))
                if len(waiting) > num_workers:
                    yield try_entry(waiting.popleft(), make=encode)
            while waiting:
                yield try_entry(waiting.popleft(), make=encode)

    def _encode(self, encoder: LayeredEncoder, video: DecodedVideo) -> Entry:
        """Return an entry with the layers of the frames that a head reads at its rate."""
        parts = []
        for segment in video.segments:
            frames = segment.frames
            chosen = choose_frames(frames.times, segment.start, segment.end, first=video.start_s, fps=self._fps)
            parts.append(
                encode_shared_layers(
                    encoder, frames.pictures, frames.times, frames.rows, self._num_layers, chosen=chosen
                )
            )
        placed = place_steps(
            [(segment.start, segment.end) for segment in video.segments], first=video.start_s, fps=self._fps
        )
        starts = np.cumsum([0, *(len(part.times) for part in parts)])
        tokens = join_layers(parts).take(starts[placed.segments] + placed.offsets)
        by_name = {
            "layer": tuple(to_float16(layer, video.path) for layer in tokens.layers),
            "sizes": tokens.sizes or (),
            "mask": tokens.masks or (),
        }
        arrays = {f"{name}{index}": array for name, arrays in by_name.items() for index, array in enumerate(arrays)}
        return arrays, {"duration": video.duration_s, "start": video.start_s, "lost": video.lost}

    def read_video(self, key: str) -> VideoLayers:
        """Return a video's layers.

        Raises:
            VidretError: The file is missing or damaged.
        """
        (arrays, facts), indices = self.entries.read(key), range(self._num_layers)
        return VideoLayers(
            layers=tuple(arrays[f"layer{index}"] for index in indices),
            duration=facts["duration"],
            sizes=tuple(arrays[f"sizes{index}"] for index in indices) if "sizes0" in arrays else None,
            masks=tuple(arrays[f"mask{index}"] for index in indices) if "mask0" in arrays else None,
            start=facts["start"],
        )

    def read_text(self, text: str) -> Float[np.ndarray, "layer word width"]:
        """Return a text's layers.

        Raises:
            VidretError: The cache lacks the text, or its file is damaged.
        """
        if _text_key(text) not in self.entries:
            raise VidretError(f"{self.entries.folder}: must contain the layers of every query, got none for {text!r}")
        return self.entries.read(_text_key(text))[0]["words"]


def to_float16(values: Float[np.ndarray, "*shape"], name: str) -> Float[np.ndarray, "*shape"]:
    """Return the values rounded to float16."""
    with np.errstate(over="ignore"):
        half = np.asarray(values, np.float16)
    if not np.isfinite(half).all():
        invalid = np.asarray(values)[~np.isfinite(half)][0]
        raise VidretError(f"{name}: layers must be finite and below 65,504, got {invalid}")
    return half


def _text_key(text: str) -> str:
    return f"text {text}"
