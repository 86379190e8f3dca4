"""Windows of audio in an index: what is added is read, once, and what is damaged is named."""

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.indexed_texts import add_words
from vidret.errors import StoreError
from vidret.store.sounds import FILE, SoundStore, copy_sounds, find_damaged_sounds
from vidret.store.texts.store import TextStore
from vidret.types import SoundWindows, TextSource


def make_windows(*starts: float, value: float = 1.0) -> SoundWindows:
    times = np.array(starts, np.float64)
    return SoundWindows(starts=times, ends=times + 2, vectors=np.full((len(times), 4), value, np.float16))


def read_starts(index: Path, model: str = "m") -> dict[str, list[float]]:
    with SoundStore.open(index) as sounds:
        return {content: windows.starts.tolist() for content, windows in sounds.read(model).items()}


def test_windows_are_read_as_they_were_added(tmp_path: Path) -> None:
    assert not SoundStore.exists(tmp_path)
    with SoundStore.create(tmp_path) as sounds:
        sounds.add("a", "m", make_windows(0, 1, 2))
        sounds.add("b", "m", make_windows(5, value=0.25))
        windows = sounds.read("m", ["b"])["b"]
    assert (windows.starts.tolist(), windows.ends.tolist()) == ([5.0], [7.0])
    assert windows.vectors.tolist() == [[0.25] * 4]
    assert read_starts(tmp_path) == {"a": [0.0, 1.0, 2.0], "b": [5.0]}


def test_a_resumed_run_repeats_windows_without_doubling_them(tmp_path: Path) -> None:
    with SoundStore.create(tmp_path) as sounds:
        sounds.add("a", "m", make_windows(0, 1))
        sounds.add("a", "m", make_windows(1, 2, value=3.0))
        assert sounds.read("m")["a"].vectors[:, 0].tolist() == [1.0, 3.0, 3.0]
        sounds.add("a", "other", make_windows(0))
        assert not sounds.read("m")
        sounds.add("a", "hf:named", make_windows(5))
        sounds.add("a", "hf:better", make_windows(6))
        assert sounds.list_models() == [("a", "hf:better"), ("a", "other")]
    assert read_starts(tmp_path, "other") == {"a": [0.0]}
    (tmp_path / "copy").mkdir()
    with SoundStore.create(tmp_path / "copy") as sounds:
        sounds.add("a", "m", make_windows(0))
    copy_sounds(tmp_path / "copy", [tmp_path], {"a"})
    assert read_starts(tmp_path / "copy", "hf:better") == {"a": [6.0]}
    assert read_starts(tmp_path / "copy") == {"a": [0.0]}, "what is there is kept"


def test_what_an_interrupted_run_read_gives_way_to_what_was_read_to_its_end(tmp_path: Path) -> None:
    for name, model, starts in (("old", "m-1", (0, 1)), ("new", "m-2", (0, 1, 2))):
        (tmp_path / name).mkdir()
        with SoundStore.create(tmp_path / name) as sounds:
            sounds.add("a", model, make_windows(*starts))
    with closing(sqlite3.connect(tmp_path / "new" / FILE)) as database, database:
        database.execute("INSERT INTO windows VALUES ('damaged', 'm-2', 0, 2, x'00', 0)")
    for target in ("old", "copy"):
        (tmp_path / target).mkdir(exist_ok=True)
        copy_sounds(tmp_path / target, [tmp_path / "new", tmp_path / "old"], {"a", "damaged"})
        assert read_starts(tmp_path / target, "m-2") == {"a": [0.0, 1.0, 2.0]}
        assert read_starts(tmp_path / target, "m-1") == {}


def test_pruning_and_copying(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with SoundStore.create(tmp_path / "one") as sounds:
        for content in "abc":
            sounds.add(content, "m", make_windows(0, 1))
    copy_sounds(tmp_path / "two", [tmp_path / "one", tmp_path / "nowhere"], {"a", "b"})
    assert read_starts(tmp_path / "two") == {"a": [0.0, 1.0], "b": [0.0, 1.0]}
    SoundStore.prune_index(tmp_path / "two", ["b", "d"])
    assert read_starts(tmp_path / "two") == {"b": [0.0, 1.0]}


def test_the_state_tells_one_video_from_another(tmp_path: Path) -> None:
    with SoundStore.create(tmp_path) as sounds:
        sounds.add("a", "m", make_windows(0, 1))
        states = [SoundStore.read_state(tmp_path)]
        sounds.prune([])
        states.append(SoundStore.read_state(tmp_path))
        sounds.add("b", "m", make_windows(0, 1))
        assert len({*states, SoundStore.read_state(tmp_path)}) == 3
    SoundStore.prune_index(tmp_path / "nowhere", [])
    assert not SoundStore.exists(tmp_path / "nowhere")


def read_complete(index: Path) -> set[tuple[str, TextSource]]:
    with TextStore.open(index) as texts:
        return {(track.fingerprint, track.source) for track in texts.tracks() if track.complete}


def test_damaged_windows_are_left_out_and_named(tmp_path: Path) -> None:
    with SoundStore.create(tmp_path) as sounds:
        sounds.add("a", "m", make_windows(0, 1))
    sources: tuple[TextSource, ...] = ("sound", "speech")
    for content, source in itertools.product("ab", sources):
        add_words(tmp_path, content, ["applause"], source=source)
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("UPDATE windows SET vector = x'0011' WHERE start_s = 1")
    assert read_starts(tmp_path) == {"a": [0.0]}
    assert find_damaged_sounds(tmp_path, repair=False) == [
        f"{tmp_path / FILE}: the window of a at 1 s is damaged (checksum)"
    ]
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        database.execute("UPDATE windows SET start_s = 'one' WHERE start_s = 1")
    assert len(find_damaged_sounds(tmp_path, repair=True)) == 1
    assert find_damaged_sounds(tmp_path, repair=False) == []
    assert read_complete(tmp_path) == {("a", "speech"), ("b", "sound"), ("b", "speech")}, "the next run reads it again"


def test_no_damage_is_left_after_a_repair(tmp_path: Path) -> None:
    with SoundStore.create(tmp_path) as sounds:
        for content in "ab":
            sounds.add(content, "m", make_windows(*range(50)))
    intact = (tmp_path / FILE).read_bytes()
    for start in range(0, len(intact), 300):
        damaged = intact[:start] + bytes(500) + intact[start + 500 :]
        (tmp_path / FILE).write_bytes(damaged[: len(intact)])
        find_damaged_sounds(tmp_path, repair=True)
        assert find_damaged_sounds(tmp_path, repair=False) == []


def test_a_file_that_is_no_database_is_named_and_removed(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    add_words(tmp_path, "a", ["applause"], source="sound")
    with pytest.raises(StoreError):
        SoundStore.open(tmp_path)
    assert len(find_damaged_sounds(tmp_path, repair=True)) == 1
    assert not SoundStore.exists(tmp_path)
    assert find_damaged_sounds(tmp_path, repair=True) == []
    assert read_complete(tmp_path) == set(), "the next run reads all again"


def test_a_file_whose_tables_cannot_be_made_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoundStore, "SCHEMA", (*SoundStore.SCHEMA, "fails, as on a full disk"))
    with pytest.raises(StoreError):
        SoundStore.create(tmp_path)
    assert list(tmp_path.iterdir()) == []
