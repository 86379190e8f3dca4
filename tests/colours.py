"""Videos of plain colours, and an encoder that knows colours by name: answers that can be worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

COLOURS = {"red": (200, 30, 30), "green": (30, 170, 30), "blue": (30, 30, 200), "white": (235, 235, 235)}
COLOURS |= {"black": (10, 10, 10), "yellow": (200, 200, 30)}
RATE = 5


def write_film(path: Path, *scenes: tuple[str, float], salt: int = 0) -> Path:
    """Write scenes of (colour, seconds) as h264; another ``salt`` gives another content of the same look."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour, seconds in scenes:
            picture = np.full((48, 64, 3), COLOURS[colour], dtype=np.uint8)
            picture[:2, :2] = salt
            for _ in range(round(seconds * RATE)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


class ColourEncoder:
    """Vectors are colours around the middle grey, so that each colour is nearest to its own name."""

    name = "colours"
    dim = 3
    resize = Resize(shorter=32, crop=32)
    sampling = Sampling(num_frames=4, fps=1.0)

    def __init__(self, fingerprint: str = "colours-1") -> None:
        self.fingerprint = fingerprint
        self.num_frames = 0

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = []
        for frames in batch:
            self.num_frames += len(frames)
            vectors = unit(frames.pixels.reshape(len(frames), -1, 3).mean(axis=1) - 110)
            parts = vectors if tokens else None
            embeddings.append(SegmentEmbedding(unit(vectors.mean(axis=0)), vectors, frames.times, parts))
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        embeddings = []
        for text in texts:
            known = [COLOURS[word] for word in text.split() if word in COLOURS]
            # What names no colour points somewhere of its own, always the same.
            seed = sum(map(ord, text))
            vector = np.mean(known, axis=0) - 110.0 if known else np.random.default_rng(seed).standard_normal(3)
            embeddings.append(TextEmbedding(text, unit(vector), unit(vector)[None]))
        return embeddings


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1."""
    scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled
