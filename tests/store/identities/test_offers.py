"""Faces and voices that go together: equal to loops, offered only beyond chance, and never merged by themselves."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_identities import FACES, VOICES, make_track, make_voice
from tests.store.samples import add_video, create
from vidret.store.identities import grouping
from vidret.store.identities.grouping import find_pairs, measure_cover
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import TrackColumns

Spans = list[tuple[str, int, int, int]]  # video, start, length, person


def make_columns(spans: Spans) -> TrackColumns:
    number = len(spans)
    starts = np.array([start for _, start, _, _ in spans], np.float64)
    return TrackColumns(
        ids=np.arange(number),
        contents=np.array([content for content, *_ in spans], str),
        starts=starts,
        ends=starts + np.array([length for _, _, length, _ in spans], np.float64),
        qualities=np.ones(number),
        persons=np.array([person for *_, person in spans], np.int64),
        by_user=np.zeros(number, bool),
        scores=np.zeros(number),
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


def test_chance_offers_nothing() -> None:
    random, offered = np.random.default_rng(4), 0
    for _ in range(40):
        faces = [("a", int(start), 10, int(person)) for start, person in random.integers((0, 1), (290, 4), (12, 2))]
        voices = [("a", int(start), 4, int(person)) for start, person in random.integers((0, 11), (290, 14), (40, 2))]
        offered += len(find_pairs(make_columns(faces), make_columns(voices), {"a": 300.0}))
    assert offered <= 1


def test_a_face_that_is_always_there_tells_nothing() -> None:
    _, voices = alternate(turns=20)
    assert find_pairs(make_columns([("a", 0, 200, 1)]), make_columns(voices), {"a": 200.0}) == []
    assert find_pairs(make_columns([]), make_columns(voices), {"a": 200.0}) == []
    faces, _ = alternate(turns=20)
    assert find_pairs(make_columns(faces), make_columns(voices), {}) == []


def test_persons_who_are_both_already_are_left_out() -> None:
    faces, voices = alternate(turns=20)
    renamed = [(content, start, length, 1 if person == 11 else person) for content, start, length, person in voices]
    pairs = find_pairs(make_columns(faces), make_columns(renamed), {"a": 200.0})
    assert [(pair.face, pair.voice) for pair in pairs] == [(2, 12)]


spans = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 90), st.integers(1, 20), st.integers(0, 3)), max_size=14
)


@settings(deadline=None, max_examples=60)
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
                own == content and start <= middle <= start + length
                for own, start, length, person in faces
                if person == pair.face
            )
            for content, middle in turns
        ]
        expected = 0.0
        for content, _ in turns:
            times = np.arange(0, durations[content], 0.5) + 0.25
            is_seen = [
                any(
                    own == content and start <= time <= start + length
                    for own, start, length, person in faces
                    if person == pair.face
                )
                for time in times
            ]
            expected += float(np.mean(is_seen))
        assert (pair.num_turns, pair.num_seen) == (len(turns), sum(shown))
        np.testing.assert_allclose(pair.expected, expected)


@given(given_spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=6))
def test_cover_is_the_length_of_the_union(given_spans: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in given_spans], np.float64)
    ends = starts + np.array([length for _, length in given_spans], np.float64)
    covered = {second for start, length in given_spans for second in range(start, start + length)}
    assert measure_cover(starts, ends) == len(covered)


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
