"""Tracks of an index: written, read, replaced, pruned, copied; damaged and hostile files."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_identities import FACES, OTHER_FACES, VOICES, make_track, make_tracks, make_voice
from tests.store.samples import interrupt, read_all_bytes
from vidret.errors import StoreError
from vidret.store.catalog import database
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.identities.tracks import match_tracks
from vidret.store.identities.upkeep import copy_identities, count_identities, find_damaged_identities


@pytest.fixture
def identities(tmp_path: Path) -> Iterator[IdentityStore]:
    with IdentityStore.create(tmp_path) as opened:
        yield opened


def assign(store: IdentityStore, track: int, name: str = "", *, by_user: bool = False) -> int:
    """Assign a track to a new person, and return the person."""
    with store.change():
        store.database.run("INSERT INTO persons (name) VALUES (?)", name)
        person = int(store.database.value("SELECT max(id) FROM persons"))
        store.database.run("INSERT INTO assignments VALUES (?, ?, ?, 0)", int(track), person, by_user)
    return person


def test_what_is_written_is_read(identities: IdentityStore) -> None:
    tracks = [make_track(0, 1.5, 4.0), make_track(1, 2.0, 9.0)]
    ids = identities.write_tracks("film", FACES, tracks)
    voice = identities.write_tracks("film", VOICES, [make_voice(0, 0.0, 3.0)])
    read = identities.tracks("film", "face")
    assert list(read) == ids
    for one, other in zip(tracks, read.values(), strict=True):
        assert (one.start_s, one.end_s, one.quality, one.thumbnail) == (
            other.start_s, other.end_s, other.quality, other.thumbnail,
        )  # fmt: skip
        np.testing.assert_array_equal(one.vector, other.vector)
        np.testing.assert_array_equal(one.boxes, other.boxes)
    columns = identities.columns(kind="face")
    assert columns.ids.tolist() == ids
    assert columns.contents.tolist() == ["film", "film"]
    assert columns.starts.tolist() == [1.5, 2.0]
    assert columns.persons.tolist() == [0, 0]
    np.testing.assert_array_equal(identities.vectors(ids[::-1]), np.stack([track.vector for track in tracks[::-1]]))
    assert identities.columns(model=VOICES.digest).ids.tolist() == voice
    assert identities.thumbnail(ids[0]) == tracks[0].thumbnail
    assert identities.models() == [FACES, VOICES]
    assert identities.generation == 2
    identities.write_tracks("silent", VOICES, [])
    assert [identities.is_read("silent", model) for model in (VOICES, FACES)] == [True, False]


def test_writing_again_replaces_the_tracks_and_keeps_their_persons(identities: IdentityStore) -> None:
    old = identities.write_tracks("film", FACES, [make_track(0, 0, 10), make_track(1, 0, 10), make_track(0, 20, 30)])
    voice = identities.write_tracks("film", VOICES, [make_voice(0, 0, 10)])
    mum, unnamed = assign(identities, old[0], "mum", by_user=True), assign(identities, old[2])
    for _ in range(2):
        new = identities.write_tracks("film", OTHER_FACES, [make_track(1, 0, 10), make_track(0, 1, 10)])
        columns = identities.columns(kind="face")
        assert columns.ids.tolist() == new
        assert columns.persons.tolist() == [0, mum]
        assert columns.by_user.tolist() == [False, True]
    assert identities.columns(kind="voice").ids.tolist() == voice
    assert identities.models() == [OTHER_FACES, VOICES]
    assert identities.database.value("SELECT count(*) FROM persons WHERE id = ?", unnamed) == 0
    assert set(new).isdisjoint(old)


@pytest.mark.parametrize(
    "changes",
    [
        {"start_s": -1.0},
        {"start_s": 5.0},
        {"end_s": np.inf},
        {"quality": np.nan},
        {"vector": np.full(4, np.nan, np.float32)},
        {"vector": np.zeros(0, np.float32)},
        {"boxes": np.zeros((2, 4), np.float32)},
    ],
)
@pytest.mark.wrong_shapes
def test_an_invalid_track_is_refused_and_nothing_is_written(identities: IdentityStore, changes: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="must"):
        identities.write_tracks("film", FACES, [make_track(0, 0, 1), replace(make_track(1, 0, 4), **changes)])
    with pytest.raises(StoreError, match="a voice must have no thumbnail"):
        identities.write_tracks("film", VOICES, [make_track(0, 0, 1)])
    assert (identities.readings(), identities.generation) == ([], 0)


def test_tracks_are_matched_by_time_and_place() -> None:
    old = [make_track(0, 0, 10), make_track(1, 0, 10), make_track(0, 20, 22)]
    new = [make_track(1, 1, 9), make_track(0, 0, 9), make_track(2, 0, 10), make_track(0, 21.5, 26)]
    assert match_tracks(old, new) == {0: 1, 1: 0}
    assert match_tracks([make_voice(0, 0, 4)], [make_voice(1, 0, 4)]) == {0: 0}
    assert match_tracks([], new) == {}
    long, short = make_voice(0, 0, 10), make_voice(0, 0, 8)
    assert match_tracks([long], [short, long]) == {0: 1}
    assert match_tracks([short, long], [long]) == {1: 0}, "each track is one other"


def test_pruning_leaves_no_byte_of_a_video(tmp_path: Path) -> None:
    gone, kept = make_track(0, 0, 2), make_track(1, 0, 2)
    with IdentityStore.create(tmp_path) as identities:
        identities.write_tracks("gone", FACES, [gone])
        identities.write_tracks("kept", FACES, [kept])
        assign(identities, identities.columns().ids[0], "Aunt Ermintrude")
    IdentityStore.prune_index(tmp_path, ["gone", "kept"])
    assert gone.vector.tobytes() in read_all_bytes(tmp_path)
    with IdentityStore.open(tmp_path):  # an idle reader must not keep the log
        IdentityStore.prune_index(tmp_path, ["kept"])
        content = read_all_bytes(tmp_path)
    assert gone.thumbnail is not None
    for piece in (gone.vector.tobytes(), gone.thumbnail, b"Aunt Ermintrude", b"gone"):
        assert piece not in content
    assert kept.vector.tobytes() in content
    with IdentityStore.open(tmp_path) as identities:
        assert identities.columns().contents.tolist() == ["kept"]
        assert not identities.is_read("gone", FACES)


def test_nothing_is_deleted_while_a_reader_keeps_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.1)
    track = make_track(0, 0, 2)
    with IdentityStore.create(tmp_path) as identities:
        identities.write_tracks("film", FACES, [track])
        assign(identities, identities.columns().ids[0], "Ann")
    with closing(sqlite3.connect(tmp_path / FILE)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tracks").fetchall()
        with pytest.raises(StoreError, match="try again"):
            Persons(tmp_path).forget("Ann")
        reader.rollback()
        assert Persons(tmp_path).forget("Ann") == 1
        assert track.vector.tobytes() not in read_all_bytes(tmp_path)


def test_killed_pruning_is_made_up_for(identities: IdentityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    identities.write_tracks("gone", FACES, [make_track(0, 0, 2)])
    with monkeypatch.context() as patched:
        patched.setattr(identities, "erase", interrupt)
        with pytest.raises(KeyboardInterrupt):
            identities.prune([])
    identities.prune([])
    assert len(identities.columns().ids) == 0


def test_an_index_without_identities_gets_no_file(tmp_path: Path) -> None:
    IdentityStore.prune_index(tmp_path, [])
    assert (count_identities(tmp_path), Persons(tmp_path).list_persons()) == ([], [])
    assert find_damaged_identities(tmp_path, repair=True) == []
    assert copy_identities(tmp_path, [tmp_path], {"a"}) == 0
    with pytest.raises(StoreError, match="no people"):
        IdentityStore.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_counts(identities: IdentityStore, tmp_path: Path) -> None:
    ids = identities.write_tracks("a", FACES, make_tracks([0, 1, 0]))
    identities.write_tracks("b", FACES, [])
    identities.write_tracks("b", VOICES, [make_voice(0, 0, 2)])
    assign(identities, ids[0])
    counts = [(kind.kind, kind.videos, kind.tracks, kind.persons) for kind in count_identities(tmp_path)]
    assert counts == [("face", 2, 3, 1), ("voice", 1, 1, 0)]


def test_copies_keep_named_persons_and_add_nothing_twice(tmp_path: Path) -> None:
    for name, contents in (("one", "ab"), ("two", "bcd")):
        with IdentityStore.create(make_folder(tmp_path / name)) as source:
            for content in contents:
                source.write_tracks(content, FACES, make_tracks([0, 1]))
            ids = source.columns().ids.tolist()
            mum = assign(source, ids[0], "Anna Maria" if name == "one" else "anna-maria", by_user=True)
            assign(source, ids[1])
            source.database.run("INSERT INTO rejections VALUES (?, ?)", ids[3], mum)
    target, sources = make_folder(tmp_path / "out"), [tmp_path / "one", tmp_path / "two"]
    assert copy_identities(target, sources, {"a", "b", "c"}) == 6
    assert copy_identities(target, sources, {"a", "b", "c"}) == 0
    with IdentityStore.open(target) as copied:
        columns = copied.columns()
        assert columns.contents.tolist() == ["a", "a", "b", "b", "c", "c"]
        assert columns.persons.tolist() == [1, 0, 1, 0, 0, 0]  # the track of mum in two is of b, which one has too
        assert copied.database.rows("SELECT id, name FROM persons") == [(1, "Anna Maria")]
        assert copied.database.rows("SELECT track, person FROM rejections") == [(4, 1), (6, 1)]


def test_copies_leave_out_a_person_whose_tracks_all_have_other_names(tmp_path: Path) -> None:
    for name, person in (("out", "Ann"), ("one", "Mum")):
        with IdentityStore.create(make_folder(tmp_path / name)) as identities:
            (track,) = identities.write_tracks("a", FACES, make_tracks([0]))
            assign(identities, track, person, by_user=True)
    assert copy_identities(tmp_path / "out", [tmp_path / "one"], {"a"}) == 0
    with IdentityStore.open(tmp_path / "out") as identities:
        assert identities.database.rows("SELECT name FROM persons") == [("Ann",)]


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_damaged_track_is_left_out_and_its_video_is_read_again(tmp_path: Path) -> None:
    with IdentityStore.create(tmp_path) as identities:
        ids = identities.write_tracks("a", FACES, make_tracks([0, 1]))
        identities.write_tracks("b", FACES, make_tracks([0]))
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute("UPDATE tracks SET end_s = 7 WHERE id = ?", (ids[0],))
    assert len(find_damaged_identities(tmp_path, repair=False)) == 1
    with IdentityStore.open(tmp_path) as identities:
        assert len(identities.columns().ids) == 2
    assert len(find_damaged_identities(tmp_path, repair=True)) == 1
    assert find_damaged_identities(tmp_path, repair=True) == []
    with IdentityStore.open(tmp_path) as identities:
        assert not identities.is_read("a", FACES)
        assert identities.is_read("b", FACES)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER endless AFTER UPDATE ON meta BEGIN SELECT 1; END",
        "CREATE VIEW sight AS SELECT 1",
        "ALTER TABLE persons RENAME TO people",
        "PRAGMA user_version = 7",
        "DROP TABLE changes",
    ],
)
def test_a_file_with_other_statements_is_refused(tmp_path: Path, statement: str) -> None:
    with IdentityStore.create(tmp_path) as identities:
        ids = identities.write_tracks("a", FACES, make_tracks([0, 1]))
        assign(identities, ids[0], "mum", by_user=True)
    with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
        connection.execute(statement)
    for write in (False, True):
        with pytest.raises(StoreError, match="must"):
            IdentityStore.open(tmp_path, write=write)
    assert len(find_damaged_identities(tmp_path, repair=True)) == 1
    assert find_damaged_identities(tmp_path, repair=False) == []
    with IdentityStore.open(tmp_path) as identities:
        assert identities.columns().ids.tolist() == ids
        assert not identities.is_read("a", FACES)


def test_rows_that_lack_a_value_are_left_out_of_a_repaired_file(tmp_path: Path) -> None:
    with IdentityStore.create(tmp_path) as identities:
        ids = identities.write_tracks("a", FACES, make_tracks([0, 1]))
    for statement in (
        "UPDATE sqlite_master SET sql = replace(sql, 'content TEXT NOT NULL', 'content TEXT') WHERE name = 'readings'",
        "UPDATE readings SET content = NULL",
        "UPDATE sqlite_master SET sql = replace(sql, 'content TEXT', 'content TEXT NOT NULL') WHERE name = 'readings'",
    ):
        with closing(sqlite3.connect(tmp_path / FILE)) as connection, connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(statement)
    assert len(find_damaged_identities(tmp_path, repair=True)) == 1
    assert find_damaged_identities(tmp_path, repair=False) == []
    with IdentityStore.open(tmp_path) as identities:
        assert identities.columns().ids.tolist() == ids


def test_a_file_that_is_no_database_is_replaced_only_on_repair(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but many words" * 1000)
    for write in (False, True):
        with pytest.raises(StoreError, match="repair"):
            IdentityStore.open(tmp_path, write=write)
    assert len(find_damaged_identities(tmp_path, repair=False)) == 1
    find_damaged_identities(tmp_path, repair=True)
    with IdentityStore.open(tmp_path) as identities:
        assert len(identities.columns().ids) == 0


def test_a_link_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "index")
    (tmp_path / "own").write_bytes(b"mine")
    (tmp_path / "index" / FILE).symlink_to(tmp_path / "own")
    with pytest.raises(StoreError, match="link"):
        IdentityStore.create(tmp_path / "index")
    assert (tmp_path / "own").read_bytes() == b"mine"
