"""Similarity of a sentence and the best frames: equality with loops, and invariances."""

from collections.abc import Sequence

import numpy as np
import pytest

from vidret.channels.picture.ranking import TOP_FRAMES, score_top_frames

DIM = 6


def naive_scores(
    sentence: np.ndarray, segments: Sequence[np.ndarray], top: int = TOP_FRAMES
) -> tuple[list[float], list[int]]:
    """Return the mean of the best ``top`` frames of each segment, and the index of its best frame."""
    scores, best = [], []
    for frames in segments:
        products = [sum(float(x) * float(y) for x, y in zip(frame, sentence, strict=True)) for frame in frames]
        highest = sorted(products, reverse=True)[:top]
        scores.append(sum(highest) / len(highest))
        best.append(products.index(max(products)))
    return scores, best


def sample(lengths: Sequence[int], seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    segments = [rng.standard_normal((length, DIM)).astype(np.float32) for length in lengths]
    return rng.standard_normal(DIM).astype(np.float32), segments


@pytest.mark.parametrize("top", [1, 2, 4, 50])
@pytest.mark.parametrize("lengths", [[1], [3, 4, 5], [12, 1, 2, 30]])
def test_scores_equal_naive_version(lengths: list[int], top: int) -> None:
    sentence, segments = sample(lengths, seed=top)
    scores, best = score_top_frames(sentence, segments, top=top)
    expected, expected_best = naive_scores(sentence, segments, top)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert best == expected_best
    assert scores.dtype == np.float32


def test_half_precision_frames_and_no_frames() -> None:
    sentence, segments = sample([6])
    halves = [frames.astype(np.float16) for frames in segments]
    np.testing.assert_allclose(
        score_top_frames(sentence, halves)[0], score_top_frames(sentence, segments)[0], atol=5e-3
    )
    scores, best = score_top_frames(sentence, [])
    assert scores.shape == (0,)
    assert best == []
