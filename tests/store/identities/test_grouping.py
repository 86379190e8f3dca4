"""Grouping: equal to average linkage written with loops, stable when repeated, and never against what is apart.

Faces and voices that go together: equal to loops, offered only beyond chance, and never merged by themselves.
"""

from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float32, Int64

from tests.made_identities import FACES, VOICES, make_track, make_voice, place_person
from tests.store.samples import add_video, create
from vidret.store.identities import grouping
from vidret.store.identities.grouping import (
    find_overlaps,
    find_pairs,
    group_tracks,
    link_by_average,
    measure_distances,
    score_tracks,
    split_components,
)
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import TrackColumns

LINK = 0.5
NO_PAIRS = np.zeros((0, 2), np.int64)
Rows = Int64[np.ndarray, " track"]
points = st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=1, max_size=14)


def partition(labels: Rows) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def link_slowly(
    vectors: Float32[np.ndarray, "track dim"], apart: set[frozenset[int]], limit: float
) -> set[frozenset[int]]:
    """Return the groups of average linkage, each step from all pairs of vectors; only if no two steps tie."""
    groups = [frozenset([row]) for row in range(len(vectors))]
    while True:
        best: list[tuple[float, frozenset[int], frozenset[int]]] = []
        for one, other in combinations(groups, 2):
            if any(frozenset((i, j)) in apart for i in one for j in other):
                continue
            distances = [float(np.linalg.norm(vectors[i] - vectors[j])) for i in one for j in other]
            best.append((sum(distances) / len(distances), one, other))
        best.sort(key=lambda pair: pair[0])
        if not best or best[0][0] >= limit:
            return set(groups)
        _, one, other = best[0]
        groups = [group for group in groups if group not in (one, other)] + [one | other]


@settings(max_examples=150)
@given(
    places=points,
    seed=st.integers(0, 99),
    pairs=st.lists(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=6),
)
def test_average_linkage_equals_loops(places: list[tuple[int, int]], seed: int, pairs: list[tuple[int, int]]) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.02, (len(places), 2))  # so that no two distances are equal
    vectors = (np.array(places) / 5 + noise).astype(np.float32)
    apart = {frozenset(pair) for pair in pairs if pair[0] != pair[1] and max(pair) < len(places)}
    distances = measure_distances(vectors, vectors)
    for i, j in map(sorted, apart):
        distances[i, j] = distances[j, i] = np.inf
    assert partition(link_by_average(distances, LINK)) == link_slowly(vectors, apart, LINK)


@given(places=points)
def test_components_hold_together_what_is_near(places: list[tuple[int, int]]) -> None:
    vectors = (np.array(places) / 4).astype(np.float32)
    components = [set(rows.tolist()) for rows in split_components(vectors, LINK)]
    owner = {row: component_index for component_index, rows in enumerate(components) for row in rows}
    assert sum(map(len, components)) == len(owner)
    near = measure_distances(vectors, vectors) < LINK
    for i, j in combinations(range(len(places)), 2):
        if near[i, j]:
            assert owner[i] == owner[j]
    for rows in components:
        assert len(rows) > 1
        for part in ({min(rows)}, rows - {max(rows)}):
            assert near[np.ix_(sorted(part), sorted(rows - part))].any()


def make_people(counts: tuple[int, ...], *, noise: int = 0) -> tuple[Float32[np.ndarray, "track dim"], Rows]:
    """Return the vectors of tracks of people and of strangers, mixed, and who is whom; 0 for strangers."""
    truth = np.array([person + 1 for person, count in enumerate(counts) for _ in range(count)] + [0] * noise, np.int64)
    vectors = [make_track(person - 1, row, row + 1).vector for row, person in enumerate(truth.tolist()) if person]
    strangers = np.random.default_rng(5).normal(0, 1, (noise, 16)).astype(np.float32) * 3
    order = np.random.default_rng(3).permutation(len(truth))
    return np.concatenate([np.stack(vectors), strangers])[order], truth[order]


def test_grouping_again_changes_nothing_and_new_tracks_join_who_is_there() -> None:
    vectors, truth = make_people((5, 4, 3), noise=3)
    first = group_tracks(vectors[:10], np.zeros(10, np.int64), NO_PAIRS, set(), LINK)
    first = np.where(first < 0, first + 100, first)  # as they are stored
    np.testing.assert_array_equal(group_tracks(vectors[:10], first, NO_PAIRS, set(), LINK), first)
    labels = group_tracks(vectors, np.r_[first, np.zeros(5, np.int64)], NO_PAIRS, set(), LINK)
    np.testing.assert_array_equal(labels[:10][first > 0], first[first > 0])
    assert partition(labels) == partition(truth)


@settings(max_examples=60)
@given(seed=st.integers(0, 999), spread=st.floats(0.05, 0.3))
def test_whatever_the_tracks_a_second_time_changes_nothing(seed: int, spread: float) -> None:
    chance = np.random.default_rng(seed)
    vectors = (np.repeat(np.stack([place_person(person) for person in range(3)]), 8, 0)).astype(np.float32)
    vectors += chance.normal(0, spread, vectors.shape).astype(np.float32) / 2
    apart = chance.integers(0, 24, (5, 2))
    apart = apart[apart[:, 0] != apart[:, 1]]
    rejected = {(int(row), 7) for row in chance.integers(0, 24, 3)}
    persons = np.zeros(24, np.int64)
    persons[20:22] = 7
    apart = apart[~((apart >= 20) & (apart < 22)).all(1)]
    rejected = {pair for pair in rejected if not 20 <= pair[0] < 22}
    labels = group_tracks(vectors, persons, apart, rejected, LINK)
    assert (labels[20:22] == 7).all()
    for one, other in apart.tolist():
        assert labels[one] != labels[other] or labels[one] == 0
    assert all(labels[row] != 7 for row, _ in rejected)
    stored = np.where(labels < 0, 50 - labels, labels)
    np.testing.assert_array_equal(group_tracks(vectors, stored, apart, rejected, LINK), stored)


def test_tracks_of_one_frame_are_two_people_however_alike() -> None:
    vectors = np.stack([make_track(0, start, start + 1).vector for start in range(6)])
    assert set(group_tracks(vectors, np.zeros(6, np.int64), NO_PAIRS, set(), LINK).tolist()) == {-1}
    labels = group_tracks(vectors, np.zeros(6, np.int64), np.array([[0, 1]]), set(), LINK)
    assert labels[0] != labels[1]
    mum = group_tracks(vectors, np.array([9, 0, 0, 0, 0, 0]), np.array([[0, 1]]), {(3, 9)}, LINK)
    assert mum[0] == 9
    assert mum[[1, 3]].tolist() == [-1, -1]
    assert (mum[[2, 4, 5]] == 9).all()


def test_many_tracks_are_linked_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, truth = make_people((9, 7, 5), noise=4)
    monkeypatch.setattr(grouping, "MAX_LINKED", 4)
    monkeypatch.setattr(grouping, "BLOCK", 20)
    assert partition(group_tracks(vectors, np.zeros(len(truth), np.int64), NO_PAIRS, set(), LINK)) == partition(truth)


def test_a_score_is_the_mean_distance_of_the_nearest_three() -> None:
    others = np.array([[0, 1], [0, 2], [0, 4], [0, 100]], np.float32)
    np.testing.assert_allclose(score_tracks(np.zeros((1, 2), np.float32), others), [7 / 3])
    np.testing.assert_allclose(score_tracks(np.zeros((1, 2), np.float32), others[:2]), [1.5])
    assert score_tracks(np.zeros((1, 2), np.float32), others[:0]).tolist() == [np.inf]


@given(spans=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 4)), max_size=12))
def test_overlaps_equal_loops(spans: list[tuple[str, int, int]]) -> None:
    contents = np.array([content for content, _, _ in spans], str)
    starts = np.array([start for _, start, _ in spans], np.float64)
    ends = starts + np.array([length for _, _, length in spans], np.float64)
    expected = {
        frozenset((i, j))
        for i, j in combinations(range(len(spans)), 2)
        if contents[i] == contents[j] and min(ends[i], ends[j]) > max(starts[i], starts[j])
    }
    assert {frozenset(pair) for pair in find_overlaps(contents, starts, ends).tolist()} == expected


Spans = list[tuple[str, int, int, int]]  # video, start, length, person


def make_columns(spans: Spans) -> TrackColumns:
    num_tracks = len(spans)
    starts = np.array([start for _, start, _, _ in spans], np.float64)
    return TrackColumns(
        ids=np.arange(num_tracks),
        contents=np.array([content for content, *_ in spans], str),
        starts=starts,
        ends=starts + np.array([length for _, _, length, _ in spans], np.float64),
        qualities=np.ones(num_tracks),
        persons=np.array([person for *_, person in spans], np.int64),
        by_user=np.zeros(num_tracks, bool),
        scores=np.zeros(num_tracks),
    )


def alternate(*, turns: int, videos: str = "a") -> tuple[Spans, Spans]:
    """Return two people who speak in turns, each seen while speaking, of which the first is also seen otherwise."""
    faces, voices = [], []
    for content in videos:
        for turn in range(turns):
            who = turn % 2
            faces.append((content, 10 * turn, 9, 1 + who))
            voices.append((content, 10 * turn + 1, 7, 11 + who))
    return faces, voices


def test_who_speaks_while_seen_is_offered() -> None:
    faces, voices = alternate(turns=20)
    pairs = find_pairs(make_columns(faces), make_columns(voices), {"a": 200.0})
    assert [(pair.face, pair.voice, pair.num_seen, pair.num_turns) for pair in pairs] == [
        (1, 11, 10, 10),
        (2, 12, 10, 10),
    ]
    assert abs(pairs[0].expected - 10 * 90 / 200) < 1e-9
    renamed = [(content, start, length, 1 if person == 11 else person) for content, start, length, person in voices]
    pairs = find_pairs(make_columns(faces), make_columns(renamed), {"a": 200.0})
    assert [(pair.face, pair.voice) for pair in pairs] == [(2, 12)]
    assert find_pairs(make_columns([("a", 0, 200, 1)]), make_columns(voices), {"a": 200.0}) == []
    assert find_pairs(make_columns([]), make_columns(voices), {"a": 200.0}) == []
    faces, _ = alternate(turns=20)
    assert find_pairs(make_columns(faces), make_columns(voices), {}) == []


def test_chance_offers_nothing() -> None:
    random, offered = np.random.default_rng(4), 0
    for _ in range(40):
        faces = [("a", int(start), 10, int(person)) for start, person in random.integers((0, 1), (290, 4), (12, 2))]
        voices = [("a", int(start), 4, int(person)) for start, person in random.integers((0, 11), (290, 14), (40, 2))]
        offered += len(find_pairs(make_columns(faces), make_columns(voices), {"a": 300.0}))
    assert offered <= 1


spans = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 90), st.integers(1, 20), st.integers(0, 3)), max_size=14
)


@settings(max_examples=60)
@given(faces=spans, voices=spans)
def test_counts_equal_loops(faces: Spans, voices: Spans) -> None:
    heard = [(content, start, length, person and person + 10) for content, start, length, person in voices]
    durations = {"a": 120.0, "b": 150.0}
    with patch.multiple(grouping, MIN_TURNS=0, MIN_SHARE=0.0, MIN_DEVIATIONS=-100.0):
        pairs = find_pairs(make_columns(faces), make_columns(heard), durations)
    for pair in pairs:
        turns = [(content, start + length / 2) for content, start, length, person in heard if person == pair.voice]
        shown = [
            any(
                face_content == content and start <= middle <= start + length
                for face_content, start, length, person in faces
                if person == pair.face
            )
            for content, middle in turns
        ]
        expected = 0.0
        for content, _ in turns:
            times = np.arange(0, durations[content], 0.5) + 0.25
            is_seen = [
                any(
                    face_content == content and start <= time <= start + length
                    for face_content, start, length, person in faces
                    if person == pair.face
                )
                for time in times
            ]
            expected += float(np.mean(is_seen))
        assert (pair.num_turns, pair.num_seen) == (len(turns), sum(shown))
        np.testing.assert_allclose(pair.expected, expected)


def test_an_offer_is_only_an_offer(tmp_path: Path) -> None:
    index = tmp_path / "index"
    with create(index) as store:
        add_video(store, "film", seed=1)
        (content,) = store.videos.fingerprints().values()
        duration = store.videos.get(1).duration
    step = duration / 24
    faces = [make_track(turn % 2, 2 * turn * step, (2 * turn + 1) * step) for turn in range(12)]
    voices = [make_voice(turn % 2, (2 * turn + 0.2) * step, (2 * turn + 0.8) * step) for turn in range(12)]
    with IdentityStore.create(index) as identities:
        identities.write_tracks(content, FACES, faces)
        identities.write_tracks(content, VOICES, voices)
    persons = Persons(index)
    persons.group()
    assert [(pair.face, pair.voice) for pair in persons.offer_pairs()] == [(1, 3), (2, 4)]
    assert len(persons.list_persons()) == 4
    persons.merge(1, [3])
    assert [(pair.face, pair.voice) for pair in persons.offer_pairs()] == [(2, 4)]
