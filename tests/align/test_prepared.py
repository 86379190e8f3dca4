"""Tests of blocks that are scored on several threads: the same scores, bit for bit."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.glscl import ConceptAligner
from vidret.align.prepared import MIN_TASKS, flushed_denormals, run_tasks
from vidret.align.ucofia import Aligner

NUM_TEXTS, NUM_VIDEOS, DIM = 150, 300, 16


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_tasks_run_on_the_threads_of_torch() -> None:
    torch.set_num_threads(3)
    seen: dict[int, tuple[int, bool, bool]] = {}
    barrier = threading.Barrier(3, timeout=30)

    def task(number: int) -> None:
        if number < 3:
            barrier.wait()
        is_flushed = bool(torch.full((8,), 1e-39).mul(0.5).eq(0).all())
        seen[number] = threading.get_ident(), is_flushed, torch.is_grad_enabled()

    with torch.no_grad():
        run_tasks([lambda index=index: task(index) for index in range(3 * MIN_TASKS)], torch.device("cpu"))  # type: ignore[misc]
    assert len(seen) == 3 * MIN_TASKS
    assert len({thread for thread, _, _ in seen.values()}) == 3
    assert all(is_flushed and not has_grad for _, is_flushed, has_grad in seen.values())
    assert torch.get_num_threads() == 3


def test_few_tasks_start_no_thread_and_errors_are_raised() -> None:
    torch.set_num_threads(3)
    seen = list[int]()
    run_tasks([lambda: seen.append(threading.get_ident())] * 7, torch.device("cpu"))
    assert set(seen) == {threading.get_ident()}

    def fail() -> None:
        raise ValueError("of a task")

    with pytest.raises(ValueError, match="of a task"):
        run_tasks([fail] * 20, torch.device("cpu"))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("kind", [Aligner, ConceptAligner])
@torch.no_grad()
def test_threads_do_not_change_scores(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    words, mask = (
        torch.randn(NUM_TEXTS, 20, DIM, generator=generator),
        torch.arange(20) < torch.randint(1, 21, (NUM_TEXTS, 1), generator=generator),
    )
    texts = TextBatch(words[:, 0], words, mask)
    videos = VideoBatch(torch.randn(NUM_VIDEOS, 12, DIM, generator=generator))
    found = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        aligner = kind()
        found.append(aligner.score(texts, aligner.prepare(videos)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_denormal_mode_is_restored() -> None:
    small = torch.full((8,), 1e-39)
    for before in (False, True, False):
        torch.set_flush_denormal(before)
        with flushed_denormals():
            assert (small * 0.5 == 0).all()
        assert bool((small * 0.5 == 0).all()) is before
