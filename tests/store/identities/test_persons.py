"""Persons: grouped, named, merged, split, rejected, undone, forgotten without a byte left."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.made_identities import FACES, VOICES, make_track, make_tracks, make_voice
from tests.store.samples import create, read_all_bytes
from vidret.errors import OptionError, VidretError
from vidret.search.query.marks import find_mentions
from vidret.store.identities.persons import Persons, check_no_person
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.records import CONCEPT
from vidret.store.store import Store


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return an index with two videos: three tracks of one person, two of another, one of a third."""
    create(tmp_path / "index").close()
    with IdentityStore.create(tmp_path / "index") as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1, 0, 2]))
        identities.write_tracks("b", FACES, make_tracks([1, 0]))
    Persons(tmp_path / "index").group()
    return tmp_path / "index"


def owners(index: Path) -> list[int]:
    with IdentityStore.open(index) as identities:
        return list(identities.columns().persons.tolist())


def dump(index: Path) -> dict[str, list[object]]:
    with IdentityStore.open(index) as identities:
        tables = ("persons", "assignments", "rejections")
        return {table: sorted(identities.database.rows(f"SELECT * FROM {table}")) for table in tables}


def test_tracks_are_grouped_and_listed_and_hidden_persons_on_demand(index: Path) -> None:
    assert owners(index) == [1, 2, 1, 0, 2, 1]
    one, two = Persons(index).list_persons("face")
    assert (one.id, one.name, one.handle, one.tracks, one.videos, one.seconds) == (1, "", "person-1", 3, 2, 6.0)
    assert (two.id, two.tracks) == (2, 2)
    assert set(one.best_tracks) == {1, 3, 6}
    assert Persons(index).list_persons("voice") == []
    persons = Persons(index)
    persons.hide(1)
    assert [person.id for person in persons.list_persons()] == [2]
    assert [person.id for person in persons.list_persons(hidden=True)] == [1, 2]
    persons.hide(1, hidden=False)
    assert [person.id for person in persons.list_persons()] == [1, 2]


def test_names_and_numbers_survive_new_videos_and_another_reading(index: Path) -> None:
    persons = Persons(index)
    persons.rename(2, "Mum")
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("c", FACES, make_tracks([2, 1, 0]))
        identities.write_tracks("a", FACES, make_tracks([0, 1, 0, 2]))
    persons.group()
    listed = [(person.id, person.name, person.tracks) for person in persons.list_persons()]
    assert listed == [(2, "Mum", 3), (1, "", 4), (3, "", 2)]
    before = dump(index)
    persons.group()
    assert dump(index) == before


@pytest.mark.parametrize("name", ["दिव्या", "สุดา", "İbrahim", "Μαΐου", "Jose\N{COMBINING ACUTE ACCENT}", "مهر\u200cنوش"])
def test_names_are_of_letters_of_any_script(index: Path, name: str) -> None:
    persons = Persons(index)
    persons.rename(1, name)
    (handle,) = find_mentions(f"@{name} dances")
    assert persons.list_persons()[0].handle == handle
    assert persons.find(name) == persons.find(f"@{handle}") == 1


def test_names_are_handles_in_one_namespace(index: Path) -> None:
    persons = Persons(index)
    persons.rename("1", "  Anna   Maria ")
    assert persons.list_persons()[0].name == "Anna Maria"
    assert persons.list_persons()[0].handle == "anna-maria"
    assert {persons.find(name) for name in (1, "1", "person-1", "@Anna-Maria", "anna maria", "ANNA MARIA")} == {1}
    with pytest.raises(VidretError, match="@anna-maria is another person"):
        persons.rename(2, "anna-maria")
    for name in ("7up", "a,b", "@mum", "person-9", "-", "x" * 65, 'a"b'):
        with pytest.raises(OptionError, match="and not person-NUMBER, got"):
            persons.rename(2, name)
    with pytest.raises(VidretError, match="persons to merge must be several, got 2 alone"):
        persons.merge(2, ["person-2"])
    with Store.open(index, write=True) as store:
        store.metadata.set(f"{CONCEPT}.mascot", b"taught")
        store.metadata.set(f"{CONCEPT}.gone", "")
    with pytest.raises(VidretError, match="taught concept"):
        persons.rename(2, "Mascot")
    persons.rename(2, "gone")
    persons.rename(2, "")
    for unknown in ("gone", 0, 99, "person-99", "person-x", ""):
        with pytest.raises(VidretError, match="must be the number or the name"):
            persons.find(unknown)


def test_merging_keeps_the_first_and_a_name(index: Path) -> None:
    persons = Persons(index)
    persons.rename(2, "Mum")
    before = dump(index)
    persons.merge(1, ["mum"])
    assert owners(index) == [1, 1, 1, 0, 1, 1]
    assert [(person.id, person.name) for person in persons.list_persons()] == [(1, "Mum")]
    assert persons.undo()
    assert dump(index) == before


def test_splitting_holds_for_ever_and_is_undone(index: Path) -> None:
    persons = Persons(index)
    before = dump(index)
    new = persons.split(1, [6])
    assert owners(index) == [1, 2, 1, 0, 2, new]
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("c", FACES, make_tracks([0]))
        identities.write_tracks("b", FACES, make_tracks([1, 0]))
    persons.group()
    assert owners(index)[:4] == [1, 2, 1, 0]
    by_content = dict(zip(*read_owners(index, "b"), strict=True))
    assert by_content[3.0] == new
    with IdentityStore.open(index, write=True) as identities:
        identities.erase(identities.list_ids("c"))
    persons.split(1, [1])
    again = dump(index)
    persons.merge(1, [owners(index)[0]])
    assert owners(index)[0] == 1
    persons.undo()
    assert dump(index) == again
    persons.undo()
    assert not persons.undo()  # erasing forgets what could be undone
    assert len(dump(index)["persons"]) == len(before["persons"]) + 1


def read_owners(index: Path, content: str) -> tuple[list[float], list[int]]:
    with IdentityStore.open(index) as identities:
        columns = identities.columns()
    of_content = columns.contents == content
    return columns.starts[of_content].tolist(), columns.persons[of_content].tolist()


def test_split_merge_and_undo_are_a_round_trip(index: Path) -> None:
    persons = Persons(index)
    states = [dump(index)]
    for change in (
        lambda: persons.rename(1, "Dad"),
        lambda: persons.split(1, [1, 6]),
        lambda: persons.rename(3, "Uncle"),
        lambda: persons.merge(2, ["uncle"]),
        lambda: persons.hide(2),
        lambda: persons.merge(1, [2]),
    ):
        change()
        states.append(dump(index))
    while len(states) > 1:
        states.pop()
        assert persons.undo()
        assert dump(index) == states[-1]
    assert not persons.undo()


def test_what_the_user_said_survives_the_undoing_of_a_change_before_another_reading(index: Path) -> None:
    persons = Persons(index)
    new = persons.split(1, [3])
    persons.rename(new, "Uncle")
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1, 0, 2]))
    persons.group()
    assert persons.undo()
    assert read_owners(index, "a")[1] == [1, 2, new, 0]
    assert persons.undo()
    assert read_owners(index, "a")[1] == [1, 2, 1, 0]


def test_what_is_not_a_person_never_comes_back(index: Path) -> None:
    persons = Persons(index)
    persons.rename(1, "Dad")
    persons.reject("dad", [3])
    persons.group()
    assert owners(index) == [1, 2, 0, 0, 2, 1]
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("a", FACES, make_tracks([0, 1, 0, 2]))
    persons.group()
    assert read_owners(index, "a") == ([0.0, 3.0, 6.0, 9.0], [1, 2, 0, 0])
    with pytest.raises(VidretError, match=r"must be among [\d, ]+, those of the person, got 4"):
        persons.reject("dad", [4])
    with pytest.raises(VidretError, match="got none"):
        persons.split("dad", [])


def test_rejecting_a_track_takes_those_that_only_it_held(tmp_path: Path) -> None:
    index = tmp_path / "index"
    create(index).close()
    steps = [make_track(0, 2.0 * row, 2.0 * row + 1, spread=0) for row in range(3)]
    for row, track in enumerate(steps):  # a chain whose ends are too far apart
        track.vector[1] = 0.45 * row
    with IdentityStore.create(index) as identities:
        first, middle, last = identities.write_tracks("a", FACES, steps)
        with identities.change():
            identities.database.run("INSERT INTO persons (name) VALUES ('mum')")
            values = [(first, 1, 1, 0.0), (middle, 1, 0, 0.4), (last, 1, 0, 0.4)]
            identities.database.run_many("INSERT INTO assignments VALUES (?, ?, ?, ?)", values)
    Persons(index).reject("mum", [middle])
    with IdentityStore.open(index) as identities:
        columns = identities.columns()
    assert columns.persons[0] == 1
    assert columns.persons[1] == columns.persons[2] != 1


def test_voices_are_grouped_apart_from_faces_and_may_overlap(index: Path) -> None:
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("a", VOICES, [make_voice(0, 0, 4), make_voice(0, 2, 6), make_voice(1, 0, 9)])
    persons = Persons(index)
    persons.group()
    (voice,) = persons.list_persons("voice")
    assert voice.tracks == 2
    persons.merge(1, [voice.id])
    (both,) = persons.list_persons("voice")
    assert both.id == 1
    assert persons.list_persons("face")[0].id == 1


def test_forgetting_a_person_leaves_no_byte(index: Path) -> None:
    persons = Persons(index)
    persons.rename(1, "Ermintrude")
    persons.split(1, [6])
    persons.merge(1, [3])
    gone = [make_tracks([0, 1, 0, 2])[0], make_tracks([0, 1, 0, 2])[2], make_tracks([1, 0])[1]]
    kept = make_tracks([0, 1, 0, 2])[1]
    pieces = [piece for track in gone for piece in (track.vector.tobytes(), track.thumbnail or b"")]
    before = read_all_bytes(index)
    assert all(piece in before for piece in [*pieces, b"Ermintrude"])
    assert persons.forget("ermintrude") == 3
    after = read_all_bytes(index)
    assert not any(piece in after for piece in [*pieces, b"Ermintrude", b"ermintrude"])
    assert kept.vector.tobytes() in after
    assert [person.id for person in persons.list_persons()] == [2]
    with IdentityStore.open(index) as identities:
        assert identities.is_read("a", FACES)  # the next run must not find the person again


def test_forgetting_a_video_and_all(index: Path) -> None:
    persons = Persons(index)
    assert persons.forget_video("b", "voice") == 0
    assert persons.forget_video("b", "face") == 2
    assert make_tracks([1, 0])[1].vector.tobytes() not in read_all_bytes(index)
    with IdentityStore.open(index) as identities:
        assert identities.is_read("b", FACES)
        assert set(identities.columns().contents.tolist()) == {"a"}
    with IdentityStore.open(index, write=True) as identities:
        identities.write_tracks("a", VOICES, [make_voice(7, 0, 4)])
        identities.database.run("UPDATE tracks SET end_s = 77 WHERE id = 1")  # damages it
    assert persons.forget_all("face") == 4
    assert make_tracks([0])[0].vector.tobytes() not in read_all_bytes(index)
    assert persons.forget_all("voice") == 1
    assert not any(path.name.startswith(FILE) for path in index.iterdir())
    assert persons.list_persons() == []


def test_export_is_all_that_is_stored(index: Path) -> None:
    persons = Persons(index)
    persons.rename(2, "Mum")
    exported = json.loads(json.dumps(persons.export("mum")))
    assert (exported["id"], exported["name"], exported["hidden"]) == (2, "Mum", False)
    first = exported["tracks"][0]
    assert [(track["content"], track["kind"]) for track in exported["tracks"]] == [("a", "face"), ("b", "face")]
    expected = make_tracks([0, 1])[1]
    np.testing.assert_array_equal(np.array(first["vector"], np.float32), expected.vector)
    assert (first["start"], first["end"], first["by_user"]) == (3.0, 5.0, False)
    assert len(first["boxes"]) == 3
    assert persons.thumbnail(2) == expected.thumbnail


def test_a_concept_is_not_called_like_a_person(index: Path) -> None:
    Persons(index).rename(1, "Anna Maria")
    check_no_person(index, "mascot")
    with pytest.raises(VidretError, match=r"by its number: name the concept otherwise$"):
        check_no_person(index, "person-99")
    for name in ("anna-maria", "person-2"):
        with pytest.raises(VidretError, match="is a person"):
            check_no_person(index, name)
