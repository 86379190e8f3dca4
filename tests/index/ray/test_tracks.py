"""Faces and voices on Ray: read in the same pass, equal to those of a run on threads, also after the loss of a node."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fake_faces import ColouredFaces, write_people
from tests.fake_voices import PitchVoices, write_talk
from tests.index.ray.conftest import Nodes, call_after, on_ray, open_engine
from vidret.index.options import IndexReport
from vidret.index.tracks import ContentTracks
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import IDENTITY_KINDS, pack_track

FACES, VOICES = (f"{model.__module__}:{model.__name__}" for model in (ColouredFaces, PitchVoices))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two films in which people are seen, and one in which they speak."""
    folder = tmp_path_factory.mktemp("films")
    write_people(folder / "a.mp4", *[(200, {"ann": 5, "bob": 100}, 4), (40, {"bob": 8}, 3)] * 3)
    write_people(folder / "b.mp4", (90, {"eve": 60}, 3))
    write_talk(folder / "c.mp4", ("ann", 4.0), ("bob", 5.0))
    return folder


def index_films(index: Path, films: Path, model: Path, *, run: Any = None) -> IndexReport:
    return open_engine(index, model).index([films], words=False, people=FACES, speakers=VOICES, run=run)


def read_tracks(index: Path) -> "Counter[str]":
    """Return how often each track is stored, with the content that it is of."""
    with IdentityStore.open(index) as store:
        return Counter(
            f"{content} {pack_track(track)}"
            for content in {*store.columns().contents.tolist()}
            for kind in IDENTITY_KINDS
            for track in store.tracks(content, kind).values()
        )


@pytest.fixture(scope="module")
def whole(films: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> "Counter[str]":
    """Return the tracks of an index that was made on threads."""
    index = tmp_path_factory.mktemp("whole") / "index"
    index_films(index, films, model)
    tracks = read_tracks(index)
    assert len(tracks) > 8
    return tracks


@pytest.mark.parametrize("loses_node", [False, True])
def test_tracks_read_on_two_nodes_equal_those_read_on_threads(
    nodes: Nodes,
    films: Path,
    whole: "Counter[str]",
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loses_node: bool,
) -> None:
    if loses_node:
        call_after(monkeypatch, ContentTracks, "add", 1, nodes.lose_one)
    report = index_films(tmp_path / "index", films, model, run=on_ray(nodes))
    assert (report.encoded, report.failed) == (3, [])
    assert sum(report.tracks.values()) == whole.total()
    assert {*report.tracks} == {"face", "voice"}
    assert read_tracks(tmp_path / "index") == whole
