"""Ranks: equality with sorting by loops, invariances, and blocks that change nothing."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.metrics.published import draw_scores
from vidret.errors import VidretError
from vidret.metrics import ranks as module
from vidret.metrics.ranks import BidirectionalRanks, rank_matrix


def naive_rank_bounds(correct: float, wrong: list[float]) -> tuple[int, int]:
    """Return the best and the worst rank of the correct score among the wrong ones, from 1."""
    ordered = sorted([*wrong, correct], reverse=True)
    first = ordered.index(correct) + 1
    return first, first + wrong.count(correct)


def naive_ranks(scores: Any, truth: list[int]) -> tuple[list[Any], list[Any]]:
    """Return (best, worst) rank for every text, and (video, best, worst) for every video with a caption."""
    rows, num_videos = scores.tolist(), scores.shape[1]
    texts = [
        naive_rank_bounds(row[true_video], row[:true_video] + row[true_video + 1 :])
        for row, true_video in zip(rows, truth, strict=True)
    ]
    videos = []
    for video in sorted(set(truth)):
        captions: dict[int, list[float]] = {other: [] for other in range(num_videos)}
        for row, caption_video in zip(rows, truth, strict=True):
            captions[caption_video].append(row[video])
        others = [caption for other, caption in captions.items() if other != video and caption]
        videos.append((video, *naive_rank_bounds(max(captions[video]), [max(scores) for scores in others])))
    return texts, videos


def check_naive(found: BidirectionalRanks, expected: tuple[list[Any], list[Any]]) -> None:
    texts, videos = expected
    assert list(zip(found.t2v.optimistic, found.t2v.pessimistic, strict=True)) == texts
    ends = (found.v2t.queries, found.v2t.optimistic, found.v2t.pessimistic)
    assert list(zip(*ends, strict=True)) == videos
    for ranks in found:
        assert np.array_equal(ranks.mean, (ranks.optimistic + ranks.pessimistic) / 2)
        assert ranks.num_ties == int((ranks.optimistic < ranks.pessimistic).sum())


@given(
    truth=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    num_others=st.integers(0, 3),
    steps=st.sampled_from([0.0, 2.0, 0.25]),
    seed=st.integers(0, 999),
)
@example(truth=[0, 1, 2, 3, 4, 5], num_others=0, steps=0.25, seed=0)
@example(truth=[0], num_others=0, steps=0.0, seed=0)
@example(truth=[1, 1, 1], num_others=1, steps=2.0, seed=0)
def test_equals_naive_ranks(truth: list[int], num_others: int, steps: float, seed: int) -> None:
    videos = max(truth) + 1 + num_others
    scores = draw_scores(len(truth), videos, seed, steps)
    found = rank_matrix(scores, np.array(truth))
    check_naive(found, naive_ranks(scores, truth))
    assert found.t2v.queries.tolist() == list(range(len(truth)))
    assert found.t2v.gallery_size == videos
    assert found.v2t.gallery_size == len(set(truth))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_blocks_of_texts_change_nothing(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    truth = np.repeat(random.permutation(17)[:14], random.integers(1, 9, 14))
    scores = (4 * draw_scores(len(truth), 17, steps=4.0)).astype(dtype)
    expected = rank_matrix(scores, truth)
    assert expected.t2v.num_ties > 0
    check_naive(expected, naive_ranks(scores, truth.tolist()))
    for size in (1, 2, 7, 30):
        monkeypatch.setattr(module, "BLOCK", size)
        for one, other in zip(rank_matrix(scores, truth), expected, strict=True):
            for name in ("queries", "higher", "equal", "gallery_size"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_minus_zero_ties_with_zero() -> None:
    assert rank_matrix(np.array([[0.0, -0.0], [-1.0, 0.0]])).t2v.mean.tolist() == [1.5, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_rejected_with_its_index(value: float) -> None:
    scores, truth = draw_scores(6, 3), np.array([2, 1, 0, 0, 1, 2])
    scores[4, 2] = value
    with pytest.raises(VidretError, match=f"scores must be finite, got {value} for text 4 and video 2"):
        rank_matrix(scores, truth)


def test_no_texts_are_rejected() -> None:
    with pytest.raises(VidretError, match="texts must be at least 1, got 0"):
        rank_matrix(draw_scores(0, 3), np.array([], int))


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("truth", [None, [0, 1], [0, 1, 2, -1], [0, 1, 2, 3]])
def test_truth_that_is_no_video_of_each_text_is_rejected(truth: list[int] | None) -> None:
    with pytest.raises(VidretError, match="truth must be one of the 3 videos for each of the 4 texts"):
        rank_matrix(draw_scores(4, 3), None if truth is None else np.array(truth))
