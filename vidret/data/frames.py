"""Which frames of a video training looks at, and reading them: by fixed rules, or drawn anew each time.

What a rule may ever look at are a video's candidates; a draw chooses among them. So a cache that holds the candidates
gives bit for bit what decoding gives.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from vidret.errors import DecodeError, VidretError
from vidret.types import Frames, Resize
from vidret.video.decode import open_reader
from vidret.video.probe import VideoInfo
from vidret.video.sampling import clip4clip, nearest, uniform

SamplingKind = Literal["clip4clip", "tempme", "segments"]


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """What is read of a file: all of it, or the frames shown from ``start`` to before ``end``, in seconds."""

    path: str
    start: float = 0.0
    end: float = math.inf

    def __str__(self) -> str:
        """Name it."""
        return self.path if (self.start, self.end) == (0.0, math.inf) else f"{self.path} {self.start:g}..{self.end:g} s"


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """How frames are chosen.

    ``clip4clip`` takes a frame a second, at most ``num_frames``: short videos have fewer. ``tempme`` does so, too, but
    spreads ``num_frames`` over short videos. ``segments`` cuts a video into ``num_segments`` equal ones (Prompt
    Switch), and takes as many frames of each: at fixed places, or with ``num_candidates`` above 0 drawn among so many
    of each segment, spread evenly. Frames are in order of time.
    """

    kind: SamplingKind = "tempme"
    num_frames: int = 12
    num_segments: int = 6
    num_candidates: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit."""
        if self.num_frames < 1 or self.num_candidates < 0:
            given = self.num_frames, self.num_candidates
            raise VidretError(
                "num_frames must be at least 1 and num_candidates at least 0, got {} and {}".format(*given)
            )
        if self.kind == "segments" and (self.num_segments < 1 or self.num_frames % self.num_segments):
            raise VidretError(
                f"num_frames must be a multiple of num_segments {self.num_segments}, got {self.num_frames}"
            )

    @property
    def is_random(self) -> bool:
        """Say whether a draw differs from another."""
        return self.kind == "segments" and self.num_candidates > 0

    @property
    def about(self) -> dict[str, Any]:
        """Say what the candidates depend on."""
        if self.is_random:
            return {"kind": self.kind, "segments": self.num_segments, "candidates": self.num_candidates}
        segments = {"segments": self.num_segments} if self.kind == "segments" else {}
        return {"kind": self.kind, "frames": self.num_frames} | segments

    def candidates(self, num_frames: int, rate: float) -> Int64[np.ndarray, " candidate"]:
        """Give the indices of what may be looked at, rising; a short video repeats some.

        Args:
            num_frames: How many frames the video has.
            rate: Its frames a second.
        """
        if self.kind == "clip4clip":
            return clip4clip(num_frames, rate, self.num_frames)
        if self.kind == "tempme":
            seconds: Int64[np.ndarray, " second"] = np.arange(0, num_frames, max(1, round(rate)))
            if len(seconds) < self.num_frames:
                return uniform(num_frames, self.num_frames)
            return np.take(seconds, uniform(len(seconds), self.num_frames))
        starts, lengths = _cut(num_frames, self.num_segments)
        if self.is_random:
            steps = np.arange(self.num_candidates) * lengths[:, None] // self.num_candidates
            spread: Int64[np.ndarray, " candidate"] = (starts[:, None] + steps).flatten()
            return spread
        chunks = self.num_frames // self.num_segments
        steps = np.arange(1, chunks + 1) * (lengths[:, None] // (chunks + 1))
        return _fill(starts[:, None] + steps, self.num_frames)

    def draw(self, num_candidates: int, rng: np.random.Generator) -> Int64[np.ndarray, " frame"]:
        """Choose among as many candidates: all of them, or as chance has it some of each segment."""
        if not self.is_random:
            return np.arange(num_candidates)
        segments = np.arange(num_candidates // self.num_candidates)[:, None]
        chosen = rng.integers(self.num_candidates, size=(len(segments), self.num_frames // self.num_segments))
        return _fill(np.sort(segments * self.num_candidates + chosen, axis=1), self.num_frames)


def find_candidates(info: VideoInfo, part: VideoSpan, sampling: FrameSampling) -> Int64[np.ndarray, " candidate"]:
    """Give the frame indices of a part's candidates.

    Raises:
        DecodeError: No frame is shown in this part.
    """
    first, last = np.searchsorted(info.times, [part.start, part.end])
    if first == last:
        raise DecodeError(part.path, f"shows no frame from {part.start:g} to {part.end:g} s")
    rate = info.average_rate or info.num_frames / info.shown_seconds
    indices: Int64[np.ndarray, " candidate"] = first + sampling.candidates(int(last - first), rate)
    return indices


def read_indices(info: VideoInfo, indices: Int64[np.ndarray, " frame"], resize: Resize) -> Frames:
    """Read the frames of indices, which may repeat: a picture for each.

    In the place of a frame that cannot be read stands its neighbour; ``salvaged`` then says how many could be.

    Raises:
        DecodeError: None of them can be read.
    """
    with open_reader(info, resize=resize) as reader:
        frames = reader.read(indices)
    if len(frames) == 0:
        raise DecodeError(info.path, "no frame could be decoded")
    places = nearest(frames.times, info.times[indices])
    return Frames(frames.pixels[places], frames.times[places], frames.salvaged)


def _cut(num_frames: int, count: int) -> tuple[Int64[np.ndarray, " segment"], Int64[np.ndarray, " segment"]]:
    """Give the first frame of each segment, and how many may be looked at: the last is left out, if it is not alone."""
    edges = np.linspace(0, num_frames, min(count, num_frames) + 1).astype(np.int64)
    return edges[:-1], np.maximum(np.diff(edges) - 1, 1)


def _fill(indices: Int64[np.ndarray, "segment chunk"], num_frames: int) -> Int64[np.ndarray, " frame"]:
    """Lay the frames of all segments in a row, and repeat the last where there are too few."""
    flat = indices.reshape(-1)
    return np.pad(flat, (0, num_frames - len(flat)), mode="edge")
