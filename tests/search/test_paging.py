"""Pages of results in an index of many videos, of any kind of query: no video is repeated or lost."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import vidret.channels.picture.channel
import vidret.search.fusion
from tests.spoken import RandomTexts, make_random_index
from vidret.engine import Engine
from vidret.search.query.planning import embed_query
from vidret.search.video_scores import BLOCK
from vidret.types import Query
from vidret.types import Sequence as EventSequence

NUM_VIDEOS, NUM_SEGMENTS, PAGE, NUM_PLACED = 70, 4, 23, 40
SINGLE: tuple[Query, ...] = ("a dog", "a dog -rain -snow", np.eye(RandomTexts.dim)[3], -np.eye(RandomTexts.dim)[3])
JOINT = ("a dog, then a cat", "a dog, while a cat sleeps", EventSequence(["a dog", "a cat", "rain"], gap=2))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("many")
    make_random_index(folder / "index", folder / "films", range(NUM_VIDEOS))
    with pytest.MonkeyPatch.context() as patch, Engine(folder / "index", RandomTexts(), rerank="none") as engine:
        patch.setattr(vidret.search.fusion, "MAX_PLACED", NUM_PLACED)  # others are placed by their nearest segments
        yield engine


@pytest.mark.parametrize("candidates", [5, 200])
@pytest.mark.parametrize("query", [*SINGLE, *JOINT])
def test_pages_are_parts_of_one_ranking(engine: Engine, query: Any, candidates: int) -> None:
    every = engine.search(query, NUM_VIDEOS, candidates=candidates)
    assert len({hit.video for hit in every}) == len(every) <= NUM_VIDEOS
    if any(query is single for single in SINGLE):  # several events have no place where few segments were read
        assert len(every) == NUM_VIDEOS
    for offset in (0, PAGE, 3 * PAGE):  # the last page is not full
        assert engine.search(query, PAGE, offset=offset, candidates=candidates) == every[offset : offset + PAGE]


def find_score(engine: Engine, query: Any, ids: Sequence[int] | np.ndarray) -> float:
    """Return the score of a video of which some segments are read."""
    pictures, encoded = engine._index.pictures, embed_query(query, engine._index.encoder)
    scale, stored = pictures.find_scale(pictures.ranker), pictures.read(pictures.ranker, ids)
    ranked = pictures.rerank(encoded, stored, pictures.ranker, typical=scale.mean)
    return float(scale.rate(ranked.scores + encoded.positive.offset).max())


@pytest.mark.parametrize("query", SINGLE)
def test_scores_do_not_depend_on_candidates(engine: Engine, query: Any) -> None:
    segments = engine._index.store.segments
    expected = {video.id: find_score(engine, query, segments.ids_of_video(video.id)) for video in engine.videos()}
    assert len(expected) == NUM_VIDEOS
    for candidates in (1, 5, 40, NUM_VIDEOS * NUM_SEGMENTS):
        hits = engine.search(query, NUM_VIDEOS, candidates=candidates)
        assert {hit.video: hit.score for hit in hits} == pytest.approx(expected, abs=1e-4)
        for first in range(0, NUM_VIDEOS, BLOCK):
            block = [hit.score for hit in hits[first : first + BLOCK]]
            assert len(block) < BLOCK or candidates < NUM_VIDEOS or block == sorted(block, reverse=True)


@pytest.mark.parametrize("query", SINGLE)
def test_the_nearest_segments_set_the_score(engine: Engine, query: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidret.channels.picture.channel, "NEAREST_SEGMENTS", 2)
    pictures = engine._index.pictures
    encoded = embed_query(query, engine._index.encoder)
    few, many = (
        {hit.video: hit.score for hit in engine.search(query, NUM_VIDEOS, candidates=candidates)}
        for candidates in (5, NUM_VIDEOS * NUM_SEGMENTS)
    )
    assert few == pytest.approx(many, abs=1e-4)
    for video_id, score in few.items():
        ids = np.array(pictures.store.segments.ids_of_video(video_id))
        similarities = pictures.store.features.read_vectors(ids).astype(np.float32) @ encoded.positive.sentence
        assert score == pytest.approx(find_score(engine, query, ids[np.argsort(-similarities)[:2]]), abs=1e-4)
