"""A video in an index as if it had been indexed with its shots, or without."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.store.samples import add_segment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, ShotChange


def follow_shots(index: Path, path: Path, changes: Sequence[ShotChange] | None, *, duration_s: float) -> int:
    """Store a video of one segment in the place of an indexed file; return its id.

    ``changes`` are those of shot; None for a video that is cut on a grid.
    """
    num_segments = 1 if changes is None else None
    with Store.open(index, write=True) as store:
        video = store.writer.begin_video(
            f"{path.name}-{changes}", duration=duration_s, facts={}, num_segments=num_segments
        )
        vector = np.eye(1, store.dim, dtype=np.float32)
        embedding = SegmentEmbedding(vector[0], vector, np.array([0.0]))
        add_segment(store, video, 0, 0.0, duration_s, embedding, shots=changes or ())
        store.writer.finish_video(video)
        store.writer.set_file(str(path), state="done", video=video)
    return video
