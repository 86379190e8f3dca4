"""Indexing runs that read faces and voices, by fakes: what is stored, remembered, resumed, refused, pruned, merged."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.fake_faces import PEOPLE, BrokenFaces, ColouredFaces, write_people
from tests.fake_voices import PITCHES, BrokenVoices, PitchVoices, write_talk
from tests.fakes import ColourEncoder, write_film
from tests.index.samples import index_under_kills, read_contents, read_states
from tests.made_identities import FACES, make_tracks
from tests.noting import note_calls
from vidret.channels import speech
from vidret.channels.identities import TRACK_KINDS
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.reading import VideoTextReader
from vidret.engine import Engine
from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.index.merging import merge_indexes
from vidret.index.options import IndexReport
from vidret.index.tracks import ContentTracks
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.identities.tracks import IdentityKind, Track
from vidret.store.records import CONCEPT
from vidret.store.store import Store
from vidret.video import audio
from vidret.video.probe import probe


@dataclass(frozen=True)
class Kind:
    """A kind of tracks, the models of it in these tests, and what a name of no model and a broken model say."""

    name: IdentityKind
    model: str
    broken: str
    refusal: str
    fault: str

    def run(self, index: Path, films: Path, wanted: object, **options: object) -> IndexReport:
        options = {TRACK_KINDS[self.name].argument: wanted, "words": False, **options}
        with Engine(index, ColourEncoder()) as engine:
            return engine.index([films], **options)  # type: ignore[arg-type]

    def read(self, index: Path) -> dict[str, list[Track]]:
        """Return the tracks of each video that was read, by the name of its file."""
        with Store.open(index) as store, IdentityStore.open(index) as identities:
            paths = store.files.paths_of(list(store.videos.fingerprints()))
            return {
                Path(paths[video][0]).name: list(identities.tracks(content, self.name).values())
                for video, content in store.videos.fingerprints().items()
                if any(identities.is_read(content, model) for model in identities.models())
            }

    def describe(self, index: Path) -> dict[str, list[tuple[str, float, float]]]:
        """Return who is there from when to when, by the name of the file."""
        return {
            name: [(self._name_person(track), track.start_s, track.end_s) for track in tracks]
            for name, tracks in self.read(index).items()
        }

    def _name_person(self, track: Track) -> str:
        if self.name == "voice":
            return list(PITCHES)[int(track.vector.argmax())]
        return min(PEOPLE, key=lambda name: float(np.linalg.norm(track.vector - np.array(PEOPLE[name]) / 255)))


def name_class(model: type) -> str:
    return f"{model.__module__}:{model.__name__}"


class Bare:
    """A class that is no model."""


FACE = Kind("face", name_class(ColouredFaces), name_class(BrokenFaces), "face model must be", "no face today")
VOICE = Kind("voice", name_class(PitchVoices), name_class(BrokenVoices), "speaker model must be", "no voice today")
SCENES: tuple[tuple[int, dict[str, int], int], ...] = (
    (200, {"ann": 5, "bob": 100}, 4),
    (40, {"bob": 8}, 3),
    (120, {}, 2),
    (90, {"eve": 60}, 3),
)


@pytest.fixture(scope="module")
def face_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_people(folder / "a.mp4", *SCENES)
    write_people(folder / "b.mp4", (150, {"ann": 30}, 5))
    return folder


@pytest.fixture(scope="module")
def voice_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faster_whisper")
    folder = tmp_path_factory.mktemp("voices")
    write_talk(folder / "a.mp4", ("ann", 4.0), ("bob", 5.0), ("ann", 3.0))
    write_film(folder / "silent.mp4", ("red", 3))
    return folder


@pytest.fixture(params=[FACE, VOICE], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def films(kind: Kind, request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{kind.name}_films")
    return found


def test_nothing_is_read_again_after_all_is_forgotten(tmp_path: Path, kind: Kind, films: Path) -> None:
    index = tmp_path / "index"
    read = kind.run(index, films, kind.model).tracks
    assert Persons(index).forget_all(kind.name) == read[kind.name]
    assert kind.run(index, films, None).tracks == {}
    assert not (index / FILE).exists()
    assert kind.run(index, films, kind.model).tracks == read


def test_tracks_are_added_and_kept(tmp_path: Path, kind: Kind, films: Path, caplog: pytest.LogCaptureFixture) -> None:
    index, whole = tmp_path / "index", tmp_path / "whole"
    assert kind.run(index, films, None).tracks == {}
    assert not (index / FILE).exists()
    with Store.open(index) as store:
        assert store.metadata.get(TRACK_KINDS[kind.name].setting) is None
    assert "biometric" not in caplog.text
    report = kind.run(index, films, kind.model)
    assert (report.encoded, report.unchanged) == (0, 2)
    assert caplog.text.count(f"{kind.name}s are read from now on: they are biometric data") == 1
    assert kind.run(whole, films, kind.model).tracks == report.tracks
    found = kind.describe(index)
    assert found == kind.describe(whole)
    assert report.tracks == {kind.name: sum(map(len, found.values()))}
    caplog.clear()
    assert kind.run(index, films, False).tracks == {}
    assert kind.run(index, films, None).tracks == {kind.name: 0}
    assert "biometric" not in caplog.text


def test_new_files_are_read_as_the_index_goes_on(tmp_path: Path, face_films: Path) -> None:
    index, more = tmp_path / "index", tmp_path / "more"
    FACE.run(index, face_films, FACE.model)
    write_people(more / "c.mp4", (150, {"eve": 30}, 2))
    assert FACE.run(index, more, False).tracks == {}
    assert "c.mp4" not in FACE.read(index)
    assert FACE.run(index, more, None).tracks == {"face": 1}
    assert [name for name, _, _ in FACE.describe(index)["c.mp4"]] == ["eve"]


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_merged_index_goes_on_reading_as_its_parts_did(tmp_path: Path, face_films: Path, is_forgotten: bool) -> None:
    plain, read, out = tmp_path / "plain", tmp_path / "read", tmp_path / "out"
    write_film(tmp_path / "red" / "red.mp4", ("red", 2))
    FACE.run(plain, tmp_path / "red", None)
    FACE.run(read, face_films, FACE.model, sampling="fast")
    if is_forgotten:
        FACE.run(out, tmp_path / "red", FACE.model)
        Persons(out).forget_all("face")
    merge_indexes([read, plain], out)
    assert FACE.run(out, tmp_path / "red", None).tracks == ({} if is_forgotten else {"face": 0})
    with Store.open(out) as store:
        assert store.info().sampling == ("exact" if is_forgotten else "fast")


def test_videos_whose_tracks_cannot_be_read_are_indexed_and_tried_again(
    tmp_path: Path, kind: Kind, films: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    report = kind.run(index, films, kind.broken)
    assert (report.encoded, report.failed, report.tracks) == (2, [], {kind.name: 0})
    assert f"a.mp4: its {kind.name}s could not be read: failed: RuntimeError: {kind.fault}" in caplog.text
    assert "a.mp4" not in kind.read(index)
    caplog.clear()
    with monkeypatch.context() as changed:
        changed.setattr(ColouredFaces, "name", "elsewhere")
        changed.setattr(PitchVoices, "digest", "elsewhere")
        assert kind.run(index, films, kind.model).tracks == {kind.name: 0}
    assert "the model must be elsewhere on every machine of the run, got " in caplog.text
    assert "a.mp4" not in kind.read(index)
    assert kind.run(index, films, kind.model).tracks[kind.name] > 0
    assert {name for name, _, _ in kind.describe(index)["a.mp4"]} >= {"ann", "bob"}


def test_a_warning_does_not_show_the_signature_of_an_address(caplog: pytest.LogCaptureFixture) -> None:
    run: Any = SimpleNamespace(list_wanted=lambda _content: [])
    ContentTracks(run, "content", "https://host/a.mp4?signature=5f").finish("face", "why")
    assert caplog.messages == ["https://host/a.mp4: its faces could not be read: why"]


def test_what_cannot_be_read_as_asked_is_refused(
    tmp_path: Path, kind: Kind, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, track_kind = tmp_path / "index", TRACK_KINDS[kind.name]
    for wrong in ("insightface", name_class(Bare)):
        with pytest.raises(VidretError, match=f"{kind.refusal}|model .*:Bare must have .*, got none named "):
            kind.run(index, films, wrong)
        with Store.open(index) as store:
            assert store.metadata.get(track_kind.setting) is None, "later runs do not go on with it"
    with pytest.raises(VidretError, match=f"{track_kind.argument} must be True, False"):
        kind.run(index, films, 3)
    kind.run(index, films, kind.model)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(StoreError, match=track_kind.model_option):
        kind.run(index, films, None)
    assert kind.run(index, films, kind.model).tracks == {kind.name: 0}
    assert track_kind.choose_model(tmp_path / "none", True) == track_kind.bundled
    monkeypatch.setattr("vidret.channels.identities.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=track_kind.argument):
        kind.run(tmp_path / "other", films, True)
    with Store.open(index, write=True) as store:
        store.metadata.set(track_kind.setting, track_kind.bundled)
    with pytest.raises(MissingExtraError, match=f"--{track_kind.argument} off leaves them out"):
        kind.run(index, films, None)
    assert not kind.run(index, films, False).failed


@pytest.mark.parametrize("shots", [True, False])
def test_faces_are_followed_through_shots(tmp_path: Path, face_films: Path, shots: bool) -> None:
    report = FACE.run(tmp_path / "index", face_films, FACE.model, shots=shots)
    found = FACE.describe(tmp_path / "index")
    if not shots:
        assert {name: {track[0] for track in tracks} for name, tracks in found.items()} == {
            "a.mp4": {"ann", "bob", "eve"},
            "b.mp4": {"ann"},
        }
        return
    assert (report.encoded, report.tracks) == (2, {"face": 5})
    expected = [("ann", 0, 4), ("bob", 0, 4), ("bob", 4, 7), ("eve", 9, 12)]
    tracks = sorted(found["a.mp4"])
    assert [(name, round(start), round(end)) for name, start, end in tracks] == expected
    assert all(track[1] >= first and track[2] <= last for track, (_, first, last) in zip(tracks, expected, strict=True))
    (ann,) = FACE.read(tmp_path / "index")["b.mp4"]
    assert ann.boxes is not None
    assert ann.thumbnail is not None
    assert ann.thumbnail[:2] == b"\xff\xd8"
    np.testing.assert_allclose(ann.boxes[0, 1:], (30 / 160, 40 / 120, 48 / 160, 50 / 120), atol=0.02)
    assert len(ann.boxes) == 5
    assert ann.quality > 0


def list_speakers(turns: list[tuple[str, float, float]]) -> list[str]:
    """Return the names in turn, each once where it follows itself."""
    return [name for row, (name, _, _) in enumerate(turns) if not row or turns[row - 1][0] != name]


def test_turns_of_speakers_are_stored_by_video_and_sounds_with_them(tmp_path: Path, voice_films: Path) -> None:
    index = tmp_path / "index"
    report = VOICE.run(index, voice_films, VOICE.model, words=WordsOptions(sources=("sound",)))
    assert (report.encoded, list(report.texts)) == (2, ["sound"])
    found = VOICE.describe(index)
    assert found["silent.mp4"] == [], "it is read, and nobody speaks"
    assert list_speakers(found["a.mp4"]) == ["ann", "bob", "ann"]
    spans = {"ann": ((1.0, 5.0), (11.0, 14.0)), "bob": ((6.0, 10.0),)}
    for name, start_s, end_s in found["a.mp4"]:
        assert any(start_s > first - 0.2 and end_s < last + 1.2 for first, last in spans[name])
    assert sum(end_s - start_s for _, start_s, end_s in found["a.mp4"]) > 7.0


def test_sound_that_begins_late_is_on_the_clock_of_the_video(tmp_path: Path, voice_films: Path) -> None:
    write_talk(tmp_path / "films" / "talk.mkv", ("ann", 4.0), late_s=2.0)
    VOICE.run(tmp_path / "index", tmp_path / "films", VOICE.model)
    turns = VOICE.describe(tmp_path / "index")["talk.mkv"]
    assert turns[0][1] == pytest.approx(3.0, abs=0.3)
    assert turns[-1][2] < 7.3


def test_audio_is_decoded_once_for_words_and_voices(voice_films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, heard = voice_films / "a.mp4", list[float]()
    read = note_calls(monkeypatch, audio, "read_audio", lambda *_, start_s=0.0, **__: start_s)

    def note_start(_: object, start_s: float, __: object) -> list[object]:
        heard.append(start_s)
        return []

    monkeypatch.setattr(speech, "load_recogniser", lambda _: SimpleNamespace(transcribe=note_start))

    def read_names(request: dict[str, Any]) -> list[str]:
        sent = list[dict[str, Any]]()
        read.clear()
        VideoTextReader(probe(str(film)), request, send=sent.append, heartbeat=lambda: None).read_rest()
        tracks = [track for header in sent if header["kind"] == "tracks" for track in header["tracks"]]
        ends = {header["source"]: header["note"] for header in sent if header["kind"] == "source_end"}
        assert ends == dict.fromkeys(request, "")
        return [list(PITCHES)[int(np.argmax(track["vector"]))] for track in tracks]

    voice = {"start_s": 0.0, "model": VOICE.model, "digest": PitchVoices.digest}
    words = {"start_s": 0.0, "model": "made"}
    names = read_names({"speech": words, "voice": voice})
    assert list(dict.fromkeys(names)) == ["ann", "bob"]
    assert read == [0.0]
    assert read_names({"voice": voice}) == names
    assert read == [0.0]
    assert read_names({"speech": words | {"start_s": 6.0}, "voice": voice}) == names
    assert (read, heard) == ([0.0], [0.0, 6.0]), "words go on, voices begin"


INDEX_SCRIPT = f"""
import sys
from tests.fakes import ColourEncoder
from vidret.engine import Engine
Engine(sys.argv[1], ColourEncoder()).index([sys.argv[2]], people={FACE.model!r})
"""


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_an_index_with_faces_is_resumed_without_loss_after_kills_at_any_time(tmp_path: Path, num_kills: int) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    for film_index in range(3):
        write_people(films / f"{film_index}.mp4", *SCENES[: 2 + film_index], *SCENES)

    def read(index: Path) -> object:
        return read_contents(index), FACE.describe(index)

    expected = index_under_kills(tmp_path, films, INDEX_SCRIPT, num_kills, read)
    FACE.run(index, films, FACE.model)
    assert read(index) == expected
    assert set(read_states(index).values()) == {"done"}


def index_made_tracks(index: Path, films: Path) -> list[str]:
    """Index films with two made tracks of faces each, and return the fingerprints of the videos."""
    FACE.run(index, films, None)
    with Store.open(index) as store, IdentityStore.create(index) as identities:
        contents = sorted(store.videos.fingerprints().values())
        for content in contents:
            identities.write_tracks(content, FACES, make_tracks([0, 1]))
    return contents


def test_tracks_leave_with_their_video(tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    for colour in ("red", "blue"):
        write_film(films / f"{colour}.mp4", (colour, 2))
    contents = index_made_tracks(index, films)
    (films / "red.mp4").unlink()
    for prune, num_tracks in ((False, 4), (True, 2)):
        FACE.run(index, films, None, prune=prune)
        with IdentityStore.open(index) as identities:
            remaining = identities.columns().contents.tolist()
            assert len(remaining) == num_tracks
    assert {*remaining} < {*contents}


def test_identities_are_merged_with_their_videos(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        write_film(tmp_path / name / "film.mp4", (name, 2))
        index_made_tracks(tmp_path / f"{name} index", tmp_path / name)
    assert merge_indexes([tmp_path / "red index", tmp_path / "blue index"], tmp_path / "both").identities == 4
    assert [person.videos for person in Persons(tmp_path / "both").list_persons()] == [2, 2]
    with Store.open(tmp_path / "both") as store, IdentityStore.open(tmp_path / "both") as identities:
        assert {*identities.columns().contents.tolist()} == {*store.videos.fingerprints().values()}


def test_a_merge_notes_a_concept_and_a_person_of_one_name(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 2))
    for name in ("one", "two"):
        index_made_tracks(tmp_path / name, tmp_path / "films")
    with Store.open(tmp_path / "one", write=True) as store:
        store.metadata.set_many({f"{CONCEPT}.mum": "taught", f"{CONCEPT}.dad": ""})
    persons = Persons(tmp_path / "two")
    persons.group()
    for person, new_name in zip(persons.list_persons(), ("Mum", "Dad"), strict=True):
        persons.rename(person.id, new_name)
    report = merge_indexes([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert report.notes == ["@mum is a person: name the concept otherwise, or vidret people name mum ''"]


@pytest.mark.parametrize("named", ["one", "two"])
def test_a_merged_index_knows_whom_any_of_its_parts_named(tmp_path: Path, named: str) -> None:
    films = tmp_path / "films"
    write_film(films / "red.mp4", ("red", 2))
    write_film(films / "blue.mp4", ("blue", 2))
    for name in ("one", "two"):
        index_made_tracks(tmp_path / name, films)
        Persons(tmp_path / name).group()
    (first, *_) = Persons(tmp_path / named).list_persons()
    Persons(tmp_path / named).rename(first.id, "Mum")
    for _ in range(2):
        assert merge_indexes([tmp_path / "one", tmp_path / "two"], tmp_path / "out").identities in (4, 0)
        found = [(person.name, person.videos) for person in Persons(tmp_path / "out").list_persons()]
        assert found == [(person.name, person.videos) for person in Persons(tmp_path / named).list_persons()]
    with IdentityStore.open(tmp_path / "out") as identities:
        columns = identities.columns(person=Persons(tmp_path / "out").find("Mum"))
    Persons(tmp_path / "out").reject("Mum", columns.ids[:1].tolist())
    merge_indexes([tmp_path / named], tmp_path / "out")
    assert {person.name: person.videos for person in Persons(tmp_path / "out").list_persons()}["Mum"] == 1
