"""Kinds, the map and unusual videos of an index whose vectors are in three bundles; clusters, and maps of vectors."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store.samples import DIM, add_segment, create, embedding
from vidret.errors import VidretError
from vidret.search.browsing import (
    MAX_CLUSTERS,
    MAX_POINTS,
    Explorer,
    choose_num_clusters,
    cluster_vectors,
    project_to_plane,
)
from vidret.store.store import Store
from vidret.types import Filters, KindOfVideo, SegmentEmbedding

SIZES = (12, 8, 6)  # videos of each bundle, of two segments each
ODD = "/odd/1.mp4"


def draw(axis: int, seed: int) -> SegmentEmbedding:
    """Return a segment near an axis."""
    vector = np.eye(DIM)[axis] + np.random.default_rng(seed).normal(size=DIM) * 0.02
    return replace(embedding(seed), video=(vector / np.linalg.norm(vector)).astype(np.float32))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create(tmp_path) as store:
        axes = [axis for axis, size in enumerate(SIZES) for _ in range(size)]
        for video_index, axis in enumerate([*axes, 5]):
            path = ODD if axis == 5 else f"/{axis}/{video_index}.mp4"
            video = store.writer.begin_video(path, duration=20.0, facts={}, num_segments=2)
            store.writer.set_file(path, state="done", video=video)
            for segment in range(2):
                vectors = draw(axis, 2 * video_index + segment)
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
    centres = {axis: np.mean(axis_places, axis=0) for axis, axis_places in places.items()}
    for axis, positions in places.items():
        for place in positions:
            assert 0 <= min(place) <= max(place) <= 1
            assert min(centres, key=lambda candidate: float(np.linalg.norm(centres[candidate] - place))) == axis
    assert Explorer(store).draw_map(Filters(folder="/none")) == []


def test_moments_without_places_are_near_those_they_resemble(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.search.browsing.MAX_PLACED", 20)
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
    with pytest.raises(VidretError, match=r"^videos to compare with must be more than 5, got 1"):
        explorer.list_unusual(against=Filters(folder="/odd"))


def test_answers_are_those_of_the_index_as_it_is(store: Store) -> None:
    explorer = Explorer(store)
    assert explorer.list_kinds() is explorer.list_kinds()
    before = len(explorer.draw_map())
    video = store.writer.begin_video("new", duration=10.0, facts={}, num_segments=1)
    store.writer.set_file("/9/new.mp4", state="done", video=video)
    add_segment(store, video, 0, 0.0, 10.0, draw(6, 999), tokens=b"")
    assert len(explorer.draw_map()) == before + 1


def test_answers_of_an_index_that_changes_meanwhile_are_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer, compute = Explorer(store), Explorer._list_kinds

    def change(patched: Explorer, filters: Filters, limit: int) -> list[KindOfVideo]:
        """Answer, and let the index change and another thread ask before the answer is kept."""
        found = compute(patched, filters, limit)
        monkeypatch.setattr(Explorer, "_list_kinds", compute)
        video = store.writer.begin_video("late", duration=10.0, facts={}, num_segments=1)
        store.writer.set_file("/9/late.mp4", state="done", video=video)
        add_segment(store, video, 0, 0.0, 10.0, draw(6, 999), tokens=b"")
        explorer.draw_map()
        return found

    change.__name__ = compute.__name__
    monkeypatch.setattr(Explorer, "_list_kinds", change)
    before = explorer.list_kinds(limit=20)
    assert explorer.list_kinds(limit=20) is not before


def test_paths_are_those_that_match_and_files_may_go_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path) as store:
        for video_index in range(7):
            video = store.writer.begin_video(f"v{video_index}", duration=10.0, facts={}, num_segments=1)
            add_segment(store, video, 0, 0.0, 10.0, draw(video_index % 3, video_index), tokens=b"")
            for folder in ("a", "b")[: 1 + (video_index == 0)]:
                store.writer.set_file(f"/{folder}/{video_index}.mp4", state="done", video=video)
        explorer = Explorer(store)
        assert [kind.path for kind in explorer.list_kinds(Filters(folder="/b"))] == ["/b/0.mp4"]
        assert [video.path for video in explorer.list_unusual(Filters(folder="/b"))] == ["/b/0.mp4"]

        def lose_first(*asked: Any) -> Any:
            store.writer.set_file("/b/0.mp4", state="missing")
            return cluster_vectors(*asked)

        monkeypatch.setattr("vidret.search.browsing.cluster_vectors", lose_first)
        assert Explorer(store).list_kinds(Filters(folder="/b")) == []


GROUPS = (40, 25, 15)


@pytest.fixture(scope="module")
def groups() -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors in three groups with a common direction, and the group of each."""
    rng = np.random.default_rng(0)
    centres = np.eye(16)[:3] + 3 * np.eye(16)[5]
    vectors = np.concatenate([c + 0.05 * rng.standard_normal((n, 16)) for c, n in zip(centres, GROUPS, strict=True)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(3), GROUPS)


def test_planted_groups_are_found_the_largest_first(groups: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, owners = groups
    order = np.random.default_rng(1).permutation(len(vectors))
    assert cluster_vectors(vectors[order], 3).tolist() == owners[order].tolist()
    assert cluster_vectors(vectors[order].astype(np.float16), 3).tolist() == owners[order].tolist()


def test_each_vector_is_with_the_nearest_centre(groups: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, _ = groups
    labels = cluster_vectors(vectors, 6)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    centres = np.stack([centred[labels == cluster].sum(axis=0) for cluster in range(labels.max() + 1)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    assert (centred @ centres.T).argmax(axis=1).tolist() == labels.tolist()
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_equal_vectors_are_one_cluster() -> None:
    assert cluster_vectors(np.ones((5, 3), np.float32), 4).tolist() == [0] * 5
    pairs = np.repeat(np.eye(4, dtype=np.float32)[[2, 0]], (2, 5), axis=0)
    assert cluster_vectors(pairs, 6).tolist() == [1] * 2 + [0] * 5
    assert [choose_num_clusters(n) for n in (1, 8, 50, 100_000)] == [1, 2, 5, MAX_CLUSTERS]
    with pytest.raises(VidretError, match="got 0 and 3"):
        cluster_vectors(np.ones((0, 3), np.float32), 3)


def test_small_and_flat_sets_have_maps() -> None:
    assert project_to_plane(np.ones((1, 4))).tolist() == [[0.5, 0.5]]
    assert project_to_plane(np.eye(4)[:3]).shape == (3, 2)
    assert np.isfinite(project_to_plane(np.repeat(np.eye(4), 3, axis=0))).all()
    assert np.isfinite(project_to_plane(np.ones((9, 4)))).all()
    with pytest.raises(VidretError, match=f"at most {MAX_POINTS} finite vectors, got 3"):
        project_to_plane(np.full((3, 2), np.nan))
