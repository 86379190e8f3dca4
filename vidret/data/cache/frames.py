"""The frames that training looks at: decoded when they are needed, or once, and then kept on the disk as they are.

A picture of 224 x 224 takes 150 kB: 12 frames of 10,000 videos take 18 GB.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int64, UInt8

from vidret.data.cache.entries import KnownFiles, read_part
from vidret.data.cache.shards import ArrayShards, name_folder
from vidret.data.frames import FrameSampling, VideoSpan, find_candidates, read_indices
from vidret.data.workers import map_in_workers
from vidret.errors import DecodeError
from vidret.types import Resize
from vidret.video.probe import VideoInfo, probe

logger = logging.getLogger(__name__)

Pixels = UInt8[np.ndarray, "frame height width 3"]
TOLD_EVERY = 500  # videos


class FrameSource(Protocol):
    """Give a video's frames, as chance has it where the sampling leaves something to chance.

    ``unreadable`` says of each video that cannot be read why, ``salvaged`` of each that can be in part what is lost.
    """

    unreadable: dict[str, str]
    salvaged: dict[str, str]

    def read(self, video: str, rng: np.random.Generator) -> Pixels:
        """Read a video by name."""
        ...


class DecodedFrames:
    """Decode the frames of a video each time that they are asked for."""

    def __init__(
        self, parts: Mapping[str, VideoSpan], sampling: FrameSampling, resize: Resize, num_workers: int
    ) -> None:
        """Look into every file once, in as many processes."""
        self._parts, self._sampling, self._resize = parts, sampling, resize
        found = dict(zip(parts, map_in_workers(try_probe, list(parts.values()), num_workers), strict=True))
        self._infos = {video: info for video, info in found.items() if isinstance(info, VideoInfo)}
        self.unreadable = {video: reason for video, reason in found.items() if isinstance(reason, str)}
        self.salvaged = {video: info.damage for video, info in self._infos.items() if info.damage}

    def read(self, video: str, rng: np.random.Generator) -> Pixels:
        """Read a video by name.

        Raises:
            DecodeError: The file can be opened, but none of these frames can be read.
        """
        info = self._infos[video]
        indices = find_candidates(info, self._parts[video], self._sampling)
        frames = read_indices(info, indices[self._sampling.draw(len(indices), rng)], self._resize)
        if frames.salvaged:
            logger.warning("%s: %s; neighbours stand in for the others", info.path, frames.salvaged)
        return frames.pixels


class CachedFrames:
    """Read frames that ``FramesCache`` keeps."""

    def __init__(self, cache: "FramesCache", parts: Mapping[str, VideoSpan]) -> None:
        """Find every video."""
        self._shards, self._sampling = cache.shards, cache.sampling
        found = {video: cache.known.find(part) for video, part in parts.items()}
        self._keys = {video: state.key for video, state in found.items() if not state.failed}
        self.unreadable = {video: state.failed for video, state in found.items() if state.failed}
        self.salvaged = {video: lost for video, key in self._keys.items() if (lost := self._shards.facts(key)["lost"])}

    def read(self, video: str, rng: np.random.Generator) -> Pixels:
        """Look at a video by name; where nothing is left to chance, without copying.

        Raises:
            VidretError: What is on the disk is damaged.
        """
        pixels = self._shards.read(self._keys[video])["pixels"]
        return pixels[self._sampling.draw(len(pixels), rng)] if self._sampling.is_random else pixels


class FramesCache:
    """The candidate frames of videos, keyed by the fingerprints of their files, so that a moved file is not kept twice.

    Another sampling or another size of pictures is another folder. A build may be killed at any time; the next one goes
    on from there.
    """

    def __init__(self, folder: str | Path, sampling: FrameSampling, resize: Resize) -> None:
        """Open the cache below a folder, whether or not there is one."""
        self.sampling, self._resize = sampling, resize
        self._about = {"sampling": sampling.about, "resize": asdict(resize)}
        self.shards = ArrayShards(Path(folder) / name_folder("frames", self._about))
        self.known = KnownFiles(self.shards)

    def build(self, parts: Sequence[VideoSpan], num_workers: int) -> None:
        """Read what is not known yet, in as many processes; of files that cannot be read the reason is noted.

        Raises:
            VidretError: The folder cannot be written, or a reading process died.
        """
        if not any(self.known.find(part).is_new for part in parts):
            return
        with self.shards.writing():
            if "about" not in self.shards:
                self.shards.append("about", {}, self._about)
            wanted = [part for part in parts if self.known.find(part).is_new]
            logger.info("%s: %d videos to read, of %d", self.shards.folder, len(wanted), len(parts))
            read = partial(read_part, choose=partial(_choose, sampling=self.sampling), resize=self._resize)
            for number, reading in enumerate(map_in_workers(read, wanted, num_workers), start=1):
                if reading.frames is not None and reading.key not in self.shards:
                    self.shards.append(reading.key, {"pixels": reading.frames.pixels}, {"lost": reading.lost})
                self.known.note(reading)
                if number % TOLD_EVERY == 0:
                    logger.info("%s: %d of %d videos are read", self.shards.folder, number, len(wanted))


def try_probe(part: VideoSpan) -> VideoInfo | str:
    """Say what a file is, or why it is no readable video, or shows nothing in this part."""
    try:
        info = probe(part.path)
        find_candidates(info, part, FrameSampling())
    except DecodeError as error:
        return error.reason
    return info


def _choose(info: VideoInfo, part: VideoSpan, sampling: FrameSampling) -> Int64[np.ndarray, " candidate"]:
    return find_candidates(info, part, sampling)
