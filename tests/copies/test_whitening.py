"""Whitening: equal variance in all kept directions, and a level that few unrelated frames exceed."""

import numpy as np
import pytest

from vidret.copies.candidates import FEW_VIDEOS_LEVEL, FRAMES_PER_DIM, UNRELATED_SHARE, fit_whitening, unrelated_level


def make_frames(num_videos: int, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return frames of videos that have most of their directions in common, and their owners."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** -np.linspace(0, 1, dim)
    centres = rng.standard_normal((num_videos, dim)) * scales + 3
    frames = centres.repeat(6, axis=0) + 0.02 * rng.standard_normal((6 * num_videos, dim))
    return (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32), np.arange(num_videos).repeat(6)


def test_directions_have_equal_variance() -> None:
    frames, owners = make_frames(200)
    whitening = fit_whitening(frames, owners)
    projected = (frames - whitening.mean) @ whitening.projection
    assert whitening.projection.shape == (16, 16)
    assert projected.mean(axis=0) == pytest.approx(np.zeros(16), abs=1e-3)
    covariance = projected.T @ projected / len(projected)
    strong = np.diag(covariance) > 0.5
    assert strong.sum() >= 8
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=0.02)
    assert np.linalg.norm(whitening.apply(frames), axis=1) == pytest.approx(np.ones(len(frames)), abs=1e-4)


def test_videos_are_told_apart_better() -> None:
    frames, owners = make_frames(200)
    whitening = fit_whitening(frames, owners)
    white = whitening.apply(frames)
    same, other = float(white[0] @ white[1]), float(np.quantile(white[0] @ white[6:].T, 0.99))
    assert same > other
    assert same - other > float(frames[0] @ frames[1]) - float(np.quantile(frames[0] @ frames[6:].T, 0.99))
    exceeding = np.mean((white[:600] @ white[600:].T) > whitening.level)
    assert exceeding == pytest.approx(UNRELATED_SHARE, abs=0.01)


def test_few_videos_are_left_as_they_are() -> None:
    frames, owners = make_frames(4)
    plain = fit_whitening(frames, owners)
    assert plain.apply(frames) == pytest.approx(frames, abs=1e-6)
    assert plain.level <= FEW_VIDEOS_LEVEL
    assert fit_whitening(frames[:1], owners[:1]).level == 0.0


def test_few_frames_give_few_directions_and_one_video_no_level() -> None:
    frames, _ = make_frames(16)
    assert fit_whitening(frames, np.arange(len(frames))).projection.shape == (16, 96 // FRAMES_PER_DIM)
    assert unrelated_level(frames, np.zeros(len(frames), np.int64)) == 0.0
