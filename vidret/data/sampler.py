"""Batch samplers: random batches for training, which can be resumed, and exact shards for evaluation.

A row is a caption or a query, and belongs to a video; no training batch has two rows of one video. Each process knows
its rank, so no distributed sampler is needed on top. The batches depend neither on data loading workers nor on timing.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Int64

from vidret.errors import VidretError

logger = logging.getLogger(__name__)

Key = tuple[int, int]  # epoch and row, which determine a training sample
MAX_BUCKETS = 8
SAVING = 0.9  # buckets are used if they need at most this share of the memory; else batches are fully random


class TrainBatches:
    """Random batches in which no two rows belong to one video, since they would be false negatives of each other.

    Every row is used once per epoch. Batch sizes differ by at most one row per process. Each process gets an equal part
    of each batch, so the remainder of N rows / ``num_ranks`` is skipped, with other rows in each epoch. If one video
    has more rows than there are batches, there are as many batches as it has rows, and they are smaller.

    With ``neighbours`` above 1, each group of that many consecutive videos shares a batch, with one row per video. They
    are hard negatives if neighbours are cut from one film or differ in little by design. The neighbour with the fewest
    rows determines how many of each are used per epoch, and incomplete groups are skipped.

    Videos of very different lengths are in different batches, if ``lengths`` are given.

    The order depends only on the seed and the epoch. Iteration starts at ``position`` and does not move it, since
    workers prefetch; ``advance`` does.

    Attributes:
        epoch: Current epoch.
        position: Index of the next batch in the epoch.
    """

    def __init__(
        self,
        videos: Sequence[int],
        batch_size: int,
        *,
        lengths: Sequence[int] | None = None,
        neighbours: int = 1,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Plan the batch sizes, for ``batch_size`` rows over all processes; ``videos`` has the video of each row.

        ``lengths`` of videos are in any unit, None for equal lengths; see ``plan_buckets``.

        Raises:
            VidretError: A number is invalid, or the rows cannot be divided into such batches.
        """
        if neighbours < 1:
            raise VidretError(f"neighbours must be at least 1, got {neighbours}")
        if batch_size < 1 or batch_size % (num_ranks * neighbours):
            divisor = f"the number of processes, {num_ranks}"
            divisor += f", times neighbours, {neighbours}" if neighbours > 1 else ""
            raise VidretError(f"batch_size must be a positive multiple of {divisor}, got {batch_size}")
        self._videos = np.asarray(videos, dtype=np.int64)
        self._neighbours, self._seed, self._rank, self._num_ranks = neighbours, seed, rank, num_ranks
        self._settings = [len(videos), batch_size, num_ranks, seed, neighbours]
        groups, rows = group_neighbours(self._videos, neighbours, np.random.default_rng(seed))
        counts, size = np.bincount(groups), batch_size // neighbours
        if counts.sum() < num_ranks:
            raise VidretError(f"rows must be at least one for each of {num_ranks} processes, got {counts.sum()}")
        self._buckets = [np.arange(len(counts))]
        if lengths is not None:
            longest = np.zeros(len(counts), dtype=np.int64)
            np.maximum.at(longest, groups, np.asarray(lengths, dtype=np.int64)[self._videos[rows]].max(axis=1))
            self._buckets = [np.sort(bucket) for bucket in plan_buckets(counts, longest, size, num_ranks)]
        self._settings.append(len(self._buckets))
        self._sizes = [plan_batch_sizes(counts[bucket], size, num_ranks) for bucket in self._buckets]
        if len(self._buckets) == 1 and len(self) > -(-int(counts.sum()) // size):
            logger.warning(
                "batches have %d rows, not %d, because one video has %d of the %d rows",
                *(self._sizes[0].max() * neighbours, batch_size, counts.max(), len(videos)),
            )
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return sum(map(len, self._sizes))

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield this process's part of each remaining batch of the epoch."""
        epoch = self.epoch
        for batch in self._assign_rows(epoch)[self.position :]:
            rank_rows = np.array_split(batch, self._num_ranks)[self._rank]
            yield [(epoch, row) for row in rank_rows.ravel().tolist()]

    def advance(self) -> None:
        """Advance by one batch, and from the last one to the next epoch."""
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the position, and the settings that they are valid for."""
        return {"epoch": self.epoch, "position": self.position, "of": list(self._settings)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the epoch and the position.

        Raises:
            VidretError: The position is within an epoch whose order would be different now.
        """
        if state["position"] and state["of"] != self._settings:
            names = ("rows", "batch_size", "processes", "seed", "neighbours", "buckets")
            saved, current = (", ".join(map("{} {}".format, names, values)) for values in (state["of"], self._settings))
            raise VidretError(f"training stopped within an epoch must resume with {saved}, got {current}")
        self.epoch, self.position = state["epoch"], state["position"]

    def _assign_rows(self, epoch: int) -> list[Int64[np.ndarray, "_unit neighbour"]]:
        rng = np.random.default_rng((self._seed, epoch))
        groups, rows = group_neighbours(self._videos, self._neighbours, rng)
        batches: list[Int64[np.ndarray, "_unit neighbour"]] = []
        for bucket, sizes in zip(self._buckets, self._sizes, strict=True):
            bucket_units = np.flatnonzero(np.isin(groups, bucket))
            batches += self._assign_units(
                np.searchsorted(bucket, groups[bucket_units]), rows[bucket_units], rng.permutation(sizes), rng
            )
        return batches if len(self._buckets) == 1 else [batches[index] for index in rng.permutation(len(batches))]

    def _assign_units(
        self,
        groups: Int64[np.ndarray, " unit"],
        rows: Int64[np.ndarray, "unit neighbour"],
        sizes: Int64[np.ndarray, " batch"],
        rng: np.random.Generator,
    ) -> list[Int64[np.ndarray, "_unit neighbour"]]:
        """Return the rows of batches of the given sizes, given units whose groups are numbered without gaps."""
        num_skipped = len(groups) - int(sizes.sum())
        used = np.sort(rng.permutation(len(groups))[num_skipped:])
        counts = np.bincount(groups[used], minlength=int(groups.max()) + 1)
        order = rng.permutation(len(counts))
        batches = assign_batches(counts[order], sizes, rng)
        by_group = used[np.lexsort((rng.random(len(used)), np.argsort(order)[groups[used]]))]
        # Rows are shuffled within a batch, so that their process is random, too.
        shuffled = np.lexsort((rng.random(len(batches)), batches))
        return np.split(rows[by_group[shuffled]], np.cumsum(sizes)[:-1])


def group_neighbours(
    videos: Int64[np.ndarray, " row"], neighbours: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " unit"], Int64[np.ndarray, "unit neighbour"]]:
    """Combine rows into units with one random row of each of ``neighbours`` consecutive videos.

    A group of videos forms as many units as its video with the fewest rows allows.

    Returns:
        The group of each unit, numbered from 0 without gaps, and the rows of each unit.
    """
    order = np.lexsort((rng.random(len(videos)), videos))
    rows_by_video = np.split(order, np.flatnonzero(np.diff(videos[order])) + 1) if len(order) else []
    units: list[Int64[np.ndarray, "_unit neighbour"]] = []
    for _, group in groupby(rows_by_video, key=lambda rows: videos[rows[0]] // neighbours):
        members = list(group)
        if len(members) == neighbours:
            num_units = min(len(rows) for rows in members)
            units.append(np.stack([rows[:num_units] for rows in members], axis=1))
    groups = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
    return groups, np.concatenate([np.empty((0, neighbours), dtype=np.int64), *units])


def divide_evenly(num_items: int, batch_size: int, *, rank: int = 0, num_ranks: int = 1) -> list[list[int]]:
    """Return the batches of this process, with each item once over all processes; none is repeated for padding.

    All processes get the same number of batches, of nearly equal size. ``batch_size`` is the maximum per process.

    Raises:
        VidretError: ``batch_size`` is below 1, or a process would have no item: a trainer skips the evaluation there,
            and the others wait for its results.
    """
    if batch_size < 1:
        raise VidretError(f"batch_size must be at least 1, got {batch_size}")
    if num_items < num_ranks:
        raise VidretError(f"items to evaluate must be at least one for each of {num_ranks} processes, got {num_items}")
    num_steps = -(-num_items // (batch_size * num_ranks))
    pieces = np.array_split(np.arange(num_items), num_steps * num_ranks)
    return [piece.tolist() for piece in pieces[rank::num_ranks]]


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
    num_rows = np.cumsum(np.sort(counts)[::-1])  # rows of the k videos with the most rows
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

    Each row goes to a batch with the most free slots, at random in a tie. This greedy choice succeeds whenever an
    assignment exists.

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
        for batch, num_free in chosen:  # each has one slot less now: insert it at random into the next pool
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
    """Return the videos of each bucket. Batches do not mix buckets, so that they need little padding.

    Buckets have equally many videos of neighbouring lengths; their number, up to ``MAX_BUCKETS``, is the one that saves
    most. A bucket has enough videos for full batches of different ones. If buckets save little, as for videos of
    similar lengths, there is a single one. Videos have ``counts`` rows each.
    """
    everything = np.arange(len(counts))
    best, cost = [everything], int(counts.sum()) * int(lengths.max())
    limit = SAVING * cost
    order = everything[np.argsort(lengths, kind="stable")]
    for num_buckets in range(2, min(MAX_BUCKETS, len(order) // batch_size) + 1):
        buckets = np.array_split(order, num_buckets)
        padded = sum(int(counts[bucket].sum()) * int(lengths[bucket].max()) for bucket in buckets)
        if padded < min(cost, limit) and all(_fills(counts[bucket], batch_size, num_ranks) for bucket in buckets):
            best, cost = buckets, padded
    return best


def _fills(counts: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int) -> bool:
    """Return whether these videos fill the least number of batches that their rows allow."""
    try:
        return len(plan_batch_sizes(counts, batch_size, num_ranks)) == -(-int(counts.sum()) // batch_size)
    except VidretError:
        return False
