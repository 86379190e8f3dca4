"""Which rows make a batch: dealt for training, with a bookmark to go on from, and shared out exactly for evaluation.

A row is a caption or a query, and belongs to a video. Both kinds of batches know which process they are for, so nothing
else needs to share out the data; what a loader yields depends on neither workers nor time.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Int64
from torch.utils.data import DataLoader

from vidret.errors import VidretError

logger = logging.getLogger(__name__)

Key = tuple[int, int]  # epoch and row: all that a training sample is drawn from
Batch = TypeVar("Batch")


class TrainBatches:
    """Batches of rows in which no two are of one video, since they would be each other's false negatives.

    Every row is dealt once an epoch. Batches differ in size by one row a process at most. Each process has an equal
    part of each batch, so of N rows the rest of N / ``num_ranks`` sits out; other rows in each epoch. Where one video
    has more rows than there are batches, there are as many batches as it has rows, and they are smaller.

    With ``neighbours`` above 1 the videos numbered 0 to ``neighbours`` - 1, and so on, come in one batch, each with a
    row of its own: the hardest negatives, where neighbours are cut from one film or are made to differ in little. The
    one with the fewest rows says how many of each are dealt in an epoch; who has too few neighbours sits out.

    ``epoch`` and ``position`` say where one is: the deal follows from the seed and the epoch alone. Iterating starts at
    ``position`` and does not move it, as workers fetch ahead; ``advance`` does.
    """

    def __init__(
        self,
        videos: Sequence[int],
        batch_size: int,
        *,
        neighbours: int = 1,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Take the video of each row.

        Args:
            videos: By row.
            batch_size: Rows of a batch, all processes together.
            neighbours: How many videos that follow each other come in one batch, always in one process.
            seed: Decides the deal.
            rank: The process that this is for.
            num_ranks: How many processes there are.

        Raises:
            VidretError: Rows cannot be dealt so, or not to so many processes.
        """
        if neighbours < 1:
            raise VidretError(f"neighbours must be at least 1, got {neighbours}")
        if batch_size < 1 or batch_size % (num_ranks * neighbours):
            shared = f"the {num_ranks} processes that share a batch"
            shared += f", times {neighbours} neighbours" if neighbours > 1 else ""
            raise VidretError(f"batch_size must be a multiple of {shared}, got {batch_size}")
        self._videos = np.asarray(videos, dtype=np.int64)
        self._neighbours, self._seed, self._rank, self._num_ranks = neighbours, seed, rank, num_ranks
        self._of = [len(videos), batch_size, num_ranks, seed, neighbours]
        counts = np.bincount(join_neighbours(self._videos, neighbours, np.random.default_rng(seed))[0])
        if counts.sum() < num_ranks:
            raise VidretError(f"rows must be at least one for each of {num_ranks} processes, got {counts.sum()}")
        self._sizes = plan_batch_sizes(counts, batch_size // neighbours, num_ranks)
        if len(self._sizes) > -(-int(counts.sum()) // (batch_size // neighbours)):
            logger.warning(
                "batches hold %d rows, not %d: one video has %d of the %d rows",
                *(self._sizes.max() * neighbours, batch_size, counts.max(), len(videos)),
            )
        self.epoch = self.position = 0

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[Key]]:
        """Give this process's part of each batch that is left in the epoch."""
        epoch = self.epoch
        for batch in self._deal(epoch)[self.position :]:
            part = np.array_split(batch, self._num_ranks)[self._rank]
            yield [(epoch, row) for row in part.ravel().tolist()]

    def advance(self) -> None:
        """Move on by one batch, and from the last one into the next epoch."""
        self.position += 1
        if self.position == len(self):
            self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Give the bookmark, and what it is a bookmark of."""
        return {"epoch": self.epoch, "position": self.position, "of": list(self._of)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a bookmark says.

        Raises:
            VidretError: It lies in the middle of an epoch that would be dealt differently now.
        """
        if state["position"] and state["of"] != self._of:
            names = ("rows", "batch_size", "processes", "seed", "neighbours")
            had, now = (", ".join(map("{} {}".format, names, of)) for of in (state["of"], self._of))
            raise VidretError(f"what stopped in the middle of an epoch must go on the same: it had {had}, got {now}")
        self.epoch, self.position = state["epoch"], state["position"]

    def _deal(self, epoch: int) -> list[Int64[np.ndarray, "unit neighbour"]]:
        """Give the rows of each batch."""
        rng = np.random.default_rng((self._seed, epoch))
        groups, rows = join_neighbours(self._videos, self._neighbours, rng)
        sizes = rng.permutation(self._sizes)
        num_out = len(groups) - int(sizes.sum())
        taken = np.sort(rng.permutation(len(groups))[num_out:])
        counts = np.bincount(groups[taken], minlength=int(groups.max()) + 1)
        order = rng.permutation(len(counts))
        hands = assign_batches(counts[order], sizes, rng)
        by_group = taken[np.lexsort((rng.random(len(taken)), np.argsort(order)[groups[taken]]))]
        # Which process gets which part of a batch must be chance, too.
        shuffled = np.lexsort((rng.random(len(hands)), hands))
        return np.split(rows[by_group[shuffled]], np.cumsum(sizes)[:-1])


def join_neighbours(
    videos: Int64[np.ndarray, " row"], neighbours: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, " unit"], Int64[np.ndarray, "unit neighbour"]]:
    """Join a row of each of ``neighbours`` videos to a unit, which rows by chance, as often as each has one left.

    Returns:
        The group of neighbours that each unit is of, numbered from 0 without gaps, and the rows of each unit.
    """
    order = np.lexsort((rng.random(len(videos)), videos))
    by_video = np.split(order, np.flatnonzero(np.diff(videos[order])) + 1)
    units: list[Int64[np.ndarray, "unit neighbour"]] = []
    for _, members in groupby(by_video, key=lambda rows: videos[rows[0]] // neighbours):
        hands = list(members)
        if len(hands) == neighbours:
            shortest = min(len(rows) for rows in hands)
            units.append(np.stack([rows[:shortest] for rows in hands], axis=1))
    groups = np.repeat(np.arange(len(units)), [len(each) for each in units])
    return groups, np.concatenate([np.empty((0, neighbours), dtype=np.int64), *units])


def plan_batch_sizes(
    counts: Int64[np.ndarray, " video"], batch_size: int, num_ranks: int
) -> Int64[np.ndarray, " batch"]:
    """Give the sizes of as few batches as can be: at most ``batch_size``, multiples of ``num_ranks``, nearly equal.

    Rows can be dealt out to them so that no two of a video meet (Gale and Ryser's condition).

    Args:
        counts: How many rows each video has.
        batch_size: Rows of a batch at most.
        num_ranks: How many processes share a batch.

    Raises:
        VidretError: No sizes will do.
    """
    units = int(counts.sum()) // num_ranks
    largest = int(counts.max())
    for num_batches in range(max(-(-units * num_ranks // batch_size), min(largest, units)), units + 1):
        whole, rest = divmod(units, num_batches)
        sizes = num_ranks * np.where(np.arange(num_batches) < rest, whole + 1, whole)
        if can_assign(counts, sizes):
            return sizes.astype(np.int64)
    raise VidretError(
        f"rows must be of more videos, got {largest} of {counts.sum()} rows of one for {num_ranks} processes"
    )


def can_assign(counts: Int64[np.ndarray, " video"], sizes: Int64[np.ndarray, " batch"]) -> bool:
    """Say whether rows can always be dealt to batches of these sizes, whichever sit out."""
    richest = np.cumsum(np.sort(counts)[::-1])
    num_videos = np.arange(1, len(counts) + 1)
    rising = np.sort(sizes)
    # The sum over batches of min(size, k), for each number k of videos.
    full = np.searchsorted(rising, num_videos, side="right")
    room = np.concatenate([[0], np.cumsum(rising)])[full] + num_videos * (len(sizes) - full)
    return bool((np.minimum(richest, sizes.sum()) <= room).all())


def assign_batches(
    counts: Int64[np.ndarray, " video"], sizes: Int64[np.ndarray, " batch"], rng: np.random.Generator
) -> Int64[np.ndarray, " row"]:
    """Give a batch to each row, video by video: different ones to a video, and always one with the most room left.

    Among batches with equal room chance decides. Taking from the fullest room never leads into a dead end where there
    is a way at all.
    """
    piles: list[list[int]] = [np.flatnonzero(sizes == room).tolist() for room in range(int(sizes.max()) + 1)]
    for pile in piles:
        rng.shuffle(pile)
    chances = iter(rng.random(int(counts.sum())).tolist())
    dealt: list[int] = []
    for count in counts.tolist():
        room, hand = len(piles) - 1, list[tuple[int, int]]()
        while len(hand) < count:
            while room > 0 and not piles[room]:
                room -= 1
            if room == 0:
                raise ValueError(f"counts and sizes must allow a deal, got {counts.tolist()} and {sizes.tolist()}")
            hand.append((piles[room].pop(), room))
        for batch, room in hand:  # now it has one place less: it goes anywhere into the pile below
            below = piles[room - 1]
            place = int(next(chances) * (len(below) + 1))
            below.append(batch)
            below[place], below[-1] = below[-1], below[place]
        while len(piles) > 1 and not piles[-1]:
            piles.pop()
        dealt += [batch for batch, _ in hand]
    return np.array(dealt, dtype=np.int64)


class EvalBatches:
    """Batches of all items, each item in one process once; nothing is repeated to make the shares even.

    Every process gets as many batches as the others, of nearly equal size, unless there are fewer items than processes.
    """

    def __init__(self, num_items: int, batch_size: int, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Share out; ``batch_size`` is what one process takes at once, at most."""
        if batch_size < 1:
            raise VidretError(f"batch_size must be at least 1, got {batch_size}")
        num_steps = -(-num_items // (batch_size * num_ranks))
        pieces = np.array_split(np.arange(num_items), max(num_steps, 1) * num_ranks)
        self._batches = [piece.tolist() for piece in pieces[rank::num_ranks] if len(piece)]

    def __len__(self) -> int:
        """Count the batches of this process."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Give each batch."""
        return iter(self._batches)


class TrainLoader(Generic[Batch]):
    """Load training batches, going on where the last iteration or a checkpoint left off.

    Counts what is handed out, not what workers have fetched ahead.
    """

    def __init__(self, loader: DataLoader[Batch], batches: TrainBatches) -> None:
        """Take a loader whose batch sampler is ``batches``."""
        self._loader, self._batches = loader, batches

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Load what is left of the epoch."""
        for batch in self._loader:
            self._batches.advance()
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Give the bookmark."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a bookmark says; see ``TrainBatches``."""
        self._batches.load_state_dict(state)


class EvalLoader(Generic[Batch]):
    """Load evaluation batches. No ``DataLoader`` itself: a trainer would share its data out once more, inexactly."""

    def __init__(self, loader: DataLoader[Batch]) -> None:
        """Take the loader."""
        self._loader = loader

    def __len__(self) -> int:
        """Count the batches of this process."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Load all of them."""
        return iter(self._loader)
