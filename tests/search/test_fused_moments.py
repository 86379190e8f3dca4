"""Moments from pictures and words together: of scores made by hand, and in films in which words are said."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.noting import note_calls
from tests.spoken import NamedColours, make_worded_films
from vidret.channels.base import Match
from vidret.channels.picture.ranking import FrameRanker
from vidret.engine import Engine
from vidret.ground.spans import Span
from vidret.search import locating, placed_moments
from vidret.search.fused_moments import JOIN_S, MIN_COVER, UNEXPECTED, FusedSpan
from vidret.search.heads.base import GroundedVideo
from vidret.search.locating import STANDS_OUT, choose_best_spans
from vidret.search.placed_moments import APART, PLACEMENTS_PER_SPAN, find_query_spans
from vidret.search.query.clauses import QueryStructure, make_clause
from vidret.search.video_scores import ABSENT, VideoScores, combine_clauses
from vidret.types import LIKELY, UNLIKELY, LocateOptions, Moment, Segment, TextSource

Text = tuple[float, float, float]  # start, end, score


def make_scores(
    *texts: Sequence[Text], pictures: Sequence[Sequence[float]] = (), source: TextSource = "speech", cover: float = 1.0
) -> VideoScores:
    """Return the scores of a video of 20 s with a frame a second; ``texts`` and ``pictures`` are by clause."""
    times = np.arange(20) + 0.5
    seen = np.array(pictures) if len(pictures) else np.full((len(texts), 20), ABSENT)
    matches = []
    for clause in texts:
        clause_matches = []
        for start, end, score in clause:
            clause_matches.append(Match(video_id=1, source=source, start=start, end=end, evidence=score, cover=cover))
        matches.append(clause_matches)
    return VideoScores(1, times, seen, matches, [Segment(1, 0, 0.0, 20.0)])


ONE, TOGETHER, THEN = ((0,),), ((0, 1),), ((0,), (1,))
Steps = tuple[tuple[int, ...], ...]


def make_structure(steps: Steps = ONE, text: str = "x") -> QueryStructure:
    clauses = tuple(make_clause(text) for step in steps for _ in step)
    return QueryStructure(clauses=clauses, steps=steps, gaps_s=(None,) * len(steps))


def find(scores: VideoScores, structure: QueryStructure, k: int = 5, *, overlapping: bool = False) -> list[FusedSpan]:
    return find_query_spans(scores, structure, LocateOptions(k=k, overlapping=overlapping, weak=True))


def times(spans: Sequence[FusedSpan | Moment]) -> list[tuple[float, float]]:
    return [(span.start, span.end) for span in spans]


def bump(start: int, end: int, height: float = 5.0) -> list[float]:
    """Return a curve that is high between two times."""
    return [height if start <= second < end else 0.0 for second in range(20)]


# Scores made by hand


def test_words_last_as_long_as_they_are_said() -> None:
    spans = find(make_scores([(3.0, 5.5, 6.0), (12.0, 13.0, 4.0)]), make_structure())
    assert times(spans) == [(3.0, 5.5), (12.0, 13.0)]
    assert [span.score for span in spans] == [6.0, 4.0]
    (span,) = find(make_scores([(3.0, 3.0, 6.0)]), make_structure())
    assert span.start <= 3.0 < span.end


@pytest.mark.parametrize("steps", [ONE, TOGETHER, THEN])
@pytest.mark.parametrize("overlapping", [False, True])
def test_no_moment_goes_on_after_the_video(steps: Steps, overlapping: bool) -> None:
    pictures = [bump(18, 19), bump(19, 20, 9.0)] if len(steps) > 1 else [bump(18, 20)] * len(steps[0])
    scores = make_scores(*[[(19.7, 19.8, 4.0)]] * len(pictures), pictures=pictures)
    scores.segments = [Segment(1, 0, 0.0, 19.8)]
    spans = find(scores, make_structure(steps), overlapping=overlapping)
    ends = [end for span in spans for _, end in times([span, *span.events])]
    assert max(ends) == 19.8


@pytest.mark.parametrize(("overlapping", "by_head"), [(False, False), (False, True), (True, False)])
def test_moments_of_pictures_last_a_second_at_least(overlapping: bool, by_head: bool) -> None:
    scores = make_scores([], pictures=[[0.0] * 20])
    scores.times = np.arange(0.05, 20, 0.1)
    scores.pictures = np.random.default_rng(0).exponential(size=(1, 200))
    scores.cuts = (12.0, 12.5)
    if by_head:
        scores.picture_spans = [
            [Span(3.0, 3.2, 0.9), Span(3.4, 3.5, 0.8), Span(12.1, 12.2, 0.7), Span(19.9, 20.0, 0.6)]
        ]
    spans = find(scores, make_structure(), 9, overlapping=overlapping)
    lengths = [round(span.end - span.start, 6) for span in spans if not 12.0 <= span.start <= span.end <= 12.5]
    assert len(lengths) > 2
    assert min(lengths) >= (1.0 if overlapping else 0.4), "others beside it leave less room"
    assert sorted(lengths)[-2] >= 1.0


@pytest.mark.parametrize(
    ("texts", "source", "expected"),
    [
        ([(3.0, 5.0, 6.0), (4.9 + JOIN_S, 8.0, 5.0)], "speech", [(3.0, 8.0)]),
        ([(3.0, 5.0, 6.0), (5.1 + JOIN_S, 8.0, 5.0)], "speech", [(3.0, 5.0), (5.1 + JOIN_S, 8.0)]),
        ([(3.0, 5.0, 6.0), (5.0, 8.0, 2.0)], "speech", [(3.0, 5.0), (5.0, 8.0)]),
        # Texts on the screen are joined only if they match equally, such as two lines of a scoreboard.
        ([(3.0, 5.0, 6.0), (5.5, 8.0, 5.0)], "screen", [(3.0, 5.0), (5.5, 8.0)]),
        ([(3.0, 5.0, 6.0), (3.2, 5.6, 5.8)], "screen", [(3.0, 5.6)]),
    ],
)
def test_neighbours_that_match_as_well_are_joined(
    texts: Sequence[Text], source: TextSource, expected: list[tuple[float, float]]
) -> None:
    assert times(find(make_scores(texts, source=source), make_structure())) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((6.0, 12.0, 4.5), (3.0, 12.0)),  # goes on while the picture fits
        ((9.5, 12.0, 4.5), (3.0, 12.0)),  # begins soon after it
        ((1.0, 5.0, 4.5), (1.0, 9.0)),  # began before it
        ((6.0, 12.0, 5.5), (3.0, 12.0)),  # matches better than it
        ((6.0, 12.0, 3.9), (3.0, 9.0)),  # matches less well
        ((9.1 + JOIN_S, 14.0, 4.5), (3.0, 9.0)),  # comes later
        ((5.0, 6.0, 4.5), (3.0, 9.0)),  # lies in it
        ((2.0, 15.0, 4.5), (3.0, 9.0)),  # says nothing about where it ends
    ],
)
def test_pieces_of_one_event_in_several_channels_are_one_moment(words: Text, expected: tuple[float, float]) -> None:
    best, *others = find(make_scores([words], pictures=[bump(3, 9)]), make_structure())
    assert (best.start, best.end) == expected
    is_joined = expected != (3.0, 9.0)
    assert ({part.source for part in best.parts} == {"picture", "speech"}) or not is_joined
    assert all(other.start >= best.end or other.end <= best.start for other in others)


def test_each_channel_adds_one_piece_and_none_beyond_a_cut() -> None:
    scores = make_scores([(8.5, 10.0, 4.8), (10.0 + 1.1 * JOIN_S, 13.0, 4.8)], pictures=[bump(3, 8)])
    assert times(find(scores, make_structure()))[0] == (3.0, 10.0)
    scores.cuts = (8.0,)
    assert times(find(scores, make_structure()))[0] == (3.0, 8.0)
    scores.cuts = (9.0,)
    assert times(find(scores, make_structure()))[0] == (3.0, 10.0), "a cut while words are said"


def test_pictures_last_as_long_as_they_stand_out_or_as_a_head_says() -> None:
    scores = make_scores([], pictures=[bump(6, 10)])
    (span, *_) = find(scores, make_structure())
    assert (span.start, span.end, span.parts[0].source) == (6.0, 10.0, "picture")
    scores.picture_spans = [[Span(5.2, 11.4, 0.9), Span(1.0, 2.0, 0.3)]]
    (span, *_) = find(scores, make_structure())
    assert (span.start, span.end, span.score) == (5.2, 11.4, 5.0)


def test_pictures_are_ordered_by_how_they_stand_out_not_by_their_best_frame() -> None:
    curve = bump(3, 8, 4.0)
    curve[14] = 4.2  # one frame, which is more likely noise
    spans = find(make_scores([], pictures=[curve]), make_structure())
    assert times(spans)[0] == (3.0, 8.0)
    assert spans[0].score == max(curve)


@pytest.mark.parametrize("level", [4.0, 0.3, -3.0])
def test_an_even_shot_is_one_moment(level: float) -> None:
    noise = np.random.default_rng(3).normal(0, 0.05, 20)
    (span,) = find(make_scores([], pictures=[(level + noise).tolist()]), make_structure(), k=10)
    assert span.end - span.start >= 18


def test_moments_of_pictures_are_joined_within_a_shot_and_if_they_match_as_well() -> None:
    curve = [5.0 if second < 8 else 4.8 for second in range(20)]
    scores = make_scores([], pictures=[curve])
    assert times(find(scores, make_structure(), k=10)) == [(0.0, 20.0)]
    scores.cuts = (8.0,)
    assert times(find(scores, make_structure(), k=10)) == [(0.0, 8.0), (8.0, 20.0)]
    scores = make_scores([], pictures=[curve])
    scores.segments = [Segment(1, 0, 0.0, 8.0), Segment(1, 1, 708.0, 720.0)]
    scores.times = np.concatenate([np.linspace(0.2, 7.8, 10), np.linspace(708.2, 719.8, 10)])
    assert all(span.end <= 8.0 or span.start >= 708.0 for span in find(scores, make_structure(), k=10))
    steps = [2.0 if second < 10 else 6.0 for second in range(20)]
    assert times(find(make_scores([], pictures=[steps]), make_structure(), k=10))[0] == (10.0, 20.0)


def test_short_moments_of_pictures_last_a_second_and_displace_no_other() -> None:
    curve = np.zeros(160)
    curve[80:104], curve[76:78] = 4.5, 6.0  # eight frames a second
    scores = VideoScores(1, np.arange(160) / 8 + 1 / 16, curve[None], [[]], [Segment(1, 0, 0.0, 20.0)])
    assert times(find(scores, make_structure(), k=2)) == [(10.0, 13.0), (9.0, 10.0)]
    scores.pictures[0][80:104] = 0
    assert times(find(scores, make_structure(), k=1)) == [(9.125, 10.125)]


def test_words_that_match_no_better_than_unrelated_queries_give_way_to_pictures() -> None:
    poor = [(14.0, 16.0, UNEXPECTED - 0.1)]
    low = [value - 8.0 for value in bump(6, 10)]  # that of a video in which little is seen of the query
    spans = find(make_scores(poor, pictures=[low], cover=0.0), make_structure())
    assert all(part.source == "picture" for span in spans for part in span.parts)
    (alone,) = find(make_scores(poor, cover=0.0), make_structure())
    assert (alone.start, alone.end) == (14.0, 16.0)


def test_equal_texts_are_ordered_by_time_whatever_is_seen_meanwhile() -> None:
    texts = [(12.0, 14.0, 5.0), (1.0, 3.0, 5.0), (6.0, 8.0, 5.0 + 1e-7), (16.0, 18.0, 5.1)]
    seen = [-8.0 + second / 20 for second in range(20)]
    scores = make_scores(texts, pictures=[seen])
    expected = [(16.0, 18.0), (1.0, 3.0), (6.0, 8.0), (12.0, 14.0)]
    for k in range(1, 5):
        assert times(find(scores, make_structure(), k)) == expected[:k]


def test_sources_at_the_same_time_support_one_another() -> None:
    scores = make_scores([(6.0, 9.0, 5.0), (14.0, 16.0, 5.1)], pictures=[bump(6, 10)])
    best = find(scores, make_structure())[0]
    assert best.start == 6.0
    assert best.score == pytest.approx(np.logaddexp(5.0, 5.0), abs=1e-3)
    assert {part.source for part in best.parts} == {"speech", "picture"}


def test_strongest_source_sets_the_bounds() -> None:
    scores = make_scores([(6.0, 9.0, 5.0), (12.0, 13.0, 4.0)], pictures=[bump(0, 20, 4.5)])
    scores.texts = [[*scores.texts[0], *make_scores([(14.0, 16.0, 4.0)], source="screen").texts[0]]]
    assert times(find(scores, make_structure()))[0] == (6.0, 9.0)


def test_words_that_share_little_lose_against_pictures_unless_they_are_expected() -> None:
    texts, pictures = [(14.0, 16.0, 5.5)], [bump(6, 10)]
    vague = make_scores(texts, pictures=pictures, cover=MIN_COVER - 0.1)
    assert find(vague, make_structure())[0].start == 6.0
    assert find(vague, make_structure())[1].score == pytest.approx(5.5 - UNEXPECTED, abs=0.05)
    assert find(vague, make_structure(text="someone says x"))[0].start == 14.0
    assert find(make_scores(texts, pictures=pictures), make_structure())[0].start == 14.0


def test_together_is_the_overlap() -> None:
    (span,) = find(make_scores([(3.0, 8.0, 6.0)], [(6.0, 12.0, 4.0)]), make_structure(TOGETHER))
    assert (span.start, span.end) == (6.0, 8.0)
    assert times(span.events) == [(3.0, 8.0), (6.0, 12.0)]
    assert span.score == pytest.approx(10 / 2**0.5)


def test_clauses_that_do_not_meet_give_the_better_one_with_what_the_other_reaches_meanwhile() -> None:
    texts, pictures = ([(3.0, 5.0, 6.0)], [(9.0, 12.0, 4.0)]), [[ABSENT] * 20, bump(14, 18, 1.0)]
    best = find(make_scores(*texts, pictures=pictures), make_structure(TOGETHER))[0]
    assert (best.start, best.end) == (3.0, 5.0)
    assert best.score == pytest.approx(6 / 2**0.5 - APART, abs=0.01)
    assert find(make_scores(*texts), make_structure(TOGETHER)) == [], "neither is there while the other is"


def test_then_spans_both() -> None:
    (span,) = find(make_scores([(3.0, 5.0, 6.0)], [(9.0, 12.0, 4.0)]), make_structure(THEN))
    assert (span.start, span.end) == (3.0, 12.0)
    assert times(span.events) == [(3.0, 5.0), (9.0, 12.0)]
    assert find(make_scores([(9.0, 12.0, 6.0)], [(3.0, 5.0, 4.0)]), make_structure(THEN)) == []


def test_an_event_may_follow_any_passage_of_a_word_that_is_said_often() -> None:
    often = [(float(start), start + 0.4, 5.0) for start in range(0, 100, 2)]  # the others are as good
    scores = make_scores(often, [(91.0, 91.8, 6.0)])
    scores.segments = [Segment(1, 0, 0.0, 100.0)]
    structure = replace(make_structure(THEN), gaps_s=(None, 1.0))
    (span,) = find(scores, structure)
    assert times(span.events) == [(90.0, 90.5), (91.0, 91.8)]


def test_steps_of_several_clauses_keep_their_order() -> None:
    scores = make_scores([(2.0, 6.0, 5.0)], [(4.0, 9.0, 5.0)], [(8.0, 10.0, 5.0), (3.0, 3.9, 9.0)])
    best = find(scores, make_structure(((0, 1), (2,))))[0]
    assert times(best.events) == [(2.0, 6.0), (4.0, 8.0), (8.0, 10.0)], "cut where the next step begins"
    assert (best.start, best.end) == (4.0, 10.0)


def test_pictures_yield_to_the_event_that_follows_them() -> None:
    best = find(make_scores([], [(8.0, 9.0, 6.0)], pictures=[bump(4, 12), [ABSENT] * 20]), make_structure(THEN))[0]
    assert times(best.events) == [(4.0, 8.0), (8.0, 9.0)]


TIME = st.floats(0, 20, width=16)
TEXTS = st.lists(st.tuples(TIME, TIME, st.floats(-9, 9)).map(lambda row: (*sorted(row[:2]), row[2])), max_size=6)


@given(TEXTS, TEXTS, st.sampled_from([ONE, TOGETHER, THEN]), st.booleans(), st.integers(1, 4))
@example(first=[(0.0, 10.0, -5.0)], second=[], steps=ONE, seen=True, k=2)
def test_spans_are_ordered_within_the_video_and_do_not_overlap(
    first: Sequence[Text], second: Sequence[Text], steps: Steps, seen: bool, k: int
) -> None:
    texts = (first,) if steps == ONE else (first, second)
    scores = make_scores(*texts, pictures=[bump(3, 9), bump(7, 12)][: len(texts)] if seen else ())
    spans = find(scores, make_structure(steps), k)
    assert len(spans) <= k
    assert all(0 <= span.start < span.end <= 20 + 1 for span in spans)
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    for i, span in enumerate(spans):
        assert all(span.start >= other.end or span.end <= other.start for other in spans[:i])
        assert len(span.events) == (0 if steps == ONE else 2)
        if steps == THEN:
            assert span.events[0].end <= span.events[1].start
    everything = find(scores, make_structure(steps), 1000, overlapping=True)
    assert bool(spans) == bool(everything)
    if steps == ONE:
        assert set(times(spans)) <= set(times(everything))


@given(st.integers(0, 999), st.integers(1, 12), st.booleans(), st.booleans(), st.sampled_from([ONE, TOGETHER, THEN]))
def test_best_spans_are_those_of_all_in_order(seed: int, k: int, overlapping: bool, weak: bool, steps: Steps) -> None:
    rng = np.random.default_rng(seed)
    structure, options = make_structure(steps), LocateOptions(k=k, overlapping=overlapping, weak=weak)
    num_clauses, videos, every = 1 if steps == ONE else 2, list[VideoScores](), list[tuple[float, int, FusedSpan]]()
    for index in range(int(rng.integers(1, 9))):
        texts = [[(3.0, 6.0, float(rng.integers(-3, 9)))] for _ in range(num_clauses)]
        scores = make_scores(*texts, pictures=rng.integers(-5, 6, (num_clauses, 20)).astype(float).tolist())
        combine_clauses(scores, structure)
        videos.append(scores)
        spans = find_query_spans(scores, structure, options)
        every += [
            (scores.score - (spans[0].score - span.score), index, span)
            for span in spans
            if weak or span.score >= spans[0].score - STANDS_OUT
        ]
    found = choose_best_spans(videos, structure, options)
    assert [(one.score, one.index, one.span) for one in found] == sorted(every, key=lambda row: -row[0])[:k]


def test_overlapping_places_of_events_are_listed_once() -> None:
    rng = np.random.default_rng(0)
    scenes = np.array([bump(2, 9), bump(5, 14)]) + rng.normal(0, 0.01, (2, 20))  # frames grow to their scenes
    spans = find(make_scores([], [], pictures=scenes.tolist()), make_structure(THEN), 50, overlapping=True)
    places = [tuple(times(span.events)) for span in spans]
    assert len(places) > 1
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("steps", [ONE, THEN])
def test_a_head_finds_moments_where_no_frames_are_stored_yet(steps: Steps) -> None:
    scores = make_scores(*[[]] * len(steps), pictures=[bump(3, 5)] * len(steps))
    scores.segments = [Segment(1, 0, 0.0, 10.0)]
    scores.picture_spans = [[Span(14, 16, 0.9)]] * len(steps)
    (span,) = find(scores, make_structure(steps), 1)
    assert times([span, *span.events])[-1] == (14, 16)
    assert span.end == 16


def test_few_places_of_events_are_tried_where_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = note_calls(monkeypatch, placed_moments, "_make_span", lambda *_: None)
    scores = VideoScores(1, np.arange(400) + 0.5, np.zeros((2, 400)), [[], []], [Segment(1, 0, 0.0, 400.0)])
    assert times(find(scores, make_structure(THEN), 2)) == [(0.0, 400.0)]
    assert len(tried) <= 2 * PLACEMENTS_PER_SPAN


@given(st.integers(0, 999), st.integers(1, 9), st.booleans(), st.sampled_from([ONE, TOGETHER, THEN]))
@example(seed=4, k=5, overlapping=False, steps=ONE)
@example(seed=4, k=5, overlapping=False, steps=THEN)
def test_fewer_spans_of_a_video_are_the_first_of_more(seed: int, k: int, overlapping: bool, steps: Steps) -> None:
    rng, num_clauses = np.random.default_rng(seed), 1 if steps == ONE else 2
    starts = rng.integers(0, 17, (num_clauses, 3)).astype(float)
    texts = [
        [(start, start + 2, float(rng.normal(2, 2))) for start in clause_starts] for clause_starts in starts.tolist()
    ]
    pictures = rng.normal(0, 3, (num_clauses, 10)).repeat(2, axis=1).tolist()
    scores, structure = make_scores(*texts, pictures=pictures), make_structure(steps)
    fewer, more = (find(scores, structure, limit, overlapping=overlapping) for limit in (k, 20))
    assert fewer == more[:k]


def make_long_scores(pictures: np.ndarray, texts: Sequence[Text] = ()) -> VideoScores:
    """Return the scores of a video for one clause with a frame a second."""
    scores = make_scores(texts)
    scores.times, scores.pictures = np.arange(len(pictures)) + 0.5, pictures[None]
    scores.segments = [Segment(1, 0, 0.0, float(len(pictures)))]
    return scores


@pytest.mark.parametrize("num_joined", [1, 15])
def test_all_passages_are_found_in_which_something_is_said(num_joined: int) -> None:
    passage = [(2.0 * part, 2.0 * part + 2, 5.0) for part in range(num_joined)]
    apart = [(100.0 + 10 * index, 103.0 + 10 * index, 4.0) for index in range(40)]
    found = find(make_long_scores(np.full(600, ABSENT), [*passage, *apart]), make_structure(), k=50)
    assert times(found) == [(0.0, 2.0 * num_joined), *((start, end) for start, end, _ in apart)]


def test_pages_of_one_video_are_parts_of_one_order() -> None:
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.integers(0, 5, 300), rng.integers(1, 5, 300))  # neighbours join
    scores = make_long_scores(levels + rng.normal(0, 0.2, len(levels)))
    every = find(scores, make_structure(), k=100)
    assert len(every) > 40
    for k in (10, 20, 30, 40):
        assert times(find(scores, make_structure(), k=k)) == times(every[:k])


def test_spans_of_a_video_are_not_looked_for_if_enough_others_score_more(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [make_scores([], pictures=[bump(start, start + 4, height)]) for start, height in enumerate((1, 9, 8, 2))]
    structure = make_structure()
    for scores in videos:
        combine_clauses(scores, structure)
    asked = note_calls(monkeypatch, locating, "find_query_spans", lambda scores, *_: scores)
    assert [one.index for one in choose_best_spans(videos, structure, LocateOptions(k=2))] == [1, 2]
    assert asked == [videos[1], videos[2]]


# In films


class FakeGrounder:
    """Finds the same span in every film, or cannot read it."""

    fps, similarity_weight = 1.0, 0.0

    def __init__(self, *, fails: bool = False) -> None:
        self.fails, self.queries = fails, list[str]()

    def read(self, query: str) -> str:
        self.queries.append(query)
        return query

    def answer_many(self, _text: str, videos: Sequence[GroundedVideo]) -> list[list[Span] | None]:
        if self.fails:
            return [None] * len(videos)
        return [[Span(video.start + 1.5, video.duration - 0.5, 0.9)] for video in videos]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index with words, which must not be changed."""
    return make_worded_films(tmp_path_factory.mktemp("moments"))


@pytest.fixture
def engine(index: Path, sentences: None) -> Engine:
    return Engine(index, NamedColours())


def locate(engine: Engine, query: str, name: str | None = None, **options: Any) -> list[Moment]:
    folder = engine.path.parent / "films"
    return engine.locate(query, video=None if name is None else folder / f"{name}.mp4", **options)


def test_moment_of_words_has_their_times_and_evidence(engine: Engine) -> None:
    moment = locate(engine, "the line is busy", "blue")[0]
    assert (moment.start, moment.end, moment.by) == (8.0, 10.0, "words")
    assert moment.evidence[0].text == "the line is busy"
    best = locate(engine, "good morning captain")[0]
    assert (Path(best.path).stem, best.start, best.end) == ("blue", 5.0, 7.0)
    assert not best.weak
    pictures = locate(engine, "yellow", "turn", sources=["picture"])
    assert {evidence.source for moment in pictures for evidence in moment.evidence} == {"picture"}


def test_weak_moments_are_marked_and_never_hidden(engine: Engine) -> None:
    for name in (None, "red"):
        moments = locate(engine, "an unheard submarine", name)
        assert moments
        assert all(moment.weak for moment in moments)
        assert all(moment.probability is not None and moment.probability < UNLIKELY for moment in moments)
    best = locate(engine, "good morning captain")[0]
    assert best.probability is not None
    assert not best.weak
    assert best.probability > LIKELY


def test_moments_far_below_the_best_of_a_video_are_returned_on_request(engine: Engine) -> None:
    few, every = (locate(engine, "platform nine", "red", k=9, overlapping=True, weak=weak) for weak in (False, True))
    assert few == [moment for moment in every if moment.score >= every[0].score - STANDS_OUT]
    assert len(few) < len(every)
    assert {moment.weak for moment in every} == {True, False}, "each is judged by its own score"
    assert all((moment.probability < UNLIKELY) == moment.weak for moment in every if moment.probability)


def use_grounder(engine: Engine, *, fails: bool = False) -> FakeGrounder:
    grounder = FakeGrounder(fails=fails)
    engine.__dict__["grounder"] = cast(Any, grounder)
    return grounder


def test_trained_head_bounds_the_pictures_if_they_are_searched(engine: Engine) -> None:
    grounder = use_grounder(engine)
    moment = locate(engine, "yellow", "turn")[0]
    assert [moment.start, moment.end] == pytest.approx([1.5, 11.5], abs=0.3)
    assert moment.by == "head"
    assert times(locate(engine, "good morning captain", "blue"))[0] == (5.0, 7.0)
    moments = locate(engine, "green line is busy", "red", sources=["speech"], weak=True)
    assert {evidence.source for moment in moments for evidence in moment.evidence} == {"speech"}
    assert grounder.queries == ["yellow", "good morning captain"]
    use_grounder(engine, fails=True)
    assert times(locate(engine, "good morning captain", "blue"))[0] == (5.0, 7.0), "it cannot read the pictures"


def test_words_of_a_curve_are_as_high_as_a_frame_that_says_as_much(engine: Engine) -> None:
    hit = engine.search("red line is busy", 1)[0]
    curve = engine.curve("red line is busy", hit.video)
    slope = engine._index.pictures.find_scale(FrameRanker()).slope
    assert [(text.source, text.start, text.text) for text in curve.texts] == [("speech", 1.0, "the line is busy")]
    (text,) = curve.texts
    above = slope * (text.score - curve.scores.max())
    assert above == pytest.approx(hit.why["speech"] - hit.why["picture"], abs=1e-4)
    assert [text.text[start:end] for start, end in text.matches] == ["line", "busy"]
