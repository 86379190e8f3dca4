"""Probabilities of results: the word for one, and searches for results that have at least one."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.types import LIKELY, UNLIKELY, LocateOptions, SearchOptions, rate_probability

QUERIES = ("red", "blue", "yellow", "red, then black")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "both.mp4", ("red", 3), ("black", 3), ("red", 4))
    for number, colour in enumerate(("red", "green", "blue", "black", "red")):
        write_film(folder / f"{number}.mp4", (colour, 3), ("green", 3), (colour, 2), salt=number)
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
        probable = [hit for hit in hits if (hit.probability or 0) >= least]
        assert engine.search(query, at_least=least) == probable
        inside = [moment for moment in moments if (moment.probability or 0) >= least]
        assert engine.locate(query, 50, weak=True, at_least=least) == inside
        offsets = range(0, len(inside) + 1, 4)
        pages = [engine.locate(query, 4, offset=offset, weak=True, at_least=least) for offset in offsets]
        assert [moment for page in pages for moment in page] == inside


def test_videos_are_judged_one_by_one_where_moments_of_many_are_located(engine: Engine) -> None:
    ids = [video.id for video in engine.videos()]
    options = LocateOptions(k=2)
    every = engine.locate_many(QUERIES, ids, options)
    assert all(len(moments) > 0 for of_query in every for moments in of_query), "a named video always answers"
    probable = engine.locate_many(QUERIES, ids, LocateOptions(k=2, at_least=UNLIKELY))
    assert probable == [
        [[moment for moment in moments if moment.likelihood != "unlikely"] for moments in of_query]
        for of_query in every
    ]
    assert [] in probable[0]
    assert max(probable[0], key=len) != []


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
