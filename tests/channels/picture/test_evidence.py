"""What pictures say of videos: the points of ranked segments and of all frames, against naive twins."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.evidence import (
    VideoPictures,
    collect_frames,
    collect_segments,
    lower_pictures,
    merge_segments,
)
from vidret.channels.picture.reranking import RankedSegments
from vidret.store.records import StoredSegments
from vidret.types import Segment, TextEmbedding

DIM = 6
seeds = st.integers(0, 2**32 - 1)


def draw_segments(rng: np.random.Generator) -> StoredSegments:
    """Return up to 12 segments of up to 4 videos in any order, some without frames."""
    num_segments = int(rng.integers(0, 13))
    lengths = rng.integers(0, 4, num_segments)
    starts = rng.permutation(num_segments) * 10.0
    owners = rng.integers(1, 5, num_segments)
    return StoredSegments(
        ids=np.arange(num_segments),
        segments=[
            Segment(int(owner), i, start, start + 10)
            for i, (owner, start) in enumerate(zip(owners, starts.tolist(), strict=True))
        ],
        tokens=[b""] * num_segments,
        frames=[rng.standard_normal((length, DIM), dtype=np.float32) for length in lengths],
        times=[start + np.arange(length) for start, length in zip(starts, lengths, strict=True)],
    )


def draw_ranked(rng: np.random.Generator, stored: StoredSegments) -> tuple[RankedSegments, np.ndarray]:
    """Return the segments with frames with random scores, each at one of its frames, and their evidence."""
    seen = [row for row in range(len(stored.segments)) if len(stored.frames[row])]
    scores = rng.standard_normal(len(seen))
    ranked = RankedSegments(
        ids=np.array(seen, np.int64),
        segments=[stored.segments[row] for row in seen],
        scores=scores,
        times=np.array([rng.choice(stored.times[row]) for row in seen], np.float64),
        levels={"frames": scores + 1},
    )
    return ranked, 3 * scores - 1


@given(seeds)
@settings(max_examples=30)
def test_two_readings_are_merged_as_if_they_were_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked, evidence = draw_ranked(rng, draw_segments(rng))
    kept = {int(key) for key in ranked.ids if rng.random() < 0.7}
    is_first = rng.random(len(ranked.ids)) < 0.5
    whole = _collect_rows(ranked, evidence, np.isin(ranked.ids, list(kept)))
    known, fresh = _collect_rows(ranked, evidence, is_first), _collect_rows(ranked, evidence, ~is_first)
    for video_id, expected in whole.items():
        parts = [reading[video_id] for reading in (known, fresh) if video_id in reading]
        if any(part.best_id not in kept for part in parts):
            continue
        merged = merge_segments(parts, kept)
        assert merged.ids.tolist() == expected.ids.tolist()
        assert list(merged.segments) == list(expected.segments)
        assert (merged.times.tolist(), merged.scores.tolist()) == (expected.times.tolist(), expected.scores.tolist())
        assert (merged.best, merged.levels) == (list(expected.best), expected.levels)
        assert merged.best_id == expected.best_id


def _collect_rows(ranked: RankedSegments, evidence: np.ndarray, chosen: np.ndarray) -> dict[int, VideoPictures]:
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return {}
    chosen_ranked = replace(
        ranked,
        ids=ranked.ids[rows],
        segments=[ranked.segments[row] for row in rows.tolist()],
        scores=ranked.scores[rows],
        times=ranked.times[rows],
        levels={name: level[rows] for name, level in ranked.levels.items()},
    )
    return collect_segments([chosen_ranked], [evidence[rows]])


@given(seeds, st.integers(1, 3))
@settings(max_examples=30)
def test_segments_agree_with_a_naive_twin(seed: int, num_clauses: int) -> None:
    rng = np.random.default_rng(seed)
    stored = draw_segments(rng)
    drawn = [draw_ranked(rng, stored) for _ in range(num_clauses)]
    if not drawn[0][0].segments:
        return
    videos = collect_segments([ranked for ranked, _ in drawn], [evidence for _, evidence in drawn])
    first = drawn[0][0]
    best_first = np.argsort(-first.scores).tolist()
    assert list(videos) == list(dict.fromkeys(first.segments[row].video for row in best_first))
    for video_id, video in videos.items():
        times = {s: t for s, t in zip(first.segments, first.times, strict=True) if s.video == video_id}
        assert list(video.segments) == sorted(times, key=lambda segment: times[segment])
        assert video.times.tolist() == sorted(times.values())
        for (ranked, evidence), clause_scores, best in zip(drawn, video.scores, video.best, strict=True):
            for segment, score in zip(video.segments, clause_scores, strict=True):
                assert score == evidence[list(ranked.segments).index(segment)]
            assert best == max(clause_scores)
        highest = next(row for row in best_first if first.segments[row].video == video_id)
        assert video.levels == ({"frames": first.levels["frames"][highest]} if num_clauses == 1 else {})


@given(seeds, st.integers(1, 3))
@settings(max_examples=30)
def test_frames_agree_with_a_naive_twin(seed: int, num_clauses: int) -> None:
    """The best frame has the evidence of the video; others have less by what their similarity is less."""
    rng = np.random.default_rng(seed)
    stored, slope = draw_segments(rng), 7.0
    drawn = [draw_ranked(rng, stored) for _ in range(num_clauses)]
    if not drawn[0][0].segments:
        return
    segments = collect_segments([ranked for ranked, _ in drawn], [evidence for _, evidence in drawn])
    segments.pop(drawn[0][0].segments[0].video)  # of which nothing is asked
    rows = rng.standard_normal((num_clauses, DIM), dtype=np.float32)
    queries = [EncodedQuery(positive=TextEmbedding("a", row, row[None])) for row in rows]
    videos = collect_frames(stored, segments, queries, slope)
    assert set(videos) == set(segments)
    for video_id, video in videos.items():
        video_rows = [
            row for row, segment in enumerate(stored.segments) if segment.video == video_id and len(stored.frames[row])
        ]
        video_rows.sort(key=lambda row: stored.segments[row].start)
        assert list(video.segments) == [stored.segments[row] for row in video_rows]
        assert video.times.tolist() == [time for row in video_rows for time in stored.times[row]]
        for clause, query in enumerate(rows):
            similarities = [float(frame @ query) for row in video_rows for frame in stored.frames[row]]
            for similarity, score in zip(similarities, video.scores[clause], strict=True):
                expected = segments[video_id].best[clause] - slope * (max(similarities) - similarity)
                assert score == pytest.approx(expected, abs=1e-3)
        assert list(video.best) == list(segments[video_id].best)
        assert video.scores.max(axis=1) == pytest.approx(video.best), "search and location agree on the best time"


def test_frames_are_lowered_by_negative_terms() -> None:
    wanted, unwanted = np.eye(2, DIM, dtype=np.float32)
    frames = np.stack([wanted, (wanted + unwanted) / 2**0.5, wanted / 2])
    stored = StoredSegments(
        ids=np.arange(1), segments=[Segment(1, 0, 0.0, 3.0)], tokens=[b""], frames=[frames], times=[np.arange(3.0)]
    )
    segments = {1: VideoPictures(times=np.zeros(1), scores=np.zeros((1, 1)), best=[4.0], segments=stored.segments)}
    positive, negative = (TextEmbedding("a", row, row[None]) for row in (wanted, unwanted))
    plain, lowered = (
        collect_frames(stored, segments, [EncodedQuery(positive=positive, negatives=terms)], 1.0)[1].scores[0]
        for terms in ((), (negative,))
    )
    assert plain.tolist() == pytest.approx([4.0, 3.0 + 0.5**0.5, 3.5])
    assert lowered[0] == 4.0
    assert lowered[1] < plain[1] - 0.3


def test_some_videos_are_lowered() -> None:
    one = VideoPictures(times=np.zeros(2), scores=np.array([[1.0, 3.0]]), best=[3.0], segments=[])
    videos = lower_pictures({1: one, 2: one}, frozenset([2, 3]), 0.5)
    assert videos[1] is one
    assert (videos[2].scores.tolist(), list(videos[2].best)) == ([[0.5, 2.5]], [2.5])
    assert list(videos) == [1, 2]
