"""Fake encoders, and films whose vectors can be worked out by hand: plain colours, and random mosaics."""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from einops import rearrange, repeat

from vidret.encode.encoder import Encoder
from vidret.engine import Engine
from vidret.types import Frames, Picture, Resize, Sampling, SegmentEmbedding, TextEmbedding
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.sampling import cut_segments

COLOURS = {"red": (200, 30, 30), "green": (30, 170, 30), "blue": (30, 30, 200), "white": (235, 235, 235)}
COLOURS |= {"black": (10, 10, 10), "yellow": (200, 200, 30)}
RATE = 5
_ENCODED = dict[tuple[object, ...], bytes]()  # files of films


def write_pictures(
    path: Path, pictures: Iterable[np.ndarray], rate: int, *, faststart: bool = False, **options: str
) -> Path:
    """Write RGB pictures as H.264; ``faststart`` makes the beginning of the file readable by itself.

    A film is encoded once, since many tests write the same ones.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.stack([*pictures])
    key = hashlib.sha256(shown.data).digest(), shown.shape, path.suffix, rate, faststart, *options.items()
    if key in _ENCODED:
        path.write_bytes(_ENCODED[key])
        return path
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = cast(Any, container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", **options}))
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = shown.shape[1:3]
        stream.codec_context.thread_count = 1  # more take longer to start than small pictures take
        for picture in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    _ENCODED[key] = path.read_bytes()
    return path


def write_film(path: Path, *scenes: tuple[str, float], salt: int = 0) -> Path:
    """Write scenes of (colour, seconds); another ``salt`` gives another content of the same look."""
    pictures = []
    for colour, seconds in scenes:
        picture = np.full((48, 64, 3), COLOURS[colour], dtype=np.uint8)
        picture[:2, :2] = salt
        pictures += [picture] * round(seconds * RATE)
    return write_pictures(path, pictures, RATE)


def write_coloured(folder: Path) -> Path:
    """Write the folders ``films``, of plain colours, and ``index``, by a ``ColourEncoder``."""
    write_film(folder / "films" / "red.mp4", ("red", 3))
    write_film(folder / "films" / "blue.mp4", ("blue", 3))
    write_film(folder / "films" / "both.mp4", ("green", 5), ("red", 4), ("blue", 7))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"])
    return folder


def paint(colour: str) -> Picture:
    """Return an image of one colour."""
    return np.full((40, 40, 3), COLOURS[colour], np.uint8)


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
            colours = [COLOURS[word] for word in text.split() if word in COLOURS]
            # What names no colour points somewhere of its own, always the same.
            seed = sum(map(ord, text))
            vector = np.mean(colours, axis=0) - 110.0 if colours else draw_direction(seed)
            embeddings.append(TextEmbedding(text, unit(vector), unit(vector)[None]))
        return embeddings


@cache
def draw_direction(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(3)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1."""
    scaled: np.ndarray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


DIM = 64


class PatchEncoder:
    """Random projections of image patches and of words, so that every film and text has vectors of its own.

    With ``raw`` it provides the lengths and states that a trained aligner reads.
    """

    dim = DIM
    resize = Resize(shorter=32, crop=32, interpolation="bilinear")

    def __init__(self, name: str = "patches", *, raw: bool = True, num_frames: int = 4) -> None:
        self.name, self.fingerprint, self.raw = name, f"{name}-1", raw
        self.sampling = Sampling(num_frames=num_frames, fps=1.0)
        self.encoded_texts: list[str] = []
        rng = np.random.default_rng(0)
        self._patch, self._frame = rng.standard_normal((2, 3 * 64, DIM)).astype(np.float32) / 192**0.5

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = []
        for frames in batch:
            pixels = frames.pixels.astype(np.float32) / 40 - 3
            patches = rearrange(pixels, "frame (y h) (x w) c -> frame (y x) (h w c)", h=8, w=8)
            rows, lengths = normalize(patches.mean(axis=1) @ self._frame)
            patch_rows, patch_lengths = normalize(
                rearrange(patches @ self._patch, "frame patch dim -> (frame patch) dim")
            )
            video = normalize(rows.mean(axis=0, keepdims=True))[0][0]
            embedding = SegmentEmbedding(video, rows, frames.times)
            if tokens:
                embedding = replace(embedding, tokens=patch_rows)
            if self.raw:
                embedding = replace(embedding, frame_lengths=lengths, token_lengths=patch_lengths if tokens else None)
            embeddings.append(embedding)
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        self.encoded_texts += texts
        return [make_text(text, raw=self.raw) for text in texts]


def normalize(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of unit length, and their original lengths."""
    lengths = np.linalg.norm(rows, axis=-1)
    return (rows / lengths[:, None]).astype(np.float32), lengths.astype(np.float32)


def make_text(text: str, *, raw: bool = True) -> TextEmbedding:
    """Return an embedding in which each word and the sentence has a random vector that depends on its text alone."""
    names = ["<start>", *(text.split() or ["<end>"]), f"<end> {text}"]
    states = np.stack([draw_state(name) for name in names])
    units = normalize(states)[0]
    return TextEmbedding(text, units[-1], units[1:-1], states.astype(np.float32) if raw else None)


@cache
def draw_state(name: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(DIM)


def make_segment(num_frames: int, seed: int = 0, *, raw: bool = True) -> SegmentEmbedding:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    frames = Frames(pixels, np.arange(num_frames, dtype=np.float64))
    return PatchEncoder(raw=raw).encode_frames([frames], tokens=True)[0]


def write_mosaic(path: Path, duration_s: int, seed: int) -> Path:
    """Write a film that shows a new mosaic of 16 random colours every second."""
    mosaics = np.random.default_rng(seed).integers(0, 256, (duration_s, 4, 4, 3), dtype=np.uint8)
    return write_pictures(path, repeat(mosaics, "second y x c -> (second 2) (y 16) (x 16) c"), 2)


def write_mosaics(folder: Path, durations_s: Sequence[int]) -> Path:
    """Write films of mosaics, named ``0.mp4`` and so on, of which none shows what another does."""
    for seed, duration_s in enumerate(durations_s):
        write_mosaic(folder / f"{seed}.mp4", duration_s, seed)
    return folder


def read_film(path: Path, encoder: Encoder) -> list[Frames]:
    """Return the frames of a film's segments, decoded without an index."""
    info = probe(path)
    cuts = cut_segments(info.duration, info.times, encoder.sampling)
    return [read_frames(str(path), times=cut.times, resize=encoder.resize) for cut in cuts]
