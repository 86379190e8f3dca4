"""Frames for training: sampled by fixed rules or at random, and decoded on demand or read from a cache on disk.

Each rule first lists a video's candidate frames, and random sampling draws among them. A cache of the candidates
therefore yields exactly the frames that decoding yields.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

import numpy as np
from jaxtyping import Int64, UInt8
from torch.utils.data import DataLoader

from vidret.data.cache_entries import CacheEntries, Entry, try_entry
from vidret.data.records import VideoSpan
from vidret.errors import DecodeError, VidretError
from vidret.types import Frames, Resize, Sampling
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import read_chosen
from vidret.video.sampling import choose_frames_of_whole, cut_equally, fill_row, nearest

logger = logging.getLogger(__name__)

SamplingKind = Literal["clip4clip", "tempme", "segments"]  # rules of ``Sampling`` that count frames


@dataclass(frozen=True, slots=True)
class FrameSampling:
    """A rule that selects frames, in order of time.

    Attributes:
        kind: The rule of ``Sampling``, which an index made with the model follows, too.
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
        """Return whether an index with this sampling has the same frames of whole videos, except for their number."""
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

    A frame that cannot be decoded is replaced by its nearest neighbour, and ``salvaged`` then has the number decoded.

    Raises:
        DecodeError: No frame can be decoded.
    """
    frames = read_chosen(info, indices, resize=resize)
    rows = nearest(frames.times, info.times[indices])
    return Frames(frames.pixels[rows], frames.times[rows], frames.salvaged)


Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = UInt8[np.ndarray, "frame height width 3"]
PREFETCH = 2  # results per worker


def map_in_workers(function: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[Result]:
    """Yield the result for each item, in order. With ``num_workers`` 0, everything runs in this process."""
    loader = DataLoader(
        cast(Any, items),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        collate_fn=cast(Any, function),  # called with one item, since there are no batches
    )
    results = iter(loader)
    for index in range(len(items)):
        try:
            result = next(results)
        except RuntimeError as error:
            if "worker" not in str(error) or ("exited unexpectedly" not in str(error) and "killed" not in str(error)):
                raise
            pending = ", ".join(str(item) for item in items[index : index + num_workers * (PREFETCH + 1)])
            raise VidretError(f"a worker process died while reading one of these: {pending}") from error
        yield result


class FrameSource(Protocol):
    """A source of sampled frames.

    Attributes:
        unreadable: Reason for each video that cannot be read.
        salvaged: Description of the loss for each video that can be read only in part.
    """

    unreadable: dict[str, str]
    salvaged: dict[str, str]

    def read(self, video_id: str, rng: np.random.Generator) -> Pixels:
        """Return the sampled frames of a video. Random sampling draws from ``rng``."""
        ...


class DecodedFrames:
    """A source that decodes frames on each request."""

    def __init__(
        self, spans: Mapping[str, VideoSpan], sampling: FrameSampling, resize: Resize, num_workers: int
    ) -> None:
        """Probe every file, in ``num_workers`` processes."""
        self._spans, self._sampling, self._resize = spans, sampling, resize
        probed = dict(zip(spans, map_in_workers(try_probe, list(spans.values()), num_workers), strict=True))
        self._infos = {video_id: info for video_id, info in probed.items() if isinstance(info, VideoInfo)}
        self.unreadable = {video_id: reason for video_id, reason in probed.items() if isinstance(reason, str)}
        self.salvaged = {video_id: info.damage for video_id, info in self._infos.items() if info.damage}

    def read(self, video_id: str, rng: np.random.Generator) -> Pixels:
        """Return the sampled frames of a video.

        Raises:
            DecodeError: None of these frames can be decoded.
        """
        info = self._infos[video_id]
        indices = find_candidate_frames(info, self._spans[video_id], self._sampling)
        frames = read_indices(info, indices[self._sampling.draw(len(indices), rng)], self._resize)
        if frames.salvaged:
            logger.warning("%s: %s; the others are replaced by their neighbours", info.path, frames.salvaged)
        return frames.pixels


class FramesCache:
    """An on-disk cache of candidate frames, with one folder per sampling and frame size."""

    def __init__(self, folder: str | Path, sampling: FrameSampling, resize: Resize) -> None:
        """Open the cache below a folder; it need not exist yet."""
        self.sampling, self._resize = sampling, resize
        settings = {"sampling": sampling.candidate_settings, "resize": asdict(resize)}
        self.entries = CacheEntries(folder, "frames", settings)

    def build(self, spans: Sequence[VideoSpan], num_workers: int) -> None:
        """Read the videos that are new or have changed, in ``num_workers`` processes. Failures are recorded.

        Raises:
            VidretError: The folder cannot be written, or a worker process died.
        """
        make = partial(try_entry, make=partial(read_candidates, sampling=self.sampling, resize=self._resize))
        self.entries.build(spans, partial(map_in_workers, make, num_workers=num_workers))


class CachedFrames:
    """A source that reads frames from a ``FramesCache``."""

    def __init__(self, cache: FramesCache, spans: Mapping[str, VideoSpan]) -> None:
        """Look up every video in the cache."""
        self._entries, self._sampling = cache.entries, cache.sampling
        cached = cache.entries.look_up(spans)
        self._keys, self.unreadable, self.salvaged = cached.keys, cached.unreadable, cached.salvaged

    def read(self, video_id: str, rng: np.random.Generator) -> Pixels:
        """Return the sampled frames of a video.

        Raises:
            VidretError: The file is missing or damaged.
        """
        pixels = self._entries.read(self._keys[video_id])[0]["pixels"]
        return pixels[self._sampling.draw(len(pixels), rng)] if self._sampling.is_random else pixels


def try_probe(span: VideoSpan) -> VideoInfo | str:
    """Return the facts of a video, or the reason why it cannot be read or has no frame in the span."""
    try:
        info = probe(span.path)
        find_candidate_frames(info, span, FrameSampling())
    except DecodeError as error:
        return error.reason
    return info


def read_candidates(span: VideoSpan, *, sampling: FrameSampling, resize: Resize) -> Entry:
    """Return the candidate frames of a span as a cache entry."""
    info = probe(span.path)
    frames = read_indices(info, find_candidate_frames(info, span, sampling), resize)
    return {"pixels": frames.pixels}, {"lost": frames.salvaged or info.damage}
