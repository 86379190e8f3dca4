"""The score of a video for several clauses, and the order of candidates: against brute force."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidret.channels.base import Match
from vidret.channels.picture.evidence import VideoPictures
from vidret.search.query.clauses import QueryStructure, make_clause
from vidret.search.video_scores import (
    ABSENT,
    EVENT_EXCESS,
    EVENT_NATS,
    FRAME_S,
    MIN_TEXT_S,
    TOLERANCE_S,
    VideoCandidates,
    VideoScores,
    combine_clauses,
    make_video_scores,
)
from vidret.types import TextSource

SOURCES: tuple[TextSource, ...] = ("speech", "screen")
Span = tuple[float, float, float, float]  # start, end, score, time

seeds = st.integers(0, 2**32 - 1)


def make_text(start: float, end: float, evidence: float, source: TextSource = "speech") -> Match:
    return Match(video_id=1, source=source, start=start, end=end, evidence=evidence)


def make_structure(*steps: tuple[int, ...], gap_s: float | None = None) -> QueryStructure:
    clauses = tuple(make_clause("x") for step in steps for _ in step)
    return QueryStructure(clauses=clauses, steps=steps, gaps_s=(None, *[gap_s] * (len(steps) - 1)))


def draw_video(rng: np.random.Generator, num_clauses: int) -> VideoScores:
    num_points = int(rng.integers(1, 7))
    times = np.sort(rng.choice(40, num_points, replace=False) / 2)
    texts = [
        [
            make_text(start, start + 2, float(rng.normal(0, 6)), SOURCES[int(rng.integers(2))])
            for start in rng.uniform(0, 18, int(rng.integers(0, 4)))
        ]
        for _ in range(num_clauses)
    ]
    return VideoScores(1, times, rng.normal(0, 6, (num_clauses, num_points)), texts, [])


def log_sum(terms: Sequence[float]) -> float:
    return float(np.log(np.sum(np.exp(terms))))


def list_naively(video: VideoScores, step: tuple[int, ...]) -> list[Span]:
    """Return where a step may be, with loops."""
    times, spans = video.times.tolist(), []
    for point, time in enumerate(times):
        start = (time + times[point - 1]) / 2 if point else max(0.0, time - FRAME_S)
        end = (time + times[point + 1]) / 2 if point + 1 < len(times) else time + FRAME_S
        total = 0.0
        for clause in step:
            terms = [float(video.pictures[clause, point])]
            for source in {match.source for match in video.texts[clause]} if len(step) > 1 else ():
                near = [
                    match.evidence
                    for match in video.texts[clause]
                    if match.source == source and match.start - TOLERANCE_S <= time <= match.end + TOLERANCE_S
                ]
                terms.append(max([ABSENT, *near]))
            total += log_sum(terms)
        spans.append((start, end, total / math.sqrt(len(step)), time))
    for text in video.texts[step[0]] if len(step) == 1 else ():
        terms = [text.evidence]
        for source in ("speech", "screen", "subtitles"):
            others = [
                other.evidence
                for other in video.texts[step[0]]
                if other.source == source != text.source and min(other.end, text.end) > max(other.start, text.start)
            ]
            terms += [max(others)] if others else []
        seen = [video.pictures[step[0], i] for i, time in enumerate(times) if text.start <= time <= text.end]
        terms += [max(seen)] if seen else []
        spans.append((text.start, max(text.end, text.start + MIN_TEXT_S), log_sum(terms), (text.start + text.end) / 2))
    return spans


def limit_naively(nats: float) -> float:
    return nats if nats < EVENT_NATS else EVENT_NATS + EVENT_EXCESS * (nats - EVENT_NATS)


@given(
    seeds, st.sampled_from([((0,), (1,)), ((0, 1),), ((0,), (1,), (2,)), ((0, 1), (2,))]), st.sampled_from([None, 3.0])
)
@settings(max_examples=60)
def test_score_agrees_with_brute_force(seed: int, steps: tuple[tuple[int, ...], ...], gap_s: float | None) -> None:
    structure = make_structure(*steps, gap_s=gap_s)
    video = draw_video(np.random.default_rng(seed), len(structure.clauses))
    best = -math.inf
    for chosen in product(*(list_naively(video, step) for step in steps)):
        pairs = list(pairwise(chosen))
        if all(a[1] <= b[0] and (gap_s is None or a[1] >= b[0] - gap_s) for a, b in pairs):
            totals = [span[2] for span in chosen]
            best = max(best, sum(map(limit_naively, totals)) if len(steps) > 1 else totals[0])
    combine_clauses(video, structure)
    assert video.score == pytest.approx(best / math.sqrt(len(steps)))
    assert len(video.time_s) == (len(structure.clauses) if best > -math.inf else 0)


def test_an_exact_match_does_not_make_up_for_a_missing_event() -> None:
    structure = make_structure((0,), (1,))
    texts = {
        video_id: [[make_text(0.0, 2.0, first)], [make_text(5.0, 7.0, second)]]
        for video_id, (first, second) in {1: (30.0, -1.0), 2: (7.0, 6.0)}.items()
    }
    scores = {video.video_id: video.score for video in VideoCandidates(structure, {}, texts)}
    assert list(scores) == [2, 1]
    assert scores[2] == pytest.approx(13 / math.sqrt(2)), "evidence of each up to EVENT_NATS counts in full"


def draw_pictures(rng: np.random.Generator, num_clauses: int) -> VideoPictures:
    times = np.arange(int(rng.integers(1, 9))) * 3.0
    scores = rng.normal(0, 6, (num_clauses, len(times)))
    return VideoPictures(times=times, scores=scores, segments=[], best=scores.max(axis=1).tolist())


def draw_texts(rng: np.random.Generator, num_clauses: int) -> list[list[Match]]:
    """Return one text of a clause, and up to two more of each."""
    texts: list[list[Match]] = [[] for _ in range(num_clauses)]
    for clause, count in enumerate([1 + rng.integers(0, 3), *rng.integers(0, 3, num_clauses - 1)]):
        for start in rng.uniform(0, 30, count):
            source, evidence = SOURCES[rng.integers(2)], float(rng.normal(0, 6))
            texts[clause].append(Match(video_id=1, source=source, start=start, end=start + 2, evidence=evidence))
    return texts


def rank_naively(
    structure: QueryStructure, pictures: Mapping[int, VideoPictures], texts: Mapping[int, Sequence[list[Match]]]
) -> list[tuple[int, float, tuple[float, ...]]]:
    """Score every video in full, then sort; those without a placement, or without a text of a phrase, are left out."""
    num_clauses = len(structure.clauses)
    none = VideoPictures(times=np.zeros(0), scores=np.zeros((num_clauses, 0)), segments=[], best=[])
    ranked = []
    for video_id in {**pictures, **texts}:
        seen = pictures.get(video_id, none)
        if any(
            clause.phrases and not texts.get(video_id, [[], []])[index]
            for index, clause in enumerate(structure.clauses)
        ):
            continue
        video_texts = list(texts.get(video_id, [[] for _ in range(num_clauses)]))
        video = make_video_scores(video_id, seen, video_texts)
        combine_clauses(video, structure)
        if video.time_s:
            ranked.append((video_id, video.score, video.time_s))
    return sorted(ranked, key=lambda row: -row[1])


@given(seeds, st.sampled_from([((0,),), ((0,), (1,)), ((0, 1),)]), st.booleans())
@settings(max_examples=60)
def test_candidates_come_in_order_of_scores(seed: int, steps: tuple[tuple[int, ...], ...], has_phrase: bool) -> None:
    rng = np.random.default_rng(seed)
    num_clauses = sum(map(len, steps))
    clauses = tuple(replace(make_clause("a"), phrases=("a",) if has_phrase else ()) for _ in range(num_clauses))
    structure = QueryStructure(clauses=clauses, steps=steps, gaps_s=(None,) * len(steps))
    pictures = {int(video_id): draw_pictures(rng, len(clauses)) for video_id in rng.permutation(8)[:5]}
    texts = {int(video_id): draw_texts(rng, len(clauses)) for video_id in rng.permutation(8)[:4]}
    expected = rank_naively(structure, pictures, texts)
    candidates = VideoCandidates(structure, pictures, texts)
    assert [(video.video_id, video.score, video.time_s) for video in candidates] == expected
    assert len(candidates) >= len(expected)


def test_candidates_keep_their_order_however_low_they_are_and_take_other_frames() -> None:
    """Low are those of an image that is unlike all of them, or of many negative terms."""
    structure = QueryStructure(clauses=(make_clause("a"),))
    pictures = {
        video_id: VideoPictures(times=np.zeros(1), scores=np.full((1, 1), score), segments=[], best=[score])
        for video_id, score in ((1, -80.0), (2, -40.0), (3, -400.0))
    }
    candidates = VideoCandidates(structure, pictures, {})
    assert [(video.video_id, video.score) for video in candidates] == [(2, -40.0), (1, -80.0), (3, -400.0)]
    assert candidates.list_best(2) == [2, 1]
    candidates.update(VideoCandidates(structure, {1: pictures[2], 2: pictures[3]}, {}))
    assert [video.video_id for video in candidates] == [1, 2, 3]


def test_further_texts_may_raise_a_video_whose_best_ones_do_not_fit_together() -> None:
    """The texts of the first video follow one another in time, of the second too late, and the third lacks one."""
    structure = QueryStructure(clauses=(make_clause("a"), make_clause("b")), steps=((0,), (1,)), gaps_s=(None, 3.0))

    def say(video_id: int, starts: Sequence[float], evidence: float) -> list[Match]:
        return [Match(video_id, "speech", start, start + 1.0, evidence) for start in starts]

    texts = {
        1: [say(1, [0.0, 9.0], 5.0), say(1, [10.0], 6.0)],
        2: [say(2, [0.0, 9.0], 5.0), say(2, [50.0], 6.0)],
        3: [[], say(3, [50.0], 6.0)],
    }
    candidates = VideoCandidates(structure, {}, texts)
    assert candidates.find_raised([1, 2, 3], [4.5, ABSENT]) == [2]
    assert candidates.find_raised([1, 2, 3], [ABSENT, ABSENT]) == []
    candidates.update(VideoCandidates(structure, {}, {2: [say(2, [0.0, 9.0, 48.0], 5.0), say(2, [50.0], 6.0)]}))
    assert candidates.find_raised([1, 2, 3], [4.5, ABSENT]) == []
    assert [video.video_id for video in candidates] == [1, 2]


def test_the_first_of_equal_frames_is_best() -> None:
    """A product of matrices rounds a row by where it stands, so that equal frames score differently in its last bit."""
    scores = np.array([[-1.0, 0.3, np.nextafter(0.3, 1), 0.2]])
    video = make_video_scores(1, VideoPictures(times=np.arange(4.0), scores=scores, segments=[], best=[]), [[]])
    combine_clauses(video, QueryStructure(clauses=(make_clause("a"),)))
    assert video.time_s == (1.0,)
