"""Small grey pictures of files, read in blocks that are kept for the next comparison."""

from collections import OrderedDict
from threading import Lock

import numpy as np

from vidret.video.files import stat_file
from vidret.video.workers.image_pool import ImagePool
from vidret.video.workers.messages import GreyStretch

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
