"""Identities of an index: they leave with their video, and are merged; an index without them has no file of them."""

from pathlib import Path

from tests.fakes import ColourEncoder, write_film
from tests.made_identities import FACES, make_tracks
from vidret.engine import Engine
from vidret.index.merging import merge_indexes
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE, IdentityStore
from vidret.store.store import Store


def index_films(index: Path, films: Path, *, prune: bool = False) -> list[str]:
    """Index films, and return the fingerprints of the videos."""
    with Engine(index, ColourEncoder()) as engine:
        engine.index([films], prune=prune, words=False)
    with Store.open(index) as store:
        return sorted(store.videos.fingerprints().values())


def test_tracks_leave_with_their_video(tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    write_film(films / "red.mp4", ("red", 2))
    write_film(films / "blue.mp4", ("blue", 2))
    contents = index_films(index, films)
    assert not (index / FILE).exists()
    with IdentityStore.create(index) as identities:
        for content in contents:
            identities.write_tracks(content, FACES, make_tracks([0, 1]))
    (films / "red.mp4").unlink()
    assert index_films(index, films) == contents
    with IdentityStore.open(index) as identities:
        assert len(identities.columns().ids) == 4
    (left,) = index_films(index, films, prune=True)
    with IdentityStore.open(index) as identities:
        assert identities.columns().contents.tolist() == [left, left]


def test_identities_are_merged_with_their_videos(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        write_film(tmp_path / name / "film.mp4", (name, 2))
        (content,) = index_films(tmp_path / f"{name} index", tmp_path / name)
        with IdentityStore.create(tmp_path / f"{name} index") as identities:
            identities.write_tracks(content, FACES, make_tracks([0]))
    report = merge_indexes([tmp_path / "red index", tmp_path / "blue index"], tmp_path / "both")
    assert report.identities == 2
    (person,) = Persons(tmp_path / "both").list_persons()
    assert person.videos == 2
    with Store.open(tmp_path / "both") as store, IdentityStore.open(tmp_path / "both") as identities:
        assert {*identities.columns().contents.tolist()} == {*store.videos.fingerprints().values()}
