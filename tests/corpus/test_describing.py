"""Phrases that set folders apart, over made-up vectors and words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.colour_index import write_colour_index
from tests.fakes import ColourEncoder
from tests.indexed_texts import add_words
from tests.store.samples import damage
from vidret.corpus.describing import FolderDescription, describe_folder
from vidret.corpus.phrases import PER_VIDEO, list_class_names, propose_phrases, score_video_words
from vidret.corpus.vectors import read_index_vectors
from vidret.errors import VidretError
from vidret.store.store import Store
from vidret.types import Filters

SAME = ["green", "yellow"] * 6
BANK = ["red", "blue", "green", "white"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of a red and a blue folder, and a mixed one."""
    folders = {"red": ["red"] * 12, "blue": ["blue"] * 12, "mixed": SAME}
    return write_colour_index(tmp_path_factory.mktemp("planted") / "index", folders)


def describe(index: Path, folder: str, against: str | None = None, *phrases: str) -> FolderDescription:
    with Store.open(index) as store:
        return describe_folder(store, ColourEncoder(), folder, against=against, phrases=list(phrases) or None)


def test_a_planted_difference_comes_first(planted: Path) -> None:
    found = describe(planted, "/red", "/blue", *BANK)
    assert (found.num_videos, found.num_others, found.num_phrases) == (12, 12, 4)
    assert found.more[0].phrase == "red"
    assert found.less[0].phrase == "blue"
    assert found.more[0].significant
    assert found.less[0].significant
    reverse = describe(planted, "/blue", "/red", *BANK)
    assert reverse.more[0].phrase == "blue"
    assert reverse.more[0].auroc == pytest.approx(1 - found.less[0].auroc)


def test_examples_are_the_best_frames_of_the_set(planted: Path) -> None:
    (example, *others) = describe(planted, "/red", None, *BANK).more[0].examples
    assert len(others) == 2
    assert {Path(frame.path).parent.name for frame in (example, *others)} == {"red"}
    assert example.time == 5.0  # the last frame of the second segment is exactly red
    assert describe(planted, "/red", None, *BANK).num_others == 24


def test_examples_of_a_folder_are_in_it_and_exist(tmp_path: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": ["red"] * 4, "b": ["blue"] * 4})
    with Store.open(index, write=True) as store:
        for video in store.videos.find(Filters(folder="/a")):
            copy = tmp_path / f"{video.id}.mp4"
            copy.touch()
            for path in (str(copy), f"/c/{video.id}.mp4"):
                store.writer.set_file(path, state="done", video=video.id)
    (copied, *_), (others, *_) = describe(index, "/c", "/b", "red").more, describe(index, "/b", None, "red").less
    assert {str(Path(example.path).parent) for example in copied.examples} == {"/c"}
    assert {Path(example.path).parent for example in others.examples} == {tmp_path}


def test_folders_that_do_not_differ_have_no_significant_phrase(tmp_path: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": SAME, "b": SAME}, noise=0.8, seed=4)
    found = describe(index, "/a", "/b", *BANK)
    assert not any(phrase.significant for phrase in (*found.more, *found.less))


@pytest.mark.parametrize(
    ("source", "kind", "text"), [("speech", "said", "speech"), ("screen", "shown", "text on the screen")]
)
def test_words_set_folders_apart(tmp_path: Path, source: str, kind: str, text: str) -> None:
    index = write_colour_index(tmp_path / "index", {"a": SAME, "b": SAME}, noise=0.8)
    for video_index in range(12):
        add_words(index, f"a-{video_index}", ["a coat of varnish dries", "slowly"], source=source)  # type: ignore[arg-type]
    found = describe(index, "/a", "/b")
    assert {(phrase.kind, phrase.phrase) for phrase in found.more if phrase.significant} >= {
        (kind, text),
        (kind, "varnish"),
    }
    assert found.more[0].kind == kind
    (example, *others) = found.more[0].examples
    assert len(others) == 2
    assert (Path(example.path).parent.name, example.time) == ("a", 1.0)  # the middle of the first text


def test_words_are_scored_by_video(tmp_path: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": ["red"] * 5})
    add_words(index, "a-0", ["the varnish", "varnish again"])
    add_words(index, "a-3", ["varnish"])
    with Store.open(index) as store:
        ids = {video.paths[0]: video.id for video in store.videos.find()}
        durations = {video_id: 2.0 for _, video_id in sorted(ids.items())}
        words = score_video_words(store, durations)
    assert [phrase.text for phrase in words.phrases] == ["speech", "varnish"]  # only one video has "again"
    assert words.scores.tolist() == [[2.0, 0, 0, 0.5, 0], [1, 0, 0, 1, 0]]


def test_means_are_those_of_each_video(planted: Path) -> None:
    with Store.open(planted) as store:
        found = read_index_vectors(store)
        for video_id, mean in zip(found.video_ids.tolist(), found.means, strict=True):
            vectors = store.features.read_vectors(store.segments.ids_of_video(video_id)).astype(np.float64)
            np.testing.assert_allclose(mean, vectors.mean(axis=0), atol=1e-6)


def test_phrases_that_stand_out_are_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.corpus.phrases.MAX_PHRASES", 10)
    rng = np.random.default_rng(0)
    texts = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    vectors = np.repeat(texts[[3, 8, 20]], 5, axis=0) + 0.01 * rng.standard_normal((15, 40))
    assert {3, 8, 20} <= set(propose_phrases(texts, vectors).tolist())
    assert len(propose_phrases(texts, vectors)) == 10
    assert propose_phrases(texts[:PER_VIDEO], vectors).tolist() == [0, 1, 2]


def test_class_names_are_things_and_actions() -> None:
    names = list_class_names()
    assert {"tench", "abseiling"} <= set(names)
    assert len(names) == len(set(names)) > 1300


def test_sets_that_cannot_be_described_are_refused(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="/no: not in the index; index it first"):
        describe(planted, "/no", None, *BANK)
    with pytest.raises(VidretError, match="/none: not in the index; index it first"):
        describe(planted, "/red", "/none", *BANK)
    with pytest.raises(VidretError, match="must have no video in common, got 12"):
        describe(planted, "/red", "/red", *BANK)
    with pytest.raises(VidretError, match="phrases must not be empty"), Store.open(planted) as store:
        describe_folder(store, ColourEncoder(), "/red", phrases=[])
    small = write_colour_index(tmp_path / "small", {"a": ["red"] * 3, "b": ["blue"] * 3})
    rule = "/a: 3 videos and 3 to compare with are too few for a claim about 1 phrase: 4 in each set are enough$"
    with pytest.raises(VidretError, match=rule):
        describe(small, "/a", "/b", "red")
    alone = write_colour_index(tmp_path / "alone", {"a": ["red"] * 3})
    with pytest.raises(VidretError, match="has all videos of the index"):
        describe(alone, "/a", None, *BANK)


def test_vectors_that_are_not_finite_are_refused(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(planted) as store:
        ids, vectors = store.features.intact_vectors(store.searchable())
        vectors[:2] = np.nan
        monkeypatch.setattr(store.features, "intact_vectors", lambda _: (ids, vectors))
        with pytest.raises(VidretError, match="vectors must be finite, got NaN or infinity in 2 segments"):
            describe_folder(store, ColourEncoder(), "/red", phrases=BANK)


def test_damaged_and_deleted_vectors_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = write_colour_index(tmp_path / "index", {"a": ["red"] * 3})
    damage(index / "features" / "video.f16", offset=1, bits=0x7F)
    with Store.open(index) as store:
        searchable = store.searchable()
        vectors = read_index_vectors(store)
        np.testing.assert_array_equal(vectors.segment_ids, searchable[1:])
        assert len(vectors.segments) == len(vectors.owners) == 5
        with Store.open(index, write=True) as writer:
            writer.writer.set_file("/a/1.mp4", state="missing")
            writer.upkeep.prune()
        monkeypatch.setattr(store, "searchable", lambda: searchable)  # read just before
        vectors = read_index_vectors(store)
        np.testing.assert_array_equal(vectors.segment_ids, searchable[[1, 4, 5]])
        assert len(vectors.segments) == len(vectors.owners) == 3


def test_vectors_of_phrases_that_are_not_finite_are_refused(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ColourEncoder()
    (broken,) = encoder.encode_text(["blue"])
    broken = replace(broken, sentence=np.full(3, np.nan, np.float32))
    monkeypatch.setattr(encoder, "encode_text", lambda texts: [broken for _ in texts])
    with pytest.raises(VidretError, match="got NaN or infinity for 'red'"), Store.open(planted) as store:
        describe_folder(store, encoder, "/red", phrases=BANK)
