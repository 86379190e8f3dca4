"""Rows that come late, twice or in any order make the same index."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.errors import DecodeError, VidretError
from vidret.index.run_state import FileJob, RunState
from vidret.store.store import Store
from vidret.types import SegmentEmbedding
from vidret.video.pool import OpenedVideo

pytestmark = pytest.mark.scale
pytest.importorskip("ray")
rows = pytest.importorskip("vidret.index.ray.rows")
arrivals = pytest.importorskip("vidret.index.ray.arrivals")

NUM_SEGMENTS = 5
Rows = list[tuple[Any, bytes]]


@pytest.fixture
def run_state(tmp_path: Path) -> Iterator[RunState]:
    """Give a run of two contents: the first with a copy, the second alone."""
    with Store.create(tmp_path / "index", encoder_name="none", encoder_fingerprint="0", dim=2) as store:
        run_state = RunState(store, retry_failed=False)
        run_state.jobs = [FileJob(f"/films/{name}.mp4", 10, 1) for name in ("a", "copy of a", "b")]
        yield run_state


CONTENTS = [
    rows.Content(0, "a", ((0, "/films/a.mp4"), (1, "/films/copy of a.mp4"))),
    rows.Content(1, "b", ((2, "/films/b.mp4"),)),
]


def opened() -> OpenedVideo:
    cuts = [(number, float(number), number + 1.0) for number in range(NUM_SEGMENTS)]
    return OpenedVideo({}, float(NUM_SEGMENTS), cuts, "pyav", "")


def encoded(content: int, file: int, number: int) -> tuple[Any, bytes]:
    part = rows.SegmentInfo(content, file, opened(), number, float(number), number + 1.0, seconds=0.5)
    vector = np.array([content + 1, number], np.float16)
    embedding = SegmentEmbedding(vector, vector[None], np.array([number + 0.5]))
    return rows.Encoded(part, embedding, 0.25), bytes([content, number])


def whole(content: int, file: int) -> Rows:
    ended = rows.Ended(content, file, opened(), "", NUM_SEGMENTS)
    return [*(encoded(content, file, number) for number in range(NUM_SEGMENTS)), (ended, b"")]


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_any_order_and_some_of_them_twice_are_stored_once(run_state: RunState, seed: int) -> None:
    rng = random.Random(seed)
    sent = [*whole(0, 0), *whole(1, 2)]
    coming = [*sent, *rng.sample(sent, 6)]
    rng.shuffle(coming)
    taken = arrivals.Arrivals(run_state, CONTENTS)
    while coming:
        size = rng.randint(1, 4)
        taken.take(coming[:size])
        del coming[:size]
    store = run_state.store
    assert {record.path: record.state for record in store.files()} == {job.path: "done" for job in run_state.jobs}
    for content, name in enumerate("ab"):
        video = store.is_complete(name)
        assert video is not None
        ids = store.video_segments(video)
        assert [bytes(each) for each in store.tokens(ids)] == [bytes([content, n]) for n in range(NUM_SEGMENTS)]
    report = run_state.close()
    assert (report.encoded, report.linked, report.num_segments) == (2, 1, 2 * NUM_SEGMENTS)
    assert taken.spent["decode"] == 2 * taken.spent["encode"] == 2 * NUM_SEGMENTS * 0.5


def test_a_content_is_done_only_when_all_of_it_has_come(run_state: RunState) -> None:
    taken = arrivals.Arrivals(run_state, CONTENTS)
    *segments, ended = whole(1, 2)
    taken.take([ended, *segments[1:]])
    assert run_state.store.is_complete("b") is None
    assert [record.state for record in run_state.store.files()] == ["running"]
    taken.take(segments[:1])
    assert run_state.store.is_complete("b") is not None


def test_where_the_first_file_fails_its_copy_is_the_one_that_was_encoded(run_state: RunState) -> None:
    taken = arrivals.Arrivals(run_state, CONTENTS)
    failed = rows.Failed(0, 0, DecodeError("a.mp4", "was killed")), b""
    taken.take([failed, encoded(0, 0, 0), failed])
    taken.take(whole(0, 1))
    report = run_state.close()
    assert report.failed == [("/films/a.mp4", "was killed")]
    assert (report.encoded, report.linked) == (1, 0)
    states = {record.path: record.state for record in run_state.store.files()}
    assert states == {"/films/a.mp4": "failed", "/films/copy of a.mp4": "done"}


def test_what_ends_a_run_is_raised(run_state: RunState) -> None:
    with pytest.raises(VidretError, match=r"^node 7: the encoder broke$"):
        arrivals.Arrivals(run_state, CONTENTS).take([(rows.Broken("node 7: the encoder broke"), b"")])
