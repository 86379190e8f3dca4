"""Plans of training batches: their sizes, which rows are in each, and which videos share batches by their length.

No batch has two rows of one video.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from vidret.errors import VidretError

MAX_BUCKETS = 8
SAVING = 0.9  # buckets must need at most this share of the memory without: else batches stay as random as can be


def plan_batch_sizes(
    counts: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int
) -> Int64[np.ndarray, " batch"]:
    """Return the sizes of the smallest possible number of batches.

    Sizes are at most ``batch_size``, multiples of ``num_ranks``, and nearly equal. Rows can be assigned to them without
    two of one video in a batch (Gale-Ryser theorem).

    Raises:
        VidretError: No sizes satisfy these conditions.
    """
    units = int(counts.sum()) // num_ranks
    largest = int(counts.max())
    for num_batches in range(max(-(-units * num_ranks // batch_size), min(largest, units)), units + 1):
        quotient, remainder = divmod(units, num_batches)
        sizes = num_ranks * np.where(np.arange(num_batches) < remainder, quotient + 1, quotient)
        if can_assign(counts, sizes):
            return sizes.astype(np.int64)
    raise VidretError(
        f"rows must come from more videos for {num_ranks} processes, got {largest} of {counts.sum()} rows from one"
    )


def can_assign(counts: Int64[np.ndarray, " video"], sizes: Int64[np.ndarray, " batch"]) -> bool:
    """Whether rows can be assigned to batches of these sizes, regardless of which rows are skipped (Gale-Ryser)."""
    num_rows = np.cumsum(np.sort(counts)[::-1])  # of the k videos with the most rows
    num_videos = np.arange(1, len(counts) + 1)
    ascending = np.sort(sizes)
    # The sum over batches of min(size, k), for each number k of videos.
    num_small = np.searchsorted(ascending, num_videos, side="right")
    capacity = np.concatenate([[0], np.cumsum(ascending)])[num_small] + num_videos * (len(sizes) - num_small)
    return bool((np.minimum(num_rows, sizes.sum()) <= capacity).all())


def assign_batches(
    counts: Int64[np.ndarray, " video"], sizes: Int64[np.ndarray, " batch"], rng: np.random.Generator
) -> Int64[np.ndarray, " row"]:
    """Return a batch for each row, video by video, with different batches for the rows of a video.

    Each row goes to a batch with the most free slots, chosen at random among equals. This greedy choice succeeds
    whenever an assignment exists.

    Raises:
        ValueError: There is no such assignment.
    """
    # pools[n] holds the batches with n free slots, in random order.
    pools: list[list[int]] = [np.flatnonzero(sizes == num_free).tolist() for num_free in range(int(sizes.max()) + 1)]
    for pool in pools:
        rng.shuffle(pool)
    draws = iter(rng.random(int(counts.sum())).tolist())
    assigned: list[int] = []
    for count in counts.tolist():
        num_free, chosen = len(pools) - 1, list[tuple[int, int]]()
        while len(chosen) < count:
            while num_free > 0 and not pools[num_free]:
                num_free -= 1
            if num_free == 0:
                raise ValueError(f"counts and sizes must allow an assignment, got {counts.tolist()}, {sizes.tolist()}")
            chosen.append((pools[num_free].pop(), num_free))
        for batch, num_free in chosen:  # each has one slot less now: insert it at random into the pool below
            pool = pools[num_free - 1]
            position = int(next(draws) * (len(pool) + 1))
            pool.append(batch)
            pool[position], pool[-1] = pool[-1], pool[position]
        while len(pools) > 1 and not pools[-1]:
            pools.pop()
        assigned += [batch for batch, _ in chosen]
    return np.array(assigned, dtype=np.int64)


def plan_buckets(
    counts: Int64[np.ndarray, " video"], lengths: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int
) -> list[Int64[np.ndarray, " _video"]]:
    """Return the videos of each bucket, which batches do not mix, so that little of a batch is padding.

    Of up to ``MAX_BUCKETS`` buckets with equally many videos of neighbouring lengths, the number that saves most is
    chosen. A bucket has enough videos for whole batches of rows of different ones. Where buckets save little, as for
    videos of about one length, there is one of all.

    Args:
        counts: Number of rows of each video.
        lengths: Length of each video, in any unit.
        batch_size: Maximum number of rows per batch.
        num_ranks: Number of processes, of which each has an equal part of a batch.
    """
    everything = np.arange(len(counts))
    best, cost = [everything], int(counts.sum()) * int(lengths.max())
    limit = SAVING * cost
    for buckets in _divide(everything[np.argsort(lengths, kind="stable")], batch_size):
        padded = sum(int(counts[bucket].sum()) * int(lengths[bucket].max()) for bucket in buckets)
        if padded < min(cost, limit) and all(_fills(counts[bucket], batch_size, num_ranks) for bucket in buckets):
            best, cost = buckets, padded
    return best


def _divide(order: Int64[np.ndarray, " video"], batch_size: int) -> Iterator[list[Int64[np.ndarray, " _video"]]]:
    """Yield the videos in two buckets and more, each with a batch of different videos."""
    for num_buckets in range(2, min(MAX_BUCKETS, len(order) // batch_size) + 1):
        yield np.array_split(order, num_buckets)


def _fills(counts: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int) -> bool:
    """Return whether batches of these videos are as few as their rows allow."""
    try:
        return len(plan_batch_sizes(counts, batch_size, num_ranks)) == -(-int(counts.sum()) // batch_size)
    except VidretError:
        return False
