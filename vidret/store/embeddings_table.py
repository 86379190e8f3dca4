"""The stored vectors of segments or frames, with what they belong to, in one table."""

import numpy as np

from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, EmbeddingLevel, Embeddings, Filters

BATCH = 4096  # segments that are read together


def read_embeddings(store: Store, level: EmbeddingLevel = "segment", filters: Filters = ALL_VIDEOS) -> Embeddings:
    """Read the vectors of the searchable videos that match, in the order of their paths and times.

    A segment's vector is the mean of those of its frames. Damaged segments are left out, with a note in the log.
    """
    paths = {video.id: video.paths[0] for video in store.videos(filters)}
    ids = np.array([each for video in sorted(paths) for each in store.video_segments(video)], np.int64)
    rows: list[tuple[str, float, float, int, np.ndarray]] = []
    for first in range(0, len(ids), BATCH):
        stored = store.read(ids[first : first + BATCH], tokens=False)
        for segment, frames, times in zip(stored.segments, stored.frames, stored.times, strict=True):
            path, vectors = paths[segment.video], np.asarray(frames, np.float32)
            if level == "segment":
                mean = vectors.mean(0)
                rows.append((path, segment.start, segment.end, segment.video, mean / np.linalg.norm(mean)))
            else:
                rows += [
                    (path, float(time), float(time), segment.video, vector)
                    for time, vector in zip(times, vectors, strict=True)
                ]
    rows.sort(key=lambda row: row[:2])
    return Embeddings(
        paths=tuple(row[0] for row in rows),
        videos=np.array([row[3] for row in rows], np.int64),
        times=np.array([row[1:3] for row in rows], np.float64).reshape(-1, 2),
        vectors=np.array([row[4] for row in rows], np.float32).reshape(-1, store.dim),
    )
