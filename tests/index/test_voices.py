"""Indexing runs that read voices: what is stored, remembered, resumed and refused. The encoder of voices is a fake."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_voices import PITCHES, BrokenVoices, PitchVoices, write_talk
from tests.fakes import ColourEncoder, write_film
from vidret.channels.identities.kinds import TRACK_KINDS
from vidret.channels.registry import KINDS
from vidret.channels.speech import SAMPLE_RATE
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.reading import VideoTextReader
from vidret.engine import Engine
from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.index.options import IndexReport
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.store import Store
from vidret.video import audio
from vidret.video.audio import read_audio
from vidret.video.probe import probe

pytest.importorskip("faster_whisper")
FAKE = f"{PitchVoices.__module__}:{PitchVoices.__name__}"
BROKEN = f"{BrokenVoices.__module__}:{BrokenVoices.__name__}"
Turns = list[tuple[str, float, float]]


def run(index: Path, films: Path, speakers: bool | str | None, **options: object) -> IndexReport:
    with Engine(index, ColourEncoder()) as engine:
        return engine.index([films], speakers=speakers, **{"words": False, **options})  # type: ignore[arg-type]


def read_turns(index: Path) -> dict[str, Turns]:
    """Return who speaks from when to when, by the name of the file."""
    with Store.open(index) as store, IdentityStore.open(index) as identities:
        paths = store.files.paths_of(list(store.videos.fingerprints()))
        return {
            Path(paths[video][0]).name: [
                (list(PITCHES)[int(track.vector.argmax())], track.start_s, track.end_s)
                for track in identities.tracks(content, "voice").values()
            ]
            for video, content in store.videos.fingerprints().items()
            if identities.is_read(content, identities.models()[0])
        }


def list_speakers(turns: Turns) -> list[str]:
    """Return the names in turn, each once where it follows itself."""
    return [name for row, (name, _, _) in enumerate(turns) if not row or turns[row - 1][0] != name]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_talk(folder / "talk.mp4", ("ann", 4.0), ("bob", 5.0), ("ann", 3.0))
    write_film(folder / "silent.mp4", ("red", 3))
    return folder


def test_turns_of_speakers_are_stored_by_video(tmp_path: Path, films: Path) -> None:
    index = tmp_path / "index"
    report = run(index, films, FAKE)
    turns = read_turns(index)
    assert report.encoded == 2
    assert report.tracks == {"voice": len(turns["talk.mp4"])}
    assert turns["silent.mp4"] == [], "it is read, and nobody speaks"
    assert list_speakers(turns["talk.mp4"]) == ["ann", "bob", "ann"]
    spans = {"ann": ((1.0, 5.0), (11.0, 14.0)), "bob": ((6.0, 10.0),)}
    for name, start_s, end_s in turns["talk.mp4"]:
        assert any(start_s > first - 0.2 and end_s < last + 1.2 for first, last in spans[name])
    assert sum(end_s - start_s for _, start_s, end_s in turns["talk.mp4"]) > 7.0
    Persons(index).group()
    assert run(index, films, None).tracks == {"voice": 0}


def test_an_index_without_voices_is_as_it_was(tmp_path: Path, films: Path) -> None:
    assert run(tmp_path / "index", films, None).tracks == {}
    assert not (tmp_path / "index" / FILE).exists()
    with Store.open(tmp_path / "index") as store:
        assert store.metadata.get(TRACK_KINDS["voice"].setting) is None


def test_voices_are_added_to_an_index_and_remembered(
    tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    run(index, films, None)
    assert "biometric" not in caplog.text
    report = run(index, films, FAKE)
    assert (report.encoded, report.unchanged) == (0, 2)
    assert report.tracks["voice"] > 0
    assert caplog.text.count("voices are read from now on: they are biometric data") == 1
    run(tmp_path / "whole", films, FAKE)
    assert read_turns(index) == read_turns(tmp_path / "whole")
    assert run(index, films, False).tracks == {}


def test_sound_that_begins_late_is_on_the_clock_of_the_video(tmp_path: Path) -> None:
    write_talk(tmp_path / "films" / "talk.mkv", ("ann", 4.0), late_s=2.0)
    run(tmp_path / "index", tmp_path / "films", FAKE)
    turns = read_turns(tmp_path / "index")["talk.mkv"]
    assert turns[0][1] == pytest.approx(3.0, abs=0.3)
    assert turns[-1][2] < 7.3


def test_videos_whose_voices_cannot_be_read_are_indexed_and_tried_again(
    tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    report = run(index, films, BROKEN)
    assert (report.encoded, report.failed, report.tracks) == (2, [], {"voice": 0})
    assert "talk.mp4: its voices could not be read: failed: RuntimeError: no voice today" in caplog.text
    assert run(index, films, FAKE).tracks["voice"] > 0
    assert list_speakers(read_turns(index)["talk.mp4"]) == ["ann", "bob", "ann"]


def test_what_cannot_be_read_as_asked_is_refused(tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    with pytest.raises(VidretError, match="speaker model must be campplus"):
        run(index, films, "resemblyzer")
    run(index, films, FAKE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(StoreError, match="--speaker-model"):
        run(index, films, None)
    monkeypatch.setattr("vidret.channels.identities.kinds.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match="speakers"):
        run(tmp_path / "other", films, True)


def test_words_and_voices_are_read_in_one_run(tmp_path: Path, films: Path) -> None:
    words = WordsOptions(sources=("speech",))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        report = engine.index([films], speakers=FAKE, words=words)
    assert list(report.texts) == ["speech"]
    assert list_speakers(read_turns(tmp_path / "index")["talk.mp4"]) == ["ann", "bob", "ann"]


def test_audio_is_decoded_once_for_words_and_voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, read = write_talk(tmp_path / "talk.mp4", ("ann", 4.0), ("bob", 5.0)), list[float]()

    def count(path: str, sample_rate: int, **options: Any) -> Any:
        read.append(options.get("start_s", 0.0))
        return read_audio(path, sample_rate, **options)

    def listen(info: Any, options: Any, send: Any, heartbeat: Any, listen: Any) -> str:
        for _ in listen(audio.read_audio(info.path, SAMPLE_RATE, start_s=options["start_s"])):
            pass
        return ""

    monkeypatch.setattr(audio, "read_audio", count)
    monkeypatch.setitem(KINDS, "speech", replace(KINDS["speech"], read=listen))

    def read_names(request: dict[str, Any]) -> list[str]:
        sent = list[dict[str, Any]]()
        read.clear()
        VideoTextReader(probe(str(film)), request, send=sent.append, heartbeat=lambda: None).read_rest()
        tracks = [track for header in sent if header["kind"] == "tracks" for track in header["tracks"]]
        assert [header["note"] for header in sent if header["kind"] == "tracks_end"] == [""]
        return [list(PITCHES)[int(np.argmax(track["vector"]))] for track in tracks]

    voice, speech = {"start_s": 0.0, "model": FAKE}, {"start_s": 0.0, "model": "made"}
    names = read_names({"speech": speech, "voice": voice})
    assert list(dict.fromkeys(names)) == ["ann", "bob"]
    assert read == [0.0]
    assert read_names({"voice": voice}) == names
    assert read == [0.0]
    assert read_names({"speech": speech | {"start_s": 6.0}, "voice": voice}) == names, "words go on, voices begin"
    assert read == [6.0, 0.0]
