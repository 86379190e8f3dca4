"""Frame sampling for training, by fixed rules or at random, and reading the sampled frames.

Each rule first lists a video's candidate frames, and random sampling draws among them. A cache of the candidates
therefore yields exactly the frames that decoding yields.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from vidret.errors import DecodeError, VidretError
from vidret.types import Frames, Resize, Sampling
from vidret.video.probe import VideoInfo
from vidret.video.reader import open_reader
from vidret.video.sampling import choose_frames_of_whole, cut_equally, fill_row, nearest

SamplingKind = Literal["clip4clip", "tempme", "segments"]  # rules of ``Sampling`` that count frames


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """A video file, or its frames from ``start`` to before ``end``, in seconds."""

    path: str
    start: float = 0.0
    end: float = math.inf

    def __str__(self) -> str:
        """Return the path, followed by the times unless the span is the whole file."""
        return self.path if (self.start, self.end) == (0.0, math.inf) else f"{self.path} {self.start:g}..{self.end:g} s"


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """A rule that selects frames, in order of time.

    Attributes:
        kind: The rule of ``Sampling`` that an index made with the model follows, too.
        num_frames: Number of frames of a video.
        num_segments: Number of segments, for ``segments``.
        num_candidates: Number of evenly spaced frames of each segment that ``segments`` draws from at random; 0 for
            fixed positions.

    Raises:
        VidretError: ``num_frames`` is below 1 or no multiple of ``num_segments``, or a number is negative.
    """

    kind: SamplingKind = "tempme"
    num_frames: int = 12
    num_segments: int = 6
    num_candidates: int = 0

    def __post_init__(self) -> None:
        """Validate the numbers."""
        if self.num_frames < 1 or self.num_candidates < 0:
            raise VidretError(
                f"num_frames must be at least 1 and num_candidates at least 0, "
                f"got {self.num_frames} and {self.num_candidates}"
            )
        if self.kind == "segments" and (self.num_segments < 1 or self.num_frames % self.num_segments):
            raise VidretError(
                f"num_frames must be a multiple of num_segments {self.num_segments}, got {self.num_frames}"
            )

    @property
    def is_random(self) -> bool:
        """Whether frames are drawn at random."""
        return self.kind == "segments" and self.num_candidates > 0

    def matches(self, sampling: Sampling) -> bool:
        """Return whether an index by this sampling has the same frames of whole videos, but for their number."""
        return self.kind == sampling.rule and (self.kind != "segments" or self.num_segments == sampling.num_segments)

    @property
    def candidate_settings(self) -> dict[str, Any]:
        """Return the settings that the candidates depend on."""
        if self.is_random:
            return {"kind": self.kind, "segments": self.num_segments, "candidates": self.num_candidates}
        segments = {"segments": self.num_segments} if self.kind == "segments" else {}
        return {"kind": self.kind, "frames": self.num_frames} | segments

    def candidates(self, num_frames: int, fps: float) -> Int64[np.ndarray, " candidate"]:
        """Return the frame indices that may be sampled, in ascending order. A short video repeats some.

        Args:
            num_frames: Number of frames of the video.
            fps: Frame rate of the video.
        """
        if not self.is_random:
            return choose_frames_of_whole(self.kind, num_frames, fps, self.num_frames, num_segments=self.num_segments)
        starts, lengths = cut_equally(num_frames, self.num_segments)
        offsets = np.arange(self.num_candidates) * lengths[:, None] // self.num_candidates
        candidates: Int64[np.ndarray, " candidate"] = (starts[:, None] + offsets).flatten()
        return candidates

    def draw(self, num_candidates: int, rng: np.random.Generator) -> Int64[np.ndarray, " frame"]:
        """Return the indices of the sampled candidates: all of them, or a random choice from each segment."""
        if not self.is_random:
            return np.arange(num_candidates)
        segments = np.arange(num_candidates // self.num_candidates)[:, None]
        drawn = rng.integers(self.num_candidates, size=(len(segments), self.num_frames // self.num_segments))
        return fill_row(np.sort(segments * self.num_candidates + drawn, axis=1), self.num_frames)


def find_candidate_frames(info: VideoInfo, span: VideoSpan, sampling: FrameSampling) -> Int64[np.ndarray, " candidate"]:
    """Return the candidate frame indices within a span.

    Raises:
        DecodeError: No frame is within the span.
    """
    first, last = np.searchsorted(info.times, [span.start, span.end])
    if first == last:
        raise DecodeError(span.path, f"has no frame from {span.start:g} to {span.end:g} s")
    indices: Int64[np.ndarray, " candidate"] = first + sampling.candidates(int(last - first), info.mean_rate)
    return indices


def read_indices(info: VideoInfo, indices: Int64[np.ndarray, " frame"], resize: Resize) -> Frames:
    """Read one frame per index; indices may repeat.

    A frame that cannot be decoded is replaced by its nearest neighbour, and ``salvaged`` then says how many could be.

    Raises:
        DecodeError: No frame can be decoded.
    """
    with open_reader(info, resize=resize) as reader:
        frames = reader.read(indices)
    if len(frames) == 0:
        raise DecodeError(info.path, "no frame could be decoded")
    rows = nearest(frames.times, info.times[indices])
    return Frames(frames.pixels[rows], frames.times[rows], frames.salvaged)
