"""Deals by hand: no two rows of a video meet, every row is dealt once, and a stopped run goes on as if it had not."""

import logging
from collections import Counter
from itertools import combinations, combinations_with_replacement, islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from vidret.data.sampler import (
    EvalBatches,
    Key,
    TrainBatches,
    TrainLoader,
    assign_batches,
    can_assign,
    plan_batch_sizes,
)
from vidret.errors import VidretError


def naive_can_deal(counts: list[int], sizes: list[int]) -> bool:
    """Search: give each video different batches, in every way there is."""
    if not counts:
        return True

    def choose(number: int, first: int, left: list[int]) -> bool:
        if number == 0:
            return naive_can_deal(counts[1:], left)
        return any(
            left[batch] > 0 and choose(number - 1, batch + 1, [*left[:batch], left[batch] - 1, *left[batch + 1 :]])
            for batch in range(first, len(left))
        )

    return choose(counts[0], 0, sizes)


def own(*counts: int) -> list[int]:
    """Give the video of each row of videos with so many rows, mixed up."""
    videos = [video for video, count in enumerate(counts) for _ in range(count)]
    return [int(video) for video in np.random.default_rng(0).permutation(videos)]


def rows(batches: TrainBatches) -> list[list[int]]:
    """Give the rows of what is left of an epoch."""
    return [[row for _, row in batch] for batch in batches]


def test_whether_rows_can_be_dealt_is_what_a_search_finds() -> None:
    outcomes: Counter[bool] = Counter()
    for num_videos in (1, 2, 3, 4):
        for counts in combinations_with_replacement(range(1, 5), num_videos):
            for num_batches in (1, 2, 3, 4):
                for sizes in combinations_with_replacement(range(1, 5), num_batches):
                    if sum(counts) == sum(sizes):
                        expected = naive_can_deal(list(counts), list(sizes))
                        assert can_assign(np.array(counts), np.array(sizes)) == expected, (counts, sizes)
                        outcomes[expected] += 1
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize("seed", range(20))
def test_a_deal_finds_a_way_wherever_there_is_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, size=int(rng.integers(2, 9)))
    sizes = np.bincount(rng.integers(0, 6, size=counts.sum()), minlength=6)
    if not can_assign(counts, sizes):
        with pytest.raises(ValueError, match="must allow an assignment"):
            assign_batches(counts, sizes, rng)
        return
    dealt = assign_batches(counts, sizes, rng)
    assert np.bincount(dealt, minlength=6).tolist() == sizes.tolist()
    for hand in np.split(dealt, np.cumsum(counts)[:-1]):
        assert len(set(hand.tolist())) == len(hand)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8, 100])
@pytest.mark.parametrize(
    "counts", [(1,) * 23, (20,) * 12, (1, 2, 3, 4, 5, 6, 7), (9, 1, 1, 1), (5,), tuple(range(1, 40))]
)
def test_every_row_is_used_once_and_no_two_of_a_video_meet(counts: tuple[int, ...], batch_size: int) -> None:
    videos = own(*counts)
    batches = TrainBatches(videos, batch_size)
    dealt = rows(batches)
    assert sorted(row for batch in dealt for row in batch) == list(range(len(videos)))
    assert all(len({videos[row] for row in batch}) == len(batch) for batch in dealt)
    sizes = [len(batch) for batch in dealt]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == len(dealt) == max(-(-len(videos) // batch_size), max(counts))


def test_a_deal_follows_from_seed_and_epoch_alone() -> None:
    videos = own(*range(1, 30))
    first, second = (TrainBatches(videos, 8, seed=1) for _ in range(2))
    assert rows(first) == rows(second) == rows(first)
    other = TrainBatches(videos, 8, seed=2)
    assert rows(other) != rows(first)
    first.epoch = 1
    assert rows(first) != rows(second)
    assert {epoch for batch in first for epoch, _ in batch} == {1}


def test_chance_decides_who_meets_whom() -> None:
    videos = np.repeat(np.arange(24), 10)
    batches = TrainBatches(videos.tolist(), 3)
    meetings = []
    for epoch in range(30):
        batches.epoch = epoch
        met = Counter(pair for batch in rows(batches) for pair in combinations(sorted(videos[batch].tolist()), 2))
        meetings += [met[pair] for pair in combinations(range(24), 2)]
    # 80 batches of 3 pairs each, among 276 pairs of videos. What is rare and left to chance varies as much as its mean;
    # videos dealt out side by side would meet in all of their 10 batches or in none.
    assert np.mean(meetings) == pytest.approx(80 * 3 / 276)
    assert np.var(meetings) < 1.3 * np.mean(meetings)


@pytest.mark.parametrize(("num_rows", "num_ranks"), [(48, 2), (49, 2), (50, 4), (17, 4)])
def test_processes_share_each_batch_in_equal_parts(num_rows: int, num_ranks: int) -> None:
    videos = [row % 12 for row in range(num_rows)]
    parts = [TrainBatches(videos, 8, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    out: set[int] = set()
    for epoch in range(3):
        for part in parts:
            part.epoch = epoch
        dealt = [rows(part) for part in parts]
        assert len({len(part) for part in dealt}) == 1
        for step in zip(*dealt, strict=True):
            assert len({len(part) for part in step}) == 1
            whole = [row for part in step for row in part]
            assert len({videos[row] for row in whole}) == len(whole) <= 8
        used = sorted(row for part in dealt for batch in part for row in batch)
        assert len(used) == len(set(used)) == num_rows - num_rows % num_ranks
        out |= set(range(num_rows)) - set(used)
    assert len(out) >= (num_rows % num_ranks > 0) * 2  # others each time


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_neighbours_come_in_one_batch_and_in_one_process(num_ranks: int) -> None:
    videos = np.repeat(np.arange(21), [3, 5] * 10 + [4]).tolist()  # the last has no neighbour
    parts = [TrainBatches(videos, 8, neighbours=2, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    used: Counter[int] = Counter()
    for step in zip(*(rows(part) for part in parts), strict=True):
        assert len({len(part) for part in step}) == 1
        for part in step:
            seen = [videos[row] for row in part]
            used.update(seen)
            assert seen[1::2] == [video + 1 for video in seen[::2]]
            assert all(video % 2 == 0 for video in seen[::2])
        assert len({videos[row] for part in step for row in part}) == sum(map(len, step)) <= 8
    assert used == dict.fromkeys(range(20), 3)


def test_neighbours_must_fit_into_a_batch() -> None:
    with pytest.raises(
        VidretError,
        match=r"batch_size must be a positive multiple of the number of processes, 2, times neighbours, 3, got 8",
    ):
        TrainBatches([0, 1, 2], 8, neighbours=3, num_ranks=2)
    with pytest.raises(VidretError, match="neighbours must be at least 1, got 0"):
        TrainBatches([0, 1, 2], 8, neighbours=0)
    with pytest.raises(VidretError, match="rows must be at least one"):
        TrainBatches([0, 2, 4], 4, neighbours=2)


def test_one_video_with_most_of_the_rows_makes_small_batches_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        batches = TrainBatches(own(9, 1, 1, 1), 4)
    assert caplog.messages == ["batches have 2 rows, not 4, because one video has 9 of the 12 rows"]
    assert len(batches) == 9
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        TrainBatches(own(*(1,) * 9), 4)
    assert caplog.messages == []


def test_sizes_are_as_few_as_can_be() -> None:
    assert plan_batch_sizes(np.full(9000, 20), 128, 1).tolist() == [128] * 1311 + [127] * 96
    assert sum(plan_batch_sizes(np.full(9000, 20), 128, 4)) == 180_000
    assert set(plan_batch_sizes(np.full(9000, 20), 128, 4).tolist()) == {128, 124}


def load(batches: TrainBatches, num_workers: int = 0) -> TrainLoader[list[Key]]:
    keys = {(epoch, row): (epoch, row) for epoch in range(3) for row in range(200)}
    loader: DataLoader[list[Key]] = DataLoader(keys, batch_sampler=batches, collate_fn=list, num_workers=num_workers)  # type: ignore[arg-type]
    return TrainLoader(loader, batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bookmark_goes_on_as_if_nothing_had_stopped(num_workers: int) -> None:
    videos = own(*(4,) * 12)
    whole = load(TrainBatches(videos, 7, seed=3))
    expected = [*whole, *whole]
    assert len(expected) == 2 * len(whole) == 14
    stopped = load(TrainBatches(videos, 7, seed=3), num_workers)
    seen = [*stopped, *islice(stopped, 3)]  # workers are further by now
    state = stopped.state_dict()
    assert (state["epoch"], state["position"]) == (1, 3)
    resumed = load(TrainBatches(videos, 7, seed=3), num_workers)
    resumed.load_state_dict(state)
    assert len(resumed) == 7
    assert seen + list(resumed) == expected
    assert (resumed.state_dict()["epoch"], resumed.state_dict()["position"]) == (2, 0)


def test_a_trainer_that_stops_at_the_last_batch_is_in_the_next_epoch() -> None:
    loader = load(TrainBatches(own(1, 1, 1, 1), 2))
    iterator = iter(loader)
    first = [next(iterator), next(iterator)]  # and never asks for a third
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (1, 0)
    assert list(loader) != first


def test_a_bookmark_of_other_data_is_refused_in_the_middle_of_an_epoch() -> None:
    state = {"epoch": 1, "position": 3, "of": [48, 7, 1, 0]}
    batches = TrainBatches(own(*(4,) * 12), 8)
    with pytest.raises(
        VidretError, match=r"must resume with rows 48, batch_size 7, processes 1, seed 0, got rows 48, batch_size 8,"
    ):
        batches.load_state_dict(state)
    batches.load_state_dict(state | {"position": 0})
    assert batches.epoch == 1


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(
        VidretError, match=r"batch_size must be a positive multiple of the number of processes, 2, got 7"
    ):
        TrainBatches([0, 1, 2], 7, num_ranks=2)
    with pytest.raises(
        VidretError, match="batch_size must be a positive multiple of the number of processes, 1, got 0"
    ):
        TrainBatches([0, 1, 2], 0)
    with pytest.raises(VidretError, match="rows must be at least one for each of 2 processes, got 1"):
        TrainBatches([0], 2, num_ranks=2)
    with pytest.raises(VidretError, match="must come from more videos for 2 processes, got 3 of 4 rows from one"):
        TrainBatches([0, 0, 0, 1], 2, num_ranks=2)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("num_items", [0, 1, 5, 23, 64])
def test_evaluation_takes_every_item_once_over_all_processes(num_items: int, num_ranks: int) -> None:
    shares = [EvalBatches(num_items, 4, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert sorted(item for share in shares for batch in share for item in batch) == list(range(num_items))
    assert all(1 <= len(batch) <= 4 for share in shares for batch in share)
    assert all(len(share) == len(list(share)) for share in shares)
    if num_items >= num_ranks:
        assert len({len(share) for share in shares}) == 1  # a collective in each step does not hang
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= max(len(share) for share in shares)
