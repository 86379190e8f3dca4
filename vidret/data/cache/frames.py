"""Sources of training frames: decoded on demand, or decoded once and kept on disk uncompressed."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import UInt8
from torch.utils.data import DataLoader, Dataset

from vidret.data.cache.entries import CacheEntries, Entry, try_entry
from vidret.data.frames import FrameSampling, VideoSpan, find_candidate_frames, read_indices
from vidret.errors import DecodeError, VidretError
from vidret.types import Resize
from vidret.video.probe import VideoInfo, probe

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = UInt8[np.ndarray, "frame height width 3"]
PREFETCH = 2  # results per worker


class _MappedItems(Dataset[Result], Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function, self._items = function, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Result:
        return self._function(self._items[index])


def map_in_workers(function: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[Result]:
    """Yield the result for each item, in order. With ``num_workers`` 0, everything runs in this process."""
    loader = DataLoader(
        _MappedItems(function, items),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        collate_fn=_identity,
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


def _identity(result: Result) -> Result:
    return result


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
    """An on-disk cache of candidate frames; each combination of sampling and frame size has a folder of its own."""

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
        found = cache.entries.look_up(spans)
        self._keys, self.unreadable, self.salvaged = found.keys, found.unreadable, found.salvaged

    def read(self, video_id: str, rng: np.random.Generator) -> Pixels:
        """Return the sampled frames of a video.

        Raises:
            VidretError: The file is missing or damaged.
        """
        pixels = self._entries.read(self._keys[video_id])["pixels"]
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
