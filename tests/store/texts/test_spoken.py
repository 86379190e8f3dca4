"""Search of spoken texts by sound."""

from pathlib import Path

import numpy as np
import pytest

from vidret.store.texts import spoken
from vidret.store.texts.index import TextIndex
from vidret.store.texts.phonemes import pronounce
from vidret.store.texts.postings import text_id

TEXTS = {
    text_id(1, 0): "I will keep her from sign the new contract",
    text_id(1, 1): "The ferry to the island runs twice a day",
    text_id(2, 0): "We deploy it on Cooper Netties",
    text_id(2, 1): "Kubernetes",
}
UNSPOKEN = text_id(2, 1)


@pytest.fixture
def index() -> TextIndex:
    made = TextIndex(None, write=True)
    made.add(TEXTS.items(), TEXTS.keys() - {UNSPOKEN})
    return made


def search(index: TextIndex, said: str, allowed: bytes | None = None) -> list[int]:
    return list(index.spoken.search(pronounce([said])[0], 10, allowed))


def read(index: TextIndex, ids: list[int]) -> list[str]:
    return index.read(np.array(ids), [TEXTS.get(key, "") for key in ids])[1]


def test_text_that_sounds_alike_is_first(index: TextIndex) -> None:
    assert search(index, "goalkeeper has signed")[0] == text_id(1, 0)
    assert search(index, "Kubernetes")[0] == text_id(2, 0)
    assert search(index, "xyz") == search(index, "") == []


def test_only_allowed_tracks_are_searched(index: TextIndex) -> None:
    assert text_id(2, 0) not in search(index, "Kubernetes", bytes([0, 1, 0]))
    assert search(index, "Kubernetes", bytes([0, 0, 1])) == [text_id(2, 0)]


def test_phonemes_of_spoken_texts_are_read(index: TextIndex) -> None:
    assert read(index, [text_id(1, 1), UNSPOKEN, 77]) == [pronounce([TEXTS[text_id(1, 1)]])[0], "", ""]


@pytest.mark.parametrize("value", ["NULL", "'A' || char(10)"])
def test_a_text_with_damaged_phonemes_leaves_the_others_theirs(index: TextIndex, value: str) -> None:
    index._database.run(f"UPDATE spoken_content SET c1 = {value} WHERE id = {text_id(1, 0)}")
    assert read(index, [text_id(1, 0)]) == [""]
    assert [key for key, phonemes in zip(TEXTS, read(index, [*TEXTS]), strict=True) if not phonemes] == [
        text_id(1, 0),
        UNSPOKEN,
    ]


def test_removed_and_replaced_texts_are_not_found(index: TextIndex) -> None:
    index.remove([text_id(1, 0)])
    index.remove_track(2)
    assert search(index, "goalkeeper has signed") == search(index, "Kubernetes") == []
    index.add([(text_id(1, 1), "The goalkeeper")], [text_id(1, 1)])
    assert search(index, "goalkeeper has signed") == [text_id(1, 1)]
    assert search(index, "ferry") == []


def test_runs_that_many_texts_have_are_joined(index: TextIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {text_id(3, number): "Cooper saw that" for number in range(40)}
    index.add(many.items(), many)
    monkeypatch.setattr(spoken, "MAX_LISTED", 30)
    assert search(index, "Kubernetes") == [text_id(2, 0)]
    assert search(index, "Cooper saw") == []


def test_runs_that_many_texts_have_are_found_once_few_have_them(
    index: TextIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {text_id(3, number): "Cooper saw that" for number in range(40)}
    index.add(many.items(), many)
    monkeypatch.setattr(spoken, "MAX_LISTED", 30)
    assert search(index, "Cooper saw") == search(index, "Cooper saw") == []
    assert search(index, "Cooper saw", bytes([0, 0, 0, 1])) == []
    index.remove([*many][5:])
    index.terms("any query")
    assert search(index, "Cooper saw") == [*many][:5]


def test_runs_that_few_allowed_texts_have_are_not_joined(index: TextIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {text_id(3, number): "Cooper saw that" for number in range(40)}
    index.add({**many, text_id(4, 0): "Cooper saw this"}.items(), [*many, text_id(4, 0)])
    monkeypatch.setattr(spoken, "MAX_LISTED", 30)
    assert search(index, "Cooper saw", bytes([0, 0, 0, 0, 1])) == [text_id(4, 0)]


def test_text_index_of_another_format_is_built_anew_by_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "texts.sqlite"
    with_spoken = TextIndex(path, write=True)
    with_spoken.add(TEXTS.items(), TEXTS)
    with_spoken._database.run("PRAGMA user_version = 1")
    with_spoken.close()
    opened = TextIndex(path, write=True)
    assert len(opened) == 0
    assert search(opened, "Kubernetes") == []
    opened.close()
