"""The upkeep of timed texts: counts, transcripts, damage and repair; what is heard, noted among facts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import ColourEncoder, write_film
from tests.indexed_texts import add_words, create_words, find_content, make_texts, random_vectors, search_words
from tests.made_identities import VOICES, make_voice
from tests.noting import note_calls
from tests.store.samples import add_video, create, damage
from vidret.engine import Engine
from vidret.errors import OptionError, StoreError, VidretError
from vidret.search import hits, preparation
from vidret.store.features import create_features
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.lookup import count_facets
from vidret.store.store import Store
from vidret.store.texts.store import TextCounts, TextStore
from vidret.store.texts.upkeep import (
    TextNote,
    count_texts,
    find_damaged_texts,
    list_notes,
    name_speakers,
    note_heard,
    read_transcript,
)
from vidret.types import ALL_VIDEOS, TEXT_SOURCES, Filters, SearchOptions, TimedText


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of two videos with words, of which ``index`` is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("made") / "index"
    with create(folder) as store:
        for seed, name in enumerate(("a", "b")):
            add_video(store, name, seed=seed)
    add_words(folder, "a", ["one red apple", "two green pears", "three figs"])
    add_words(folder, "a", ["EXIT"], source="screen")
    add_words(folder, "b", [], note="no audio track")
    return folder


def test_texts_are_counted_and_notes_are_listed(index: Path, tmp_path: Path) -> None:
    assert count_texts(index) == [TextCounts("speech", 3, 2, 2), TextCounts("screen", 1, 1, 1)]
    with Store.open(index) as store:
        assert list_notes(store) == [TextNote("/videos/b.mp4", "speech", "no audio track")]
    with Store.open(index, write=True) as store:
        store.writer.set_file("/videos/b (copy).mp4", state="done", video=store.videos.find_complete("b"))
        assert list_notes(store) == [TextNote("/videos/b.mp4", "speech", "no audio track")]
    add_words(index, "a", ["one red apple"], model="another", complete=False)
    assert count_texts(index)[0] == TextCounts("speech", 4, 2, 2), "a video counts once, whoever read it"
    with create(tmp_path / "none") as store:
        assert (list_notes(store), count_texts(tmp_path / "none")) == ([], [])
    assert find_damaged_texts(tmp_path / "none", repair=True) == []
    assert not (tmp_path / "none" / "words").exists()
    (tmp_path / "none" / "words").mkdir()
    (tmp_path / "none" / "words" / "catalog.sqlite").touch()
    create_features(tmp_path / "none" / "words" / "features", 8)
    assert find_damaged_texts(tmp_path / "none", repair=True) == [], "of a writer that was killed at once"


def test_a_transcript_is_in_order_of_time(index: Path) -> None:
    with Store.open(index) as store:
        texts = read_transcript(store, store.find_contents("a")["a"])
        assert [text.text for text in texts] == ["one red apple", "EXIT", "two green pears", "three figs"]
        assert read_transcript(store, store.find_contents("a")["a"], ["screen"]) == make_texts(["EXIT"], "screen")
        assert read_transcript(store, store.find_contents("b")["b"]) == []
        with pytest.raises(VidretError, match="sources must be a list, got 'speech'"):
            read_transcript(store, 1, "speech")  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=rf"^sources must be of {', '.join(TEXT_SOURCES)}, got smell"):
            read_transcript(store, 1, ["smell"])  # type: ignore[list-item]


# Two people, of whom the first is called Anna.
TURNS = [(0, 0.0, 1.9), (1, 2.0, 3.4), (0, 3.4, 4.0), (0, 6.0, 7.0), (1, 8.0, 9.0)]


def test_a_transcript_has_the_names_of_who_is_heard_longest(index: Path) -> None:
    with IdentityStore.create(index) as identities:
        identities.write_tracks("a", VOICES, [make_voice(*turn) for turn in TURNS])
    Persons(index).group()
    Persons(index).rename(1, "Anna")
    with Store.open(index) as store:
        named = read_transcript(store, 1)
        assert [(text.source, text.speaker) for text in named] == [
            *(("speech", "Anna"), ("screen", ""), ("speech", ""), ("speech", ""))
        ]
        assert [text.speaker for text in read_transcript(store, 1, unnamed=True)] == ["Anna", "", "person-2", ""]
    assert name_speakers([index], "another", named, unnamed=True) == named


@settings(max_examples=15)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=6),
    start=st.integers(0, 20),
    length=st.integers(1, 6),
)
def test_naming_is_as_by_counting_moments(
    drawn: list[tuple[int, int, int]], start: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = tmp_path_factory.mktemp("index")
    with IdentityStore.create(index) as identities:
        ids = identities.write_tracks("a", VOICES, [make_voice(who, at, at + num) for who, at, num in drawn])
        with identities.change():
            for name in ("Anna", "Bob", "Cem"):
                identities.database.run("INSERT INTO persons (name) VALUES (?)", name)
            values = [(track, who + 1, 0, 0.0) for track, (who, _, _) in zip(ids, drawn, strict=True)]
            identities.database.run_many("INSERT INTO assignments VALUES (?, ?, ?, ?)", values)
    counts = dict.fromkeys(("Anna", "Bob", "Cem"), 0)
    for second in range(start, start + length):
        for who, at, num in drawn:
            counts[list(counts)[who]] += at <= second < at + num
    (named,) = name_speakers([index], "a", [TimedText(start, start + length, "apples", "speech")])
    best = max(counts.values())
    assert named.speaker in ([name for name, count in counts.items() if count == best] if best else [""])


def test_a_transcript_is_of_the_complete_track_until_another_replaces_it(index: Path) -> None:
    add_words(index, "a", ["newer"], model="newer", complete=False)
    with Store.open(index) as store:
        assert len(read_transcript(store, store.find_contents("a")["a"], ["speech"])) == 3
        add_words(index, "a", ["newer"], model="newer")
        assert [text.text for text in read_transcript(store, store.find_contents("a")["a"], ["speech"])] == ["newer"]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("of", ["words", "track", "vector"])
def test_a_damaged_text_is_dropped_and_its_track_is_read_again(index: Path, complete: bool, of: str) -> None:
    words = ["four plums", "five limes", "six dates"]
    add_words(index, "b", words, source="screen", complete=complete)
    assert find_damaged_texts(index, repair=False) == []
    with Store.open(index / "words", write=True) as store:
        damaged = store._catalog.database.value("SELECT segment FROM texts WHERE text = CAST('five limes' AS BLOB)")
        if of == "words":
            store._catalog.database.run("UPDATE texts SET text = x'ff' WHERE segment = ?", damaged)
        elif of == "track":
            store._catalog.database.run("UPDATE tracks SET model = 'other' WHERE source = 'screen' AND content = 'b'")
        else:
            path, row_bytes = next((index / "words" / "features").glob("video*")), 2 * store.dim
    if of == "vector":
        damage(path, (damaged - 1) * row_bytes, bits=0x40)
        (reason,) = find_damaged_texts(index, repair=False)
        assert reason.startswith("text 1 of screen of b: ")
    else:
        with pytest.raises(
            StoreError, match=r"the row of \d in t\w+ is damaged \(checksum\); run vidret info --repair"
        ):
            find_damaged_texts(index, repair=False)
        assert search_words(index, "limes") == []
    assert len(find_damaged_texts(index, repair=True)) == 1
    assert find_damaged_texts(index, repair=False) == []
    assert search_words(index, "limes") == []
    if of != "track":
        assert search_words(index, "plums") == ["four plums"], "what is intact stays searchable"
    with create_words(index) as store:
        track = store.find("b", "screen", "model")
        assert (track is None) == (of == "track")
        assert track is None or (track.complete, track.until_s) == (False, 0.0)
        texts = make_texts(words, "screen")
        track = store.begin("b", "screen", "model", duration_s=60)
        store.add(track, texts, random_vectors(texts), until_s=6)
        store.finish(track)
        assert sorted(text.text.text for text in store.transcript(track)) == sorted(words)
    assert search_words(index, "limes") == ["five limes"]
    assert find_damaged_texts(index, repair=False) == []


def test_a_damaged_catalog_is_rebuilt_and_the_track_is_read_again(index: Path) -> None:
    for sql in ("UPDATE segments SET start = 9 WHERE id = 2", "UPDATE videos SET facts = '{' WHERE id = 2"):
        with Store.open(index / "words", write=True) as store:
            store._catalog.database.run(sql)
    with pytest.raises(StoreError, match=r"catalog.sqlite: the row of .*; run vidret info --repair"):
        find_damaged_texts(index, repair=False)
    assert [reason.partition(" is ")[0] for reason in find_damaged_texts(index, repair=True)] == [
        "catalog: the row of 2 in videos",
        "catalog: the row of 2 in segments",
    ]
    assert find_damaged_texts(index, repair=False) == []
    with TextStore.open(index) as texts:
        assert texts.find("a", "screen", "model") is None
        speech = texts.find("a", "speech", "model")
        assert speech is not None
        assert (speech.complete, speech.until_s) == (False, 0.0)
    add_words(index, "a", ["one red apple", "two green pears", "three figs"])
    add_words(index, "a", ["EXIT"], source="screen")
    assert search_words(index, "pears") == ["two green pears"]
    assert count_texts(index) == [TextCounts("speech", 3, 2, 2), TextCounts("screen", 1, 1, 1)]


def test_a_catalog_that_cannot_be_repaired_says_what_else_to_do(index: Path) -> None:
    folder = index / "words"
    way_out = rf"cannot be repaired \(.*\); delete {folder}, and read the words again with vidret index --words on$"
    for damaged in (b"", b"not a database" * 1000):
        (folder / "catalog.sqlite").write_bytes(damaged)
        with pytest.raises(StoreError, match=way_out):
            find_damaged_texts(index, repair=True)
    shutil.rmtree(folder)
    add_words(index, "a", ["two green pears"])
    assert find_damaged_texts(index, repair=False) == []
    assert search_words(index, "pears") == ["two green pears"]


def test_a_damaged_full_text_index_is_rebuilt(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = index / "words" / "texts.sqlite"
    with TextStore.open(index, write=True) as texts:
        texts.index._database.run("UPDATE texts_content SET c0 = 'wrong' WHERE id = (SELECT min(rowid) FROM texts)")
    (reason,) = find_damaged_texts(index, repair=False)
    assert reason.startswith(f"{path}: ")
    assert find_damaged_texts(index, repair=True) == [reason]
    assert find_damaged_texts(index, repair=False) == []
    path.write_bytes(b"not a database" * 1000)
    assert "not a database" in find_damaged_texts(index, repair=False)[0]
    assert search_words(index, "pears") == ["two green pears"], "by an index in memory"
    assert "texts are searched by an index in memory" in caplog.text
    find_damaged_texts(index, repair=True)
    assert find_damaged_texts(index, repair=False) == []
    assert search_words(index, "pears") == ["two green pears"]


@pytest.mark.parametrize("change", ["c1 = 'A' || c1", "c1 = NULL", "c2 = c2 + 1"])
def test_damaged_phonemes_are_found(index: Path, change: str) -> None:
    with TextStore.open(index, write=True) as texts:
        texts.index._database.run(f"UPDATE spoken_content SET {change} WHERE id = (SELECT min(id) FROM spoken_content)")
    (reason,) = find_damaged_texts(index, repair=True)
    assert reason.startswith(f"{index / 'words' / 'texts.sqlite'}: ")
    assert find_damaged_texts(index, repair=False) == []


def test_texts_that_the_full_text_index_lacks_are_found(index: Path) -> None:
    with TextStore.open(index, write=True) as texts:
        texts.index.remove(texts.index.ids()[:1].tolist())
    assert find_damaged_texts(index, repair=False) == [f"{index}/words/texts.sqlite: 1 stored text missing"]
    with TextStore.open(index, write=True) as texts:
        texts.index.add([(1 << 40, "of a killed writer")])
    assert find_damaged_texts(index, repair=False) == []


def test_writing_a_new_track_reads_no_others(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_texts(["four plums"])
    with create_words(index) as store:
        monkeypatch.setattr(store.store.videos, "fingerprints", lambda: pytest.fail("reads all tracks"))
        track = store.begin("c", "speech", "model", duration_s=2.0)
        store.add(track, texts, random_vectors(texts), until_s=2.0)
        store.finish(track)


@pytest.mark.parametrize("value", ["NULL", "'x'", "x'00'"])
def test_a_damaged_term_ends_no_search(index: Path, value: str) -> None:
    with TextStore.open(index, write=True) as texts:
        texts.index._database.run(f"UPDATE terms SET mask = {value} WHERE term = 'appl'")
    with TextStore.open(index) as texts:
        assert [term.num_texts for term in texts.index.terms("apples pears")] == [1, 1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create(tmp_path / "index") as writer:
        for seed, name in enumerate("abcd"):
            add_video(writer, name, seed=seed)
    with Store.open(tmp_path / "index") as reader:
        yield reader


def test_what_is_heard_for_long_can_be_filtered_and_counted(store: Store) -> None:
    note_heard(store)
    assert count_facets(store.snapshot(), ALL_VIDEOS).languages == {}
    add_words(store.path, "a", ["a"], language="de")
    add_words(store.path, "b", ["b"], language="")  # a model of one language does not tell
    add_words(store.path, "c", ["c"], source="subtitles", language="fr")  # is not heard
    with create_words(store.path) as texts:
        track = texts.begin("d", "speech", "model", duration_s=60.0)
        for language, num_texts in (("en", 3), ("de", 8), ("cy", 1)):
            said = make_texts([f"{language} {i}" for i in range(num_texts)], language=language)
            texts.add(track, said, random_vectors(said), until_s=20.0)
        texts.finish(track)
    note_heard(store)
    languages = ("de", "DE ", "en", "fr", "cy")
    found = {code: [Path(v.paths[0]).stem for v in store.videos.find(Filters(language=code))] for code in languages}
    assert found == {"de": ["a", "d"], "DE ": ["a", "d"], "en": ["d"], "fr": [], "cy": []}
    assert count_facets(store.snapshot(), ALL_VIDEOS).languages == {"de": 2, "en": 1}
    assert [video.facts.get("languages") for video in store.videos.find()] == ["de", None, None, "de en"]
    before = store.snapshot()
    note_heard(store)
    assert store.snapshot() is before, "nothing is written if nothing changed"


def test_names_of_sounds_can_be_filtered_and_counted(store: Store) -> None:
    add_words(store.path, "a", ["Applause", "bark", "bark"], source="sound")
    add_words(store.path, "b", ["child speech, kid speaking", "bark", "odd\x00\nname"], source="sound")
    add_words(store.path, "c", [f"sound {i}".ljust(29, "o") for i in range(10)], source="sound")
    add_words(store.path, "d", ["bark"])  # is said
    note_heard(store)
    videos = {Path(video.paths[0]).stem: video.facts.get("heard", "") for video in store.videos.find()}
    assert str(videos["a"]).split("\n") == ["bark", "Applause"], "what is heard longest is first"
    assert [len(name) for name in str(videos["c"]).split("\n")] == [29] * 6, "whole names, as many as 200 bytes hold"
    assert videos["d"] == ""
    for name, expected in {"BARK": "ab", "child speech, kid speaking": "b", "applause": "a", "speech": ""}.items():
        assert [Path(video.paths[0]).stem for video in store.videos.find(Filters(heard=name))] == [*expected], name
    heard = count_facets(store.snapshot(), ALL_VIDEOS).heard
    assert (len(heard), heard["bark"]) == (10, 2)
    assert count_facets(store.snapshot(), Filters(heard="applause")).heard == heard, "regardless of its own filter"
    before = store.snapshot()
    note_heard(store)
    assert store.snapshot() is before, "nothing is written if nothing changed"


def test_a_run_notes_them_and_forgets_what_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "save_text_background", lambda _store: None)  # of vectors of another length
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
        for language, model in (("de", "model"), ("fr", "other")):
            add_words(engine.path, find_content(engine.path, "a.mp4"), ["a"], model=model, language=language)
            engine.index([tmp_path / "films"], words=False)
            assert [video.paths for video in engine.videos(Filters(language=language))] == [(str(film),)]
        assert engine.videos(Filters(language="de")) == []


def test_a_search_for_a_language_or_a_sound_that_no_video_has_names_those_that_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = note_calls(monkeypatch, hits, "count_facets", lambda *_: None)
    write_film(tmp_path / "films" / "a.mp4", ("red", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
        content = find_content(engine.path, "a.mp4")
        add_words(engine.path, content, ["a"], language="de")
        add_words(engine.path, content, [f"sound {i:03}" for i in range(5)], source="sound")
        note_heard(engine._index.store)
        for filters in (Filters(language="fr"), Filters(heard="bark")):
            assert engine.search("red", sources=["picture"], filters=filters) == []
        for filters in (Filters(language="DE ", min_seconds=100), Filters(heard="Sound 001", min_seconds=100)):
            assert engine.search("red", sources=["picture"], filters=filters) == []
            assert engine.list_search_notes("red", SearchOptions(filters=filters)) == []
    assert len(counted) == 2, "counts of all videos take seconds in a large index"
    sounds = ", ".join(f"sound {i:03} (1 video)" for i in range(5))
    assert [message for message in caplog.messages if "the index has" in message] == [
        "no video has the language fr; the index has: de (1 video)",
        f"no video has the sound bark; the index has: {sounds}",
    ]
