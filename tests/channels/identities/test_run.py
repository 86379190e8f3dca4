"""Indexing runs that read faces and voices: what is stored, remembered, resumed and refused. The models are fakes."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_faces import PEOPLE, BrokenFaces, ColouredFaces, write_people
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
from vidret.store.identities.tracks import IdentityKind, Track
from vidret.store.store import Store
from vidret.video import audio
from vidret.video.audio import read_audio
from vidret.video.probe import probe

FAKE: dict[IdentityKind, str] = {
    "face": f"{ColouredFaces.__module__}:{ColouredFaces.__name__}",
    "voice": f"{PitchVoices.__module__}:{PitchVoices.__name__}",
}
BROKEN: dict[IdentityKind, str] = {
    "face": f"{BrokenFaces.__module__}:{BrokenFaces.__name__}",
    "voice": f"{BrokenVoices.__module__}:{BrokenVoices.__name__}",
}
SCENES: tuple[tuple[int, dict[str, int], int], ...] = (
    (200, {"ann": 5, "bob": 100}, 4),
    (40, {"bob": 8}, 3),
    (120, {}, 2),
    (90, {"eve": 60}, 3),
)
has_vad = pytest.mark.skipif(find_spec("faster_whisper") is None, reason='the extra "words" is not installed')
Owned = tuple[str, float, float]  # whose face or voice it is, start and end


@pytest.fixture(params=["face", pytest.param("voice", marks=has_vad)])
def kind(request: pytest.FixtureRequest) -> IdentityKind:
    found: IdentityKind = request.param
    return found


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_people(folder / "a.mp4", *SCENES)
    write_people(folder / "b.mp4", (150, {"ann": 30}, 5))
    return folder


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voices")
    write_talk(folder / "talk.mp4", ("ann", 4.0), ("bob", 5.0), ("ann", 3.0))
    write_film(folder / "silent.mp4", ("red", 3))
    return folder


@pytest.fixture
def films(kind: IdentityKind, faces: Path, voices: Path, tmp_path: Path) -> Path:
    """Return a copy of the films of a kind, which a test may change."""
    return shutil.copytree(faces if kind == "face" else voices, tmp_path / "films")


def run(index: Path, films: Path, kind: IdentityKind, asked: bool | str | None, **options: Any) -> IndexReport:
    with Engine(index, ColourEncoder()) as engine:
        return engine.index([films], **{"words": False, TRACK_KINDS[kind].argument: asked, **options})


def read_tracks(index: Path, kind: IdentityKind) -> dict[str, list[Track]]:
    """Return the tracks of each video, by the name of its file."""
    with Store.open(index) as store, IdentityStore.open(index) as identities:
        paths = store.files.paths_of(list(store.videos.fingerprints()))
        return {
            Path(paths[video][0]).name: list(identities.tracks(content, kind).values())
            for video, content in store.videos.fingerprints().items()
            if identities.is_read(content, identities.models()[0])
        }


def describe(index: Path, kind: IdentityKind) -> dict[str, list[Owned]]:
    """Return whose faces or voices are in each video, by start."""

    def name(track: Track) -> str:
        if kind == "voice":
            return list(PITCHES)[int(track.vector.argmax())]
        return min(PEOPLE, key=lambda person: float(np.linalg.norm(track.vector - np.array(PEOPLE[person]) / 255)))

    return {
        file: sorted(((name(track), track.start_s, track.end_s) for track in tracks), key=lambda own: (own[1], own[0]))
        for file, tracks in read_tracks(index, kind).items()
    }


def list_owners(owned: list[Owned]) -> list[str]:
    """Return the names in turn, each once where it follows itself."""
    return [name for row, (name, _, _) in enumerate(owned) if not row or owned[row - 1][0] != name]


# Both kinds.


def test_a_kind_is_added_to_an_index_and_remembered(
    kind: IdentityKind, tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, warning = tmp_path / "index", f"{TRACK_KINDS[kind].name} are read from now on: they are biometric data"
    assert run(index, films, kind, None).tracks == {}
    assert not (index / FILE).exists(), "an index that is not asked is as it was"
    with Store.open(index) as store:
        assert store.metadata.get(TRACK_KINDS[kind].setting) is None
    assert warning not in caplog.text
    report = run(index, films, kind, FAKE[kind])
    assert (report.encoded, report.unchanged) == (0, 2)
    assert report.tracks[kind] > 0
    assert caplog.text.count(warning) == 1
    run(tmp_path / "whole", films, kind, FAKE[kind])
    assert describe(index, kind) == describe(tmp_path / "whole", kind)
    caplog.clear()
    if kind == "face":
        write_people(films / "c.mp4", (150, {"ann": 30}, 2))
    else:
        write_talk(films / "c.mp4", ("ann", 3.0), shade=120)
    assert run(index, films, kind, False).tracks == {}
    assert "c.mp4" not in describe(index, kind)
    assert run(index, films, kind, None).tracks[kind] > 0
    assert list_owners(describe(index, kind)["c.mp4"]) == ["ann"]
    assert warning not in caplog.text


def test_videos_that_cannot_be_read_are_indexed_and_tried_again(
    kind: IdentityKind, tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, name = tmp_path / "index", TRACK_KINDS[kind].name
    report = run(index, films, kind, BROKEN[kind])
    assert (report.encoded, report.failed, report.tracks) == (2, [], {kind: 0})
    assert f".mp4: its {name} could not be read: failed: RuntimeError: no {kind} today" in caplog.text
    assert run(index, films, kind, FAKE[kind]).tracks[kind] > 0


def test_what_cannot_be_read_as_asked_is_refused(
    kind: IdentityKind, tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, own = tmp_path / "index", TRACK_KINDS[kind]
    with pytest.raises(VidretError, match=f"model must be {re.escape(own.bundled)}"):
        run(index, films, kind, "insightface")
    with pytest.raises(VidretError, match=f"{own.argument} must be True, False"):
        run(index, films, kind, 3)  # type: ignore[arg-type]
    run(index, films, kind, FAKE[kind])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(StoreError, match=own.model_option):
        run(index, films, kind, None)
    assert run(index, films, kind, FAKE[kind]).tracks == {kind: 0}
    assert own.choose_model(tmp_path / "none", True) == own.bundled
    monkeypatch.setattr("vidret.channels.identities.kinds.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=own.argument):
        run(tmp_path / "other", films, kind, True)


# Faces.


def test_faces_are_followed_through_shots(tmp_path: Path, faces: Path) -> None:
    report = run(tmp_path / "index", faces, "face", FAKE["face"])
    assert (report.encoded, report.tracks) == (2, {"face": 5})
    found, shots = describe(tmp_path / "index", "face")["a.mp4"], ((0, 4), (0, 4), (4, 7), (9, 12))
    assert [(round(start), round(end)) for _, start, end in found] == list(shots)
    assert [name for name, _, _ in found] == ["ann", "bob", "bob", "eve"]
    assert all(own[1] >= first and own[2] <= last for own, (first, last) in zip(found, shots, strict=True))
    (ann,) = read_tracks(tmp_path / "index", "face")["b.mp4"]
    assert ann.boxes is not None
    assert ann.thumbnail is not None
    assert ann.thumbnail[:2] == b"\xff\xd8"
    np.testing.assert_allclose(ann.boxes[0, 1:], (30 / 160, 40 / 120, 48 / 160, 50 / 120), atol=0.02)
    assert len(ann.boxes) == 5
    assert ann.quality > 0


def test_a_fixed_grid_has_faces_too(tmp_path: Path, faces: Path) -> None:
    run(tmp_path / "index", faces, "face", FAKE["face"], shots=False)
    names = {file: {own[0] for own in owned} for file, owned in describe(tmp_path / "index", "face").items()}
    assert names == {"a.mp4": {"ann", "bob", "eve"}, "b.mp4": {"ann"}}


INDEX_SCRIPT = """
import sys
from tests.fakes import ColourEncoder
from vidret.engine import Engine
Engine(sys.argv[1], ColourEncoder()).index([sys.argv[2]], people=sys.argv[3])
"""


def index_and_kill(index: Path, films: Path, delay_s: float) -> bool:
    """Index in a separate process and kill it after a delay; return whether it was still running."""
    command = [sys.executable, "-c", INDEX_SCRIPT, str(index), str(films), FAKE["face"]]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


@pytest.mark.parametrize("num_kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_faces_are_complete_after_kills_at_any_time(tmp_path: Path, num_kills: int) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    for number in range(3):
        write_people(films / f"{number}.mp4", *SCENES[: 2 + number], *SCENES * 2)
    started = time.monotonic()
    assert not index_and_kill(tmp_path / "whole", films, 300)
    full_run_s = time.monotonic() - started
    expected = describe(tmp_path / "whole", "face")
    rng, kills = random.Random(3), 0
    while kills < num_kills:
        if index_and_kill(index, films, rng.uniform(0.4, 1.0) * full_run_s):
            kills += 1
        else:
            assert describe(index, "face") == expected
            shutil.rmtree(index)
    run(index, films, "face", FAKE["face"])
    assert describe(index, "face") == expected


# Voices.


@has_vad
def test_turns_of_speakers_are_stored_by_video_besides_words(tmp_path: Path, voices: Path) -> None:
    index = tmp_path / "index"
    report = run(index, voices, "voice", FAKE["voice"], words=WordsOptions(sources=("speech",)))
    turns = describe(index, "voice")
    assert (report.encoded, list(report.texts)) == (2, ["speech"])
    assert report.tracks == {"voice": len(turns["talk.mp4"])}
    assert turns["silent.mp4"] == [], "it is read, and nobody speaks"
    assert list_owners(turns["talk.mp4"]) == ["ann", "bob", "ann"]
    spans = {"ann": ((1.0, 5.0), (11.0, 14.0)), "bob": ((6.0, 10.0),)}
    for name, start_s, end_s in turns["talk.mp4"]:
        assert any(start_s > first - 0.2 and end_s < last + 1.2 for first, last in spans[name])
    assert sum(end_s - start_s for _, start_s, end_s in turns["talk.mp4"]) > 7.0
    Persons(index).group()
    assert run(index, voices, "voice", None).tracks == {"voice": 0}


@has_vad
def test_sound_that_begins_late_is_on_the_clock_of_the_video(tmp_path: Path) -> None:
    write_talk(tmp_path / "films" / "talk.mkv", ("ann", 4.0), late_s=2.0)
    run(tmp_path / "index", tmp_path / "films", "voice", FAKE["voice"])
    turns = describe(tmp_path / "index", "voice")["talk.mkv"]
    assert turns[0][1] == pytest.approx(3.0, abs=0.3)
    assert turns[-1][2] < 7.3


@has_vad
def test_audio_is_decoded_once_for_words_and_voices(voices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[float]()

    def count(path: str, sample_rate: int, **options: Any) -> Any:
        read.append(options.get("start_s", 0.0))
        return read_audio(path, sample_rate, **options)

    def listen(info: Any, options: Any, send: Any, heartbeat: Any, listen: Any) -> str:
        for _ in listen(audio.read_audio(info.path, SAMPLE_RATE, start_s=options["start_s"])):
            pass
        return ""

    monkeypatch.setattr(audio, "read_audio", count)
    monkeypatch.setitem(KINDS, "speech", replace(KINDS["speech"], read=listen))
    voice, speech = {"start_s": 0.0, "model": FAKE["voice"]}, {"start_s": 0.0, "model": "made"}
    requests: list[tuple[dict[str, Any], list[float]]] = [
        ({"speech": speech, "voice": voice}, [0.0]),
        ({"voice": voice}, [0.0]),
        ({"speech": speech | {"start_s": 6.0}, "voice": voice}, [6.0, 0.0]),  # words go on, voices begin
    ]
    for request, starts_s in requests:
        sent = list[dict[str, Any]]()
        read.clear()
        info = probe(str(voices / "talk.mp4"))
        VideoTextReader(info, request, send=sent.append, heartbeat=lambda: None).read_rest()
        tracks = [track for header in sent if header["kind"] == "tracks" for track in header["tracks"]]
        assert [header["note"] for header in sent if header["kind"] == "tracks_end"] == [""]
        names = [list(PITCHES)[int(np.argmax(track["vector"]))] for track in tracks]
        assert list(dict.fromkeys(names)) == ["ann", "bob"]
        assert read == starts_s
