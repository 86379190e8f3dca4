"""Progress of a run: the share of encoded segments, estimated from the size of files that are not opened yet."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tests.waiting import wait_until
from vidret.errors import StoreError
from vidret.index.options import FileJob, Progress, Workload
from vidret.index.run_state import RunState
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding


def naive_share(
    disk_bytes: dict[str, int], opened: dict[str, tuple[int, int]], encoded: dict[str, int], finished: set[str]
) -> float:
    """Compute the share of the work from scratch; ``opened`` has (segments, segments to encode) by file."""
    unopened = [path for path in disk_bytes if path not in opened and path not in finished]
    known_bytes = sum(disk_bytes[path] for path in opened)
    rate = sum(counts[0] for counts in opened.values()) / known_bytes if known_bytes else 0.0
    estimate = max(len(unopened), rate * sum(disk_bytes[path] for path in unopened))
    skipped = len(finished - set(opened))
    done = skipped + sum(remaining if path in finished else encoded[path] for path, (_, remaining) in opened.items())
    total = skipped + estimate + sum(remaining for _, remaining in opened.values())
    return done / total if total else 1.0


@pytest.mark.parametrize("seed", range(10))
def test_share_equals_naive_twin_and_never_falls(seed: int) -> None:
    rng = random.Random(seed)
    disk_bytes = {str(index): rng.choice([0, 10, 1000, 100_000]) for index in range(12)}
    work, opened, encoded, finished = Workload(), dict[str, tuple[int, int]](), dict.fromkeys(disk_bytes, 0), set[str]()
    for path, size in disk_bytes.items():
        work.add(path, size)
    best = 0.0
    for _ in range(200):
        path = rng.choice(list(disk_bytes))
        match rng.choice(["open", "advance", "advance", "advance", "finish"]):
            case "open" if path not in finished:
                segments = rng.randint(1, 8)
                remaining = rng.randint(0, segments)
                work.open(path, segments, remaining)
                opened.setdefault(path, (segments, remaining))
            case "advance" if path not in finished:
                work.advance(path)
                encoded[path] = min(encoded[path] + 1, opened[path][1]) if path in opened else 0
            case "finish" if rng.random() < 0.1:
                work.finish(path)
                finished.add(path)
        best = max(best, naive_share(disk_bytes, opened, encoded, finished))
        assert work.share() == pytest.approx(best)
    for path in disk_bytes:
        work.finish(path)
    assert work.share() == 1.0


class ShortThread(threading.Thread):
    """A thread that has ended when its start returns."""

    def start(self) -> None:
        super().start()
        self.join()


def test_a_run_that_ends_at_once_is_reported_from_its_beginning(tmp_path: Path) -> None:
    reported: list[Progress] = []
    with Store.create(tmp_path / "index", encoder_name="none", encoder_fingerprint="0", dim=2) as store:
        state = RunState(store, retry_failed=False)
        started: list[int] = []
        state.watch([ShortThread(target=lambda: started.append(len(reported)))], reported.append)
    assert started == [1]
    assert reported[0].done == 0


@pytest.mark.parametrize("is_full", [False, True])
def test_segments_that_wait_for_the_disk_are_stored_together(tmp_path: Path, is_full: bool) -> None:
    batches, may_store = list[list[int]](), threading.Event()

    def store_slowly(segments: list[NewSegment]) -> None:
        batches.append(sorted(segment.number for segment in segments))
        may_store.wait(60)
        if is_full:
            raise StoreError("the disk is full")

    embedding = SegmentEmbedding(np.ones(2), np.ones((1, 2)), np.zeros(1))
    with Store.create(tmp_path / "index", encoder_name="none", encoder_fingerprint="0", dim=2) as store:
        state = RunState(store, retry_failed=False)
        with mock.patch.object(store.writer, "add_segments", store_slowly), ThreadPoolExecutor(5) as pool:
            job, segments = FileJob("a.mp4", 1, 1), [NewSegment(1, n, n, n + 1.0, embedding, b"", ()) for n in range(5)]
            added = [pool.submit(state.add, job, segments[0])]
            wait_until(lambda: bool(batches))
            added += [pool.submit(state.add, job, segment) for segment in segments[1:]]
            wait_until(lambda: len(state._waiting) == 4)
            may_store.set()
            errors = [future.exception(10) for future in added]
    assert batches == ([[0]] if is_full else [[0], [1, 2, 3, 4]])
    assert all(isinstance(error, StoreError) for error in errors) if is_full else not any(errors)
