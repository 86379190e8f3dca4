"""Probabilities: a naive twin, what must hold for any score, and how an index keeps its own."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import DIM, ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.search.hits import find_best_videos
from vidret.search.probability import (
    INDEX_CHANCES,
    MAX_GAP,
    PICTURES_ONLY,
    UNFITTED,
    VIDEO_CHANCES,
    ProbabilityModel,
    load_probabilities,
    save_probabilities,
)
from vidret.search.query.planning import plan
from vidret.store.records import PROBABILITIES
from vidret.store.store import Store
from vidret.types import LIKELY, SOURCES, UNLIKELY, LocateOptions, SearchOptions, rate_probability

SCORES, SIZES = st.floats(-60, 60), st.integers(1, 10**7)
SLOPES, OFFSETS = st.floats(0, 3), st.floats(-3, 3)
JUDGES = st.builds(
    ProbabilityModel,
    index_weights=st.tuples(SLOPES, OFFSETS, OFFSETS),
    video_weights=st.tuples(SLOPES, SLOPES, OFFSETS, OFFSETS),
)


def to_probability(log_odds: float) -> float:
    """Return the probability of log odds, by way of the odds of the smaller side."""
    odds = math.exp(-abs(log_odds))
    smaller = odds / (1 + odds)
    return smaller if log_odds < 0 else 1 - smaller


@given(JUDGES, SCORES, SCORES, SIZES, st.integers(1, 8))
def test_the_model_agrees_with_its_naive_twin(
    model: ProbabilityModel, one: float, other: float, size: int, num_events: int
) -> None:
    score, best = sorted((one, other))
    evidence, most = score * math.sqrt(num_events), best * math.sqrt(num_events)
    slope, by_size, offset = model.index_weights
    level = num_events**INDEX_CHANCES * (by_size * math.log(size) + offset)
    assert model.index(best, size, num_events) == pytest.approx(to_probability(slope * most + level), abs=1e-12)
    at_most = to_probability(slope * evidence + level)
    slope, gap, by_size, offset = model.video_weights
    level = num_events**VIDEO_CHANCES * (by_size * math.log(size) + offset)
    right = to_probability(slope * evidence - gap * min(most - evidence, MAX_GAP) + level)
    assert model.video(score, best, size, num_events) == pytest.approx(min(right, at_most), abs=1e-12)


@given(SIZES, st.integers(2, 8), st.floats(0.0, 10.0))
def test_events_that_are_likely_are_likelier_together(size: int, num_events: int, nats: float) -> None:
    """Events score their sum over the root of their number; many that are there by chance are no answer."""
    slope, by_size, offset = UNFITTED.index_weights
    even = max(-(by_size * math.log(size) + offset) / slope, 0.0)
    for one, are_likelier in ((even + nats, True), (-nats, False)):
        together = UNFITTED.index(num_events * one / math.sqrt(num_events), size, num_events)
        alone = UNFITTED.index(one, size)
        assert together >= alone >= 0.5 if are_likelier else together <= alone


@given(st.floats(MAX_GAP, 100.0), SIZES)
def test_video_far_below_the_best_is_judged_by_its_own_score(gap: float, size: int) -> None:
    model = UNFITTED
    assert model.video(12.0, 12.0 + gap, size) == pytest.approx(model.video(12.0, 12.0 + MAX_GAP, size))
    assert model.video(12.0, 12.0 + gap, 700) >= UNLIKELY, "all words of a phrase, though another video has more"
    assert model.video(2.0, 2.0 + gap, 700) < UNLIKELY


@given(JUDGES, st.lists(SCORES, min_size=1, max_size=6), SIZES)
def test_probabilities_are_ordered_as_scores(model: ProbabilityModel, scores: list[float], size: int) -> None:
    scores.sort()
    videos = [model.video(score, scores[-1], size) for score in scores]
    indexes = [model.index(score, size) for score in scores]
    assert (videos, indexes) == (sorted(videos), sorted(indexes))
    assert all(0 <= probability <= 1 for probability in videos + indexes)


@given(SCORES, SCORES, SIZES, SIZES)
def test_a_high_score_among_few_things_is_most_likely_an_answer(one: float, other: float, few: int, many: int) -> None:
    model = UNFITTED
    low, high = sorted((one, other))
    few, many = sorted((few, many))
    assert model.index(high, many) <= model.index(high, few)
    assert model.video(low, high, many) <= model.video(low, high, few)
    assert model.video(low, high, few) <= model.video(low, low, few), "beside a better one, it is less likely"


@pytest.mark.parametrize("score", [-1e9, -700.0, 700.0, 1e9])
def test_extreme_scores_have_a_probability(score: float) -> None:
    for probability in (UNFITTED.index(score, 0), UNFITTED.video(score, score, 0)):
        assert 0 <= probability <= 1
        assert (probability > LIKELY) == (score > 0)
        assert (probability < UNLIKELY) == (score < 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "index", encoder_name="patches", encoder_fingerprint="p-1", dim=DIM) as store:
        yield store


def test_an_index_keeps_its_probabilities(store: Store) -> None:
    assert (load_probabilities(store, SOURCES), load_probabilities(store, ("picture",))) == (UNFITTED, PICTURES_ONLY)
    assert load_probabilities(store, ("picture", "picture")) == PICTURES_ONLY
    fitted = ProbabilityModel(index_weights=(0.1, 0.2, 1 / 3), video_weights=(0.0, 0.5, -0.6, -0.7))
    save_probabilities(store, fitted)
    with Store.open(store.path) as reader:
        assert load_probabilities(reader, SOURCES) == load_probabilities(reader, ("picture",)) == fitted
        save_probabilities(store, UNFITTED)
        assert load_probabilities(reader, SOURCES) == UNFITTED
    assert not store.metadata.get(PROBABILITIES)


@pytest.mark.parametrize(
    "stored",
    [
        "words",
        "[]",
        "{}",
        json.dumps({"index_weights": [1, 2], "video_weights": [1, 2, 3, 4]}),
        json.dumps({"index_weights": [1, 2, 3], "video_weights": [1, 2, 3, 4, 5]}),
        json.dumps({"index_weights": [1, 2, None], "video_weights": [1, 2, 3, 4]}),
        json.dumps({"index_weights": [1, 2, math.inf], "video_weights": [1, 2, 3, 4]}),
        json.dumps({"index_weights": [1, 2, 10**400], "video_weights": [1, 2, 3, 4]}),
        json.dumps({"index_weights": [-1, 2, 3], "video_weights": [1, 2, 3, 4]}),
        json.dumps({"index_weights": [1, 2, 3], "video_weights": [1, -2, 3, 4]}),
    ],
)
def test_what_is_no_model_is_refused(store: Store, stored: str) -> None:
    store.metadata.set(PROBABILITIES, stored)
    with pytest.raises(StoreError, match="probabilities must have 3 and 4 finite weights"):
        load_probabilities(store, SOURCES)


QUERIES = ("red", "blue", "yellow", "red, then black")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "both.mp4", ("red", 3), ("black", 3), ("red", 4))
    for film_index, colour in enumerate(("red", "green", "blue", "black", "red")):
        write_film(folder / f"{film_index}.mp4", (colour, 3), ("green", 3), (colour, 2), salt=film_index)
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder])
        yield engine


def test_words_for_probabilities_meet_at_the_thresholds() -> None:
    below = [np.nextafter(edge, 0) for edge in (LIKELY, UNLIKELY)]
    words = [rate_probability(value) for value in (1.0, LIKELY, below[0], UNLIKELY, below[1], 0.0)]
    assert words == [word for word in ("likely", "possible", "unlikely") for _ in range(2)]
    assert rate_probability(None) is None


@pytest.mark.parametrize("query", QUERIES)
def test_improbable_results_are_left_out_of_the_same_ranking(engine: Engine, query: str) -> None:
    hits, moments = engine.search(query), engine.locate(query, 50, weak=True)
    assert len(moments) > len(hits) > 2
    probabilities = [hit.probability for hit in hits] + [moment.probability for moment in moments]
    found = sorted(probability for probability in probabilities if probability is not None)
    for least in (found[0], found[len(found) // 2], found[-1], 1.0):
        assert engine.search(query, at_least=least) == [hit for hit in hits if (hit.probability or 0) >= least]
        inside = [moment for moment in moments if (moment.probability or 0) >= least]
        assert engine.locate(query, 50, weak=True, at_least=least) == inside
        offsets = range(0, len(inside) + 1, 4)
        pages = [engine.locate(query, 4, offset=offset, weak=True, at_least=least) for offset in offsets]
        assert [moment for page in pages for moment in page] == inside


def test_videos_are_judged_one_by_one_where_moments_of_many_are_located(engine: Engine) -> None:
    ids = [video.id for video in engine.videos()]
    every = engine.locate_many(QUERIES, ids, LocateOptions(k=2))
    assert all(len(moments) > 0 for of_query in every for moments in of_query), "a named video always answers"
    probable = engine.locate_many(QUERIES, ids, LocateOptions(k=2, at_least=UNLIKELY))
    assert probable == [
        [[moment for moment in moments if moment.likelihood != "unlikely"] for moments in of_query]
        for of_query in every
    ]
    assert [] in probable[0]
    assert max(probable[0], key=len) != []


def test_moments_are_judged_as_the_best_of_the_index_where_videos_are_watched(engine: Engine) -> None:
    ids, best = [video.id for video in engine.videos()], LocateOptions(k=1)
    alone, among = (engine.locate_many(QUERIES, ids, best, among_all=among_all) for among_all in (False, True))
    for query, judged_alone, judged in zip(QUERIES, alone, among, strict=True):
        for [moment], [other] in zip(judged_alone, judged, strict=True):
            assert replace(other, probability=moment.probability, weak=moment.weak) == moment
            assert (other.probability or 0) < (moment.probability or 0)
        standard = find_best_videos(engine._index, plan(engine._index, query), SearchOptions())[1][0].standard
        first = max((moment for [moment] in judged), key=lambda moment: moment.score)
        assert first.probability == standard.model.index(first.score, standard.size, standard.num_events)


def test_a_probability_that_cannot_be_is_refused(engine: Engine) -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    assert {hit.likelihood for hit in engine.search(image)} == {None}
    for find in (engine.search, engine.locate):
        for wrong in (-0.1, 1.01, float("nan")):
            with pytest.raises(VidretError, match="at_least must be between 0 and 1, got"):
                find("red", at_least=wrong)
        with pytest.raises(VidretError, match=r"at_least must be 0 for an image or a vector, got 0\.5"):
            find(image, at_least=0.5)
    with pytest.raises(VidretError, match="at_least must be between"):
        engine.search_many(["red", "blue"], [SearchOptions(), SearchOptions(at_least=2)])
