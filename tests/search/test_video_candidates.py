"""The pictures of candidate videos, and the order of the videos, against naive twins."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidret.search.clauses import QueryStructure, make_clause
from vidret.search.combining import combine_clauses
from vidret.search.picture_scores import VideoPictures, score_pictures
from vidret.search.reranking import SegmentFeatures
from vidret.search.text_matching import TextMatch
from vidret.search.video_candidates import VideoCandidates
from vidret.search.video_scores import make_video_scores
from vidret.store.text_records import StoredText
from vidret.types import Segment, TextSource, TimedText

DIM = 6
SOURCES: tuple[TextSource, ...] = ("speech", "screen")
seeds = st.integers(0, 2**32 - 1)


def draw_segments(rng: np.random.Generator) -> SegmentFeatures:
    """Return up to 12 segments of up to 4 videos in any order, some without frames."""
    num_segments = int(rng.integers(0, 13))
    lengths = rng.integers(0, 4, num_segments)
    starts = rng.permutation(num_segments) * 10.0
    owners = rng.integers(1, 5, num_segments)
    return SegmentFeatures(
        ids=np.arange(num_segments),
        segments=[
            Segment(int(owner), i, start, start + 10)
            for i, (owner, start) in enumerate(zip(owners, starts.tolist(), strict=True))
        ],
        packed=[b""] * num_segments,
        frames=[rng.standard_normal((length, DIM), dtype=np.float32) for length in lengths],
        times=[start + np.arange(length) for start, length in zip(starts, lengths, strict=True)],
    )


@given(seeds)
@settings(max_examples=30)
def test_pictures_agree_with_a_naive_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored = draw_segments(rng)
    clauses, negatives, unrelated = (
        rng.standard_normal((count, DIM), dtype=np.float32) for count in (rng.integers(1, 3), rng.integers(0, 3), 5)
    )
    hints = rng.normal(size=len(clauses))
    found = score_pictures(
        stored, clauses=clauses, negatives=negatives, unrelated=unrelated, mean=0.3, deviation=0.7, hints=hints
    )
    seen = [row for row, frames in enumerate(stored.frames) if len(frames)]
    assert list(found) == list(dict.fromkeys(stored.segments[row].video for row in seen))
    for video_id, video in found.items():
        rows = sorted(
            (row for row in seen if stored.segments[row].video == video_id), key=lambda row: stored.segments[row].start
        )
        frames = [frame for row in rows for frame in stored.frames[row]]
        level = np.mean([max(float(frame @ each) for frame in frames) for each in unrelated])
        for clause, hint, own in zip(clauses, hints, video.scores, strict=True):
            for frame, score in zip(frames, own, strict=True):
                penalty = sum(
                    max(0.0, float(frame @ each - np.mean([other @ each for other in frames]))) for each in negatives
                )
                assert score == pytest.approx((frame @ clause - penalty - level - 0.3) / 0.7 + hint, abs=1e-4)
        assert video.best == video.scores.max(axis=1).tolist()
        assert video.times.tolist() == [time for row in rows for time in stored.times[row]]
        assert video.segments == [stored.segments[row] for row in rows]


def draw_pictures(rng: np.random.Generator, num_clauses: int) -> VideoPictures:
    times = np.arange(int(rng.integers(1, 9))) * 3.0
    scores = rng.normal(0, 2, (num_clauses, len(times)))
    return VideoPictures(times=times, scores=scores, segments=[], best=scores.max(axis=1).tolist())


def draw_texts(rng: np.random.Generator, num_clauses: int) -> list[list[tuple[TextMatch, float]]]:
    """Return one text of a clause, and up to two more of each."""
    texts: list[list[tuple[TextMatch, float]]] = [[] for _ in range(num_clauses)]
    for clause, count in enumerate([1 + rng.integers(0, 3), *rng.integers(0, 3, num_clauses - 1)]):
        for start in rng.uniform(0, 30, count):
            stored = StoredText(0, "film", TimedText(start, start + 2, "x", SOURCES[rng.integers(2)]))
            match = TextMatch(stored=stored, cosine=0.0, cover=0.0, stems=frozenset())
            texts[clause].append((match, float(rng.normal(0, 3))))
    return texts


def rank_naively(
    structure: QueryStructure,
    pictures: Mapping[int, VideoPictures],
    texts: Mapping[int, Sequence[list[tuple[TextMatch, float]]]],
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
        own = list(texts.get(video_id, [[] for _ in range(num_clauses)]))
        video = make_video_scores(video_id, seen.times, seen.scores, own, seen.segments)
        combine_clauses(video, structure)
        if video.time_s:
            ranked.append((video_id, video.score, video.time_s))
    return sorted(ranked, key=lambda each: -each[1])


STRUCTURES = st.sampled_from([((0,),), ((0,), (1,)), ((0, 1),)])


@given(seeds, STRUCTURES, st.booleans())
@settings(max_examples=60)
def test_candidates_come_in_the_order_of_their_scores(
    seed: int, steps: tuple[tuple[int, ...], ...], has_phrase: bool
) -> None:
    rng = np.random.default_rng(seed)
    num_clauses = sum(map(len, steps))
    clauses = tuple(replace(make_clause("a"), phrases=("a",) if has_phrase else ()) for _ in range(num_clauses))
    structure = QueryStructure(clauses=clauses, steps=steps, gaps_s=(None,) * len(steps))
    pictures = {int(video_id): draw_pictures(rng, len(clauses)) for video_id in rng.permutation(8)[:5]}
    texts = {int(video_id): draw_texts(rng, len(clauses)) for video_id in rng.permutation(8)[:4]}
    expected = rank_naively(structure, pictures, texts)
    candidates = VideoCandidates(structure, pictures, texts)
    assert [(each.video_id, each.score, each.time_s) for each in candidates] == expected
    assert len(candidates) >= len(expected)


def test_other_frames_replace_those_of_a_video() -> None:
    structure = QueryStructure(clauses=(make_clause("a"),))
    pictures = {
        video_id: VideoPictures(times=np.zeros(1), scores=np.full((1, 1), score), segments=[], best=[score])
        for video_id, score in ((1, 2.0), (2, 1.0), (3, 0.0))
    }
    candidates = VideoCandidates(structure, pictures, {})
    assert candidates.list_best(2) == [1, 2]
    assert [each.video_id for each in candidates.replace_pictures({2: pictures[1], 1: pictures[3]})] == [2, 1, 3]
