"""Indexing runs that read faces: what is stored, remembered, resumed and refused. The model of faces is a fake."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

from tests.fake_faces import PEOPLE, BrokenFaces, ColouredFaces, write_people
from tests.fakes import ColourEncoder
from vidret.channels.identities.kinds import TRACK_KINDS
from vidret.engine import Engine
from vidret.errors import MissingExtraError, StoreError, VidretError
from vidret.index.options import IndexReport
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.identities.tracks import Track
from vidret.store.store import Store

FAKE = f"{ColouredFaces.__module__}:{ColouredFaces.__name__}"
BROKEN = f"{BrokenFaces.__module__}:{BrokenFaces.__name__}"
SCENES: tuple[tuple[int, dict[str, int], int], ...] = (
    (200, {"ann": 5, "bob": 100}, 4),
    (40, {"bob": 8}, 3),
    (120, {}, 2),
    (90, {"eve": 60}, 3),
)


def read_tracks(index: Path) -> dict[str, list[Track]]:
    """Return the tracks of each video, by the name of its file."""
    with Store.open(index) as store, IdentityStore.open(index) as identities:
        paths = store.files.paths_of(list(store.videos.fingerprints()))
        return {
            Path(paths[video][0]).name: list(identities.tracks(content, "face").values())
            for video, content in store.videos.fingerprints().items()
            if identities.is_read(content, identities.models()[0])
        }


def name_person(vector: Float32[np.ndarray, " dim"]) -> str:
    return min(PEOPLE, key=lambda name: float(np.linalg.norm(vector - np.array(PEOPLE[name]) / 255)))


def describe(tracks: list[Track]) -> list[tuple[str, float, float]]:
    return sorted((name_person(track.vector), track.start_s, track.end_s) for track in tracks)


def run(index: Path, films: Path, people: bool | str | None, **options: object) -> IndexReport:
    with Engine(index, ColourEncoder()) as engine:
        return engine.index([films], people=people, **options)  # type: ignore[arg-type]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_people(tmp_path / "films" / "a.mp4", *SCENES)
    write_people(tmp_path / "films" / "b.mp4", (150, {"ann": 30}, 5))
    return tmp_path / "films"


def test_faces_are_followed_through_shots(tmp_path: Path, films: Path) -> None:
    report = run(tmp_path / "index", films, FAKE)
    assert (report.encoded, report.tracks) == (2, {"face": 5})
    tracks = read_tracks(tmp_path / "index")
    found = describe(tracks["a.mp4"])
    assert [(name, round(start), round(end)) for name, start, end in found] == [
        ("ann", 0, 4),
        ("bob", 0, 4),
        ("bob", 4, 7),
        ("eve", 9, 12),
    ]
    shots = ((0, 4), (0, 4), (4, 7), (9, 12))
    assert all(own[1] >= first and own[2] <= last for own, (first, last) in zip(found, shots, strict=True))
    (ann,) = tracks["b.mp4"]
    assert ann.boxes is not None
    assert ann.thumbnail is not None
    assert ann.thumbnail[:2] == b"\xff\xd8"
    np.testing.assert_allclose(ann.boxes[0, 1:], (30 / 160, 40 / 120, 48 / 160, 50 / 120), atol=0.02)
    assert len(ann.boxes) == 5
    assert ann.quality > 0


def test_an_index_without_faces_is_as_it_was(tmp_path: Path, films: Path) -> None:
    assert run(tmp_path / "index", films, None).tracks == {}
    assert not (tmp_path / "index" / FILE).exists()
    with Store.open(tmp_path / "index") as store:
        assert store.metadata.get("people_model") is None


def test_faces_are_added_to_an_index_and_remembered(
    tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    run(index, films, None)
    assert "biometric" not in caplog.text
    report = run(index, films, FAKE)
    assert (report.encoded, report.unchanged, report.tracks) == (0, 2, {"face": 5})
    assert caplog.text.count("biometric data") == 1
    whole = tmp_path / "whole"
    run(whole, films, FAKE)
    assert {name: describe(own) for name, own in read_tracks(index).items()} == {
        name: describe(own) for name, own in read_tracks(whole).items()
    }
    caplog.clear()
    write_people(films / "c.mp4", (150, {"eve": 30}, 2))
    assert run(index, films, False).tracks == {}
    assert "c.mp4" not in read_tracks(index)
    assert run(index, films, None).tracks == {"face": 1}
    assert [name for name, _, _ in describe(read_tracks(index)["c.mp4"])] == ["eve"]
    assert "biometric" not in caplog.text


def test_a_fixed_grid_has_faces_too(tmp_path: Path, films: Path) -> None:
    run(tmp_path / "index", films, FAKE, shots=False)
    names = {name: {own[0] for own in describe(tracks)} for name, tracks in read_tracks(tmp_path / "index").items()}
    assert names == {"a.mp4": {"ann", "bob", "eve"}, "b.mp4": {"ann"}}


def test_videos_whose_faces_cannot_be_read_are_indexed_and_tried_again(
    tmp_path: Path, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = tmp_path / "index"
    report = run(index, films, BROKEN)
    assert (report.encoded, report.failed, report.tracks) == (2, [], {"face": 0})
    assert "a.mp4: its faces could not be read: failed: RuntimeError: no face today" in caplog.text
    with IdentityStore.open(index) as identities:
        assert identities.readings() == []
    assert run(index, films, FAKE).tracks == {"face": 5}


def test_what_cannot_be_read_as_asked_is_refused(tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    with pytest.raises(VidretError, match="face model must be"):
        run(index, films, "insightface")
    with pytest.raises(VidretError, match="people must be True, False"):
        run(index, films, 3)  # type: ignore[arg-type]
    run(index, films, FAKE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(StoreError, match="--face-model"):
        run(index, films, None)
    assert run(index, films, FAKE).tracks == {"face": 0}
    assert TRACK_KINDS["face"].choose_model(tmp_path / "none", True) == "mtcnn+dlib"
    monkeypatch.setattr("vidret.channels.identities.kinds.find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match="people"):
        run(tmp_path / "other", films, True)


INDEX_SCRIPT = """
import sys
from tests.fakes import ColourEncoder
from tests.index.test_people import FAKE
from vidret.engine import Engine
Engine(sys.argv[1], ColourEncoder()).index([sys.argv[2]], people=FAKE)
"""


def index_and_kill(index: Path, films: Path, delay_s: float) -> bool:
    """Index in a separate process and kill it after a delay; return whether it was still running."""
    process = subprocess.Popen([sys.executable, "-c", INDEX_SCRIPT, str(index), str(films)], start_new_session=True)
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
    expected = {name: describe(own) for name, own in read_tracks(tmp_path / "whole").items()}
    rng, kills = random.Random(3), 0
    while kills < num_kills:
        if index_and_kill(index, films, rng.uniform(0.4, 1.0) * full_run_s):
            kills += 1
        else:
            assert {name: describe(own) for name, own in read_tracks(index).items()} == expected
            shutil.rmtree(index)
    run(index, films, FAKE)
    assert {name: describe(own) for name, own in read_tracks(index).items()} == expected
