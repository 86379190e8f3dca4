"""What holds for every channel of an index."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.spoken import WORDS, NamedColours, add_all_words, fake_sentences, make_films, save_background, say
from vidret.channels.base import Channel, ChannelQuery
from vidret.channels.picture.evidence import VideoPictures
from vidret.channels.registry import KINDS
from vidret.engine import Engine
from vidret.search import fusion
from vidret.search.query.planning import plan
from vidret.types import SOURCES, Filters, SearchOptions, Source

QUERIES = (
    "red",
    "the line is busy",
    "sand the door, then platform nine",
    'green "good morning"',
    "someone says please",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    index = make_films(tmp_path_factory.mktemp("channels"))
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        add_all_words(index)
        for kind in KINDS.values():
            if kind.source not in {source for _, source, *_ in WORDS}:
                say(index, "white", kind.source, [(0, 12, "the line is busy beside a white wall")])
        save_background(index)
        with Engine(index, NamedColours()) as engine:
            yield engine


@pytest.fixture(params=["picture", *KINDS])
def source(request: pytest.FixtureRequest) -> Source:
    found: Source = request.param
    return found


@pytest.fixture
def channel(engine: Engine, source: Source) -> Channel[Any]:
    texts = engine._index.texts
    assert texts is not None
    return engine._index.pictures if source == "picture" else texts


def ask(engine: Engine, query: str, *sources: Source, filters: Filters = Filters()) -> ChannelQuery:  # noqa: B008
    options = SearchOptions(sources=sources, filters=filters)
    return fusion.make_question(engine._index, plan(engine._index, query, sources=sources), options).asked


def find_best(video: Any) -> list[float]:
    """Return the best evidence of a video for each clause; -inf for none."""
    if isinstance(video, VideoPictures):
        return list(video.best)
    return [max((match.evidence for match in clause_matches), default=-math.inf) for clause_matches in video]


def test_every_source_is_tested() -> None:
    assert {"picture", *KINDS} == set(SOURCES)


@pytest.mark.parametrize("query", QUERIES)
def test_all_pieces_of_a_video_speak_no_less_than_the_best_ones(
    engine: Engine, channel: Channel[Any], source: Source, query: str
) -> None:
    asked = ask(engine, query, source)
    found = channel.find(asked)
    scored = channel.score(asked, sorted(found))
    assert scored.keys() == found.keys()
    for video_id, video in found.items():
        assert len(find_best(video)) == len(asked.clauses)
        for best, whole in zip(find_best(video), find_best(scored[video_id]), strict=True):
            assert best <= whole + 1e-5
        assert channel.score(asked, [video_id]).keys() == {video_id}
        alone = channel.score(asked, [video_id])[video_id]
        assert find_best(alone) == pytest.approx(find_best(scored[video_id]), abs=1e-5)


def test_a_channel_finds_more_where_more_is_covered(engine: Engine, channel: Channel[Any], source: Source) -> None:
    asked = ask(engine, "a white wall", source)
    found = channel.find(asked)
    assert found
    assert all(math.isfinite(best) for video in found.values() for best in find_best(video))
    covered = tuple((video_id, 0.0, 12.0) for video_id in found)
    assert channel.find(replace(asked, covered=covered)).keys() >= found.keys()
    assert not channel.score(asked, [])


def test_a_channel_that_is_not_asked_finds_nothing(engine: Engine, channel: Channel[Any], source: Source) -> None:
    others: list[Source] = ["picture"] if source != "picture" else list(KINDS)
    asked = ask(engine, "red", *others)
    assert not channel.find(asked)
    assert not channel.score(asked, [1, 2])


def test_excluded_videos_and_other_folders_are_left_out(engine: Engine, channel: Channel[Any], source: Source) -> None:
    asked = ask(engine, "the line is busy", source)
    first, *rest = channel.find(asked)
    assert channel.find(replace(asked, within=engine._index.store.select(excluded={first}))).keys() == set(rest)
    nowhere = Filters(folder=str(Path(engine._index.store.path) / "nowhere"))
    assert not channel.find(ask(engine, "the line is busy", source, filters=nowhere))
