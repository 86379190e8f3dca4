"""Known-item search: points, hints, and a simulated user whose feedback brings scenes to the front."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import ColourEncoder, PatchEncoder
from vidret.data.records import Caption, Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.known_item import (
    JUDGE_S,
    LOOK_S,
    SAME,
    Outcome,
    PictureFeatures,
    SimulatedUser,
    evaluate_known_items,
    find_rank,
    list_items,
    reveal,
    score_answer,
    search_item,
    summarise_bands,
)
from vidret.evaluate.report import Gallery
from vidret.types import Frames

NUM_VIDEOS, FAMILY = 40, 4
TEXT = "a dog runs over a meadow"


class MeanColours(ColourEncoder):
    """Another encoder than that of the search, which sees mean colours only."""

    name = "mean colours"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, SimulatedUser]]:
    """Return an engine over families of films that look alike, and a user who sees the same films otherwise."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("items")
    engines = [
        Engine(folder / "search", PatchEncoder(raw=False), rerank="none"),
        Engine(folder / "user", MeanColours(), rerank="none"),
    ]
    for video_index in range(NUM_VIDEOS):
        if video_index % FAMILY == 0:
            family = rng.integers(0, 256, 3) + rng.integers(-60, 61, (4, 4, 3))
        tiles = np.clip(family + rng.integers(-12, 13, (4, 4, 3)), 0, 255)
        picture = np.kron(tiles, np.ones((8, 8, 1))).astype(np.uint8)
        for engine in engines:
            engine.index_frames(f"{video_index:02}", np.repeat(picture[None], 3, axis=0), np.arange(3.0))
    yield engines[0], SimulatedUser(engines[1])
    for engine in engines:
        engine.close()


@pytest.fixture
def evaluation(pair: tuple[Engine, SimulatedUser], monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """Return a caption for each video; all have the same text, so that only feedback tells them apart."""
    ids = {video.paths[0]: video.id for video in pair[0].videos()}
    captions = tuple(Caption(id=f"c{index}", video=name, text=TEXT) for index, name in enumerate(ids))
    monkeypatch.setattr(Evaluation, "find_contents", lambda _: ids)
    return Evaluation(pair[0], Split("captions", ("captions.jsonl",), tuple(ids), captions), Gallery({}, [], {}))


def test_a_scene_between_two_frames_looks_like_the_nearest_one(tmp_path: Path) -> None:
    pictures = np.zeros((2, 32, 32, 3), np.uint8)
    pictures[0, ..., 0], pictures[1, ..., 2] = 255, 255
    with Engine(tmp_path / "index", MeanColours(), rerank="none") as engine:
        engine.index_frames("film", pictures, np.array([0.0, 2.0]))
        (path,) = engine.videos()[0].paths
        likeness = SimulatedUser(engine).compare((path, 0.0, 0.0), [(path, 0.5, 0.6), (path, 1.4, 1.5)])
    assert likeness[0] == pytest.approx(1.0, abs=1e-3)
    assert likeness[1] < 0.5


def test_points_are_those_of_the_specification() -> None:
    assert score_answer(0.4 * 300, 2) == 500 + 300 - 200
    assert score_answer(0, 0) == 1000
    assert score_answer(1000, 0) == 500
    assert score_answer(300, 6) == 0
    assert Outcome(text_rank=30, ranks=(30, 25), found=None, num_wrong=1).points == 0


def test_a_text_is_revealed_by_thirds_of_its_words() -> None:
    assert reveal("one two three four five") == ("one two", "one two three four", "one two three four five")
    assert reveal("dog") == ("dog",) * 3
    assert reveal("a dog", 1) == ("a dog",)


def test_feedback_brings_scenes_to_the_front(pair: tuple[Engine, SimulatedUser], evaluation: Evaluation) -> None:
    _, user = pair
    report = evaluate_known_items(evaluation, user, num_shown=8, num_hints=1, max_tasks=20)
    rows = {row["band"]: row for row in report.results["known_items"]}
    assert rows["all"]["num_tasks"] == rows["1 to 9"]["num_tasks"] + rows["10 to 1000"]["num_tasks"] == 20
    hard = rows["10 to 1000"]
    assert hard["ranks"][0] == hard["text_rank"] > 20
    assert hard["ranks"][-1] < hard["ranks"][0] / 3
    assert hard["found"] == sorted(hard["found"])
    assert hard["found"][0] == 0
    assert hard["found"][-1] > 60
    json.dumps(report.to_dict())
    few = evaluate_known_items(evaluation, user, num_rounds=0, max_tasks=5)
    assert [len(row["ranks"]) for row in few.per_query] == [1] * 5


def test_one_search_is_as_it_is_told(pair: tuple[Engine, SimulatedUser], evaluation: Evaluation) -> None:
    engine, user = pair
    plain = engine.search(TEXT, NUM_VIDEOS)
    item = next(candidate for candidate in list_items(evaluation, num_hints=1) if candidate.video == plain[14].video)
    assert find_rank(plain, item) == 15
    assert find_rank(plain[:3], item) == 4
    outcome = search_item(engine, user, item, NUM_VIDEOS, num_rounds=1, num_shown=10)
    assert (outcome.text_rank, outcome.ranks[0]) == (15, 15)
    # The user likes the one of the ten shown that is most similar by its mean colour.
    shown = plain[:10]
    alike = user.compare(item.scene, [(hit.path, hit.segment.start, hit.segment.end) for hit in shown])
    best = shown[int(alike.argmax())]
    seen = [(hit.video, hit.time) for hit in shown]
    hits = engine.search(TEXT, NUM_VIDEOS, like=[(best.video, best.time)], seen=seen)
    expected = find_rank([hit for hit in hits if hit.video != best.video], item)
    assert outcome.ranks[1] == expected
    if expected <= 10:
        assert outcome.found == 1
        assert outcome.found_s == 10 * LOOK_S + JUDGE_S + expected * LOOK_S
    at_once = search_item(engine, user, item, NUM_VIDEOS, num_rounds=0, num_shown=20)
    assert (at_once.found, at_once.found_s) == (0, 15 * LOOK_S)
    before = user.compare(item.scene, [(hit.path, hit.segment.start, hit.segment.end) for hit in plain[:14]])
    assert at_once.num_wrong == (before >= SAME).sum(), "the right answer is none of the wrong ones"
    unseen = replace(item, spans=((100.0, 101.0),))
    outcome = search_item(engine, user, unseen, NUM_VIDEOS, num_rounds=0, num_shown=NUM_VIDEOS + 1)
    assert (outcome.ranks, outcome.found) == ((NUM_VIDEOS + 1,), None), "all results are looked at, and none shows it"


def test_bands_are_those_of_the_text() -> None:
    outcomes = [Outcome(text_rank=rank, ranks=(rank, 1), found=1) for rank in (2, 40, 60)]
    rows = {row["band"]: row for row in summarise_bands(outcomes, 20, 100)}
    assert [rows[band]["num_tasks"] for band in ("all", "1 to 9", "10 to 1000")] == [3, 1, 2]
    assert rows["10 to 1000"]["ranks"] == [50.0, 1.0]
    assert rows["10 to 1000"]["paging"] == 50.0  # 40 results were looked at
    assert rows["10 to 1000"]["found"] == [0.0, 100.0]
    assert summarise_bands(outcomes[1:2], 20, 39)[0]["paging"] == 0.0, "behind all results, none shows it"


def test_the_user_must_see_otherwise_than_the_search(evaluation: Evaluation) -> None:
    with pytest.raises(VidretError, match="user_model must be another encoder"):
        evaluate_known_items(evaluation, SimulatedUser(evaluation.engine))


def test_picture_features_are_unit_vectors_that_tell_pictures_apart() -> None:
    encoder = PictureFeatures()
    pixels = np.zeros((2, 224, 224, 3), np.uint8)
    pixels[1, ::8] = 255
    (segment,) = encoder.encode_frames([Frames(pixels, np.arange(2.0))])
    np.testing.assert_allclose(np.linalg.norm(segment.frames, axis=1), 1, atol=1e-5)
    assert segment.frames.shape == (2, 1280)
    assert float(segment.frames[0] @ segment.frames[1]) < 0.95
