"""The engine with words and without: what stays as it was, and that any query has an answer or a refusal."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import COLOURS
from tests.spoken import FILMS, NamedColours, add_all_words, fake_sentences, make_films, save_background, say
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.show import result_to_dict
from vidret.search.query.grammar import interpret
from vidret.types import ComposedQuery, Hit, Moment, Query

QUERIES = ("red", 'green -"yellow"', "line is busy", "green, then yellow", '"line" blue', "-white red")
SEEN = (*COLOURS, "red and white", "blue sky", "a yellow thing", "zebra", "something of no colour", "green -blue")


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
        save_background(folder / "worded")
        with Engine(folder / "worded", NamedColours()) as engine:
            yield engine


@pytest.fixture
def plain(folder: Path) -> Iterator[Engine]:
    with Engine(folder / "index", NamedColours()) as engine:
        yield engine


def test_index_without_words_is_searched_by_pictures(plain: Engine) -> None:
    assert not (plain.path / "words").exists()
    for query in QUERIES:
        hits = plain.search(query)
        assert len(hits) == len(FILMS), query
        assert all(hit.evidence == () for hit in hits)
        assert all(set(hit.why) <= {"picture", "frames", "unwanted"} for hit in hits)
        assert bool(hits[0].events) == (len(interpret(query).events) > 1)
        assert plain.locate(query)
    for ask in (plain.search, plain.locate):
        with pytest.raises(VidretError, match="has no words to search; to read them: vidret index PATH --words on"):
            ask("red", sources=["speech"])
    assert plain.search("red", sources=["picture"]) == plain.search("red")
    assert not (plain.path / "words").exists()


def test_json_has_evidence_only_in_an_index_with_words(plain: Engine, worded: Engine) -> None:
    hit, moment = result_to_dict(plain.search("red")[0]), result_to_dict(plain.locate("green")[0])
    rated = ["probability", "likelihood"]
    assert list(hit) == ["video", "path", "segment", "time", "score", "weak", "copies", "why", *rated]
    assert list(moment) == ["video", "path", "start", "end", "score", "weak", "by", "similarity", *rated]
    hit = json.loads(json.dumps(result_to_dict(worded.search("platform nine")[0])))
    assert list(hit)[-3:] == ["evidence", *rated]
    best = hit["evidence"][0]
    assert (best["source"], best["text"], best["matches"]) == ("screen", "platform nine", [[0, 8], [9, 13]])


def test_an_image_or_a_vector_is_compared_with_pictures_alone(worded: Engine, plain: Engine) -> None:
    image = np.full((32, 32, 3), COLOURS["red"], np.uint8)
    composed = ComposedQuery(images=(image,), text="blue -white")
    for query in (np.eye(32)[0], -np.eye(32)[0], image, composed):
        hits = worded.search(query)
        assert [(hit.segment, hit.score) for hit in hits] == [(hit.segment, hit.score) for hit in plain.search(query)]
        assert len(hits) == len(FILMS)
        assert all((set(hit.why) <= {"picture", "frames", "unwanted"}, hit.evidence) == (True, ()) for hit in hits)
        assert all((hit.probability, hit.weak) == (None, False) for hit in hits)
        moment = worded.locate(query)[0]
        assert (moment.by, moment.probability) == ("curve", None)
        with pytest.raises(VidretError, match="an image or a vector"):
            worded.search(query, sources=["speech"])


def test_engine_finds_words_that_were_added_since(folder: Path, tmp_path: Path) -> None:
    index = shutil.copytree(folder / "index", tmp_path / "index")
    with pytest.MonkeyPatch.context() as patch, Engine(index, NamedColours()) as engine:
        fake_sentences(patch)
        assert engine.search("platform nine")[0].evidence == ()
        add_all_words(index)
        assert engine.search("platform nine")[0].evidence[0].source == "screen"


def search_all(engine: Engine, query: Query, **options: Any) -> list[tuple[int, float]]:
    return [(hit.video, hit.score) for hit in engine.search(query, **options)]


@pytest.mark.parametrize("rerank", ["auto", None, "none", "mean", "glscl"])
@pytest.mark.parametrize("refine", [False, True])
def test_any_rerank_and_refinement_is_joined_with_words(
    worded: Engine, plain: Engine, rerank: str | None, *, refine: bool
) -> None:
    options: dict[str, Any] = {"rerank": rerank, "refine": refine}
    assert worded.search("platform nine", 1, **options)[0].evidence[0].source == "screen"
    assert Path(worded.search("red line is busy", 1, **options)[0].path).stem == "red"
    hits = worded.search("white", **options)
    expected = plain.search("white", **options)
    assert [hit.video for hit in hits] == [hit.video for hit in expected]
    assert [hit.why["picture"] for hit in hits] == [hit.why["picture"] for hit in expected]
    assert worded.search("green, then yellow", 1, **options)[0].events
    assert worded.search("line", sources=["speech"], **options)


def test_a_silent_channel_changes_no_ranking(folder: Path, plain: Engine, tmp_path: Path) -> None:
    """Words that share nothing with a query say nothing about it, however alike two pictures are."""
    index = shutil.copytree(folder / "index", tmp_path / "index")
    for name in ("red", "turn", "white"):
        say(index, name, "speech", [(1, 3, "sand the door lightly"), (5, 7, "good morning captain")])
        say(index, name, "screen", [(2, 4, "platform nine")])
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        save_background(index)
        with Engine(index, NamedColours()) as silent:
            for query in SEEN:
                hits, expected = silent.search(query), plain.search(query)
                assert [hit.video for hit in hits] == [hit.video for hit in expected], query
                assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
                moments, others = silent.locate(query, sources=["picture"]), plain.locate(query)
                assert [(m.video, m.start) for m in moments] == [(m.video, m.start) for m in others]


@pytest.mark.parametrize("query", [*QUERIES, "an unheard submarine", "someone says please call again"])
def test_search_and_location_agree_on_the_score_of_a_video(worded: Engine, query: str) -> None:
    hits = worded.search(query)
    assert hits
    for hit in hits:
        moment = worded.locate(query, 1, video=hit.path)[0]
        assert moment.score == pytest.approx(hit.score, abs=1e-3)
    found = {(moment.video, moment.score) for moment in worded.locate(query, 50, videos=len(FILMS))}
    assert all(
        any(video == hit.video and score == pytest.approx(hit.score, abs=1e-3) for video, score in found)
        for hit in hits
    )


@pytest.mark.parametrize("query", [*QUERIES, np.eye(32)[2]])
def test_scores_depend_neither_on_k_nor_on_candidates(worded: Engine, query: Query) -> None:
    every = search_all(worded, query)
    for k in range(1, len(every) + 1):
        assert search_all(worded, query, k=k) == every[:k]
    assert search_all(worded, query, candidates=50) == every
    for candidates in (1, 2, 3):  # of several segments that a video has, the best one may not be read
        scores = dict(search_all(worded, query, candidates=candidates))
        assert scores.keys() == dict(every).keys()
        assert all(scores[video] <= score + 1e-5 for video, score in every)


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
        for evidence in result.evidence:
            assert 0 <= evidence.share <= 1 + 1e-6
            assert all(0 <= start < end <= len(evidence.text) for start, end in evidence.matches)
    assert all(moment.start < moment.end for moment in moments)
    assert len({hit.video for hit in hits}) == len(hits) <= 3


def test_a_concept_is_searched_in_pictures_whatever_is_said(folder: Path, worded: Engine) -> None:
    """Its score is of the size of a text's; "good morning captain" is no match of @captain."""
    worded.teach("captain", [np.full((32, 32, 3), (200, 30, 30), np.uint8)] * 4, text="red")
    try:
        hits = {Path(hit.path).stem: hit for hit in worded.search("@captain")}
        assert hits["red"].score > max(hits[name].score for name in ("blue", "white", "turn", "back")) + 1
        assert all(evidence.source == "picture" for hit in hits.values() for evidence in hit.evidence)
        spoken = worded.search("@captain says please call again")[0]
        assert "speech" in {evidence.source for evidence in spoken.evidence}, "the rest of a clause about words"
        assert [Path(hit.path).stem for hit in worded.search('@captain "good morning captain"')] == ["blue"]
        with pytest.raises(VidretError, match="sources must include picture for a concept or a person"):
            worded.search("@captain", sources=["speech"])
        assert "blue" in [Path(hit.path).stem for hit in worded.search("blue -@captain")], "in which captain is said"
        assert worded.locate("@captain", 1, video=folder / "films" / "red.mp4", weak=True)
    finally:
        worded.forget("captain")
