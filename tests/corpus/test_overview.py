"""Overviews of folders, over made-up vectors and words."""

from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.colour_index import write_colour_index
from tests.fakes import ColourEncoder
from tests.indexed_texts import add_words
from vidret.corpus.overview import FolderOverview, make_overview, name_clusters
from vidret.store.store import Store

BANK = ["red", "blue", "green", "yellow"]


def overview(index: Path, folder: str = "/a", num_clusters: int | None = 2) -> FolderOverview:
    with Store.open(index) as store:
        return make_overview(store, ColourEncoder(), folder, phrases=BANK, num_clusters=num_clusters)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of ten red, five blue and one green video in /a, some with words, and others in /b."""
    path = tmp_path_factory.mktemp("overview") / "index"
    write_colour_index(path, {"a": ["red"] * 10 + ["blue"] * 5 + ["green"], "b": ["white"] * 3}, noise=0.1)
    for video_index in range(4):
        add_words(path, f"a-{video_index}", ["a b c", "d"] if video_index else [])
    add_words(path, "b-0", ["elsewhere"])
    return path


def test_clusters_have_names_sizes_and_hours(index: Path) -> None:
    found = overview(index)
    assert (found.num_videos, found.num_segments) == (16, 32)
    assert [cluster.phrases[0] for cluster in found.clusters] == ["red", "blue"]
    assert found.clusters[0].num_segments == 20
    assert sum(cluster.hours for cluster in found.clusters) == pytest.approx(found.hours) == 16 * 6 / 3600
    paths = [example.path for example in found.clusters[0].examples]
    assert len(set(paths)) == len(paths) == 4
    assert all(example.time in (1.5, 4.5) for example in found.clusters[0].examples)
    assert len(overview(index, num_clusters=None).clusters) == 4  # the root of half of 32
    assert overview(index, num_clusters=1).clusters[0].phrases == ()


def test_words_are_counted_by_video_and_language(index: Path) -> None:
    words = overview(index).words
    assert words.said is not None
    assert (words.said.num_read, words.said.num_with, words.shown) == (4, 3, None)
    (language,) = words.languages
    assert (language.code, language.num_videos) == ("en", 3)
    assert language.hours == pytest.approx(3 * 4 / 3600)


def test_the_odd_one_out_and_look_alikes_are_found(index: Path, tmp_path: Path) -> None:
    found = overview(index)
    assert found.outliers[0].path == "/a/15.mp4"
    assert found.outliers[0].deviation > 3.5
    cosines = [alike.cosine for alike in found.look_alikes]
    assert cosines == sorted(cosines, reverse=True)
    assert min(cosines) >= 0.98
    colours = ["red"] * 10 + ["blue"] * 5 + ["green"]
    for pair in found.look_alikes:
        one, two = (colours[int(Path(path).stem)] for path in pair.paths)
        assert one == two
    alone = overview(write_colour_index(tmp_path / "alone", {"a": ["red"]}), num_clusters=None)
    assert (alone.look_alikes, alone.outliers) == ((), ())


def test_the_map_has_a_dot_for_each_segment_with_its_cluster(index: Path) -> None:
    found = overview(index)
    assert [sum(point.cluster == cluster for point in found.map_points) for cluster in (0, 1)] == [
        cluster.num_segments for cluster in found.clusters
    ]
    assert all(0 <= value <= 1 for point in found.map_points for value in (point.x, point.y))


def test_names_are_those_of_scores_computed_one_by_one() -> None:
    rng, encoder = np.random.default_rng(0), ColourEncoder()
    vectors = rng.standard_normal((60, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 60)
    phrases = ["red", "blue", "green", "one", "two"]
    scores = vectors @ np.stack([text.sentence for text in encoder.encode_text(phrases)]).T
    for cluster, names in enumerate(name_clusters(vectors, labels, encoder, phrases)):
        gains = (scores[labels == cluster].mean(axis=0) - scores.mean(axis=0)) / scores.std(axis=0)
        assert names == tuple(phrases[position] for position in np.argsort(-gains)[:2])
