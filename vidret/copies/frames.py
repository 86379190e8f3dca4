"""What footage is compared by: all frame vectors of an index in one table, and small grey pictures of files."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64

from vidret.store.store import Store
from vidret.video.files import stat_file
from vidret.video.workers.image_pool import ImagePool
from vidret.video.workers.messages import GreyStretch

BATCH = 4096  # segments that are read together


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """The frames of some videos, video by video and in time order.

    Attributes:
        video_ids: Ids of the videos.
        bounds: The first row of each video, and the number of rows.
        vectors: Unit vectors.
        times: Times in seconds.
    """

    video_ids: Int64[np.ndarray, " video"]
    bounds: Int64[np.ndarray, " bound"]
    vectors: Float16[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]

    @property
    def owners(self) -> Int64[np.ndarray, " frame"]:
        """The index of the video of each frame."""
        return np.repeat(np.arange(len(self.video_ids)), np.diff(self.bounds))

    def rows(self, video: int) -> slice:
        """Return the rows of a video, given its index in the table."""
        return slice(int(self.bounds[video]), int(self.bounds[video + 1]))

    def read(self, video: int) -> tuple[Float32[np.ndarray, "frame dim"], Float64[np.ndarray, " frame"]]:
        """Return the vectors and times of a video, given its index in the table."""
        rows = self.rows(video)
        return self.vectors[rows].astype(np.float32), self.times[rows]


def read_frame_table(store: Store, video_ids: Collection[int] | None = None) -> FrameTable:
    """Read the frames of the searchable videos, or of those among them with some ids; damaged segments are skipped."""
    wanted = None if video_ids is None else set(video_ids)
    parts = defaultdict[int, list[tuple[int, np.ndarray, np.ndarray]]](list)
    ids = (
        store.searchable()
        if wanted is None
        else np.concatenate(
            [
                np.empty(0, np.int64),
                *(np.array(store.segments.ids_of_video(video), np.int64) for video in sorted(wanted)),
            ]
        )
    )
    for first in range(0, len(ids), BATCH):
        stored = store.features.read(ids[first : first + BATCH], tokens=False)
        for segment, frames, times in zip(stored.segments, stored.frames, stored.times, strict=True):
            parts[segment.video].append((segment.number, np.array(frames), np.array(times)))
    order = sorted(parts)
    frames_of, times_of = [np.empty((0, store.dim), np.float16)], [np.empty(0, np.float64)]
    counts = [0]
    for video in order:
        segments = sorted(parts.pop(video), key=lambda part: part[0])
        frames_of += [frames for _, frames, _ in segments]
        times_of += [times for *_, times in segments]
        counts.append(sum(len(times) for *_, times in segments))
    return FrameTable(np.array(order, np.int64), np.cumsum(counts), np.concatenate(frames_of), np.concatenate(times_of))


RATE = 10.0  # pictures per second that are compared
BLOCK_S = 4.0  # footage is read in blocks of this length
NUM_WORKERS = 2  # processes that decode, and so comparisons that are made at once
MAX_BLOCKS = 10_000  # kept in memory, of 92 kB at most


class FootageReader:
    """Small grey pictures of files, decoded in processes of its own and kept for the next comparison."""

    def __init__(self, num_workers: int = NUM_WORKERS) -> None:
        self._pool = ImagePool(num_workers)
        self._blocks: OrderedDict[tuple[str, int], GreyStretch] = OrderedDict()
        self._lock = Lock()

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def forget(self) -> None:
        """Drop the pictures that were kept; the processes stay."""
        with self._lock:
            self._blocks.clear()

    def read(self, path: str, start: float, end: float) -> GreyStretch:
        """Return the pictures of a stretch, given in seconds.

        Raises:
            DecodeError: The file cannot be read.
        """
        numbers = range(int(max(start, 0.0) // BLOCK_S), int(max(end, 0.0) // BLOCK_S) + 1)
        blocks = [self._read_block(path, number) for number in numbers]
        times = np.concatenate([block.times for block in blocks])
        greys = np.concatenate([block.greys for block in blocks])
        _, first = np.unique(times, return_index=True)  # a frame may be the nearest to the ends of two blocks
        kept = first[(times[first] >= start) & (times[first] <= end)]
        return GreyStretch(greys[kept], times[kept], blocks[0].size)

    def _read_block(self, path: str, number: int) -> GreyStretch:
        key = (path, number)
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        start = number * BLOCK_S
        block = self._pool.read_greys(path, stat_file(path), start, start + BLOCK_S - 1 / RATE, RATE)
        with self._lock:
            self._blocks[key] = block
            while len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        return block
