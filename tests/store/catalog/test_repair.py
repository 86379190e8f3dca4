"""Damage in the catalog: every flipped bit is found or harmless, and intact rows are recovered."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.catalog import catalog as catalog_module
from vidret.store.catalog.database import Database
from vidret.store.catalog.schema import ESSENTIAL, FORMAT, find_schema_checksum
from vidret.store.folder import WriteAccess
from vidret.store.records import FOLLOW_SHOTS, SEGMENTS
from vidret.store.snapshots.columns import FILE_NAME
from vidret.store.store import Store

from ..samples import NUM_SEGMENTS, add_video, create, damage, embedding, index_all, of, seeds, tokens

ALL = of(0, 1, 2)
Answers = dict[object, object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index, of which ``index`` is a copy that a test may damage."""
    folder = tmp_path_factory.mktemp("made") / "index"
    with create(folder) as store:
        index_all(store, 3)
        store.metadata.set("ranker", "{}")
        store.metadata.set(SEGMENTS, FOLLOW_SHOTS)
        store.metadata.set("baseline.none", "[]")
    return folder


def damage_rows(index: Path, sql: str) -> None:
    """Change rows without updating their checksums."""
    with Store.open(index, write=True) as store:
        assert store._catalog.database.run(sql) > 0


def answers(index: Path) -> Answers:
    """Return all scores, segments and videos of an index, by key."""
    with Store.open(index) as store:
        scores, ids = store.search(np.stack([embedding(seed).video for seed in ALL]), len(ALL))
        stored = store.features.read(sorted(set(ids[ids >= 0].tolist())))
        found: Answers = {("score", query, key): scores[query, rank] for (query, rank), key in np.ndenumerate(ids)}
        videos = {video.id: video.paths for video in store.videos.find()}
        for key, segment, frames, times, packed, changes in zip(
            stored.ids,
            stored.segments,
            stored.frames,
            stored.times,
            stored.tokens,
            store.shots.of_segments(stored.ids),
            strict=True,
        ):
            if segment.video in videos:
                found[key] = (segment, frames.tobytes(), times.tobytes(), bytes(packed), changes)
        return {key: value for key, value in found.items() if not isinstance(key, tuple) or key[2] in stored.ids} | {
            video.paths: (video.duration, str(video.facts), video.salvaged) for video in store.videos.find()
        }


def is_found(index: Path) -> bool:
    try:
        with Store.open(index) as store:
            return bool(store.upkeep.verify() or store.upkeep.verify_vectors())
    except StoreError as error:
        assert "run vidret info --repair" in str(error)  # noqa: PT017
        return True


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_changes_results_undetected(index: Path, tmp_path: Path, seed: int) -> None:
    rng, content, expected = random.Random(seed), (index / "catalog.sqlite").read_bytes(), answers(index)
    offsets = [offset for offset in range(4096, len(content)) if content[offset]]  # after the page of CREATE statements
    num_found = 0
    for _ in range(10):
        shutil.copytree(index, tmp_path / "damaged", dirs_exist_ok=True)
        path = tmp_path / "damaged" / "catalog.sqlite"
        path.write_bytes(content)
        damage(path, rng.choice(offsets), bits=1 << rng.randrange(8))
        if not is_found(path.parent):
            assert answers(path.parent) == expected
            continue
        num_found += 1
        Store.repair_catalog(path.parent)
        with Store.open(path.parent, write=True) as store:
            assert (store.upkeep.verify(), store.upkeep.verify_vectors()) == ([], [])
        assert answers(path.parent).items() <= expected.items()
        with create(path.parent) as store:
            index_all(store, 3)
            assert seeds(store) == ALL
        shutil.rmtree(path.parent)
    assert num_found > 3


ROWS = {
    "a segment's times": ("UPDATE segments SET start = start + 1 WHERE id = 6", "segments", [101]),
    "a segment's place": ("UPDATE segments SET frame_row = 0 WHERE id = 6", "segments", [101]),
    "a segment's video": ("UPDATE segments SET video = 1, number = 9 WHERE id = 6", "segments", [101]),
    "a video's duration": ("UPDATE videos SET duration = 1 WHERE id = 2", "videos", [100, 101, 102, 103]),
    "a video's facts": ("UPDATE videos SET facts = '{' WHERE id = 2", "videos", [100, 101, 102, 103]),
    "a file's path": ("UPDATE files SET path = x'61' WHERE video = 2", "files", [100, 101, 102, 103]),
    "a file's time": ("UPDATE files SET mtime_ns = NULL WHERE video = 2", "files", [100, 101, 102, 103]),
    "no checksum": ("UPDATE segments SET checksum = NULL WHERE id = 6", "segments", [101]),
    "a segment's shots": ("UPDATE shots SET changes = '[]' WHERE segment = 6", "shots", [101]),
    "no checksum of shots": ("UPDATE shots SET checksum = NULL WHERE segment = 6", "shots", [101]),
    "bytes for text": ("UPDATE videos SET facts = CAST(facts AS BLOB) WHERE id = 2", "videos", [100, 101, 102, 103]),
}


@pytest.mark.parametrize("row", ROWS)
def test_damaged_row_is_reported_deleted_and_restored(index: Path, row: str) -> None:
    sql, table, lost = ROWS[row]
    with Store.open(index) as store:
        before = [store.shots.of_video(video.id) for video in store.videos.find()]
    damage_rows(index, sql)
    with Store.open(index) as store, pytest.raises(StoreError, match=rf"catalog\.sqlite: the row of .* in {table} is"):
        store.upkeep.verify()
    assert len(Store.repair_catalog(index)) >= 1
    assert Store.repair_catalog(index) == []
    with create(index) as store:
        assert store.upkeep.verify() == []
        assert seeds(store) == sorted(set(ALL) - set(lost))
        last = max(store.searchable())
        index_all(store, 3)
        assert seeds(store) == ALL
        assert [store.shots.of_video(video.id) for video in store.videos.find()] == before
        if table == "segments":
            assert max(store.searchable()) > last, "ids are never reused"


def test_damaged_row_is_rejected_or_skipped_with_one_warning(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    for sql, *_ in (ROWS["a segment's times"], ROWS["a video's facts"]):
        damage_rows(index, sql)
    damage_rows(index, "UPDATE files SET path = x'61' WHERE video = 3")
    (index / FILE_NAME).unlink()  # it has what was in the row
    with Store.open(index) as store:
        for read in (store.segments.get, store.features.read_frames):
            with pytest.raises(StoreError, match=r"the row of segment 6 is damaged .*; run vidret info --repair"):
                read([5, 6])
        with pytest.raises(StoreError, match=r"the row of video 2 is damaged .*; run vidret info --repair"):
            store.videos.get(2)
        for _ in range(2):
            assert [video.id for video in store.videos.find()] == [1]
            assert [record.video for record in store.files.find()] == [1, 2]
            assert store.files.paths_of([1, 3]) == {1: ["/videos/v0.mp4"], 3: []}
            assert store.features.read([5, 6, 7]).ids.tolist() == [5, 7]
        assert store.videos.find_complete("v1") is None
        assert store.videos.find_intact([1, 2, 3]) == {1, 3}
        with pytest.raises(StoreError, match=r"the row of video 2 is damaged .*; run vidret info --repair"):
            store.videos.fingerprints()
    assert len(caplog.messages) == len(set(caplog.messages)) == 4


def test_damaged_row_of_a_file_is_repaired_when_written(index: Path) -> None:
    damage_rows(index, "UPDATE files SET mtime_ns = 7 WHERE video = 2")
    with create(index) as store:
        assert store.files.get("/videos/v1.mp4") is None
        store.writer.set_file("/videos/v1.mp4", state="done", video=2)
        assert store.upkeep.verify() == []
        assert seeds(store) == ALL


@pytest.mark.parametrize("key", [*ESSENTIAL, "generation", "tail", "format", "schema"])
def test_essential_metadata_is_restored(index: Path, key: str) -> None:
    with Store.open(index) as store:
        before = (
            store.encoder_name,
            store.encoder_fingerprint,
            store.dim,
            store.metadata.get("ranker"),
            store.generation,
        )
    damage_rows(index, f"UPDATE meta SET value = 'x' WHERE key = '{key}'")
    assert is_found(index)
    assert Store.repair_catalog(index) == [f"the row of {key!r} in meta is damaged (checksum)"]
    with create(index) as store:
        *facts, generation = before
        assert [store.encoder_name, store.encoder_fingerprint, store.dim, store.metadata.get("ranker")] == facts
        assert store.generation > generation, "nothing derived earlier seems current"
        assert store.upkeep.verify() == []
        assert seeds(store) == ALL
        last = max(store.searchable())
        add_video(store, "v5", seed=5)
        assert store.segments.ids_of_video(4) == [last + 1, last + 2, last + 3, last + 4]
        assert store.features.read_tokens(store.segments.ids_of_video(4)) == [
            tokens(500 + segment_index) for segment_index in range(NUM_SEGMENTS)
        ]


def test_damaged_derived_metadata_is_dropped(index: Path) -> None:
    for key in ("vectors", "vectors.held", "user.baseline.none"):
        damage_rows(index, f"UPDATE meta SET value = 'x' WHERE key = '{key}'")
    with Store.open(index) as store:
        assert seeds(store) == ALL, "vectors are rebuilt"
        with pytest.raises(
            StoreError, match=r"the metadata 'user\.baseline\.none' is damaged .*; run vidret info --repair"
        ):
            store.metadata.get("baseline.none")
    assert len(Store.repair_catalog(index)) == 3
    with Store.open(index) as store:
        assert store.metadata.get("baseline.none") is None


LOG = {
    "a number": "UPDATE changes SET number = number + 8 WHERE number = (SELECT max(number) FROM changes)",
    "a video": "UPDATE changes SET key = key + 8 WHERE kind = 'video'",
    "a kind": "UPDATE changes SET kind = 'segmentz' WHERE kind = 'segments'",
    "all rows": "DELETE FROM changes",
    "the triggers": "DELETE FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'changes%'",
    "a trigger": "UPDATE sqlite_master SET sql = replace(sql, 'twin', 'twim') WHERE name = 'changes_4'",
    "the table of a trigger": "UPDATE sqlite_master SET tbl_name = 'filez' WHERE name = 'changes_0'",
}


@pytest.mark.parametrize("what", LOG)
def test_damaged_log_is_found_and_made_again(index: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.upkeep.MAX_DEAD_FRACTION", 1.0)  # a compaction would begin the log again
    with create(index) as store, Store.open(index) as reader:
        store.writer.set_file("/videos/v1.mp4", state="missing")
        store.upkeep.prune()
        remaining = seeds(reader)
        with store._catalog.database.transaction():
            store._catalog.database.run("PRAGMA writable_schema = ON")
            assert store._catalog.database.run(LOG[what]) > 0
    assert is_found(index)
    assert len(Store.repair_catalog(index)) >= 1
    assert not is_found(index)
    with create(index) as store, Store.open(index) as reader:
        assert seeds(reader) == remaining
        store.writer.set_file("/videos/v0.mp4", state="missing")
        assert seeds(reader) == [200, 201, 202, 203]


def test_a_catalog_with_triggers_of_others_is_refused(index: Path) -> None:
    with create(index) as store:
        store._catalog.database.run("CREATE TRIGGER mirror_1 DELETE ON files BEGIN SELECT 1; END")
    for use in (Store.open, Store.repair_catalog):
        with pytest.raises(StoreError, match=r"got the trigger 'mirror_1'; build a new index$"):
            use(index)


def test_loss_of_essential_metadata_and_its_copy_is_rejected(index: Path) -> None:
    damage_rows(index, "UPDATE meta SET value = 9 WHERE key IN ('dim', 'copy.dim')")
    before = (index / "catalog.sqlite").read_bytes()
    with pytest.raises(StoreError, match=r"cannot be repaired \(the metadata 'dim' is lost\)"):
        Store.repair_catalog(index)
    assert (index / "catalog.sqlite").read_bytes() == before


def test_a_catalog_that_cannot_be_read_is_not_to_be_repaired_again(index: Path) -> None:
    path = index / "catalog.sqlite"
    for damaged in (b"", b"not a database" * 1000):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"cannot be repaired \([^;]*\); build a new index$"):
            Store.repair_catalog(index)
    with pytest.raises(StoreError, match=r"file is not a database; run vidret info --repair$"):
        Store.open(index)


def test_reader_sees_a_repair(index: Path) -> None:
    with Store.open(index) as reader:
        assert seeds(reader) == ALL
        damage_rows(index, "UPDATE segments SET start = start + 1 WHERE id = 6")
        Store.repair_catalog(index)
        assert seeds(reader) == sorted(set(ALL) - {101})


STATEMENTS = {
    "column": b"num_frames INTEGER",
    "checksum": b"checksum INTEGER) WITHOUT ROWID",
    "keyword": b"TABLE segments",
    "name": b"videos_1",
}


@pytest.mark.parametrize("what", ["index page", "table page", "shots page", *STATEMENTS])
def test_damage_of_the_structure_is_repaired(index: Path, what: str) -> None:
    with create(index) as store:
        index_all(store, 20)
        expected, changes = seeds(store), [store.shots.of_video(video.id) for video in store.videos.find()]
        root = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        names = {"index page": "sqlite_autoindex_segments_1", "shots page": "shots"}
        page = store._catalog.database.value(root, names.get(what, "segments"))
    path = index / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    if what in STATEMENTS:
        offset = data.index(STATEMENTS[what])
        data[offset] ^= 0x80 if what == "name" else 0x02
    else:
        data[(page - 1) * 4096 + 3] ^= 0x02  # the number of cells of the page
    path.write_bytes(data)
    assert is_found(index)
    access = WriteAccess(index, write=True)
    with pytest.raises(StoreError, match=r"process .* is writing"):
        Store.repair_catalog(index)
    access.release()
    assert Store.repair_catalog(index) != []
    with create(index) as store:
        assert store.upkeep.verify() == []
        recovered = seeds(store)
        assert set(recovered) <= set(expected)
        assert len(recovered) > 0 or what == "shots page"
        index_all(store, 20)
        assert seeds(store) == expected
        assert [store.shots.of_video(video.id) for video in store.videos.find()] == changes


def test_newer_index_is_not_repaired(index: Path) -> None:
    with Store.open(index, write=True) as store:
        store._catalog.tables.set_meta("format", FORMAT + 1)
    with pytest.raises(StoreError, match=f"format must be at most {FORMAT}, got {FORMAT + 1}; update vidret"):
        Store.repair_catalog(index)
    with pytest.raises(StoreError, match="there is no index here"):
        Store.repair_catalog(index / "nowhere")
    assert not (index / "nowhere").exists()


@pytest.mark.parametrize("value", [0, FORMAT + 1])
def test_format_that_seems_another_by_damage_is_repaired(index: Path, value: int) -> None:
    damage_rows(index, f"UPDATE meta SET value = {value} WHERE key = 'format'")
    for write in (False, True):
        with pytest.raises(StoreError, match=r"the metadata 'format' is damaged .*; run vidret info --repair"):
            Store.open(index, write=write)
    Store.repair_catalog(index)
    with create(index) as store:
        assert (store.info().format, store.upkeep.verify(), seeds(store)) == (FORMAT, [], ALL)


def test_index_without_shots_loses_no_segment_with_their_empty_table(index: Path) -> None:
    with create(index) as store:
        store.metadata.set(SEGMENTS, "grid")
        store._catalog.database.run("DELETE FROM shots")
        page = store._catalog.database.value("SELECT rootpage FROM sqlite_master WHERE name = 'shots'")
    damage(index / "catalog.sqlite", (page - 1) * 4096, bits=7)  # the kind of page
    assert is_found(index)
    assert Store.repair_catalog(index) != []
    with Store.open(index) as store:
        assert (store.upkeep.verify(), seeds(store)) == ([], ALL)


def test_verify_during_a_write_finds_no_damage(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(index) as store, Store.open(index) as reader:

        def write_meanwhile(database: Database) -> int:
            add_video(store, "v5", seed=5)
            return find_schema_checksum(database)

        monkeypatch.setattr(catalog_module, "find_schema_checksum", write_meanwhile)
        assert reader.upkeep.verify() == []
        assert len(reader) == len(ALL) + NUM_SEGMENTS


def test_last_segment_id_is_verified(index: Path) -> None:
    damage_rows(index, "UPDATE sqlite_sequence SET seq = 5 WHERE name = 'segments'")
    assert Store.repair_catalog(index) == ["the last segment id is damaged"]
    with create(index) as store:
        add_video(store, "v5", seed=5)
        assert store.segments.ids_of_video(4) == [13, 14, 15, 16]
