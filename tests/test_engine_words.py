"""The engine with words and without: what stays as it was, and that any query has an answer or a refusal."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.spoken import FILMS, NamedColours, add_all_words, fake_sentences, make_films, save_baseline
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.show import result_to_dict
from vidret.search.grammar import interpret
from vidret.search.locating import Locator, RankedVideo
from vidret.search.queries import encode_queries
from vidret.types import Hit, Moment, SearchOptions

QUERIES = ("red", 'green -"yellow"', "line is busy", "green, then yellow", '"line" blue', "-white red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, an index, and a copy of it with words."""
    folder = tmp_path_factory.mktemp("spoken")
    shutil.copytree(make_films(folder), folder / "worded")
    add_all_words(folder / "worded")
    return folder


@pytest.fixture(scope="module")
def worded(folder: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        save_baseline(folder / "worded")
        with Engine(folder / "worded", NamedColours()) as engine:
            yield engine


@pytest.fixture
def plain(folder: Path) -> Iterator[Engine]:
    with Engine(folder / "index", NamedColours()) as engine:
        yield engine


def search_pictures(engine: Engine, query: str) -> list[Hit]:
    """Return the hits of the search that knows no words."""
    return engine._index.searcher.search(encode_queries([query], engine.encoder), [SearchOptions()])[0]


def locate_in_pictures(engine: Engine, query: str) -> list[Moment]:
    """Return the moments of the location that knows no words."""
    hits = search_pictures(engine, query)
    videos = [RankedVideo(video_id=hit.video, path=hit.path, score=hit.score, weak=hit.weak) for hit in hits]
    locator = Locator(engine._index.searcher, None)
    return locator.locate(encode_queries([query], engine.encoder)[0], videos, 5, overlapping=False, weak=True)


def test_index_without_words_answers_as_before(plain: Engine) -> None:
    """Several events are the exception: they are placed in order, by pictures alone."""
    assert not (plain.path / "words").exists()
    joint = [query for query in QUERIES if len(interpret(query).events) > 1]
    assert all(plain.search(query)[0].events for query in joint)
    for query in (each for each in QUERIES if each not in joint):
        hits = plain.search(query)
        assert hits == search_pictures(plain, query)
        assert plain.locate(query, weak=True) == locate_in_pictures(plain, query)
        assert all(hit.evidence == () for hit in hits)
    assert not (plain.path / "words").exists()


def test_json_of_an_index_without_words_has_the_keys_it_had(plain: Engine) -> None:
    hit, moment = result_to_dict(plain.search("red")[0]), result_to_dict(plain.locate("green")[0])
    assert list(hit) == ["video", "path", "segment", "time", "score", "weak", "copies", "why"]
    assert list(moment) == ["video", "path", "start", "end", "score", "weak", "by", "similarity"]


def test_json_of_an_index_with_words_has_evidence(worded: Engine) -> None:
    hit = json.loads(json.dumps(result_to_dict(worded.search("platform nine")[0])))
    assert list(hit)[-1] == "evidence"
    best = hit["evidence"][0]
    assert (best["source"], best["text"], best["matches"]) == ("screen", "platform nine", [[0, 8], [9, 13]])


def test_explicit_rerank_and_other_queries_use_pictures_alone(worded: Engine, plain: Engine) -> None:
    for query in QUERIES:
        hits = worded.search(query, rerank=None)
        expected = plain.search(query, rerank=None)
        assert [dataclasses.replace(hit, path="") for hit in hits] == [
            dataclasses.replace(hit, path="") for hit in expected
        ]
    vector = np.eye(32)[0]
    assert [hit.evidence for hit in worded.search(vector)] == [()] * len(FILMS)
    assert worded.locate(vector)[0].by == "curve"
    with pytest.raises(VidretError, match="rerank None"):
        worded.search("red", rerank=None, sources=["speech"])
    with pytest.raises(VidretError, match="an image or a vector"):
        worded.search(vector, sources=["speech"])


def test_words_are_refused_where_there_are_none(plain: Engine) -> None:
    for ask in (plain.search, plain.locate):
        with pytest.raises(VidretError, match="has no words to search: run vidret index --words on"):
            ask("red", sources=["speech"])
    assert plain.search("red", sources=["picture"]) == plain.search("red")


def test_engine_finds_words_that_were_added_since(folder: Path, tmp_path: Path) -> None:
    index = shutil.copytree(folder / "index", tmp_path / "index")
    with pytest.MonkeyPatch.context() as patch, Engine(index, NamedColours()) as engine:
        fake_sentences(patch)
        assert engine.search("platform nine")[0].evidence == ()
        add_all_words(index)
        assert engine.search("platform nine")[0].evidence[0].source == "screen"


def test_many_searches_have_the_results_of_each(worded: Engine) -> None:
    queries = [*QUERIES, np.eye(32)[1]]
    together = worded.search_many(queries, [SearchOptions()] * len(queries))
    assert together == [worded.search(query) for query in queries]


PARTS = st.sampled_from(
    ['"', "line", "busy", ", then ", " while ", "-", '-"', "red", "first", "someone says", "platform", "\n", "\0", "é"]
)
TEXT = st.text(st.characters(codec=None, exclude_categories=[]))
ANY_QUERY = st.one_of(TEXT, st.lists(st.one_of(PARTS, TEXT)).map(" ".join), st.lists(PARTS, max_size=8).map("".join))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_QUERY, st.sampled_from([None, ["speech"], ["picture", "screen"]]))
def test_any_text_is_answered_or_refused(worded: Engine, query: str, sources: list[str] | None) -> None:
    try:
        hits = worded.search(query, 3, sources=sources)  # type: ignore[arg-type]
        moments = worded.locate(query, 3, weak=True, sources=sources)  # type: ignore[arg-type]
    except VidretError:
        return
    results: list[Hit | Moment] = [*hits, *moments]
    for result in results:
        assert np.isfinite(result.score)
        for each in result.evidence:
            assert 0 <= each.share <= 1 + 1e-6
            assert all(0 <= start < end <= len(each.text) for start, end in each.matches)
    assert all(moment.start < moment.end for moment in moments)
    assert len({hit.video for hit in hits}) == len(hits) <= 3


def test_a_concept_is_searched_in_pictures_whatever_is_said(folder: Path, worded: Engine) -> None:
    """Its score is of the size of a text's; "good morning captain" is no match of @captain."""
    red = np.full((32, 32, 3), (200, 30, 30), np.uint8)
    worded.teach("captain", [red] * 4, text="red")
    try:
        hits = {Path(hit.path).stem: hit for hit in worded.search("@captain")}
        assert hits["red"].score > max(hits[name].score for name in ("blue", "white", "turn", "back")) + 1
        assert all(each.source == "picture" for hit in hits.values() for each in hit.evidence)
        spoken = worded.search("@captain says please call again")[0]
        assert "speech" in {each.source for each in spoken.evidence}, "the rest of a clause about words"
        assert [Path(hit.path).stem for hit in worded.search('@captain "good morning captain"')] == ["blue"]
        with pytest.raises(VidretError, match="sources must include picture for a taught concept"):
            worded.search("@captain", sources=["speech"])
        excluding = [Path(hit.path).stem for hit in worded.search("blue -@captain")]
        assert "blue" in excluding, "in which captain is said"
        assert worded.locate("@captain", 1, video=folder / "films" / "red.mp4", weak=True)
    finally:
        worded.forget("captain")
