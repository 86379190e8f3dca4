"""Results that arrive late, twice or in any order make the same index."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.errors import DecodeError, VidretError
from vidret.index.options import FileJob
from vidret.index.run_state import RunState
from vidret.store.store import Store
from vidret.types import SegmentEmbedding
from vidret.video.workers.messages import OpenedVideo

pytest.importorskip("ray")
rows = pytest.importorskip("vidret.index.ray.rows")
results = pytest.importorskip("vidret.index.ray.driver")

NUM_SEGMENTS = 5
Rows = list[tuple[Any, bytes]]


@pytest.fixture
def run_state(tmp_path: Path) -> Iterator[RunState]:
    """Return a run with two contents, of which the first has a copy."""
    with Store.create(tmp_path / "index", encoder_name="none", encoder_fingerprint="0", dim=2) as store:
        run_state = RunState(store, retry_failed=False)
        run_state.jobs = [FileJob(f"/films/{name}.mp4", 10, 1) for name in ("a", "copy of a", "b")]
        yield run_state


CONTENTS = [
    rows.ContentTask(0, "a", ((0, "/films/a.mp4"), (1, "/films/copy of a.mp4"))),
    rows.ContentTask(1, "b", ((2, "/films/b.mp4"),)),
]


def opened() -> OpenedVideo:
    cuts = [(number, float(number), number + 1.0) for number in range(NUM_SEGMENTS)]
    return OpenedVideo({"start": 0.0}, float(NUM_SEGMENTS), cuts, NUM_SEGMENTS, "pyav", "")


def encoded(content_index: int, job_index: int, number: int) -> tuple[Any, bytes]:
    segment = rows.SegmentInfo(content_index, job_index, opened(), number, float(number), number + 1.0, (), seconds=0.5)
    vector = np.array([content_index + 1, number], np.float16)
    embedding = SegmentEmbedding(vector, vector[None], np.array([number + 0.5]))
    return rows.EncodedRow(segment, embedding, 0.25), bytes([content_index, number])


def whole(content_index: int, job_index: int) -> Rows:
    """Return all rows of a content: its segments, and the one that finishes it."""
    finished = rows.ContentFinished(content_index, job_index, opened(), "", NUM_SEGMENTS)
    return [*(encoded(content_index, job_index, number) for number in range(NUM_SEGMENTS)), (finished, b"")]


@pytest.mark.parametrize("seed", range(5))
def test_rows_in_any_order_and_repeated_rows_are_stored_once(run_state: RunState, seed: int) -> None:
    rng = random.Random(seed)
    sent = [*whole(0, 0), *whole(1, 2)]
    incoming = [*sent, *rng.sample(sent, 6)]
    rng.shuffle(incoming)
    writer = results.ResultWriter(run_state, CONTENTS)
    while incoming:
        size = rng.randint(1, 4)
        writer.write(incoming[:size])
        del incoming[:size]
    store = run_state.store
    assert {record.path: record.state for record in store.files.find()} == {job.path: "done" for job in run_state.jobs}
    for content, name in enumerate("ab"):
        video_id = store.videos.find_complete(name)
        assert video_id is not None
        ids = store.segments.ids_of_video(video_id)
        assert [bytes(each) for each in store.features.read_tokens(ids)] == [
            bytes([content, n]) for n in range(NUM_SEGMENTS)
        ]
    report = run_state.close()
    assert (report.encoded, report.linked, report.num_segments) == (2, 1, 2 * NUM_SEGMENTS)
    assert writer.spent["decode"] == 2 * writer.spent["encode"] == 2 * NUM_SEGMENTS * 0.5


def test_a_content_is_complete_only_when_all_its_rows_have_arrived(run_state: RunState) -> None:
    writer = results.ResultWriter(run_state, CONTENTS)
    *segments, finished = whole(1, 2)
    writer.write([finished, *segments[1:]])
    assert run_state.store.videos.find_complete("b") is None
    assert [record.state for record in run_state.store.files.find()] == ["running"]
    writer.write(segments[:1])
    assert run_state.store.videos.find_complete("b") is not None


def test_if_the_first_file_fails_its_copy_is_encoded(run_state: RunState) -> None:
    writer = results.ResultWriter(run_state, CONTENTS)
    failed = rows.FileFailed(0, 0, DecodeError("a.mp4", "was killed")), b""
    writer.write([failed, encoded(0, 0, 0), failed])
    writer.write(whole(0, 1))
    report = run_state.close()
    assert report.failed == [("/films/a.mp4", "was killed")]
    assert (report.encoded, report.linked) == (1, 0)
    states = {record.path: record.state for record in run_state.store.files.find()}
    assert states == {"/films/a.mp4": "failed", "/films/copy of a.mp4": "done"}


def test_a_failed_run_is_raised(run_state: RunState) -> None:
    with pytest.raises(VidretError, match=r"^node 7: the encoder broke$"):
        results.ResultWriter(run_state, CONTENTS).write([(rows.RunFailed("node 7: the encoder broke"), b"")])
