"""What a frozen encoder's last layers hold of videos and texts, computed once and kept on the disk in float16.

For ViT-B/32 a frame takes 307 kB: 150 s at 0.5 frames a second take 23 MB.
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

from vidret.data.cache.entries import KnownFiles, Reading, read_part
from vidret.data.cache.shards import ArrayShards, name_folder
from vidret.data.frames import VideoSpan
from vidret.data.workers import map_in_workers
from vidret.encode.encoder import LayeredEncoder
from vidret.errors import VidretError
from vidret.types import LayerTokens
from vidret.video.probe import VideoInfo
from vidret.video.sampling import at_rate, nearest

logger = logging.getLogger(__name__)

TEXTS_AT_ONCE = 256
TOLD_EVERY = 100  # videos


class VideoLayers(NamedTuple):
    """A video's layers, earliest first, read-only; see ``LayerTokens``."""

    layers: tuple[Float[np.ndarray, "frame token width"], ...]
    duration: float
    sizes: tuple[Float[np.ndarray, "frame token"], ...] | None = None
    masks: tuple[Bool[np.ndarray, "frame token"], ...] | None = None


class LayersCache:
    """Layers of videos, looked at ``fps`` times a second, and of texts, in ``ArrayShards``.

    Another encoder, rate or number of layers is another folder. A build may be killed at any time; the next one goes
    on from there.
    """

    def __init__(self, folder: str | Path, encoder: LayeredEncoder, *, num_layers: int, fps: float) -> None:
        """Open the cache below a folder, whether or not there is one."""
        self._resize, self._num_layers, self._fps = encoder.resize, num_layers, fps
        self._about = {"encoder": encoder.fingerprint, "layers": num_layers, "fps": fps, "resize": asdict(self._resize)}
        self._about |= {"frames_at_once": encoder.sampling.num_frames}
        self.shards = ArrayShards(Path(folder) / name_folder("layers", self._about))
        self.known = KnownFiles(self.shards)

    def build(
        self, encoder: LayeredEncoder, parts: Sequence[VideoSpan], texts: Sequence[str], num_workers: int
    ) -> None:
        """Compute what is not known yet: videos are decoded in as many processes, and encoded in this one.

        Raises:
            VidretError: The folder cannot be written, or a reading process died.
            EncoderError: The encoder has fewer layers.
        """
        new_texts = (text for text in dict.fromkeys(texts) if _text_key(text) not in self.shards)
        if not any(self.known.find(part).is_new for part in parts) and next(new_texts, None) is None:
            return
        with self.shards.writing():
            if "about" not in self.shards:
                self.shards.append("about", {}, self._about)
            self._add_texts(encoder, [text for text in dict.fromkeys(texts) if _text_key(text) not in self.shards])
            wanted = [part for part in parts if self.known.find(part).is_new]
            logger.info("%s: %d videos to encode, of %d", self.shards.folder, len(wanted), len(parts))
            read = partial(read_part, choose=partial(_choose, fps=self._fps), resize=self._resize)
            for number, reading in enumerate(map_in_workers(read, wanted, num_workers), start=1):
                if reading.frames is not None and reading.key not in self.shards:
                    self._add_video(reading, encoder.encode_layers(reading.frames, self._num_layers))
                self.known.note(reading)
                if number % TOLD_EVERY == 0:
                    logger.info("%s: %d of %d videos are encoded", self.shards.folder, number, len(wanted))

    def video(self, key: str) -> VideoLayers:
        """Look at a video's layers, without copying.

        Raises:
            VidretError: What is on the disk is damaged.
        """
        arrays, numbers = self.shards.read(key), range(self._num_layers)
        sizes = tuple(arrays[f"sizes{number}"] for number in numbers) if "sizes0" in arrays else None
        masks = tuple(arrays[f"mask{number}"] for number in numbers) if "mask0" in arrays else None
        layers = tuple(arrays[f"layer{number}"] for number in numbers)
        return VideoLayers(layers, self.shards.facts(key)["duration"], sizes, masks)

    def words(self, text: str) -> Float[np.ndarray, "layer word width"]:
        """Look at a text's layers, without copying.

        Raises:
            VidretError: It is not there, or damaged.
        """
        key = _text_key(text)
        if key not in self.shards:
            raise VidretError(f"{self.shards.folder}: must hold the layers of every query, got none of {text!r}")
        return self.shards.read(key)["words"]

    def _add_texts(self, encoder: LayeredEncoder, texts: Sequence[str]) -> None:
        waiting: Iterator[str] = iter(texts)
        while batch := list(islice(waiting, TEXTS_AT_ONCE)):
            for words in encoder.encode_text_layers(batch, self._num_layers):
                self.shards.append(_text_key(words.text), {"words": as_half(words.layers, words.text)})

    def _add_video(self, reading: Reading, tokens: LayerTokens) -> None:
        named = {"layer": tuple(as_half(layer, reading.part.path) for layer in tokens.layers)}
        named |= {"sizes": tokens.sizes or (), "mask": tokens.masks or ()}
        arrays = {f"{name}{number}": part for name, parts in named.items() for number, part in enumerate(parts)}
        self.shards.append(reading.key, arrays, {"duration": reading.duration, "lost": reading.lost})


def as_half(values: Float[np.ndarray, "*shape"], name: str) -> Float[np.ndarray, "*shape"]:
    """Round to float16.

    Raises:
        VidretError: A value is not finite, or not in float16.
    """
    with np.errstate(over="ignore"):
        half = np.asarray(values, np.float16)
    if not np.isfinite(half).all():
        raise VidretError(
            f"{name}: layers must be finite and below 65,504, got {np.asarray(values)[~np.isfinite(half)][0]}"
        )
    return half


def _choose(info: VideoInfo, part: VideoSpan, fps: float) -> Int64[np.ndarray, " frame"]:
    return nearest(info.times, info.start + at_rate(info.unbroken_seconds, fps))


def _text_key(text: str) -> str:
    return f"text {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
