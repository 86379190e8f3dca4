"""Batch samplers: one row per video and batch, every row once, and exact resumption."""

import logging
from collections import Counter
from itertools import combinations, combinations_with_replacement, islice, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vidret.data.sampler import (
    MAX_BUCKETS,
    Key,
    TrainBatches,
    assign_batches,
    can_assign,
    divide_evenly,
    plan_batch_sizes,
    plan_buckets,
)
from vidret.data.stages import TrainLoader
from vidret.errors import VidretError


def naive_can_assign(counts: list[int], sizes: list[int]) -> bool:
    """Whether an assignment exists, by exhaustive search."""
    if not counts:
        return True

    def place(num_rows: int, first: int, free: list[int]) -> bool:
        if num_rows == 0:
            return naive_can_assign(counts[1:], free)
        return any(
            free[batch] > 0 and place(num_rows - 1, batch + 1, [*free[:batch], free[batch] - 1, *free[batch + 1 :]])
            for batch in range(first, len(free))
        )

    return place(counts[0], 0, sizes)


def shuffled_videos(*counts: int) -> list[int]:
    """Return the video of each row, in random order, for videos with the given numbers of rows."""
    videos = [video for video, count in enumerate(counts) for _ in range(count)]
    return [int(video) for video in np.random.default_rng(0).permutation(videos)]


def rows(batches: TrainBatches) -> list[list[int]]:
    """Return the rows of the remaining batches of an epoch."""
    return [[row for _, row in batch] for batch in batches]


def test_can_assign_agrees_with_exhaustive_search() -> None:
    outcomes: Counter[bool] = Counter()
    for num_videos in (1, 2, 3, 4):
        for counts in combinations_with_replacement(range(1, 5), num_videos):
            for num_batches in (1, 2, 3, 4):
                for sizes in combinations_with_replacement(range(1, 5), num_batches):
                    if sum(counts) == sum(sizes):
                        expected = naive_can_assign(list(counts), list(sizes))
                        assert can_assign(np.array(counts), np.array(sizes)) == expected, (counts, sizes)
                        outcomes[expected] += 1
    assert min(outcomes.values()) > 20


@given(seed=st.integers(0, 9999))
def test_assignment_succeeds_whenever_one_exists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, size=int(rng.integers(2, 9)))
    sizes = np.bincount(rng.integers(0, 6, size=counts.sum()), minlength=6)
    if not can_assign(counts, sizes):
        with pytest.raises(ValueError, match="must allow an assignment"):
            assign_batches(counts, sizes, rng)
        return
    assigned = assign_batches(counts, sizes, rng)
    assert np.bincount(assigned, minlength=6).tolist() == sizes.tolist()
    for batches in np.split(assigned, np.cumsum(counts)[:-1]):
        assert len(set(batches.tolist())) == len(batches)


@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=40), batch_size=st.integers(1, 100))
@example(counts=[9, 1, 1, 1], batch_size=5)
@example(counts=list(range(1, 40)), batch_size=8)
def test_every_row_is_used_once_and_videos_differ_within_batches(counts: list[int], batch_size: int) -> None:
    videos = shuffled_videos(*counts)
    batches = TrainBatches(videos, batch_size)
    epoch = rows(batches)
    assert sorted(row for batch in epoch for row in batch) == list(range(len(videos)))
    assert all(len({videos[row] for row in batch}) == len(batch) for batch in epoch)
    sizes = [len(batch) for batch in epoch]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == len(epoch) == max(-(-len(videos) // batch_size), max(counts))
    assert epoch == rows(TrainBatches(videos, batch_size)), "the order depends on seed and epoch only"


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    videos = shuffled_videos(*range(1, 30))
    batches = TrainBatches(videos, 8, seed=1)
    first = rows(batches)
    assert first != rows(TrainBatches(videos, 8, seed=2))
    batches.epoch = 1
    assert first != rows(batches)
    assert {epoch for batch in batches for epoch, _ in batch} == {1}
    assert set(plan_batch_sizes(np.full(9000, 20), 128, 4).tolist()) == {128, 124}


def test_videos_share_batches_at_random() -> None:
    videos = np.repeat(np.arange(24), 10)
    batches = TrainBatches(videos.tolist(), 3)
    num_meetings = []
    for epoch in range(30):
        batches.epoch = epoch
        pairs = Counter(pair for batch in rows(batches) for pair in combinations(sorted(videos[batch].tolist()), 2))
        num_meetings += [pairs[pair] for pair in combinations(range(24), 2)]
    # 80 batches of 3 pairs each, among 276 pairs of videos. Rare random events have a variance close to their mean;
    # videos assigned together would meet in all of their 10 batches or in none.
    assert np.mean(num_meetings) == pytest.approx(80 * 3 / 276)
    assert np.var(num_meetings) < 1.3 * np.mean(num_meetings)


@pytest.mark.parametrize(("num_rows", "num_ranks"), [(48, 2), (49, 2), (50, 4), (17, 4)])
def test_processes_get_equal_parts_of_each_batch(num_rows: int, num_ranks: int) -> None:
    videos = [row % 12 for row in range(num_rows)]
    samplers = [TrainBatches(videos, 8, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    skipped: set[int] = set()
    for epoch in range(3):
        for sampler in samplers:
            sampler.epoch = epoch
        by_rank = [rows(sampler) for sampler in samplers]
        assert len({len(batches) for batches in by_rank}) == 1
        for step in zip(*by_rank, strict=True):
            assert len({len(batch) for batch in step}) == 1
            step_rows = [row for batch in step for row in batch]
            assert len({videos[row] for row in step_rows}) == len(step_rows) <= 8
        used = sorted(row for batches in by_rank for batch in batches for row in batch)
        assert len(used) == len(set(used)) == num_rows - num_rows % num_ranks
        skipped |= set(range(num_rows)) - set(used)
    assert len(skipped) >= (num_rows % num_ranks > 0) * 2  # different rows in each epoch


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=40), batch_size=st.integers(1, 6), seed=st.integers(0, 99)
)
def test_buckets_hold_each_video_once_in_order_of_length(counts: list[int], batch_size: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 1000, len(counts))
    buckets = plan_buckets(np.array(counts), lengths, batch_size, 1)
    assert sorted(np.concatenate(buckets).tolist()) == list(range(len(counts)))
    assert len(buckets) <= MAX_BUCKETS
    for shorter, longer in pairwise(buckets):
        assert lengths[shorter].max() <= lengths[longer].min()
    if len(buckets) > 1:
        assert all(len(bucket) >= batch_size for bucket in buckets)
        rows = sum(sum(counts[video] for video in bucket) * lengths[bucket].max() for bucket in buckets)
        assert rows < 0.9 * sum(counts) * lengths.max()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_batches_of_buckets_are_padded_little(num_ranks: int) -> None:
    """As in TACoS: few videos of very different lengths, with a hundred queries each."""
    rng = np.random.default_rng(0)
    videos = rng.permutation(np.repeat(np.arange(75), 40)).tolist()
    lengths = np.sort(rng.lognormal(5, 0.7, 75).astype(int))[rng.permutation(75)]
    padding = []
    for given_lengths in (None, lengths.tolist()):
        samplers = [
            TrainBatches(videos, 32, lengths=given_lengths, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
        ]
        batches = [
            [row for rank_rows in parts for row in rank_rows] for parts in zip(*map(rows, samplers), strict=True)
        ]
        assert len(batches) == len(samplers[0]) <= 3000 // 32 + 2
        used = [row for batch in batches for row in batch]
        assert len(used) == len(set(used)) >= 3000 - 2 * num_ranks
        assert all(len({videos[row] for row in batch}) == len(batch) for batch in batches)
        padding.append(sum(len(batch) * max(lengths[videos[row]] for row in batch) for batch in batches))
        samplers[0].epoch = 1
        assert rows(samplers[0]) != [
            batch[: len(rank_rows)] for batch, rank_rows in zip(batches, rows(samplers[0]), strict=True)
        ]
    assert padding[1] < 0.7 * padding[0]


def test_videos_of_one_length_are_in_one_bucket() -> None:
    videos = shuffled_videos(*(3,) * 90)
    equal = TrainBatches(videos, 8, lengths=[100 + video % 7 for video in range(90)])
    assert rows(equal) == rows(TrainBatches(videos, 8))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_neighbours_share_a_batch_and_a_process(num_ranks: int) -> None:
    videos = np.repeat(np.arange(21), [3, 5] * 10 + [4]).tolist()  # the last video has no neighbour
    samplers = [TrainBatches(videos, 8, neighbours=2, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    used: Counter[int] = Counter()
    for step in zip(*(rows(sampler) for sampler in samplers), strict=True):
        assert len({len(batch) for batch in step}) == 1
        for batch in step:
            seen = [videos[row] for row in batch]
            used.update(seen)
            assert seen[1::2] == [video + 1 for video in seen[::2]]
            assert all(video % 2 == 0 for video in seen[::2])
        assert len({videos[row] for batch in step for row in batch}) == sum(map(len, step)) <= 8
    assert used == dict.fromkeys(range(20), 3)


def test_smaller_batches_due_to_one_video_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        batches = TrainBatches(shuffled_videos(9, 1, 1, 1), 4)
    assert caplog.messages == ["batches have 2 rows, not 4, because one video has 9 of the 12 rows"]
    assert len(batches) == 9
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        TrainBatches(shuffled_videos(*(1,) * 9), 4)
    assert caplog.messages == []


def load(batches: TrainBatches, num_workers: int = 0) -> TrainLoader[list[Key]]:
    keys = {(epoch, row): (epoch, row) for epoch in range(3) for row in range(200)}
    loader: DataLoader[list[Key]] = DataLoader(keys, batch_sampler=batches, collate_fn=list, num_workers=num_workers)  # type: ignore[arg-type]
    return TrainLoader(loader, batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_restored_state_continues_exactly(num_workers: int) -> None:
    videos = shuffled_videos(*(4,) * 12)
    whole = load(TrainBatches(videos, 7, seed=3))
    expected = [*whole, *whole]
    assert len(expected) == 2 * len(whole) == 14
    stopped = load(TrainBatches(videos, 7, seed=3), num_workers)
    seen = [*stopped, *islice(stopped, 3)]  # workers have prefetched more by now
    state = stopped.state_dict()
    stopped.close()
    assert (state["epoch"], state["position"]) == (1, 3)
    resumed = load(TrainBatches(videos, 7, seed=3), num_workers)
    resumed.load_state_dict(state)
    assert len(resumed) == 7
    assert seen + list(resumed) == expected
    assert (resumed.state_dict()["epoch"], resumed.state_dict()["position"]) == (2, 0)


def test_a_closed_loader_is_refused() -> None:
    loader = load(TrainBatches(shuffled_videos(1, 1), 2))
    loader.close()
    with pytest.raises(ValueError, match="loader must be open, got a closed one"):
        list(loader)


def test_state_of_other_settings_is_refused_within_an_epoch() -> None:
    state = {"epoch": 1, "position": 3, "of": [48, 7, 1, 0]}
    batches = TrainBatches(shuffled_videos(*(4,) * 12), 8)
    with pytest.raises(
        VidretError, match=r"must resume with rows 48, batch_size 7, processes 1, seed 0, got rows 48, batch_size 8,"
    ):
        batches.load_state_dict(state)
    batches.load_state_dict(state | {"position": 0})
    assert batches.epoch == 1


@pytest.mark.parametrize(
    ("videos", "batch_size", "settings", "message"),
    [
        ([0, 1, 2], 7, {"num_ranks": 2}, "a positive multiple of the number of processes, 2, got 7"),
        ([0, 1, 2], 0, {}, "batch_size must be a positive multiple of the number of processes, 1, got 0"),
        ([0, 1, 2], 8, {"neighbours": 3, "num_ranks": 2}, "processes, 2, times neighbours, 3, got 8"),
        ([0, 1, 2], 8, {"neighbours": 0}, "neighbours must be at least 1, got 0"),
        ([0, 2, 4], 4, {"neighbours": 2}, "rows must be at least one"),
        ([], 4, {}, "rows must be at least one for each of 1 processes, got 0"),
        ([0], 2, {"num_ranks": 2}, "rows must be at least one for each of 2 processes, got 1"),
        ([0, 0, 0, 1], 2, {"num_ranks": 2}, "come from more videos for 2 processes, got 3 of 4 rows from one"),
    ],
)
def test_invalid_batches_are_refused(
    videos: list[int], batch_size: int, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(VidretError, match=message):
        TrainBatches(videos, batch_size, **settings)


@given(num_items=st.integers(0, 70), num_ranks=st.integers(1, 5))
def test_evaluation_yields_every_item_once_over_all_processes(num_items: int, num_ranks: int) -> None:
    if num_items < num_ranks:
        with pytest.raises(VidretError, match=f"one for each of {num_ranks} processes, got {num_items}"):
            divide_evenly(num_items, 4, num_ranks=num_ranks)
        return
    by_rank = [divide_evenly(num_items, 4, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert sorted(item for batches in by_rank for batch in batches for item in batch) == list(range(num_items))
    assert all(1 <= len(batch) <= 4 for batches in by_rank for batch in batches)
    assert len(set(map(len, by_rank))) == 1  # so that a collective in each step does not hang
    sizes = [sum(map(len, batches)) for batches in by_rank]
    assert max(sizes) - min(sizes) <= max(map(len, by_rank))
