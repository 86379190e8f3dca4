"""The score of a video for several clauses: against brute force over frames and texts."""

import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidret.channels.base import Match
from vidret.search.query.clauses import QueryStructure, make_clause
from vidret.search.video_scores import ABSENT, FRAME_S, MIN_TEXT_S, TOLERANCE_S, VideoScores, combine_clauses
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
            make_text(start, start + 2, float(rng.normal(0, 3)), SOURCES[int(rng.integers(2))])
            for start in rng.uniform(0, 18, int(rng.integers(0, 4)))
        ]
        for _ in range(num_clauses)
    ]
    return VideoScores(1, times, rng.normal(0, 3, (num_clauses, num_points)), texts, [])


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
    for own in video.texts[step[0]] if len(step) == 1 else ():
        terms = [own.evidence]
        for source in ("speech", "screen", "subtitles"):
            others = [
                other.evidence
                for other in video.texts[step[0]]
                if other.source == source != own.source and min(other.end, own.end) > max(other.start, own.start)
            ]
            terms += [max(others)] if others else []
        seen = [video.pictures[step[0], i] for i, time in enumerate(times) if own.start <= time <= own.end]
        terms += [max(seen)] if seen else []
        spans.append((own.start, max(own.end, own.start + MIN_TEXT_S), log_sum(terms), (own.start + own.end) / 2))
    return spans


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
            best = max(best, sum(span[2] for span in chosen))
    combine_clauses(video, structure)
    assert video.score == pytest.approx(best / math.sqrt(len(steps)))
    assert len(video.time_s) == (len(structure.clauses) if best > -math.inf else 0)


@given(seeds)
def test_another_event_never_raises_the_score_above_the_bound_of_its_parts(seed: int) -> None:
    video = draw_video(np.random.default_rng(seed), 2)
    alone = []
    for clause in range(2):
        own = VideoScores(1, video.times, video.pictures[[clause]], [video.texts[clause]], [])
        combine_clauses(own, make_structure((0,)))
        alone.append(own.score)
    combine_clauses(video, make_structure((0,), (1,)))
    assert video.score <= sum(alone) / math.sqrt(2) + 1e-6


def test_reversed_order_never_keeps_the_score() -> None:
    pictures = np.array([[5.0, 0, 0, 0, 0], [0, 0, 0, 5.0, 0]])
    scores = []
    for rows in (pictures, pictures[::-1]):
        video = VideoScores(1, np.arange(5.0), rows, [[], []], [])
        combine_clauses(video, make_structure((0,), (1,)))
        scores.append(video.score)
    assert scores[0] == pytest.approx(10 / math.sqrt(2))
    assert scores[1] < scores[0]


def test_single_frame_has_no_order() -> None:
    video = VideoScores(1, np.zeros(1), np.ones((2, 1)), [[], []], [])
    combine_clauses(video, make_structure((0,), (1,)))
    assert video.score == -math.inf
