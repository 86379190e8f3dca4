"""All frame vectors of an index, or of some of its videos, in one table."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64

from vidret.store.store import Store

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
