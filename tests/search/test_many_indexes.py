"""Several indexes that are searched as one answer as their merged index does."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import ColourEncoder, write_film
from tests.indexed_texts import add_words, find_content
from tests.spoken import FILMS, WORDS, NamedColours, RandomTexts, make_random_index, say
from tests.store.samples import add_segment, create, embedding
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.index.merging import merge_indexes
from vidret.store.joined import open_indexes
from vidret.types import ComposedQuery, Filters, Hit, LocateOptions, Moment, Query, SearchOptions
from vidret.types import Sequence as EventSequence

pytestmark = pytest.mark.usefixtures("sentences")

# The films of each index; "turn" is in two, under another name in the second one.
SHARES = {"one": ("red", "turn"), "two": ("blue", "turn"), "three": ("back", "white")}
QUERIES: tuple[Query, ...] = (
    "red",
    "blue sky",
    "the line is busy",
    "the lime is bussy",
    "sand the door",
    "someone says that the line is busy",
    '"call again"',
    '"good morning" blue',
    "yellow -busy",
    'green -"sand the door"',
    "busy, no captain",
    "green, then yellow",
    "the line is busy, then call again",
    "call again, while red",
    EventSequence(["yellow", ("green", "sand the door")], gap=5),
    "nothing of it",
    "@warm",
    "@warm, then yellow",
    np.eye(NamedColours.dim)[1],
    ComposedQuery(images=(np.full((8, 8, 3), (200, 30, 30), np.uint8),), text="not so bright"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three indexes and their merged one: without words, with them, and with some of them."""
    folder = tmp_path_factory.mktemp("several")
    for index, names in SHARES.items():
        for name in names:
            film = folder / "films" / index / f"{name if index != 'two' else 'again_' + name}.mp4"
            write_film(film, *FILMS[name], salt=sum(map(ord, name)) % 100)
        with Engine(folder / index, NamedColours()) as engine:
            engine.index([folder / "films" / index])
            if index == "two":
                engine.teach("warm", ["again_turn.mp4"])
        shutil.copytree(folder / index, folder / f"worded_{index}")
        for name, source in dict.fromkeys((name, source) for name, source, *_ in WORDS if name in names):
            rows = [row[2:] for row in WORDS if row[:2] == (name, source)]
            say(folder / f"worded_{index}", f"again_{name}" if index == "two" else name, source, rows)
    merge_indexes([folder / index for index in SHARES], folder / "merged")
    for index in SHARES:
        shutil.copytree(folder / (index if index == "two" else f"worded_{index}"), folder / f"partly_{index}")
    for kind in ("worded_", "partly_"):
        merge_indexes([folder / f"{kind}{index}" for index in SHARES], folder / f"{kind}merged")
    return folder


@pytest.fixture(
    scope="module",
    # An index without words beside two with them takes every way that words in all of them do.
    params=["", pytest.param("worded_", marks=pytest.mark.slow), "partly_"],
    ids=["pictures", "words", "some words"],
)
def engines(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Engine]]:
    """Return the indexes searched as one, and their merged index."""
    paths = [folder / f"{request.param}{index}" for index in SHARES]
    with Engine(paths, NamedColours()) as joined, Engine(folder / f"{request.param}merged", NamedColours()) as merged:
        yield joined, merged


def tell(results: Sequence[Hit | Moment]) -> list[Any]:
    """Return results without ids, with rounded numbers, those of equal scores by path."""
    described = []
    for result in results:
        facts = replace(result, video=0, score=round(result.score, 5))
        if facts.probability is not None:
            facts = replace(facts, probability=round(facts.probability, 5))
        if isinstance(facts, Hit):
            why = {name: round(value, 4) for name, value in facts.why.items()}
            facts = replace(facts, segment=replace(facts.segment, video=0), why=why)
        elif facts.similarity is not None:
            facts = replace(facts, similarity=round(facts.similarity, 5))
        evidence = tuple(replace(piece, share=round(piece.share, 4)) for piece in facts.evidence)
        events = tuple(replace(event, score=round(event.score, 4)) for event in facts.events)
        described.append(replace(facts, evidence=evidence, events=events))
    return sorted(described, key=lambda result: (-result.score, result.path))


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_search_answers_as_the_merged_index(engines: tuple[Engine, Engine], folder: Path, query: Query) -> None:
    films = folder / "films"
    in_one, of_any_length = Filters(folder=str(films / "two")), Filters(min_seconds=1, max_seconds=99)
    for k, filters in ((2, Filters()), (10, in_one), (10, of_any_length)):
        options = SearchOptions(k=k, filters=filters)
        joined, merged = (engine.search_with(query, options) for engine in engines)
        assert tell(joined) == tell(merged)
    assert len(merged) == 5 or not isinstance(query, str) or "-" in query or '"' in query


@pytest.mark.parametrize("query", ["red", "the line is busy", "green, then yellow", ""])
def test_what_was_judged_counts_as_in_the_merged_index(engines: tuple[Engine, Engine], query: str) -> None:
    one, two, *others = [(hit.path, hit.time) for hit in engines[0].search("green", k=10)]
    joined, merged = (engine.search(query, like=[one], unlike=[two], seen=others) for engine in engines)
    assert tell(joined) == tell(merged)
    assert len(merged) == 5


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_moments_are_those_of_the_merged_index(engines: tuple[Engine, Engine], folder: Path, query: Query) -> None:
    for video in (None, str(folder / "films" / "two" / "again_turn.mp4"), "back.mp4"):
        options = LocateOptions(k=8, videos=4)
        joined, merged = (engine.locate_with(query, options, video=video) for engine in engines)
        assert tell(joined) == tell(merged)


def test_a_video_of_two_indexes_is_one_with_both_paths(engines: tuple[Engine, Engine], folder: Path) -> None:
    films = folder / "films"
    hits = engines[0].search("green", k=10)
    assert len(hits) == 5
    assert (hits[0].path, hits[0].copies) == (str(films / "one" / "turn.mp4"), (str(films / "two" / "again_turn.mp4"),))
    (only,) = engines[0].search("green", k=10, filters=Filters(folder=str(films / "two")))[:1]
    assert (only.path, only.copies, only.video) == (str(films / "two" / "again_turn.mp4"), (), hits[0].video)
    assert engines[0].video(only.video).paths == (hits[0].path, only.path)
    with Engine([folder / "two", folder / "one"], NamedColours()) as joined:
        changed = Path(hits[0].path).stat().st_mtime
        assert joined.video("again_turn.mp4").changed == pytest.approx(changed, abs=1e-5)


def test_other_questions_are_answered_as_by_the_merged_index(engines: tuple[Engine, Engine]) -> None:
    joined, merged = engines
    for video in ("white.mp4", "again_turn.mp4"):
        one, other = (engine.curve("green", video) for engine in engines)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        assert one.typical == pytest.approx(other.typical)
        assert one.cuts == other.cuts
        words = [[text.text for text in engine.transcript(video)] for engine in engines]
        assert words[0] == words[1]
        footage = [engine.find_footage(video, k=9) for engine in engines]
        assert [replace(find, video=0) for find in footage[0]] == [replace(find, video=0) for find in footage[1]]
    assert [video.paths for video in joined.videos()] == [video.paths for video in merged.videos()]
    for filters in (Filters(language="xx"), Filters(heard="xx")):
        assert joined.search("red", filters=filters) == merged.search("red", filters=filters) == []
    for rerank, refine in (("none", True), ("auto", True)):
        assert tell(joined.search("red", rerank=rerank, refine=refine)) == tell(
            merged.search("red", rerank=rerank, refine=refine)
        )


def test_several_indexes_are_searched_and_not_changed(engines: tuple[Engine, Engine], folder: Path) -> None:
    joined = engines[0]
    for change in (
        lambda: joined.index([folder / "films"]),
        lambda: joined.calibrate(["red"]),
        lambda: joined.teach("cold", ["red.mp4"]),
        lambda: joined.forget_probabilities(),
        lambda: joined.info(),
        lambda: joined.path,
    ):
        with pytest.raises(StoreError, match="several indexes are searched as one; open only one of them"):
            change()


def test_several_indexes_must_be_of_one_encoder(folder: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "red.mp4", ("red", 2))
    with Engine(tmp_path / "other", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
    with pytest.raises(StoreError, match="other: encoder must be colours"):
        Engine([folder / "one", tmp_path / "other"], NamedColours())
    with pytest.raises(StoreError, match="nowhere: there is no index here"):
        Engine([folder / "one", tmp_path / "nowhere"], NamedColours())
    shutil.copytree(folder / "two", tmp_path / "two")
    with Engine([folder / "one", tmp_path / "two"], NamedColours()) as joined:
        assert joined.search("red")
        (tmp_path / "two").rename(tmp_path / "away")
        (tmp_path / "other").rename(tmp_path / "two")
        with pytest.raises(StoreError, match="two: encoder must be colours"):
            joined.count_videos()
    with pytest.raises(VidretError, match="path must be the folder of an index, got none"):
        Engine([], NamedColours())
    for path in ("", ["", str(folder / "one")]):
        with pytest.raises(VidretError, match="path must be the folder of an index, got an empty name"):
            Engine.open(path)


def test_words_of_several_indexes_must_be_of_one_encoder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "two", tmp_path / "two")
    add_words(tmp_path / "two", find_content(folder / "two", "again_blue.mp4"), ["the line is busy"])
    paths = [folder / "worded_one", tmp_path / "two"]
    message = "words: encoder must be fake sentences .* --sentence-model changes it"
    with Engine(paths, NamedColours()) as joined, pytest.raises(StoreError, match=message):
        joined.search("busy")


def test_a_video_is_complete_if_one_index_has_it_whole(tmp_path: Path) -> None:
    for index, num_stored in (("part", 1), ("whole", 2)):
        with create(tmp_path / index) as store:
            video = store.writer.begin_video("v", duration=20.0, facts={}, num_segments=None)
            store.writer.set_file(f"/{index}/a.mp4", state="pending", video=video)
            for number in range(num_stored):
                add_segment(store, video, number, 10.0 * number, 10.0 * number + 10, embedding(number))
            if index == "whole":
                store.writer.finish_video(video)
    with open_indexes([tmp_path / "part", tmp_path / "whole"], device="cpu") as joined:
        for filters in (Filters(), Filters(folder="/part")):
            (stored,) = joined.videos.find(filters)
            assert (stored.complete, stored.num_segments) == (True, 2)


def test_ids_of_no_index_are_of_nothing(engines: tuple[Engine, Engine]) -> None:
    unknown = np.array([-1, 1 << 50])
    for engine in engines:
        store = engine._index.store
        assert store.owners(unknown).tolist() == [-1, -1]
        assert store.read_segments(unknown) == {}
        assert store.overlapping_segments([(1 << 50, 0.0, 9.0)]).tolist() == []
        assert len(store.features.intact_vectors(unknown)[0]) == 0


def test_an_index_given_twice_is_opened_once(folder: Path) -> None:
    with Engine([folder / "one", folder / "one"], NamedColours()) as engine:
        assert engine.path == folder / "one"


def test_videos_that_come_later_are_found(folder: Path, tmp_path: Path) -> None:
    for index in ("one", "two"):
        shutil.copytree(folder / index, tmp_path / index)
    with Engine([tmp_path / "one", tmp_path / "two"], NamedColours()) as joined:
        assert len(joined.search("white", k=10)) == 3
        write_film(tmp_path / "films" / "white.mp4", ("white", 4))
        with Engine(tmp_path / "two", NamedColours()) as engine:
            engine.index([tmp_path / "films", folder / "films" / "one" / "red.mp4"])
        hits = joined.search("white", k=10)
        assert [Path(hit.path).name for hit in hits[:1]] == ["white.mp4"]
        assert len(hits) == 4


def test_equal_words_of_two_videos_are_found_in_both(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "three", tmp_path / "three")
    for name in ("back", "white"):
        say(tmp_path / "three", name, "speech", [(0.0, 2.0, "mind the gap")])
    with Engine([folder / "one", tmp_path / "three"], NamedColours()) as joined:
        hits = joined.search('"mind the gap"', k=5)
        assert {Path(hit.path).stem for hit in hits} == {"back", "white"}


def test_scores_are_corrected_if_all_indexes_are_calibrated(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / index for index in ("one", "three")]
    for path in paths:
        shutil.copytree(folder / path.name, path)
    expected: dict[str, float] = {}
    with Engine(paths, NamedColours()) as joined:
        for path in paths:
            with Engine(path, NamedColours()) as engine:
                plain = {hit.path: hit.why["frames"] for hit in joined.search("red", k=10)}
                engine.calibrate(["red", "blue sea", "green grass", "a yellow line"])
                expected |= {hit.path: hit.why["frames"] for hit in engine.search("red", k=10)}
        assert "not all of the indexes are calibrated" in caplog.text
        found = {hit.path: hit.why["frames"] for hit in joined.search("red", k=10)}
    assert found == pytest.approx(expected, abs=1e-5)
    assert found != pytest.approx(plain, abs=1e-3)


def test_pages_of_many_videos_are_those_of_the_merged_index(tmp_path: Path) -> None:
    shares = (range(30), range(20, 55), range(25, 70, 3))  # some in two, some in all three
    paths = [tmp_path / f"part{index}" for index in range(len(shares))]
    for path, numbers in zip(paths, shares, strict=True):
        make_random_index(path, tmp_path / "films", numbers)
    merge_indexes(paths, tmp_path / "merged")
    with (
        Engine(paths, RandomTexts(), rerank="none") as joined,
        Engine(tmp_path / "merged", RandomTexts(), rerank="none") as merged,
    ):
        for query in ("a dog", "a dog -rain -snow", "a dog, then a cat", -np.eye(RandomTexts.dim)[3]):
            for candidates, filters in ((300, Filters()), (5, Filters(folder=str(tmp_path / "films" / "1")))):
                for offset in (0, 20, 40):
                    options = SearchOptions(k=20, offset=offset, candidates=candidates, filters=filters)
                    assert tell(joined.search_with(query, options)) == tell(merged.search_with(query, options))
