"""One vector per video from the stored vectors of its segments."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float32, Int64

from vidret.errors import StoreError, VidretError
from vidret.store.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class IndexVectors:
    """The vectors of an index's searchable segments, and the mean of each video.

    Segments of one video are alike. Statistics about videos therefore count each video once.

    Attributes:
        segment_ids: Ids of the segments, ascending.
        owners: Video id of each segment.
        segments: Their vectors, of unit length.
        video_ids: Ids of the videos, ascending.
        means: Mean vector of each video.
    """

    segment_ids: Int64[np.ndarray, " segment"]
    owners: Int64[np.ndarray, " segment"]
    segments: Float16[np.ndarray, "segment dim"]
    video_ids: Int64[np.ndarray, " video"]
    means: Float32[np.ndarray, "video dim"]


def read_index_vectors(store: Store) -> IndexVectors:
    """Read the vectors of an index.

    Raises:
        StoreError: The index is empty.
        VidretError: A vector is not finite.
    """
    segment_ids = store.searchable()
    if not len(segment_ids):
        raise StoreError(f"{store.path}: there must be a segment to describe, got an empty index")
    by_segment = store.owners(segment_ids)
    owners = np.fromiter((by_segment[int(each)] for each in segment_ids), np.int64, len(segment_ids))
    segments = store.video_vectors()
    order = np.argsort(owners, kind="stable")
    video_ids, starts = np.unique(owners[order], return_index=True)
    counts = np.diff(np.append(starts, len(owners)))
    ordered = segments[order].astype(np.float32)
    if num_wrong := int(np.count_nonzero(~np.isfinite(ordered).all(axis=1))):
        raise VidretError(f"{store.path}: vectors must be finite, got NaN or infinity in {num_wrong} segments")
    means = np.add.reduceat(ordered, starts, axis=0) / counts[:, None].astype(np.float32)
    return IndexVectors(segment_ids, owners, segments, video_ids, means)
