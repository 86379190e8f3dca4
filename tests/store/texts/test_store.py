"""Timed texts on disk: written as they come, continued after a kill, replaced, pruned, searched."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.forking import run_code, start_code
from tests.indexed_texts import create_words, find_words, random_vectors
from vidret.errors import StoreError
from vidret.store.catalog.texts import StoredText
from vidret.store.texts.postings import text_id
from vidret.store.texts.store import FOLDER, INDEX, TextStore
from vidret.types import Filters, TextSource, TimedText

from .. import samples

SPOKEN = [TimedText(float(k), k + 0.5, f"sentence number {k}", "speech", 0.5, "en") for k in range(5)]


def write(
    store: TextStore,
    content: str,
    texts: list[TimedText] = SPOKEN,
    *,
    source: TextSource = "speech",
    model: str = "tiny.en",
    finish: bool = True,
) -> None:
    """Store texts, one at a time, as one track."""
    track = store.begin(content, source, model, duration_s=60.0)
    for text in texts:
        store.add(track, [text], random_vectors([text]), until_s=text.end)
    if finish:
        store.finish(track)


def found(store: TextStore, words: str) -> list[str]:
    return sorted(find_words(store, words))


def near(store: TextStore, text: TimedText) -> list[StoredText]:
    """Return all texts, the nearest to this one first."""
    return store.read_segments(store.search(random_vectors([text]), 50)[0])


def agree(store: TextStore) -> bool:
    """Return whether the full-text index holds exactly the stored texts."""
    stored = {text_id(track.id, text_index) for track in store.tracks() for text_index in range(track.num_texts)}
    return list(store.index.ids()) == sorted(stored)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TextStore]:
    with create_words(tmp_path) as made:
        yield made


def test_texts_come_back_as_they_were(store: TextStore) -> None:
    odd = [
        TimedText(1.25, 2.125, '駅 \U0001f600 \0 "quoted"', "screen", 0.8125, "ja"),
        TimedText(0.0, 0.0, "x y", "screen"),
    ]
    write(store, "film", odd, source="screen", model="ocr")
    (track,) = store.tracks()
    assert (track.fingerprint, track.source, track.model) == ("film", "screen", "ocr")
    assert (track.complete, track.until_s, track.num_texts, track.note) == (True, 0.0, 2, "")
    assert [text.text for text in store.transcript(track)] == sorted(odd, key=lambda text: text.start)
    assert {text.fingerprint for text in store.transcript(track)} == {"film"}


def test_texts_of_tracks_that_are_written_by_turns_are_found(store: TextStore) -> None:
    shown = [TimedText(float(k), k + 0.5, f"caption number {k}", "screen") for k in range(3)]
    tracks = [store.begin("film", source, "model", duration_s=60.0) for source in ("speech", "screen")]
    for pair in zip(SPOKEN, shown, strict=False):
        for track, text in zip(tracks, pair, strict=True):
            store.add(track, [text], random_vectors([text]), until_s=text.end)
    for track in tracks:
        store.finish(track)
    assert found(store, "caption") == [text.text for text in shown]
    assert found(store, "sentence") == [text.text for text in SPOKEN[:3]]
    assert len(found(store, "number")) == 6
    texts, rows = store.read_found(store.store.searchable()[::-1])
    assert [text.text for text in texts[:2]] == [SPOKEN[0].text, shown[0].text]
    assert [text.track for text in texts[:2]] == [track.id for track in tracks]
    assert [text.stems for text in texts] == store.index.stems([text.text for text in texts])
    assert np.allclose(rows[:2], random_vectors([SPOKEN[0], shown[0]]), atol=1e-2)


def test_damaged_words_of_the_full_text_index_are_no_error(store: TextStore) -> None:
    write(store, "one")
    store.index._database.run("UPDATE texts_content SET c0 = CAST(x'73ff20' AS TEXT)")
    texts, _ = store.read_found(store.store.searchable())
    assert [text.text for text in texts] == [text.text for text in SPOKEN]


def test_search_by_words_and_by_vector(store: TextStore) -> None:
    write(store, "one")
    write(store, "two", [TimedText(3.0, 4.0, "something else", "speech")])
    assert found(store, "sentence") == [text.text for text in SPOKEN]
    assert found(store, "else") == ["something else"]
    assert near(store, SPOKEN[3])[0].text == SPOKEN[3]
    first = store.search(random_vectors(SPOKEN[:2]), 1)
    stored = store.store.features.read_vectors(np.concatenate(first))
    assert np.allclose(stored, random_vectors(SPOKEN[:2]), atol=1e-2)
    assert [len(row) for row in store.search(random_vectors(SPOKEN[:2]), 3)] == [3, 3]
    assert len(store) == 6


def test_near_texts_of_one_video_hide_no_other(store: TextStore) -> None:
    vector = random_vectors([SPOKEN[0]])
    for content, num_texts, length in (("often", 30, 1.0), ("b", 1, 0.9), ("c", 1, 0.9), ("d", 1, 0.9)):
        texts = [TimedText(float(k), k + 0.5, f"number {k}", "speech", 0.5, "en") for k in range(num_texts)]
        track = store.begin(content, "speech", "tiny.en", duration_s=60.0)
        store.add(track, texts, np.repeat(length * vector, num_texts, axis=0), until_s=60.0)
        store.finish(track)
    owners = store.store.owners(store.search(vector, 5)[0])
    assert owners.tolist() == [1, 1, 2, 3, 4], "in turns by track"


def test_empty_store(store: TextStore) -> None:
    assert store.tracks() == []
    assert [row.tolist() for row in store.search(random_vectors(SPOKEN[:2]), 5)] == [[], []]
    assert found(store, "sentence") == []
    write(store, "silent", [])
    assert [(track.complete, track.num_texts) for track in store.tracks()] == [(True, 0)]


def test_unfinished_track_is_continued_without_duplicates(tmp_path: Path) -> None:
    with create_words(tmp_path) as store:
        write(store, "film", SPOKEN[:3], finish=False)
        assert found(store, "sentence") == [text.text for text in SPOKEN[:3]]  # found before it is complete
    with create_words(tmp_path) as store:
        track = store.begin("film", "speech", "tiny.en", duration_s=60.0)
        assert (track.complete, track.until_s, track.num_texts) == (False, 2.5, 3)
        store.add(track, SPOKEN[1:], random_vectors(SPOKEN[1:]), until_s=5.0)
        store.finish(track, note="the last second is damaged")
        (track,) = store.tracks()
        assert (track.complete, track.until_s, track.num_texts) == (True, 5.0, 5)
        assert track.note == "the last second is damaged"
        assert [text.text for text in store.transcript(track)] == SPOKEN
        assert agree(store)


def test_duplicates_of_one_run_are_left_out(store: TextStore) -> None:
    track = store.begin("film", "speech", "tiny.en", duration_s=60.0)
    store.add(track, [*SPOKEN, SPOKEN[0]], random_vectors([*SPOKEN, SPOKEN[0]]), until_s=5.0)
    store.add(track, SPOKEN[3:], random_vectors(SPOKEN[3:]), until_s=5.0)
    store.finish(track)
    assert [text.text for text in store.transcript(store.tracks()[0])] == SPOKEN


def test_a_replacing_track_is_hidden_until_it_is_complete(store: TextStore) -> None:
    better = [TimedText(0.0, 1.0, "sentence read better", "speech")]
    write(store, "film")
    write(store, "film", better, model="large", finish=False)
    assert found(store, "sentence") == [text.text for text in SPOKEN]
    assert better[0] not in [text.text for text in near(store, better[0])]
    assert len(store) == 5
    write(store, "film", [], model="large")
    assert [(track.model, track.num_texts) for track in store.tracks("film")] == [("large", 1)]
    assert found(store, "sentence") == ["sentence read better"]
    assert [text.text for text in near(store, better[0])] == better
    assert agree(store)


@pytest.mark.parametrize("num_steps", range(3))
def test_the_next_run_ends_a_replacement_that_was_interrupted(
    store: TextStore, monkeypatch: pytest.MonkeyPatch, num_steps: int
) -> None:
    better = [TimedText(0.0, 1.0, "sentence read better", "speech")]
    write(store, "film")
    write(store, "film", better, model="large", finish=False)
    steps, writer = iter(range(num_steps)), store.store.writer

    def limit(step: Callable[..., None]) -> Callable[..., None]:
        return lambda *values, **options: (step if next(steps, None) is not None else samples.interrupt)(
            *values, **options
        )

    with monkeypatch.context() as patched:
        for name in ("end_video", "set_file"):
            patched.setattr(writer, name, limit(getattr(writer, name)))
        with pytest.raises(KeyboardInterrupt):
            store.finish(store.tracks("film")[1])
    if not store.tracks("film")[-1].complete:
        write(store, "film", [], model="large")
    assert [track.model for track in store.tracks("film")] == ["large"]
    assert found(store, "sentence") == ["sentence read better"]
    assert agree(store)


def test_prune(store: TextStore) -> None:
    for content in ("one", "two", "three"):
        write(store, content, [TimedText(0.0, 1.0, f"words of {content}", "speech")])
    assert store.prune(["two", "unknown"]) == 2
    assert [track.fingerprint for track in store.tracks()] == ["two"]
    assert found(store, "words") == ["words of two"]
    assert agree(store)
    assert store.prune(["two"]) == 0
    write(store, "one", SPOKEN[:1])
    assert [text.text for text in store.transcript(store.tracks("one")[0])] == SPOKEN[:1]


KILLED = """
import sys
from pathlib import Path
from tests.indexed_texts import create_words
from tests.store.samples import kill_at
from tests.store.texts import test_store as made
store = create_words(Path(sys.argv[1]))
made.write(store, "film", made.SPOKEN[:2], finish=False)
if sys.argv[2] == "before":
    kill_at(store.store.writer, "add_segments")
else:
    store.index.add = lambda texts, spoken: None
    kill_at(store.store.texts, "set_progress")
made.write(store, "film", made.SPOKEN[2:3])
"""


@pytest.mark.parametrize(("moment", "num_texts"), [("before", 2), ("after", 3)])
def test_killed_writer_is_caught_up(tmp_path: Path, moment: str, num_texts: int) -> None:
    """The full-text index holds a text that is not stored, or lacks one that is."""
    assert run_code(KILLED, tmp_path, moment).returncode == -signal.SIGKILL
    with TextStore.open(tmp_path) as reader:
        assert set(found(reader, "sentence")) <= {text.text for text in SPOKEN[:num_texts]}
    with create_words(tmp_path) as store:
        assert agree(store)
        assert found(store, "sentence") == [text.text for text in SPOKEN[:num_texts]]
        write(store, "film", SPOKEN[1:])
        assert [text.text for text in store.transcript(store.tracks()[0])] == SPOKEN
        assert agree(store)


@pytest.mark.parametrize("content", [None, b"", b"no database" * 100], ids=["gone", "unfinished", "damaged"])
def test_reader_without_a_full_text_index_makes_one_in_memory(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    with create_words(tmp_path) as store:
        write(store, "one")
    path = tmp_path / FOLDER / INDEX
    for file in path.parent.glob(f"{INDEX}*"):
        file.unlink()
    if content is not None:
        path.write_bytes(content)
    with TextStore.open(tmp_path) as reader:
        generation = reader.store.generation
        assert found(reader, "sentence") == [text.text for text in SPOKEN]
        assert path.exists() == (content is not None)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * (content is not None)
        if content:
            with pytest.raises(StoreError):
                create_words(tmp_path)
            path.unlink()
        with create_words(tmp_path) as store:
            assert agree(store)
            write(store, "two", SPOKEN[:2])
        assert reader.store.generation > generation
        assert reader.index.in_memory
        assert len(found(reader, "sentence")) == 7
        with create_words(tmp_path) as store:
            store.prune(["two"])
        assert len(reader.index) == 2


def test_texts_of_a_filter_are_right_after_tracks_were_deleted(tmp_path: Path) -> None:
    """Rows of tracks then have other numbers for a reader that starts again from what was saved."""
    text = TimedText(0.0, 1.0, "hello", "speech")
    with samples.create(tmp_path) as pictures, create_words(tmp_path) as texts:
        for video_index in range(4):
            samples.add_video(pictures, f"v{video_index}", seed=video_index)
            write(texts, f"v{video_index}", [text])
        with TextStore.open(tmp_path) as reader:
            only = Filters(folder="/videos/v3.mp4")
            assert reader.select(pictures, pictures.select(only)).ids().tolist() == [4]
            texts.prune(["v2", "v3"])
            texts.save()
            write(texts, "v0", [text])
            texts.save()
            assert reader.select(pictures, pictures.select(only)).ids().tolist() == [4]
            assert reader.select(pictures, pictures.select()).num_segments == 3


def test_tracks_of_a_filter_are_flagged_once(store: TextStore) -> None:
    for content in ("one", "two"):
        write(store, content)
    only = store.store.snapshot().select_videos(np.array([False, True]))
    first, second = (track.id for track in store.tracks())
    flags = store._flag(only)
    assert flags is not None
    assert np.flatnonzero(np.frombuffer(flags, np.uint8)).tolist() == [second]
    assert store._flag(only) is flags  # a query asks for each clause and each search
    assert store._flag(only, [first]) == b""
    assert store._flag(store.store.select()) is None


def test_no_texts_another_encoder_or_a_second_writer_are_refused(tmp_path: Path) -> None:
    assert not TextStore.exists(tmp_path)
    with pytest.raises(StoreError):
        TextStore.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with create_words(tmp_path), pytest.raises(StoreError):
        create_words(tmp_path)
    with pytest.raises(StoreError):
        create_words(tmp_path, fingerprint="another")
    assert create_words(tmp_path).tracks() == []


OTHER_USER = """
import os, sys
from tests.store.texts.test_store import found
from vidret.store.texts.store import TextStore
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with TextStore.open(sys.argv[1]) as reader:
    print("ready", flush=True)
    for line in sys.stdin:
        print(len(found(reader, line)), reader.index.terms(line)[0].num_texts, reader.index.in_memory, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_searches_the_stored_index_and_sees_every_commit() -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder)
        index.chmod(0o755)
        with create_words(index) as store:
            write(store, "one")
        with start_code(OTHER_USER, folder) as (_, stdin, said):

            def ask() -> str:
                print("sentence", file=stdin, flush=True)
                return said.readline().strip()

            assert ask() == "5 5 False"
            with create_words(index) as store:
                write(store, "two", SPOKEN[:2])
                assert ask() == "7 7 False"
            assert ask() == "7 7 False"
            stdin.close()
        assert {path.stat().st_uid for path in index.rglob("*")} == {0}, "the reader creates no files"
