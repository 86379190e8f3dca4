"""Kinds, the map and unusual videos of an index whose vectors lie in three bundles."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.store.samples import DIM, add_segment, create, embedding
from vidret.errors import VidretError
from vidret.search.browsing.explorer import Explorer
from vidret.store.store import Store
from vidret.types import Filters, SegmentEmbedding

SIZES = (12, 8, 6)  # videos of each bundle, of two segments each
ODD = "/odd/1.mp4"


def draw(axis: int, seed: int) -> SegmentEmbedding:
    """Return a segment near an axis."""
    vector = np.eye(DIM)[axis] + np.random.default_rng(seed).normal(size=DIM) * 0.02
    return replace(embedding(seed), video=(vector / np.linalg.norm(vector)).astype(np.float32))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with create(tmp_path_factory.mktemp("explorer")) as store:
        axes = [axis for axis, size in enumerate(SIZES) for _ in range(size)]
        for number, axis in enumerate([*axes, 5]):
            path = ODD if axis == 5 else f"/{axis}/{number}.mp4"
            video = store.writer.begin_video(path, duration=20.0, facts={}, num_segments=2)
            store.writer.set_file(path, state="done", video=video)
            for segment in range(2):
                vectors = draw(axis, 2 * number + segment)
                add_segment(store, video, segment, 10.0 * segment, 10.0 * segment + 10, vectors, tokens=b"")
            store.writer.finish_video(video)
        yield store


def test_kinds_are_the_bundles_the_largest_first(store: Store) -> None:
    kinds = Explorer(store).list_kinds(limit=4)
    assert [Path(kind.path).parent.name for kind in kinds[:3]] == ["0", "1", "2"]
    assert [kind.num_videos for kind in kinds[:3]] == list(SIZES)
    assert all(kind.time in (5.0, 15.0) for kind in kinds)
    assert {Path(kind.path).parent.name for kind in Explorer(store).list_kinds(Filters(folder="/1"))} == {"1"}
    assert Explorer(store).list_kinds(Filters(folder="/none")) == []


def test_what_is_alike_is_near_on_the_map(store: Store) -> None:
    moments = Explorer(store).draw_map()
    assert len(moments) == 2 * (sum(SIZES) + 1)
    places = {axis: [(m.x, m.y) for m in moments if read_axis(store, m.video) == axis] for axis in "012"}
    centres = {axis: np.mean(own, axis=0) for axis, own in places.items()}
    for axis, own in places.items():
        for place in own:
            assert 0 <= min(place) <= max(place) <= 1
            assert min(centres, key=lambda each: float(np.linalg.norm(centres[each] - place))) == axis
    assert Explorer(store).draw_map(Filters(folder="/none")) == []


def test_moments_beyond_those_whose_places_are_found_are_near_those_they_resemble(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.search.browsing.explorer.MAX_PLACED", 20)
    test_what_is_alike_is_near_on_the_map(store)


def read_axis(store: Store, video: int) -> str:
    return Path(store.files.paths_of([video])[video][0]).parent.name


def test_what_is_least_like_others_is_unusual(store: Store) -> None:
    explorer = Explorer(store)
    unusual = explorer.list_unusual(limit=3)
    assert len(unusual) == 3
    assert unusual[0].path == ODD
    assert unusual[0].likeness < 0.5 < unusual[1].likeness
    others = explorer.list_unusual(Filters(folder="/1"), Filters(folder="/0"))
    assert len(others) == SIZES[1]
    assert all(video.likeness < 0.5 for video in others)
    with pytest.raises(VidretError, match=r"^against must have more than 5 videos, got 1"):
        explorer.list_unusual(against=Filters(folder="/odd"))


def test_answers_are_those_of_the_index_as_it_is(store: Store) -> None:
    explorer = Explorer(store)
    assert explorer.list_kinds() is explorer.list_kinds()
    before = len(explorer.draw_map())
    video = store.writer.begin_video("new", duration=10.0, facts={}, num_segments=1)
    store.writer.set_file("/9/new.mp4", state="done", video=video)
    add_segment(store, video, 0, 0.0, 10.0, draw(6, 999), tokens=b"")
    assert len(explorer.draw_map()) == before + 1
