"""The coarse search: choose the segments that are reranked by the inner product of query and segment vectors."""

import logging
import math
from collections import Counter
from collections.abc import Sequence, Set

import numpy as np
from jaxtyping import Int64

from vidret.channels.base import EncodedQuery
from vidret.store.store import Store
from vidret.types import SearchOptions

logger = logging.getLogger(__name__)

DEPTH_FACTOR = 4  # by which a search goes deeper when the nearest segments belong to too few videos
SEGMENTS_PER_VIDEO = 8  # reranked for each video that is found beyond the first candidates
# Segments of a video that set its score. In 672 rankings of films of 90 segments, the best one was among them in all
# but one, and 0.02 nats better than these.
NEAREST_SEGMENTS = 16

Ids = Int64[np.ndarray, " _id"]


def find_candidates(
    store: Store,
    queries: Sequence[EncodedQuery],
    options: SearchOptions,
    depth: int,
    excluded: Set[int] = frozenset(),
) -> list[Ids]:
    """Return the ids of the segments to rerank for each query, nearest first.

    Args:
        store: The index.
        queries: The clauses of a query.
        options: The options of the search.
        depth: Number of nearest segments to consider for each, at least ``candidates`` of the options. The first
            ``candidates`` are all returned; of the rest, the best ``SEGMENTS_PER_VIDEO`` of each further video.
        excluded: Videos to leave out.
    """
    if not queries:
        return []
    sentences = np.stack([query.positive.sentence for query in queries])
    _, nearest = store.search(sentences, depth, options.filters, excluded=excluded)
    return [_limit_per_video(store, ids[ids >= 0], options.candidates) for ids in nearest]


def choose_segments(store: Store, query: EncodedQuery, video_ids: Sequence[int]) -> Ids:
    """Return the ids of the segments of some videos that are nearest to a query, ``NEAREST_SEGMENTS`` of each, rising.

    Those of a video with fewer are all returned.
    """
    ids = store.overlapping_segments([(video_id, -math.inf, math.inf) for video_id in video_ids])
    owners = store.owners(ids)
    ids = np.array([key for key in ids.tolist() if key in owners], np.int64)
    if not len(ids) or max(Counter(owners.values()).values()) <= NEAREST_SEGMENTS:
        return ids
    ids, vectors = store.features.intact_vectors(ids)
    by_video = np.array([owners[key] for key in ids.tolist()])
    order = np.lexsort((-(vectors.astype(np.float32) @ query.positive.sentence), by_video))
    starts = np.flatnonzero(np.diff(by_video[order], prepend=-1))
    ranks = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
    return np.sort(ids[order[ranks < NEAREST_SEGMENTS]])


def deepen(
    store: Store, options: SearchOptions, depth: int, num_videos: int, excluded: Set[int] = frozenset()
) -> int | None:
    """Return the depth at which to repeat a search; None if that cannot find further videos.

    Args:
        store: The index.
        options: The options of the search.
        depth: Its depth so far.
        num_videos: Number of videos that it has found.
        excluded: Videos that it leaves out.
    """
    num_segments = store.count_segments(options.filters, excluded)
    if depth >= num_segments or num_videos >= store.count_videos(options.filters, excluded):
        return None
    max_depth = store.max_k
    if max_depth is not None and depth >= max_depth:
        logger.warning(
            "only %d videos are among the %d nearest segments, and %s cannot return more, got k = %d",
            num_videos,
            depth,
            store.home,
            options.k,
        )
        return None
    return min(DEPTH_FACTOR * depth, max_depth or num_segments)


def _limit_per_video(store: Store, ids: Ids, num_first: int) -> Ids:
    """Keep the first segments, and the best few of each video that comes only later."""
    if len(ids) <= num_first:
        return ids
    owners = store.owners(ids)
    ids = ids[[key in owners for key in ids.tolist()]]  # another process may have pruned some in the meantime
    video_ids = [owners[key] for key in ids.tolist()]
    counts = Counter(dict.fromkeys(video_ids[:num_first], SEGMENTS_PER_VIDEO))
    kept = list(range(num_first))
    for index, video_id in enumerate(video_ids[num_first:], start=num_first):
        if counts[video_id] < SEGMENTS_PER_VIDEO:
            counts[video_id] += 1
            kept.append(index)
    return ids[kept]
