"""Full-text search: stems, phrases, misspelt words, scripts without spaces, and any query at all."""

import math
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vidret.errors import StoreError
from vidret.store.texts.index import MAX_FUZZY_TERMS, MAX_TERMS, TextIndex
from vidret.store.texts.postings import MAX_TEXTS, spread_over_tracks, text_id
from vidret.store.texts.stems import Stemmer, split_unspaced

TEXTS = {
    1: "The trains are running late this evening",
    2: "A train runs through the mountain tunnel",
    3: "Platform six, northern express",
    4: "駅の出口はどこですか",
    5: "ทางออกอยู่ที่ไหน",
    6: "출구가 어디예요",
    7: "Où est la sortie de la gare, s'il vous plaît ?",
    8: "Cafe au lait",
}


@pytest.fixture
def index() -> TextIndex:
    made = TextIndex(None, write=True)
    made.add(TEXTS.items())
    return made


def search(index: TextIndex, query: str, k: int = 10) -> list[int]:
    """Search for the stems of a query, as a search does."""
    return list(index.search([term.stem for term in index.terms(query)], k))


def test_no_thread_can_split_words_while_the_index_is_closed(index: TextIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    is_locked, close = list[bool](), index._stemmer.close
    monkeypatch.setattr(index._stemmer, "close", lambda: is_locked.append(index._stemming.locked()))
    index.close()
    close()
    assert is_locked == [True]


def test_stems_and_diacritics(index: TextIndex) -> None:
    assert index.stems(["Trains RUNNING", "", "plaît"]) == [["train", "run"], [], ["plait"]]
    assert set(search(index, "train")) == set(search(index, "trains")) == {1, 2}
    assert search(index, "café") == [8]
    assert search(index, "PLAIT") == [7]


@given(
    st.lists(st.text(st.sampled_from("aAe sing\u0301é駅\u200b\x1c\u2028\t'-_1\0\ud800") | st.characters(), max_size=30))
)
def test_stems_word_by_word_are_those_of_whole_texts(texts: list[str]) -> None:
    stemmer = Stemmer()
    whole = stemmer.split([split_unspaced(text) for text in texts])
    assert stemmer.stems(texts) == whole
    assert stemmer.stems(texts[::-1]) == whole[::-1], "remembered"
    stemmer.close()


@pytest.mark.parametrize("word", ["Straße", "strasse", "STRASSE", "STRAẞE"])
def test_a_sharp_s_is_two(index: TextIndex, word: str) -> None:
    index.add([(9, "Die Straße ist nass"), (10, "eine lange Strasse")])
    assert set(index.find_phrase(word, 5).tolist()) == {9, 10}
    (term,) = index.terms(word)
    assert set(index.search([term.stem, *term.similar], 5).tolist()) == {9, 10}


def test_each_word_of_a_phrase_has_its_own_spelling(index: TextIndex) -> None:
    index.add([(9, "eine große Klasse"), (10, "press one, then 2")])
    assert index.find_phrase("grosse Klasse", 5).tolist() == [9]
    assert index.find_phrase("1 then two", 5).tolist() == [10]


def test_stems_are_not_stemmed_again(index: TextIndex) -> None:
    """The stem of "decis" would be "deci"."""
    index.add([(9, "Important decisions, conclusions agreed")])
    for word in ("decisions", "conclusions", "agreed"):
        assert search(index, word) == [9]
        assert index.terms(word)[0].num_texts == 1
    assert index.find_phrase("decisions conclusions", 5).tolist() == [9]


def test_readers_follow_changes_by_any_connection(tmp_path: Path) -> None:
    writer = TextIndex(tmp_path / "texts.sqlite", write=True)
    reader = TextIndex(tmp_path / "texts.sqlite", write=False)
    for count in range(4):
        if count:
            writer.add([(count, "a train")])
        for index in (writer, reader, reader):
            assert index.terms("train")[0].num_texts == count
    writer.remove([1])
    for text, counts in (("a tram", [1, 1]), ("a train", [2, 0])):  # as many texts, of as many words
        writer.add([(2, text)])
        for index in (writer, reader):
            assert [term.num_texts for term in index.terms("train tram")] == counts
    writer.close()
    reader.close()
    assert TextIndex(tmp_path / "texts.sqlite", write=True).ids().tolist() == [2, 3]


def test_counts(index: TextIndex) -> None:
    terms = index.terms("running to the the station")
    assert [(term.stem, term.num_texts) for term in terms] == [("run", 2), ("to", 0), ("the", 2), ("station", 0)]
    silent = ("the", "to")
    assert [term.num_texts for term in index.terms("running to the the station", silent)] == [2, 0, 0, 0]
    assert [term.num_texts for term in index.terms("to the", silent)] == [0, 2], "there is nothing else"
    assert len(index.terms(" ".join(f"w{k}" for k in range(100)))) == MAX_TERMS
    assert index.terms("") == index.terms("?! -- \"'") == []


def test_phrases(index: TextIndex) -> None:
    assert index.find_phrase("northern express", 5).tolist() == [3]
    assert index.find_phrase("Northern, EXPRESS!", 5).tolist() == [3]
    assert index.find_phrase("express northern", 5).tolist() == []
    assert index.find_phrase("s'il vous plaît", 5).tolist() == [7]
    assert index.find_phrase("?!", 5).tolist() == []


@pytest.mark.parametrize(("phrase", "text_id"), [("出口", 4), ("どこ", 4), ("ทางออก", 5), ("출구", 6), ("어디", 6)])
def test_scripts_without_spaces(index: TextIndex, phrase: str, text_id: int) -> None:
    assert index.find_phrase(phrase, 5).tolist() == [text_id]
    assert search(index, phrase)[0] == text_id
    assert index.find_phrase(phrase[::-1], 5).tolist() == []


def test_vowel_signs_are_part_of_words(index: TextIndex) -> None:
    index.add([(9, "आज का दिन"), (10, "किसी को देना"), (11, "শুভ দিন")])
    assert index.find_phrase("दिन", 5).tolist() == [9], "and not of देना, which has the same consonants"
    assert search(index, "দিন")[0] == 11
    assert index.find_words("दिन, देना", {"दिन"}) == ((0, 3),)
    assert index.find_words("駅の出口", {"出", "口"}) == ((2, 3), (3, 4)), "not all characters up to the next space"


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("שָׁלוֹם", "שלום"),  # points
        ("كَتَبَ", "كتب"),
        ("한국", unicodedata.normalize("NFD", "한국")),
        ("ёлка", unicodedata.normalize("NFD", "ёлка")),
    ],
)
def test_points_and_separate_accents_make_no_difference(index: TextIndex, written: str, typed: str) -> None:
    index.add([(9, written), (10, f"{typed} x")])
    for word in (written, typed):
        assert sorted(index.find_phrase(word, 5).tolist()) == [9, 10]
    assert index.find_words(written, index.stems([typed])[0])[0][0] == 0


def test_misspelt_words(index: TextIndex) -> None:
    def similar(word: str) -> list[str]:
        return list(index.terms(word)[0].similar)

    assert similar("tunel") == ["tunnel"]
    assert similar("mountaim") == ["mountain"]
    assert similar("platfrm") == ["platform"]
    assert similar("norhtren") == ["northern"]  # two edits from eight letters on
    assert similar("exrpess") == ["express"]  # two letters that changed places are one edit
    assert similar("funnel") == similar("puntain") == []  # another first letter
    assert similar("xunel") == []  # two edits, five letters
    assert similar("sx") == similar("lat") == similar("2024") == []  # too short, or a number
    assert 0 < index.terms("tunel")[0].similar["tunnel"] < 1


def test_a_name_is_compared_as_it_is_spelt_too(index: TextIndex) -> None:
    index.add([(9, "Captain Alvarez")])
    (term,) = index.terms("Alvares")
    assert (term.stem, list(term.similar)) == ("alvar", ["alvarez"])
    assert index.terms("platforms")[0].similar == {}  # platform is its own stem


def test_similar_terms_are_few_and_the_nearest(index: TextIndex) -> None:
    index.add((100 + k, f"lantern{chr(97 + k)}") for k in range(26))
    found = index.terms("lanternqq")[0].similar
    assert len(found) == MAX_FUZZY_TERMS
    assert max(found, key=lambda term: found[term]) == "lanternq"


def test_replace_and_remove(index: TextIndex) -> None:
    assert index.terms("express")[0].num_texts == 1
    index.add([(3, "Platform nine")])
    assert index.terms("express")[0].num_texts == 0
    assert (search(index, "express"), search(index, "nine")) == ([], [3])
    index.remove([3, 999])
    assert search(index, "nine") == []
    assert index.ids().tolist() == [1, 2, 4, 5, 6, 7, 8]
    assert len(index) == 7
    index.add([])
    index.remove([])


def test_all_or_none(index: TextIndex) -> None:
    with pytest.raises(ZeroDivisionError):
        index.add((k, f"text {1 // k}") for k in (12, 0))
    with pytest.raises(OverflowError):
        index.add([(12, "fits"), (1 << 63, "does not")])
    assert len(index) == len(TEXTS)


def bm25(query: list[str], texts: dict[int, list[str]]) -> dict[int, float]:
    """Compute the score of each text that holds a term of the query, with the constants of SQLite."""
    mean_length = sum(map(len, texts.values())) / len(texts)
    scores: dict[int, float] = {}
    for term in query:
        num_texts = sum(term in words for words in texts.values())
        idf = max(1e-6, math.log((len(texts) - num_texts + 0.5) / (num_texts + 0.5)))
        for key, words in texts.items():
            count = Counter(words)[term]
            if count:
                norm = count + 1.2 * (0.25 + 0.75 * len(words) / mean_length)
                scores[key] = scores.get(key, 0.0) + idf * count * 2.2 / norm
    return scores


NAMES = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath"]


def test_order_is_that_of_bm25() -> None:
    rng = np.random.default_rng(0)
    texts = {k: list(rng.choice(NAMES, 1 + rng.integers(7), p=np.arange(8, 0, -1) / 36)) for k in range(1, 60)}
    index = TextIndex(None, write=True)
    index.add((key, " ".join(words)) for key, words in texts.items())
    for query in (["heath"], ["grove", "heath"], ["fjord", "amber", "delta"]):
        expected = bm25(query, texts)
        found = index.search(query, 100).tolist()
        assert sorted(found) == sorted(expected)
        scores = [expected[key] for key in found]
        assert scores == pytest.approx(sorted(scores, reverse=True))
        assert index.search(query, 3).tolist() == found[:3]


@pytest.mark.parametrize("max_ranked", [0, 3000])
def test_a_word_that_is_said_often_in_one_video_hides_no_other(
    max_ranked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.store.texts.index.MAX_RANKED", max_ranked)
    index = TextIndex(None, write=True)
    index.add([(text_id(1, number), "budget") for number in range(60)])
    once = [text_id(track, 0) for track in (2, 3, 4)]
    index.add([(key, "then they spoke at length about the budget of the next year") for key in once])
    for found in (index.search(["budget"], 5), index.find_phrase("budget", 5)):
        assert found.tolist() == [text_id(1, 0), text_id(1, 1), *once], "the best first, in turns"


SCORED_TEXTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=20)  # track and score


@given(SCORED_TEXTS | SCORED_TEXTS.map(sorted), st.integers(1, 25) | st.integers(1, 4))
def test_texts_are_chosen_in_turns(texts: list[tuple[int, int]], k: int) -> None:
    ids = np.array([text_id(track, number) for number, (track, _) in enumerate(texts)], np.int64)
    best = sorted(range(len(texts)), key=lambda row: (-texts[row][1], ids[row]))
    turns = {row: sum(texts[other][0] == texts[row][0] for other in best[: best.index(row)]) for row in best}
    expected = sorted(sorted(best, key=turns.__getitem__)[:k], key=best.index)
    assert spread_over_tracks(ids, np.array([score for _, score in texts], np.float64), k).tolist() == expected


def test_many_texts_are_ranked_by_the_words_that_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by bm25, where no text repeats a word."""
    rng = np.random.default_rng(0)
    texts = {
        row % 4 * MAX_TEXTS + row: list(rng.choice(NAMES, 1 + rng.integers(7), replace=False)) for row in range(1, 300)
    }
    index = TextIndex(None, write=True)
    index.add((key, " ".join(words)) for key, words in texts.items())
    index.remove([1, MAX_TEXTS + 5])
    texts = {key: words for key, words in texts.items() if key not in (1, MAX_TEXTS + 5)}
    for query in (["heath"], ["grove", "heath", "heath"], ["fjord", "amber", "delta", "missing"]):
        for allowed, limit in ((None, 100), (b"\1\0\1", 100), (b"\1", 200)):
            monkeypatch.setattr("vidret.store.texts.index.MAX_RANKED", 10**6)
            expected = index.search(query, limit, allowed)
            monkeypatch.setattr("vidret.store.texts.index.MAX_RANKED", 0)
            found = index.search(query, limit, allowed)
            scores = bm25(list(dict.fromkeys(query)), texts)
            assert [scores[key] for key in found.tolist()] == pytest.approx([scores[key] for key in expected.tolist()])
            assert allowed is None or {0, 2}.issuperset(found // MAX_TEXTS)
    assert index.search(["missing", "absent"], 3).tolist() == []


WORDS = st.sampled_from(
    ["train", '"', "'", "-", "NOT", "OR", "NEAR(", ")", "*", "^", "body:", "\0", ";--", "駅", "%", "{", "+"]
)


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=30), st.lists(WORDS, max_size=8).map(" ".join), st.lists(WORDS).map("".join)))
@example("\ud800")
@example("'; DROP TABLE texts; --")
@example('"" NEAR("a" "b", 5)')
def test_any_query(query: str) -> None:
    terms = SHARED.terms(query)
    assert all(0 <= term.num_texts <= len(TEXTS) for term in terms)
    found = set(SHARED.search([term.stem for term in terms], 50).tolist())
    assert set(SHARED.find_phrase(query, 50).tolist()) <= set(TEXTS)
    assert found <= set(TEXTS)
    assert found == {key for key in TEXTS if set(SHARED.stems([TEXTS[key]])[0]) & {term.stem for term in terms}}


@settings(max_examples=30)
@given(st.text(max_size=30))
@example("\ud800 lone")
@example("\0")
def test_any_text_is_found_by_itself(text: str) -> None:
    index = TextIndex(None, write=True)
    index.add([(7, text)])
    assert index.ids().tolist() == [7]
    stems = index.stems([text])[0]
    if stems:
        assert index.search(stems[:MAX_TERMS], 5).tolist() == [7]


SHARED = TextIndex(None, write=True)
SHARED.add(TEXTS.items())


def test_not_an_index(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        TextIndex(tmp_path / "none.sqlite", write=False)
    (tmp_path / "other.sqlite").write_bytes(b"no database" * 100)
    for write in (False, True):
        with pytest.raises(StoreError):
            TextIndex(tmp_path / "other.sqlite", write=write)
