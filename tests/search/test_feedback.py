"""Relevance feedback: a naive twin from the specification of SOMHunter's update, its properties, and whole searches."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import DIM, PatchEncoder, make_segment, unit
from tests.spoken import NamedColours, make_worded_films, say
from tests.store.samples import add_segment
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search import feedback
from vidret.search.feedback import MAX_NATS, SEEN_NATS, Feedback, SegmentSpace, rate_choice
from vidret.store.store import Store
from vidret.types import Filters, Hit, Source

NUM_VIDEOS = 30
NOTHING = np.zeros(0, np.int64)
QUERY = "a dog runs over a meadow"


def at_angles(*degrees: float) -> np.ndarray:
    return unit(np.array([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees]))


def make_feedback(liked: np.ndarray, others: np.ndarray, typical: float = 0.3) -> Feedback:
    """Return feedback whose temperature is 0.1, unless two vectors are typically more or less similar."""
    return Feedback(liked=liked, unliked=others[:1], seen=others[1:], typical=typical, ruled_out=NOTHING)


def multiply_choices(vectors: np.ndarray, liked: np.ndarray, others: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities of the choices of each vector, as a product, from distances: the naive twin."""
    product = np.ones(len(vectors))
    for row, vector in enumerate(vectors.astype(np.float64)):
        for like in liked.astype(np.float64):
            near = math.exp(-(1 - vector @ like) / temperature)
            far = sum(math.exp(-(1 - vector @ other) / temperature) for other in others.astype(np.float64))
            product[row] *= near / (near + far)
    return product


def test_vectors_in_a_plane_are_rated_as_in_the_specification() -> None:
    vectors, likes, others = at_angles(0, 30, 60, 90), at_angles(0), at_angles(90)
    evidence = make_feedback(likes, others).rate(vectors)
    chosen = np.exp(evidence - math.log(2))
    np.testing.assert_allclose(chosen[:3], [0.99995, 0.9749, 0.0251], atol=1e-4)
    assert evidence[3] == -MAX_NATS  # the factor of what was not liked is 0.00005


@given(seed=st.integers(0, 10**6), rounds=st.integers(1, 3))
def test_evidence_is_the_logarithm_of_the_naive_product(seed: int, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, likes, others = (unit(rng.standard_normal((size, 16)) + 1) for size in (9, rounds, 5))
    product = multiply_choices(vectors, likes, others, 0.1)
    blind = (1 / 6) ** rounds
    bounded = np.abs(np.log([multiply_choices(vectors, like[None], others, 0.1) * 6 for like in likes])) < MAX_NATS
    expected, found = np.log(product / blind), make_feedback(likes, others).rate(vectors)
    inside = bounded.all(axis=0)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert np.abs(found).max() <= rounds * MAX_NATS


def test_a_dislike_alone_lowers_what_resembles_it_more_than_is_typical() -> None:
    found = Feedback(
        liked=np.zeros((0, 2), np.float32), unliked=at_angles(0), seen=at_angles(45), typical=0.3, ruled_out=NOTHING
    )
    same, typical, opposite = found.rate(at_angles(0, math.degrees(math.acos(0.3)), 180))
    assert same == -MAX_NATS
    assert typical == pytest.approx(0, abs=1e-4)
    assert 0 < opposite < math.log(2) + 1e-6


def test_extreme_similarities_stay_finite() -> None:
    found = rate_choice(np.array([-1.0, 1.0]), np.array([[1.0], [-1.0]]), 1e-4)
    np.testing.assert_allclose(found, [-MAX_NATS, math.log(2)])
    assert rate_choice(np.array([0.5]), np.zeros((1, 0)), 0.1).tolist() == [0.0]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Return an engine over videos of one segment each, in families of five that look alike."""
    rng = np.random.default_rng(0)
    with Engine(tmp_path_factory.mktemp("alike") / "index", PatchEncoder(raw=False), rerank="none") as engine:
        for video_index in range(NUM_VIDEOS):
            if video_index % 5 == 0:
                family = rng.integers(0, 256, (4, 4, 3))
            tiles = np.clip(family + rng.integers(-15, 16, (4, 4, 3)), 0, 255)
            picture = np.kron(tiles, np.ones((8, 8, 1))).astype(np.uint8)
            engine.index_frames(f"{video_index:02}", np.repeat(picture[None], 3, axis=0), np.arange(3.0))
        yield engine


def read_vectors(engine: Engine) -> tuple[dict[int, np.ndarray], float]:
    """Return the vector of each video, and the median similarity of two."""
    rows = engine.embeddings("segment")
    similarities = (rows.vectors @ rows.vectors.T)[np.triu_indices(NUM_VIDEOS, 1)]
    return dict(zip(rows.videos.tolist(), rows.vectors, strict=True)), float(np.median(similarities))


def points(hits: Sequence[Hit]) -> list[tuple[int, float]]:
    return [(hit.video, hit.time) for hit in hits]


def scores(hits: Sequence[Hit]) -> dict[int, float]:
    return {hit.video: hit.score for hit in hits}


def test_without_a_judgement_a_search_is_as_it_was(engine: Engine) -> None:
    plain = engine.search(QUERY, NUM_VIDEOS)
    assert engine.search(QUERY, NUM_VIDEOS, like=[], unlike=[], seen=points(plain)) == plain
    assert engine.search(QUERY, NUM_VIDEOS, display="best") == plain
    assert len(plain) == NUM_VIDEOS


@pytest.mark.parametrize("query", [QUERY, "a dog runs, then a car leaves", "a dog runs while a car leaves, then rain"])
def test_every_score_is_that_of_the_query_plus_the_naive_evidence(engine: Engine, query: str) -> None:
    plain = engine.search(query, NUM_VIDEOS)
    like, unlike, seen = points(plain)[7:9], points(plain)[2:3], points(plain)[:7]
    found = engine.search(query, NUM_VIDEOS, like=like, unlike=unlike, seen=seen)
    vectors, typical = read_vectors(engine)
    temperature = 0.1 * (1 - typical) / 0.7
    liked, others = (np.stack([vectors[video] for video, _ in pairs]) for pairs in (like, seen))
    for hit in found:
        added = 0.0
        for row in liked:
            product = multiply_choices(vectors[hit.video][None], row[None], others, temperature)[0]
            added += min(max(math.log(max(product, 1e-300) * (1 + len(others))), -MAX_NATS), MAX_NATS)
        added -= SEEN_NATS * (hit.video in dict(seen))  # it would have been recognised
        assert hit.score == pytest.approx(scores(plain)[hit.video] + added, abs=5e-3)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)


def test_likes_count_in_any_order_and_without_them_20_results_count_as_seen(engine: Engine) -> None:
    plain = engine.search(QUERY, 20)
    one, two = points(plain)[4:6]
    found = engine.search(QUERY, NUM_VIDEOS, like=[one, two])
    again = engine.search(QUERY, NUM_VIDEOS, like=[two, one])
    assert [hit.video for hit in again] == [hit.video for hit in found]
    assert scores(again) == pytest.approx(scores(found), abs=1e-5)
    seen = engine.search(QUERY, NUM_VIDEOS, like=[one, two], seen=points(plain))
    # What was seen, not only supposed to be, is ruled out.
    lost = dict.fromkeys((hit.video for hit in plain), SEEN_NATS)
    ruled_out = {hit.video: hit.score - lost.get(hit.video, 0) for hit in found}
    assert scores(seen) == pytest.approx(ruled_out, abs=1e-5)
    pages = [hit for offset in (0, 10, 20) for hit in engine.search(QUERY, 10, offset=offset, like=[one, two])]
    assert pages == found
    named = [(plain[4].path, 3.5), (plain[5].path, plain[5].time)]  # the nearest segment, a little after its end
    assert engine.search(QUERY, NUM_VIDEOS, like=named) == found
    assert engine.search(QUERY, 5, like=[one], filters=Filters(min_seconds=10**6)) == []
    judged = points(plain)[6:7]
    raised, lowered = engine.search(QUERY, NUM_VIDEOS, like=judged), engine.search(QUERY, NUM_VIDEOS, unlike=judged)
    ranks = [[hit.video for hit in hits].index(judged[0][0]) for hits in (raised, lowered)]
    assert ranks[0] < 6 < ranks[1]


def test_likes_without_a_query_find_what_looks_like_them(engine: Engine) -> None:
    family = [engine.video(video.id) for video in engine.videos()[10:15]]
    found = engine.search("", 5, like=[(family[2].id, 1.0)])
    assert {hit.video for hit in found} == {video.id for video in family}
    assert found[0].video == family[2].id
    assert all(hit.probability is None for hit in found)
    with pytest.raises(VidretError, match="query must contain a word"):
        engine.search("", 5, unlike=[(family[2].id, 1.0)])


def test_a_diverse_display_shows_the_best_of_each_family(engine: Engine) -> None:
    plain, found = engine.search(QUERY, NUM_VIDEOS), engine.search(QUERY, NUM_VIDEOS, display="diverse")
    vectors, typical = read_vectors(engine)
    kinds: list[Hit] = []
    for hit in plain:
        if all(vectors[hit.video] @ vectors[kind.video] <= 1 - (1 - typical) / 2 for kind in kinds):
            kinds.append(hit)
    assert found == kinds
    families = [engine.videos().index(engine.video(hit.video)) // 5 for hit in found]
    assert 3 < len(set(families)) == len(found)
    assert engine.search(QUERY, 2, offset=1, display="diverse") == found[1:3]


def test_what_resembles_a_like_is_found_far_from_the_query(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine.search(QUERY, NUM_VIDEOS)
    like, seen = points(plain)[24:25], points(plain)[:20]
    every = engine.search(QUERY, 1, like=like, seen=seen, candidates=1)
    assert every[0].video not in [hit.video for hit in plain[:10]]
    monkeypatch.setattr(feedback, "NUM_RATED", 12)
    assert engine.search(QUERY, 1, like=like, seen=seen, candidates=1) == every


def test_invalid_judgements_are_refused(engine: Engine) -> None:
    video = engine.videos()[0].id
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"like": [(12345, 1.0)]}, "like must name a video"),
        ({"unlike": [("none.mp4", 1.0)]}, "unlike must name a video"),
        ({"like": [(video, -1.0)]}, "like must have a time"),
        ({"like": [(video, math.nan)]}, "like must have a time"),
        ({"unlike": [(video, 99.0)]}, r"unlike must have a time from 0 to \S+ s, where its video ends, got 99"),
        ({"like": [(video, 1.0)], "unlike": [(video, 1.0)]}, "like and unlike must differ"),
    ]
    for options, message in wrong:
        with pytest.raises(VidretError, match=message):
            engine.search(QUERY, **options)
    with pytest.raises(VidretError, match="seen must name a video"):
        engine.search(QUERY, like=[(video, 1.0)], seen=[("none.mp4", 1.0)])
    shown = [(video + 1, 1.0)]
    found = engine.search(QUERY, like=[(video, 1.0)], seen=[*shown, (12345, 1.0)])  # removed since it was shown
    assert found == engine.search(QUERY, like=[(video, 1.0)], seen=shown)
    space = SegmentSpace(engine._index.store)
    supposed = space.read_feedback([(video, 1.0)], [], supposed=[(video + 1, 99.0), (12345, 1.0)])
    assert len(supposed.seen) == 1, "what nobody named is not refused: the nearest segment, or none"


def test_words_are_raised_by_the_segments_in_which_they_are_said(tmp_path: Path, sentences: None) -> None:
    with Engine(make_worded_films(tmp_path), NamedColours()) as spoken:
        every: tuple[list[Source] | None, ...] = (["speech"], None)
        for sources in every:
            plain = spoken.search("please hold the line", 5, sources=sources)
            low = next(hit for hit in plain[1:] if "speech" in hit.why)
            seen = points(plain[:1])
            found = spoken.search("please hold the line", 5, sources=sources, like=[(low.video, low.time)], seen=seen)
            assert scores(found)[low.video] > low.score
            assert scores(found)[plain[0].video] < plain[0].score


def test_films_show_the_scene_of_a_text_and_another_one_where_it_was_seen(tmp_path: Path, sentences: None) -> None:
    index = make_worded_films(tmp_path)
    say(index, "turn", "subtitles", [(3.7, 7, "a steep descent")])  # read up to half a second too early
    with Engine(index, NamedColours()) as spoken:
        hit = spoken.search("steep descent", 1)[0]
        assert (hit.segment.start, hit.time) == (4, 4)
        like = [(video.id, 1.0) for video in spoken.videos() if "red" in video.paths[0]]
        shown = spoken.search("green yellow", 5, sources=["picture"], like=like)
        first = next(hit for hit in shown if "turn" in hit.path)
        shown = spoken.search("green yellow", 5, sources=["picture"], like=like, seen=points([first]))
        assert next(hit for hit in shown if hit.video == first.video).segment != first.segment


def test_a_time_after_the_end_of_a_video_that_begins_late_is_refused(tmp_path: Path) -> None:
    with Store.create(tmp_path / "late", encoder_name="patches", encoder_fingerprint="patches-1", dim=DIM) as store:
        video_id = store.writer.begin_video("a", duration=120.0, facts={"start": 100.0}, num_segments=1)
        store.writer.set_file("/a.mp4", state="done", video=video_id)
        add_segment(store, video_id, 0, 100.0, 120.0, make_segment(1, 0))
        store.writer.finish_video(video_id)
        assert len(SegmentSpace(store).read_feedback([(video_id, 120.5)], []).liked) == 1
        with pytest.raises(VidretError, match="from 0 to 120 s, where its video ends, got 150"):
            SegmentSpace(store).read_feedback([(video_id, 150.0)], [])
