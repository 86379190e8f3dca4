"""Indexing runs that read words: stored with the pictures or later, interrupted, moved, and given up."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.fakes import ColourEncoder
from tests.forking import run_code
from tests.index.samples import read_contents
from tests.indexed_texts import add_words, make_texts
from tests.noting import note_calls
from tests.word_films import QUICK_OCR, SUBTITLES, shown, write_worded
from vidret.channels.identities import TRACK_KINDS
from vidret.channels.registry import READ_KINDS
from vidret.channels.texts import options as options_module
from vidret.channels.texts import run as words_module
from vidret.channels.texts.options import WordsOptions, find_sound_model
from vidret.channels.texts.run import (
    ContentWords,
    WordsRun,
    choose_sounds,
    choose_words,
    open_words,
    read_options,
    read_setting,
)
from vidret.encode.sentences import DIM, SentenceEncoder, load_sentence_encoder
from vidret.engine import Engine
from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.index.run_state import RunState
from vidret.store.catalog.texts import TextTrack
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import Frames, SegmentEmbedding, SoundWindows, TextSource, TimedText
from vidret.video.workers import process
from vidret.video.workers.messages import ReadTexts

ROOT = Path(__file__).parents[3]
SUBTITLES_ONLY = WordsOptions(sources=("subtitles",))
SCREEN_AND_SUBTITLES = WordsOptions(sources=("screen", "subtitles"))


@pytest.fixture(autouse=True)
def words_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_WORDS", "auto")


def read_words(index: Path) -> dict[TextSource, tuple[TextTrack, list[TimedText]]]:
    """Return the tracks of an index of one content, with their texts, by source."""
    with TextStore.open(index) as store:
        tracks = store.tracks()
        assert len({track.source for track in tracks}) == len(tracks)
        return {track.source: (track, [stored.text for stored in store.transcript(track)]) for track in tracks}


def write_sidecar(film: Path, words: str) -> None:
    film.with_suffix(".srt").write_text(f"1\n00:00:01,000 --> 00:00:02,000\n{words}\n")


class UnusedEncoder(ColourEncoder):
    """An encoder that must not be called."""

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        raise AssertionError("pictures were encoded again")


@pytest.mark.parametrize(
    ("setting", "sources"),
    [("auto", READ_KINDS), ("", READ_KINDS), ("off", None), ("subtitles, speech", ("speech", "subtitles"))],
)
def test_a_new_index_gets_the_words_of_the_command_line(
    setting: str, sources: tuple[TextSource, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRET_WORDS", setting)
    index = tmp_path / "index"
    with Engine(index, ColourEncoder()) as engine:
        engine.index([])
    options = read_options(index)
    assert (options.sources if options else None) == sources
    monkeypatch.setenv("VIDRET_WORDS", "auto")
    assert choose_words(index, None) == options, "an index goes on as it is"


def test_a_new_index_without_the_extra_says_that_it_has_no_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(options_module, "find_spec", lambda _name: None)
    assert choose_words(tmp_path / "index", None) is None
    assert 'needs the extra "words"' in caplog.text


@pytest.mark.parametrize("missing", ["openvino", "rapidocr"])
def test_on_screen_text_needs_its_models_and_what_runs_them(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each film would be stored without it, and not be read again."""
    monkeypatch.setattr(options_module, "find_spec", lambda name: None if name == missing else name)
    WordsOptions(sources=("speech", "subtitles")).check_installed()
    with pytest.raises(MissingExtraError):
        WordsOptions(sources=("screen",)).check_installed()


@pytest.mark.parametrize(
    ("words", "setting", "sources"),
    [
        (None, "auto", None),
        (None, "on", ("sound",)),
        (None, "off", None),
        (WordsOptions(), "auto", READ_KINDS),
        (WordsOptions(), "off", ("speech", "screen", "subtitles")),
        (SUBTITLES_ONLY, "on", ("subtitles", "sound")),
        (WordsOptions(sources=("sound",)), "off", None),
    ],
)
def test_sounds_come_and_go(words: WordsOptions | None, setting: str, sources: tuple[TextSource, ...] | None) -> None:
    chosen = choose_sounds(words, setting)
    assert (None if chosen is None else chosen.sources) == sources


@pytest.mark.parametrize(("known", "sources"), [(WordsOptions(sources=("sound",)), READ_KINDS), (SUBTITLES_ONLY, None)])
def test_words_are_read_after_sounds_alone(
    known: WordsOptions, sources: tuple[TextSource, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_module, "read_options", lambda _index: known)
    assert choose_words(tmp_path, words=True) == replace(known, sources=sources or known.sources)
    assert choose_words(tmp_path, None) == known


def test_an_index_remembers_its_sound_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, named = WordsOptions(sources=("sound",)), WordsOptions(sources=("sound",), sound_model="hf:a/b+c")
    assert "sound_model" not in plain.to_json()
    for options, model in ((plain, ""), (named, "hf:a/b+c")):
        assert WordsOptions.from_json(options.to_json()) == options
        assert [find_sound_model(options.models(digest)["sound"]) for digest in ("", "0123456789ab")] == [model] * 2
    assert choose_sounds(None, "on", "hf:a/b") == WordsOptions(sources=("sound",), sound_model="hf:a/b")
    monkeypatch.setattr(words_module, "read_options", lambda _index: named)
    with pytest.raises(StoreError, match=r"once, by --sound-model hf:a/b\+c"):
        read_setting(tmp_path, "auto")
    setting = read_setting(tmp_path, "auto", sound_model="hf:d/e")
    assert setting is not None
    assert choose_words(tmp_path, setting) == replace(named, sound_model="hf:d/e")
    monkeypatch.setattr(words_module, "read_options", lambda _index: setting)
    assert read_setting(tmp_path, "auto") == setting, "it was allowed by its name"


def test_models_in_files_are_remembered_by_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run may begin in another folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("whisper", "tiny.en", "clap"):
        (tmp_path / name).mkdir()
    (tmp_path / "voices.pt").touch()
    for name, kept in (("whisper", str(tmp_path / "whisper")), ("tiny.en", "tiny.en"), ("large-v3", "large-v3")):
        options = choose_words("index", WordsOptions(speech_model=name, sound_model="hf:clap"))
        assert options == WordsOptions(speech_model=kept, sound_model=f"hf:{tmp_path / 'clap'}")
    for name, kept in (("voices.pt", str(tmp_path / "voices.pt")), ("a.b:C", "a.b:C")):
        assert TRACK_KINDS["voice"].choose_model("index", name) == kept


def test_words_are_stored_with_the_pictures(tmp_path: Path) -> None:
    film = write_worded(tmp_path / "films" / "a.mkv", ("lighthouse", 3.0), silence=True, subtitles=SUBTITLES)
    write_sidecar(film, "Good morning.")
    report = Engine(tmp_path / "index", ColourEncoder()).index([film.parent], words=True)
    assert (report.encoded, report.failed) == (1, [])
    assert report.texts == {"screen": 1, "sound": 1, "speech": 0, "subtitles": 3}
    words = read_words(tmp_path / "index")
    assert all(track.complete and track.note == "" for track, _ in words.values())
    assert shown(words["screen"][1]) == ["lighthouse"]
    assert words["screen"][1][0].end == pytest.approx(3.0, abs=0.3)
    assert [text.text for text in words["subtitles"][1]] == [
        "Where is the lighthouse?",
        "Good morning.",
        "Behind the hill.",
    ]
    with TextStore.open(tmp_path / "index") as store:
        texts = store.read_segments(store.store.searchable())
        ids, rows = store.store.features.intact_vectors(np.array([text.id for text in texts]))
    vectors = dict(zip(ids.tolist(), rows.astype(np.float32), strict=True))
    by_text = {text.text.text: vectors[text.id] for text in texts}
    said, shown_word = load_sentence_encoder().encode(['"Good morning."', "lighthouse"])
    np.testing.assert_allclose(by_text["Good morning."], said, atol=2e-3, err_msg="what is said is in quotes")
    np.testing.assert_allclose(by_text["lighthouse"], shown_word, atol=2e-3)


def test_words_are_added_later_without_encoding(tmp_path: Path) -> None:
    film = write_worded(tmp_path / "films" / "a.mp4", ("", 2.0))
    Engine(tmp_path / "index", ColourEncoder()).index([film.parent], words=False)
    assert not (tmp_path / "index" / "words").exists()
    before = read_contents(tmp_path / "index")
    engine = Engine(tmp_path / "index", UnusedEncoder())
    write_sidecar(film, "Good morning.")
    report = engine.index([film.parent], words=SUBTITLES_ONLY)
    assert (report.unchanged, report.encoded, report.linked, report.texts) == (1, 0, 0, {"subtitles": 1})
    assert read_options(tmp_path / "index") == SUBTITLES_ONLY
    assert engine.index([film.parent]).texts == {}, "what is complete is not read again"
    write_sidecar(film, "Good night, and good luck.")
    assert engine.index([film.parent]).texts == {"subtitles": 1}
    assert [text.text for text in read_words(tmp_path / "index")["subtitles"][1]] == ["Good night, and good luck."]
    assert read_contents(tmp_path / "index") == before


def test_the_options_of_a_merged_index_are_those_of_its_tracks(tmp_path: Path) -> None:
    assert read_options(tmp_path) is None
    add_words(tmp_path, "sha256-1", ["hello"], model="base")
    assert read_options(tmp_path) == WordsOptions(sources=("speech",), speech_model="base")


def test_words_follow_a_moved_file_and_are_pruned_with_it(tmp_path: Path) -> None:
    film = write_worded(tmp_path / "films" / "a.mkv", ("", 4.0), subtitles=SUBTITLES)
    write_worded(tmp_path / "films" / "b.mp4", ("", 1.0), salt=1)
    engine = Engine(tmp_path / "index", ColourEncoder())
    assert engine.index([film.parent], words=SUBTITLES_ONLY).texts == {"subtitles": 2}
    film.rename(film.with_name("c.mkv"))
    report = engine.index([film.parent], words=SUBTITLES_ONLY)
    assert (report.linked, report.texts) == (1, {})
    film.with_name("c.mkv").unlink()
    engine.index([film.parent], words=False, prune=True)
    with TextStore.open(tmp_path / "index") as store:
        assert [track.num_texts for track in store.tracks()] == [0]


@pytest.mark.parametrize("is_copied", [False, True])
def test_words_are_not_those_beside_a_file_that_holds_something_else_by_now(tmp_path: Path, *, is_copied: bool) -> None:
    long = write_worded(tmp_path / "films" / "long.mp4", ("", 4.0))
    short = write_worded(tmp_path / "films" / "short.mp4", ("", 3.0), salt=1)
    write_sidecar(long, "Good morning.")
    if is_copied:
        shutil.copy2(long, long.with_name("copy.mp4"))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([long.parent], words=SUBTITLES_ONLY, workers=1)
    if is_copied:
        short.replace(long)
    else:
        short.rename(tmp_path / "other.mp4")
        long.rename(short)  # larger, and so read first
        (tmp_path / "other.mp4").rename(long)
    engine.index([long.parent], words=SUBTITLES_ONLY, workers=1)
    found = {Path(video.paths[0]).name: engine.transcript(video.id) for video in engine.videos()}
    assert {name: [text.text for text in texts] for name, texts in found.items()} == {
        "long.mp4": ["Good morning."],
        "copy.mp4" if is_copied else "short.mp4": [],
    }


KILLED = """
import os, signal, sys
from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.channels.texts.run import ContentWords
from vidret.channels.texts.options import WordsOptions
from vidret.video.workers import process
from vidret.video.workers.messages import ReadTexts

process._PROGRAM = sys.argv[4]
count, add = 0, ContentWords.add

def add_and_die(self, *given):
    global count
    add(self, *given)
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

ContentWords.add = add_and_die
options = WordsOptions(sources=("screen", "subtitles"))
Engine(sys.argv[1], ColourEncoder()).index([sys.argv[2]], words=options)
"""


def test_a_killed_run_is_resumed_without_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PROGRAM", QUICK_OCR)
    scenes = [("lighthouse", 5.0), ("", 1.0), ("railway bridge", 6.0)]
    film = write_worded(tmp_path / "films" / "a.mkv", *scenes, subtitles=SUBTITLES)
    Engine(tmp_path / "whole", ColourEncoder()).index([film.parent], words=SCREEN_AND_SUBTITLES)
    whole = read_words(tmp_path / "whole")
    assert len(whole["screen"][1]) == 2
    assert run_code(KILLED, tmp_path / "index", film.parent, 3, QUICK_OCR).returncode == -9
    track, texts = read_words(tmp_path / "index")["screen"]
    assert (track.complete, texts) == (False, whole["screen"][1][:1])
    assert 5.0 < track.until_s < 12.0
    assert Engine(tmp_path / "index", ColourEncoder()).index([film.parent]).texts == {"screen": 1, "subtitles": 2}
    resumed = read_words(tmp_path / "index")
    assert {source: resumed[source][1] for source in resumed} == {source: whole[source][1] for source in whole}
    assert read_contents(tmp_path / "index") == read_contents(tmp_path / "whole")


CRASHING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from vidret.channels import screen
from vidret.video.workers import worker

class Reader:
    def start(self, *_args):
        pass

    def read(self, *_args):
        os.kill(os.getpid(), 11)

screen._load_reader = Reader
worker.run_worker(int(sys.argv[2]), int(sys.argv[3]))
"""


def test_a_model_that_does_not_exist_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    film = write_worded(tmp_path / "films" / "a.mkv", ("", 2.0), subtitles=SUBTITLES)
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([film], words=False)
        for known in (None, WordsOptions(sources=("subtitles",))):
            with pytest.raises(VidretError, match="speech model must be"):
                engine.index([film], words=WordsOptions(speech_model="tinny.en"))
            assert read_options(tmp_path / "index") == known
            engine.index([film], words=WordsOptions(sources=("subtitles",)))


def test_a_run_that_stops_over_words_keeps_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = note_calls(monkeypatch, RunState, "plan", lambda run_state, _files: run_state)
    add = ContentWords.add

    def stop(words: ContentWords, message: ReadTexts, vectors: Any = None) -> None:
        add(words, message, vectors)
        runs[0].stop.set()

    film = write_worded(tmp_path / "films" / "a.mp4", ("", 5.0))
    write_sidecar(film, "hello there")
    with Engine(tmp_path / "index", ColourEncoder()) as engine, monkeypatch.context() as patch:
        patch.setattr(ContentWords, "add", stop)
        engine.index([film.parent], words=SUBTITLES_ONLY)
        assert [hit.path for hit in engine.search("black", k=1)] == [str(film)]
    with Engine(tmp_path / "index", UnusedEncoder()) as engine:
        engine.index([film.parent], words=SUBTITLES_ONLY)
    assert read_words(tmp_path / "index")["subtitles"][0].complete


def test_a_crash_over_words_spares_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_worded(tmp_path / "films" / "a.mkv", ("", 4.0), subtitles=SUBTITLES)
    monkeypatch.setattr(process, "_PROGRAM", CRASHING)
    engine = Engine(tmp_path / "index", ColourEncoder())
    report = engine.index([film.parent], words=SCREEN_AND_SUBTITLES)
    assert (report.encoded, report.failed, report.texts) == (1, [], {"screen": 0, "subtitles": 2})
    words = read_words(tmp_path / "index")
    assert words["screen"][0].note == "the decoder crashed (signal 11)"
    assert words["screen"][0].complete, "it is not tried again"
    assert engine.index([film.parent]).texts == {}
    monkeypatch.setattr(process, "_PROGRAM", QUICK_OCR)
    assert engine.index([film.parent], retry_failed=True).texts == {"screen": 0}
    assert read_words(tmp_path / "index")["screen"][0].note == ""


@contextlib.contextmanager
def resuming(index: Path, stored: Sequence[TimedText], until_s: float) -> Iterator[tuple[WordsRun, ContentWords]]:
    """Open the words of a content of which some texts are stored, and begin to read it again where they end."""
    source = stored[0].source
    with (
        Store.create(index, encoder_name="none", encoder_fingerprint="0", dim=2) as store,
        open_words(store, WordsOptions(sources=(source,)), retry_failed=False) as run,
    ):
        assert run is not None
        run.begin("content", [], 400.0)
        run.store.add(run.store.tracks()[0], stored, np.zeros((len(stored), DIM), np.float32), until_s=until_s)
        reading = run.begin("content", [], 400.0)
        assert reading.request()[source]["start_s"] == until_s
        yield run, reading


def test_a_resumed_run_compares_only_what_may_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else half a million stored texts would be compared with each that is read."""
    stored = make_texts([f"word {index}" for index in range(200)], "screen")
    compared: list[TimedText] = []
    monkeypatch.setattr(words_module, "_repeats", lambda _text, known: compared.append(known))
    with resuming(tmp_path, stored, stored[-1].start) as (_, reading):
        reading.add(ReadTexts("screen", 400.0, stored), np.zeros((200, DIM), np.float32))
    assert {text.text for text in compared} == {"word 198", "word 199"}


def test_a_resumed_run_goes_on_where_a_long_text_was_cut(tmp_path: Path) -> None:
    """Another one that began earlier is why it is read again from before the cut."""
    with resuming(tmp_path, [TimedText(0.0, 60.0, "music", "sound")], 55.0) as (run, reading):
        again = [(54.0, 90.0, "music"), (55.0, 75.0, "speech"), (57.0, 60.0, "music"), (59.0, 99.0, "music")]
        texts = [TimedText(*text, "sound") for text in again]
        reading.add(ReadTexts("sound", 100.0, texts), np.zeros((4, DIM), np.float32))
        kept = [stored_text.text for stored_text in run.store.transcript(run.store.tracks()[0])]
        found = sorted((text.start, text.end, text.text) for text in kept)
    assert found == [(0.0, 60.0, "music"), (55.0, 75.0, "speech"), (59.0, 99.0, "music"), (60.0, 90.0, "music")]


def test_a_named_speech_model_is_loaded_once_to_check_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(options_module, "SpeechRecogniser", loaded.append)
    options = WordsOptions(sources=("speech",), speech_model=str(tmp_path))
    with Store.create(tmp_path / "index", encoder_name="none", encoder_fingerprint="0", dim=2) as store:
        for num_loads in (1, 2):  # the second run has the options of the index
            with open_words(store, options, retry_failed=False) as run:
                assert run is not None
                run.check_models()
            assert loaded == [str(tmp_path)] * num_loads


def test_windows_change_no_text_and_sounds_are_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = note_calls(monkeypatch, SentenceEncoder, "embed", lambda _, texts: texts)
    windows = SoundWindows(starts=np.zeros(1), ends=np.ones(1), vectors=np.ones((1, 4), np.float16))
    with (
        Store.create(tmp_path, encoder_name="none", encoder_fingerprint="0", dim=2) as store,
        open_words(store, WordsOptions(sources=("sound",)), retry_failed=False) as run,
    ):
        assert run is not None
        reading = run.begin("content", [], 400.0)
        reading.request()
        reading.add(ReadTexts("sound", 0.0, [], windows, "model"))
        assert (encoded, run.store.tracks()[0].until_s) == ([], 0.0)
        reading.add(ReadTexts("sound", 30.0, make_texts(["music", "speech", "music"], "sound")))
        assert encoded == [["music", "speech"]], "none twice"
        assert run.store.tracks()[0].until_s == 30.0


def test_wrong_options_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = write_worded(tmp_path / "films" / "a.mp4", ("", 1.0))
    engine = Engine(tmp_path / "index", ColourEncoder())
    large = WordsOptions(sources=("speech",), speech_model="large")
    for words, reason in (
        (cast(Any, "off"), "words must be True, False, None or WordsOptions, got 'off'"),
        (large, r"speech model must be tiny\.en or a folder"),
    ):
        with pytest.raises(VidretError, match=reason):
            engine.index([film.parent], words=words)
    with pytest.raises(VidretError, match="words must be of speech, screen, subtitles, sound, got music"):
        WordsOptions(sources=cast(Any, ("speech", "music")))
    monkeypatch.setenv("VIDRET_WORDS", "music")
    with pytest.raises(VidretError, match="must be auto, on, off or some of speech, screen, subtitles, sound, got"):
        choose_words(tmp_path / "new", None)
    monkeypatch.setattr(options_module, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match='reading words of videos needs the extra "words"'):
        Engine(tmp_path / "other", ColourEncoder()).index([film.parent], words=True)
    assert not os.path.exists(tmp_path / "other")  # noqa: PTH110
