"""Assignment of rows to batches, such that no batch has two rows of one video."""

import numpy as np
from jaxtyping import Int64

from vidret.errors import VidretError


def plan_batch_sizes(
    counts: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int
) -> Int64[np.ndarray, " batch"]:
    """Return the sizes of the smallest possible number of batches.

    Sizes are at most ``batch_size``, multiples of ``num_ranks``, and nearly equal. Rows can be assigned to them without
    two of one video in a batch (Gale-Ryser theorem).

    Args:
        counts: Number of rows of each video.
        batch_size: Maximum number of rows per batch.
        num_ranks: Number of processes that share a batch.

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

    Args:
        counts: Number of rows of each video.
        sizes: Number of rows of each batch.
        rng: Source of randomness.

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
