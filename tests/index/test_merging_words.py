"""Tests of merging the timed texts of indexes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.indexed_texts import add_words, create_words, make_texts, random_vectors, search_words
from tests.store.samples import add_video, create, damage
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import OPTIONS, read_options, read_setting
from vidret.errors import StoreError
from vidret.index import copying
from vidret.index.merging import merge_indexes
from vidret.store.consent import allow
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.store.texts.upkeep import find_damaged_texts
from vidret.types import TextSource

Contents = dict[tuple[str, TextSource, str], tuple[bool, float, str, list[str]]]


def make_index(path: Path, contents: Sequence[str]) -> Path:
    with create(path) as store:
        for content in contents:
            add_video(store, content, seed=ord(content[0]))
        store.upkeep.save_vectors()
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    index = make_index(tmp_path / "one", ["a", "b"])
    add_words(index, "a", ["red apple", "green pear"])
    add_words(index, "b", [], note="no audio track")
    return index


@pytest.fixture
def two(tmp_path: Path) -> Path:
    index = make_index(tmp_path / "two", ["a", "c"])
    add_words(index, "a", ["red apple", "green pear"])
    add_words(index, "a", ["EXIT"], source="screen")
    add_words(index, "c", ["blue plum"])
    return index


def read_words(index: Path) -> Contents:
    with TextStore.open(index) as texts:
        return {
            (track.fingerprint, track.source, track.model): (
                track.complete,
                track.until_s,
                track.note,
                [row.text.text for row in texts.transcript(track)],
            )
            for track in texts.tracks()
        }


def test_words_are_merged_and_found(one: Path, two: Path, tmp_path: Path) -> None:
    expected, steps = read_words(two) | read_words(one), list[tuple[int, int]]()
    add_words(one, "gone", ["nowhere"])  # of a content that is not merged
    report = merge_indexes([one, two], tmp_path / "out", on_progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (16 + 3 + 4, 16 + 3 + 4), "segments, paths and tracks"
    assert (report.texts, report.damaged, report.notes) == (4, [], [])
    assert read_words(tmp_path / "out") == expected
    assert search_words(tmp_path / "out", "plums") == ["blue plum"]
    assert find_damaged_texts(tmp_path / "out", repair=False) == []
    with TextStore.open(tmp_path / "out") as texts:
        (row,) = texts.search(random_vectors(make_texts(["green pear"])), 1)[0].tolist()
        assert texts.read_segments([row])[0].text == make_texts(["red apple", "green pear"])[1]
        stored = texts.store.features.read_vectors([row])
        np.testing.assert_allclose(stored, random_vectors(make_texts(["green pear"])), atol=1e-3)
    assert merge_indexes([one, two], tmp_path / "out").texts == 0, "a repeated merge adds nothing"
    assert read_words(tmp_path / "out") == expected
    assert merge_indexes([make_index(tmp_path / "mute", ["a"])], tmp_path / "none").texts == 0
    assert not (tmp_path / "none" / "words").exists()


def test_of_two_models_the_complete_one_is_taken(one: Path, two: Path, tmp_path: Path) -> None:
    out = make_index(tmp_path / "out", ["a", "c"])
    add_words(out, "a", ["half"], model="other", complete=False)
    add_words(out, "c", ["whole"], model="other")
    merge_indexes([one, two], out)
    words = read_words(out)
    assert ("a", "speech", "other") not in words
    assert words["a", "speech", "model"][3] == ["red apple", "green pear"]
    assert words["c", "speech", "other"][3] == ["whole"], "the first of two that are complete"
    assert ("c", "speech", "model") not in words
    assert search_words(out, "half") == []


def test_what_is_complete_nowhere_comes_as_far_as_it_is(tmp_path: Path) -> None:
    one, two = make_index(tmp_path / "1", ["a"]), make_index(tmp_path / "2", ["a"])
    add_words(one, "a", ["red apple"], complete=False)
    add_words(two, "a", ["red apple", "green pear"], complete=False)
    merge_indexes([one, two], tmp_path / "out")
    assert read_words(tmp_path / "out") == read_words(two)
    assert merge_indexes([one, two], tmp_path / "out").texts == 0
    add_words(make_index(tmp_path / "3", ["a"]), "a", ["red", "apple", "green", "pear"])
    merge_indexes([tmp_path / "3"], one)
    assert read_words(one) == read_words(tmp_path / "3"), "another reading replaces an incomplete one"


def test_damaged_words_are_reported_and_read_again(one: Path, two: Path, tmp_path: Path) -> None:
    expected = read_words(two) | read_words(one)
    with Store.open(two / "words", write=True) as store:
        sql = "UPDATE texts SET text = ? WHERE text = ?"
        assert store._catalog.database.run(sql, b"blue plus", b"blue plum") == 1
    report = merge_indexes([one, two], tmp_path / "out")
    assert report.damaged == [("/videos/c.mp4", "1 of 1 texts of its speech are damaged")]
    assert read_words(tmp_path / "out")["c", "speech", "model"][:2] == (False, 0.0)
    add_words(tmp_path / "out", "c", ["blue plum"])
    assert read_words(tmp_path / "out") == expected


def test_words_with_a_damaged_vector_are_read_again(tmp_path: Path) -> None:
    add_words(make_index(tmp_path / "one", ["a"]), "a", ["red apple", "green pear"])
    damage(tmp_path / "one" / "words" / "features" / "video.f16", 0)
    report = merge_indexes([tmp_path / "one"], tmp_path / "out")
    assert report.damaged == [("/videos/a.mp4", "1 of 2 texts of its speech are damaged")]
    assert read_words(tmp_path / "out")["a", "speech", "model"] == (False, 0.0, "", ["green pear"])


def test_many_words_are_merged_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "TEXTS_AT_ONCE", 2)
    add_words(make_index(tmp_path / "one", ["a"]), "a", ["red", "green", "blue", "white", "black"])
    assert merge_indexes([tmp_path / "one"], tmp_path / "out").texts == 5
    assert read_words(tmp_path / "out") == read_words(tmp_path / "one")


def test_words_with_other_vectors_are_noted(one: Path, tmp_path: Path) -> None:
    two = make_index(tmp_path / "2", ["c"])
    with create_words(two, "sentences-2") as texts:
        texts.finish(texts.begin("c", "speech", "model", duration_s=1.0))
    (note,) = merge_indexes([one, two], tmp_path / "out").notes
    assert note.startswith(f"{two}: its words are not copied: ")
    assert read_words(tmp_path / "out") == read_words(one)


def test_the_options_of_the_first_index_are_kept(one: Path, two: Path, tmp_path: Path) -> None:
    for index, options in ((one, WordsOptions(sources=("speech",))), (two, WordsOptions(sources=("screen",)))):
        with create_words(index) as texts:
            texts.store.metadata.set(OPTIONS, options.to_json())
    (note,) = merge_indexes([one, two], tmp_path / "out").notes
    assert note.startswith(f"{two}: its words were read with other options than those of {one}")
    assert read_options(tmp_path / "out") == WordsOptions(sources=("speech",))
    merge_indexes([two], one)
    assert read_options(one) == WordsOptions(sources=("speech",))


def test_what_all_indexes_may_use_the_merged_one_may_too(one: Path, two: Path, tmp_path: Path) -> None:
    for index in (one, two):
        with TextStore.open(index, write=True) as texts:
            texts.store.metadata.set(OPTIONS, WordsOptions(speech_model="small").to_json())
    allow(one, "small")
    merge_indexes([one, two], tmp_path / "refused")
    with pytest.raises(StoreError, match="names small, which is not part of it"):
        read_setting(tmp_path / "refused", "auto")
    allow(two, "small")
    merge_indexes([one, two], tmp_path / "out")
    options = read_setting(tmp_path / "out", "auto")
    assert options is not None
    assert options.speech_model == "small"


@pytest.mark.parametrize("num_calls", [0, 1, 2, 3])
def test_an_interrupted_merge_continues(
    one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_calls: int
) -> None:
    calls = iter(range(100))

    def interrupt(self: TextStore, *args: object, **kwargs: object) -> None:
        if next(calls) == num_calls:
            raise KeyboardInterrupt
        finish(self, *args, **kwargs)  # type: ignore[arg-type]

    finish = TextStore.finish
    with monkeypatch.context() as patch:
        patch.setattr(TextStore, "finish", interrupt)
        assert merge_indexes([one, two], tmp_path / "out").interrupted
    assert merge_indexes([one, two], tmp_path / "out").interrupted is False
    assert read_words(tmp_path / "out") == read_words(two) | read_words(one)
    assert find_damaged_texts(tmp_path / "out", repair=False) == []
