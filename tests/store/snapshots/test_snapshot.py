"""Snapshots: after any changes, extended ones are those read from scratch, and answer what SQL over all rows does."""

import json
import math
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vidret.errors import StoreError
from vidret.store.catalog.database import Database
from vidret.store.snapshots import latest
from vidret.store.snapshots.bitmap import make_bitmap
from vidret.store.snapshots.changes import Changes, Position, read_changes
from vidret.store.snapshots.columns import FILE_NAME, KEY, checksum_column
from vidret.store.snapshots.latest import SAVED, SnapshotBuilder, Snapshots
from vidret.store.snapshots.snapshot import Snapshot, remember
from vidret.store.store import Store
from vidret.store.vectors.flat import Flat
from vidret.types import Filters

from .. import naive
from ..recorded import FACT_FILTERS, FACTS
from ..samples import DIM, add_segment, add_video, create, embedding, lose

FOLDERS = ["/a", "/a/b", "/a/b c", "/a0", "/b"]
NAMES = st.builds("{}/{}.mp4".format, st.sampled_from(FOLDERS), st.integers(0, 3))
STATES = st.sampled_from(["pending", "running", "done", "failed", "missing"])
TIMES = st.sampled_from([None, 0, 10, 20, -(10.0**12), 10.0**12])
FILTERS = st.builds(
    Filters,
    folder=st.sampled_from([None, "/", *FOLDERS, "/a/0.mp4"]),
    name=st.sampled_from([None, None, "", "0.MP4", "c a", "/b/"]),
    min_seconds=st.sampled_from([None, 10, 20]),
    max_seconds=st.sampled_from([None, 20.0, float("nan")]),
    after=TIMES,
    before=TIMES,
)


def columns(snapshot: Snapshot) -> dict[str, object]:
    """Return what a snapshot says of each segment, video and path."""
    segments, videos, files = snapshot.segments, snapshot.videos, snapshot.files
    rows = np.flatnonzero(segments.stored).tolist()
    segment_columns = ("starts", "ends", "num_frames", "num_bytes", "searchable")
    paths = {files.paths[row]: row for row in np.flatnonzero(files.current).tolist()}
    owner = [int(videos.ids[row]) if row >= 0 else None for row in files.video_rows.tolist()]
    return {
        "segments": {
            int(segments.ids[row]): (
                int(videos.ids[segments.video_rows[row]]),
                *(getattr(segments, name)[row].item() for name in segment_columns),
            )
            for row in rows
        },
        "videos": {
            int(videos.ids[row]): (
                videos.fingerprints[row],
                *(
                    getattr(videos, name)[row].item()
                    for name in ("durations", "complete", "imported", "num_paths", "num_segments")
                ),
            )
            for row in np.flatnonzero(videos.stored).tolist()
        },
        "files": {path: (owner[row], int(files.mtimes_ns[row]), int(files.states[row])) for path, row in paths.items()},
        "searchable": snapshot.everything.ids().tolist(),
        "count": snapshot.everything.num_segments,
    }


class SnapshotMachine(RuleBasedStateMachine):
    """Changes of a store, of which two others take snapshots: one after each change, one only now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.num_videos = 0

    @initialize()
    def create(self) -> None:
        self.store = create(self.folder)
        self.readers = [Store.open(self.folder), Store.open(self.folder)]

    def teardown(self) -> None:
        for store in (self.store, *self.readers):
            store.close()
        shutil.rmtree(self.folder)

    @rule(path=NAMES, content=st.integers(0, 5), num_segments=st.integers(1, 3), finish=st.booleans())
    def add(self, path: str, content: int, num_segments: int, *, finish: bool) -> None:
        """Index a video, perhaps not to its end; with another number of segments it starts over."""
        self.num_videos = max(self.num_videos, content)
        store, facts = self.store, {"imported": content == 3, **FACTS[content]}
        video = store.writer.begin_video(
            f"v{content}", duration=10.0 * num_segments, facts=facts, num_segments=num_segments + (not finish)
        )
        store.writer.set_file(path, state="running", video=video, num_bytes=1, mtime_ns=content * 5 * 10**9)
        for index in sorted(set(range(num_segments)) - store.segments.stored_indices(video)):
            seed = 100 * content + index
            add_segment(store, video, index, 10.0 * index, 10.0 * index + 10, embedding(seed), tokens=b"t" * (seed % 2))
        if finish:
            store.writer.finish_video(video)
            store.writer.set_file(path, state="done")

    @precondition(lambda self: len(self.store.files.find()) > 0)
    @rule(data=st.data(), state=STATES, changed=st.sampled_from([None, 7 * 10**9, 12 * 10**9]))
    def set_file(self, data: st.DataObject, state: str, changed: int | None) -> None:
        path = data.draw(st.sampled_from([record.path for record in self.store.files.find()]))
        self.store.writer.set_file(path, state=state, mtime_ns=changed)  # type: ignore[arg-type]

    @rule(path=NAMES, state=STATES)
    def set_file_without_video(self, path: str, state: str) -> None:
        self.store.writer.set_file(path, state=state)  # type: ignore[arg-type]

    @rule()
    def prune(self) -> None:
        self.store.upkeep.prune()

    @precondition(lambda self: len(self.store) > 0)
    @rule(data=st.data())
    def lose_a_segment(self, data: st.DataObject) -> None:
        """Damage the row of a segment, which a repair drops."""
        key = data.draw(st.sampled_from(self.store.searchable().tolist()))
        self.store._catalog.database.run("UPDATE segments SET row_sum = row_sum + 1 WHERE id = ?", key)
        self.store._catalog.tables.update_checksums("segments", "id = ?", key)
        assert [bad.id for bad in self.store.upkeep.verify(repair=True)] == [key]

    @rule()
    def save(self) -> None:
        self.store.upkeep.save_vectors()

    @rule(write=st.booleans())
    def open_again(self, *, write: bool) -> None:
        if write:
            self.store.close()
            self.store = Store.open(self.folder, write=True)
        self.readers[1].close()
        self.readers[1] = Store.open(self.folder)

    @rule(filters=FILTERS | st.sampled_from(FACT_FILTERS), spans=st.tuples(st.floats(-5, 40), st.floats(-5, 40)))
    def ask(self, filters: Filters, spans: tuple[float, float]) -> None:
        for reader in self.readers:
            snapshot = reader.snapshot()
            assert columns(snapshot) == columns(Snapshots(reader._catalog.tables).current())
            assert snapshot.select(filters).ids().tolist() == naive.matching(reader, filters)
            assert snapshot.select(filters).num_segments == len(naive.matching(reader, filters))
            assert snapshot.select(filters).num_videos == naive.count_videos(reader, filters)
            assert {video.id for video in reader.videos.find(filters)} == naive.find_videos(reader, filters)
            videos = snapshot.videos.ids.tolist()
            without = set(videos[::2])
            kept = [key for key in naive.matching(reader, filters) if naive.owners(reader)[key] not in without]
            assert snapshot.select(filters, without).ids().tolist() == kept
            asked = [(video, *spans) for video in [*videos, 999]]
            found = [keys.tolist() for keys in reader.overlapping(asked)]
            assert found == [naive.overlapping(reader, *span) for span in asked]
            assert reader.overlapping_segments(asked).tolist() == sorted(key for keys in found for key in keys)

    @rule(filters=FILTERS, after=st.sampled_from(["", *FOLDERS, "/a/b/1.mp4"]), limit=st.integers(1, 4))
    def list_a_page(self, filters: Filters, after: str, limit: int) -> None:
        firsts = sorted((video.paths[0].encode(), video.id) for video in self.readers[0].videos.find(filters))
        expected = [first for first in firsts if first[0] > after.encode()][:limit]
        assert self.readers[0].snapshot().list_videos(filters, after.encode(), limit) == expected

    @invariant()
    def is_what_is_stored(self) -> None:
        reader, snapshot = self.readers[0], self.readers[0].snapshot()
        assert columns(snapshot) == columns(SnapshotBuilder().advance(reader._catalog.database, snapshot.position))
        assert snapshot.everything.ids().tolist() == naive.matching(reader)
        assert snapshot.owners(range(60)).tolist() == [naive.owners(reader).get(key, -1) for key in range(60)]
        assert snapshot.find_contents([*(f"v{content}" for content in range(6)), "?"]) == naive.contents(reader)
        assert snapshot.describe() == naive.describe(reader)
        ids = np.flip(snapshot.segments.ids[snapshot.segments.stored])
        read, asked = reader.features.read(ids), reader.features.read_frames(ids)
        assert (read.ids.tolist(), read.segments) == (ids.tolist(), reader.segments.get(ids))
        assert [frames.tolist() for frames in read.frames] == [frames.tolist() for frames, _ in asked]
        assert [times.tolist() for times in read.times] == [times.tolist() for _, times in asked]
        assert list(map(bytes, read.tokens)) == list(map(bytes, reader.features.read_tokens(ids)))


SnapshotMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
test_snapshots_after_any_changes = SnapshotMachine.TestCase


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    with create(tmp_path) as writer, Store.open(tmp_path) as reader:
        for seed in range(8):
            add_video(writer, f"v{seed}", seed=seed)
        yield writer, reader


class Counted:
    """Counts the rows that statements of a database return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[tuple[str, int]] = []
        read = Database.read

        def counted(database: Database, take: Callable[[Any], Any], sql: str, *values: object) -> Any:
            result = read(database, take, sql, *values)
            self.statements.append((sql, len(result) if hasattr(result, "__len__") else 1))
            return result

        monkeypatch.setattr(Database, "read", counted)

    @property
    def num_rows(self) -> int:
        return sum(num for _, num in self.statements)

    def clear(self) -> None:
        self.statements.clear()


def test_a_commit_costs_a_reader_its_new_rows(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = stores
    first = reader.snapshot()
    counted = Counted(monkeypatch)
    assert reader.snapshot() is first
    assert counted.num_rows == 1
    video = writer.writer.begin_video("new", duration=9.0, facts={}, num_segments=2)
    writer.writer.set_file("/videos/new.mp4", state="running", video=video)
    key = add_segment(writer, video, 0, 0.0, 1.0, embedding(900))
    counted.clear()
    second = reader.snapshot()
    assert counted.num_rows <= 8, counted.statements
    assert second.everything.ids().tolist() == [*first.everything.ids().tolist(), key]
    assert len(first.segments.ids) == 32, "the first snapshot stays as it was"
    assert key not in first.everything.ids()
    lose(writer, 3)
    counted.clear()
    third = reader.snapshot()
    assert counted.num_rows <= 8, counted.statements
    assert third.everything.num_segments == 29
    assert second.everything.num_segments == 33
    assert second.everything.num_videos == 9
    assert third.everything.num_videos == 8


def test_opening_a_saved_index_reads_what_changed_since(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = stores
    writer.upkeep.save_vectors()
    counted = Counted(monkeypatch)
    with Store.open(tmp_path) as opened:
        counted.clear()
        assert columns(opened.snapshot()) == columns(reader.snapshot())
        assert counted.num_rows < 8, counted.statements
    add_video(writer, "new", seed=900)
    lose(writer, 3)
    with Store.open(tmp_path) as opened:
        assert columns(opened.snapshot()) == columns(reader.snapshot())
        assert opened.searchable()[-1] == opened.searchable().max() > 32


@pytest.mark.parametrize("is_opened", [False, True])
def test_a_log_that_is_trimmed_while_a_reader_looks_hides_no_change(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_opened: bool
) -> None:
    writer, continued = stores
    writer.upkeep.save_vectors()
    assert len(continued) == 32
    lose(writer, 3, 4)

    def trim_and_read(database: Database, after: Position) -> Changes:
        monkeypatch.undo()
        writer.upkeep.save_vectors()
        return read_changes(database, after)

    with Store.open(tmp_path) as opened:
        monkeypatch.setattr(latest, "read_changes", trim_and_read)
        reader = opened if is_opened else continued
        assert len(reader) == 24
        add_video(writer, "new", seed=900)
        assert columns(reader.snapshot()) == columns(writer.snapshot())


def test_a_clock_set_back_hides_no_change(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = stores
    assert len(reader) == 32
    monkeypatch.setattr("vidret.store.snapshots.changes.time.time_ns", lambda: 10**9)
    lose(writer, 0, 1, 2, 3)
    assert writer.upkeep.prune().freed_bytes > 0, "a compaction begins a new log"
    assert columns(reader.snapshot()) == columns(writer.snapshot())


def test_a_repair_after_a_clock_was_set_back_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path) as store:
        add_video(store, "v0", seed=0)
        store._catalog.database.run("UPDATE segments SET row_sum = row_sum + 1 WHERE number = 1")
    with Store.open(tmp_path) as reader:
        assert len(reader) == 4
        with monkeypatch.context() as clock:
            clock.setattr("vidret.store.snapshots.changes.time.time_ns", lambda: 10**18)
            assert len(Store.repair_catalog(tmp_path)) == 1
        assert len(reader) == 3


def test_what_is_deleted_is_not_saved_for_ever(stores: tuple[Store, Store], tmp_path: Path) -> None:
    writer, _ = stores
    writer.upkeep.save_vectors()
    lose(writer, 0, 1, 2, 3)
    writer.upkeep.prune()
    writer.upkeep.save_vectors()
    with Store.open(tmp_path) as opened:
        snapshot = opened.snapshot()
        assert len(snapshot.segments.ids) == snapshot.everything.num_segments == 16
        assert columns(snapshot) == columns(writer.snapshot())


@pytest.mark.parametrize(
    "name", ["segments.ids", "segments.video_rows", "segments.first_frames", "videos.ids", "files.video_rows", "bits"]
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_columns_that_cannot_be_right_are_read_from_the_catalog(
    stores: tuple[Store, Store], tmp_path: Path, name: str, *, is_listed: bool
) -> None:
    """Damaged ones, and those of a foreign index, whose checksums are right."""
    writer, reader = stores
    writer.upkeep.save_vectors()
    entry = json.loads(writer._catalog.tables.derived(KEY)[0])
    count, offset, _ = entry["columns"][name]
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    if name == "bits":
        entry["columns"][name] = [count + 8, offset, checksum_column(np.array(content[offset : offset + count + 8]))]
    else:
        size = np.dtype(SAVED[name]).itemsize
        content[offset : offset + size] = b"\x7f" * size
        entry["columns"][name][2] = checksum_column(np.array(content[offset : offset + count * size]))
    file.write_bytes(content)
    if is_listed:
        writer._catalog.tables.set_meta(KEY, json.dumps(entry))
    elif name == "bits":
        file.write_bytes(content[:offset])
    with Store.open(tmp_path) as opened:
        assert columns(opened.snapshot()) == columns(reader.snapshot())


@given(st.integers(0, 20_000), st.randoms(use_true_random=False))
def test_damage_to_a_column_changes_its_checksum(num_bytes: int, random: Any) -> None:
    column = np.frombuffer(random.randbytes(num_bytes + 1), np.uint8)
    damaged = np.stack([column] * 4)
    places = random.randrange(num_bytes + 1), random.randrange(num_bytes + 1)
    damaged[0, places[0]] ^= 1 << random.randrange(8)
    damaged[1, list(places)] = damaged[1, list(places[::-1])]  # moved
    damaged[2, places[0] : places[0] + 512] = 0  # a sector
    damaged[3, min(places) : max(places)] ^= 0x80
    for row in damaged:
        assert (checksum_column(row) == checksum_column(column)) == np.array_equal(row, column)


def test_a_list_of_columns_with_impossible_numbers_is_ignored(stores: tuple[Store, Store], tmp_path: Path) -> None:
    writer, reader = stores
    writer.upkeep.save_vectors()
    entry = json.loads(writer._catalog.tables.derived(KEY)[0])
    endless = {name: [10**30, 0, 0] for name in entry["columns"]}
    wrongs: list[dict[str, object]] = [{"columns": endless}, {"position": [math.inf] * 3}, {"columns": 3}]
    for wrong in wrongs:
        writer._catalog.tables.set_meta(KEY, json.dumps(entry | wrong))
        with Store.open(tmp_path) as opened:
            assert columns(opened.snapshot()) == columns(reader.snapshot())


@pytest.mark.parametrize("filters", [Filters(), Filters(folder="/videos"), Filters(min_seconds=1.0)])
def test_a_query_reads_no_rows_but_its_own(
    stores: tuple[Store, Store], filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = stores
    query = np.ones((1, DIM), np.float32)
    reader.search(query, 3, reader.select(filters))
    counted = Counted(monkeypatch)
    ids = reader.search(query, 3, reader.select(filters))[1][0]
    assert len(reader) == 32
    assert reader.select(filters).num_videos == 8
    assert (reader.owners(ids) > 0).all()
    assert len(reader.overlapping_segments([(1, 0.0, 5.0)])) == 1
    assert not [sql for sql, num in counted.statements if num > 2 or "count(*) FROM segments" in sql]
    lose(writer, 1)
    reader.search(query, 3, reader.select(filters))
    assert counted.num_rows < 32, counted.statements


def test_metadata_is_read_only_after_a_commit(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = stores

    def ask() -> tuple[int, object]:
        with reader.hold():
            return reader.generation, reader.metadata.get("ranker")

    first, counted = ask(), Counted(monkeypatch)
    assert ask() == first
    assert [sql for sql, _ in counted.statements] == ["PRAGMA data_version"]
    writer.metadata.set("ranker", "another")
    assert ask() == (first[0], "another")


def test_two_threads_search_at_the_same_time(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    _, reader = stores
    meeting, search = threading.Barrier(2), Flat.search  # which breaks if one search waits for the other

    def meet_and_search(flat: Flat, *values: Any) -> Any:
        meeting.wait(20)
        return search(flat, *values)

    reader.search(np.ones((1, DIM), np.float32), 1)
    monkeypatch.setattr(Flat, "search", meet_and_search)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(reader.search, embedding(seed).video[None], 1) for seed in (100, 200)]
        assert len({int(job.result()[1][0, 0]) for job in futures}) == 2


def test_threads_share_what_is_remembered() -> None:
    interval, cache = sys.getswitchinterval(), dict[int, str]()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            keys = [index % 7 for index in range(4000)]
            assert list(pool.map(lambda key: remember(cache, key, lambda: str(key), 3), keys)) == list(map(str, keys))
    finally:
        sys.setswitchinterval(interval)
    assert len(cache) <= 3 + 4


@pytest.mark.parametrize("ids", [[-1, 3], [5, 2**40]])
def test_bitmaps_take_ids_of_segments_only(ids: list[int]) -> None:
    with pytest.raises(StoreError, match="must ascend from 0"):
        make_bitmap(np.array(ids, np.int64))


def test_what_is_rolled_back_is_in_no_snapshot(stores: tuple[Store, Store]) -> None:
    writer, _ = stores
    assert len(writer) == 32

    def fail() -> None:
        with writer._catalog.database.transaction():
            writer._catalog.database.run("UPDATE files SET state = 'missing' WHERE path = ?", b"/videos/v1.mp4")
            assert len(writer) == 28
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(writer) == 32
    lose(writer, 2)
    assert writer.searchable().tolist() == naive.matching(writer)
