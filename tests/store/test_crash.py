"""Writers killed at any time: the next run continues, with the same result as an uninterrupted run."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.forking import run_code, start_code
from vidret.store.store import Store

from . import samples

NUM_VIDEOS = 40
ROUNDS = 6


def content(store: Store) -> list[tuple[object, ...]]:
    """Return all segments found by a search, duplicates included, with their content and shot changes."""
    _, ids = store.search(np.zeros((1, samples.DIM), np.float32), 10 * NUM_VIDEOS)
    found = [int(key) for key in ids[0] if key >= 0]
    rows = zip(
        store.segments.get(found),
        store.features.read_frames(found),
        store.features.read_tokens(found),
        store.shots.of_segments(found),
        strict=True,
    )
    return sorted(
        (store.videos.get(s.video).fingerprint, s.number, f.tobytes(), t.tobytes(), p.tobytes(), str(shots))
        for s, (f, t), p, shots in rows
    )


WRITER = """
import sys
from pathlib import Path
from tests.store import samples
with samples.create(Path(sys.argv[1])) as store:
    print("ready", flush=True)
    samples.index_all(store, int(sys.argv[2]))
"""


def test_killed_writer_is_continued(tmp_path: Path) -> None:
    rng = random.Random(0)
    killed = 0
    with samples.create(tmp_path / "whole") as store:
        samples.index_all(store, NUM_VIDEOS)
        whole = content(store)
    for _ in range(ROUNDS):
        with start_code(WRITER, tmp_path / "killed", NUM_VIDEOS) as (writer, _, _):
            time.sleep(rng.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
        killed += writer.returncode == -signal.SIGKILL
        with Store.open(tmp_path / "killed") as reader:
            stored = content(reader)
            assert len(stored) == len(reader)
            assert stored == [segment for segment in whole if segment in stored], "with their shot changes"
            assert reader.upkeep.verify() == []
    assert killed > 0
    with samples.create(tmp_path / "killed") as store:
        assert store.upkeep.verify() == []
        samples.index_all(store, NUM_VIDEOS)
        assert content(store) == whole
        assert len(store) == len(whole) == NUM_VIDEOS * samples.NUM_SEGMENTS


KILLED_WRITER = """
import os, sys
from pathlib import Path
from tests.store import samples
samples.kill_at(os, "fdatasync", int(sys.argv[2]))
samples.index_all(samples.create(Path(sys.argv[1])), 2)
"""


@pytest.mark.parametrize(
    ("sync", "torn"), [(1, ["video"]), (4, ["frames", "video"]), (8, ["frames", "tokens", "video"])]
)
def test_torn_tail_of_each_file_is_truncated(tmp_path: Path, sync: int, torn: list[str]) -> None:
    """Killed at the n-th sync: the bytes are in the file, but not in the catalog."""
    assert run_code(KILLED_WRITER, tmp_path / "killed", sync).returncode == -signal.SIGKILL
    paths = sorted((tmp_path / "killed" / "features").iterdir())
    with Store.open(tmp_path / "killed") as reader:
        known = content(reader)
        assert reader.upkeep.verify() == []
    before = {path.stem: path.stat().st_size for path in paths}
    with samples.create(tmp_path / "killed") as store, samples.create(tmp_path / "whole") as whole:
        assert [path.stem for path in paths if path.stat().st_size < before[path.stem]] == torn
        assert content(store) == known
        samples.index_all(store, 2)
        samples.index_all(whole, 2)
        assert content(store) == content(whole)
        for path in paths:
            assert path.read_bytes() == (tmp_path / "whole" / "features" / path.name).read_bytes()


FORKING_WRITER = """
import os, signal, sys
from vidret.store.store import Store
store = Store.create(sys.argv[1], encoder_name="tower", encoder_fingerprint="tower-1", dim=8)
if os.fork() == 0:
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


def test_child_of_a_killed_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    with start_code(FORKING_WRITER, tmp_path) as (writer, _, _):
        writer.kill()
        writer.wait()
        samples.create(tmp_path).close()
