"""STREAM: spectra of frame features, and the scores of two sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Case, find_cases
from vidret.corpus.stream import (
    CORRECTED_EXPONENT,
    compare_mean_signals,
    compare_spectra,
    compute_skewness,
    measure_signals,
)
from vidret.errors import VidretError


def naive_slope_and_mean(signal: np.ndarray) -> tuple[float, float]:
    """Sum the transform term by term, and fit a line."""
    num_frames = len(signal)
    half = num_frames // 2
    amplitudes = []
    for k in range(half + 1):
        total = sum(value * np.exp(-2j * np.pi * k * frame / num_frames) for frame, value in enumerate(signal))
        amplitudes.append(2 * abs(total) / (half + 1))
    logs = [np.log(amplitude + 1e-6) for amplitude in amplitudes[1:]]
    slope = np.polyfit(np.log(np.arange(1, half + 1)), logs, 1)[0]
    return float(slope), float(amplitudes[0])


def naive_near(points: np.ndarray, centres: np.ndarray, nearest: int) -> float:
    num_near = 0
    for point in points:
        for index, centre in enumerate(centres):
            others = sorted(np.linalg.norm(centre - other) for i, other in enumerate(centres) if i != index)
            if np.linalg.norm(point - centre) < others[nearest - 1]:
                num_near += 1
                break
    return num_near / len(points)


@given(num_frames=st.integers(4, 11), seed=st.integers(0, 999))
def test_signals_equal_loops(num_frames: int, seed: int) -> None:
    frames = np.random.default_rng(seed).standard_normal((2, num_frames, 3))
    signals = measure_signals(frames)
    for video in range(2):
        for dim in range(3):
            expected = naive_slope_and_mean(frames[video, :, dim])
            found = signals.slope[video, dim], signals.mean_signal[video, dim]
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(num_real=st.integers(6, 9), num_generated=st.integers(6, 9), seed=st.integers(0, 99))
def test_nearness_equals_loops(num_real: int, num_generated: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, generated = rng.standard_normal((num_real, 2)), rng.standard_normal((num_generated, 2)) + 0.5
    scores = compare_mean_signals(real, generated)
    assert scores.fidelity == pytest.approx(naive_near(generated, real, 5))
    assert scores.diversity == pytest.approx(naive_near(real, generated, 5))


def test_known_skewness() -> None:
    """A flat spectrum of 8 frequencies by hand, and the scale of the published exponent."""
    k = np.arange(1, 9.0)
    flat = np.zeros((1, 1))
    published = (k**3).sum() * np.sqrt(8) / np.sqrt((k**2).sum())
    assert compute_skewness(flat, 8)[0, 0] == pytest.approx(published)
    assert compute_skewness(flat, 8, CORRECTED_EXPONENT)[0, 0] == pytest.approx(published / (k**2).sum())
    slopes = compute_skewness(np.linspace(-5, 3, 30)[:, None], 8)[:, 0]
    assert (np.diff(slopes) > 0).all()


def sample_films(num: int, seed: int, num_frames: int = 16) -> np.ndarray:
    """Return features that drift smoothly around a place of their own."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((num, num_frames, 6)).cumsum(axis=1)
    films: np.ndarray = 5 * rng.standard_normal((num, 1, 6)) + steps
    return films


def test_shuffled_frames_hurt_stream_t_alone() -> None:
    real, others = sample_films(300, 0), sample_films(300, 1)
    shuffled = np.random.default_rng(2).permuted(others, axis=1)
    for name in range(len(others)):
        shuffled[name] = others[name][np.random.default_rng(name).permutation(16)]
    ours, theirs, mixed = (measure_signals(frames) for frames in (real, others, shuffled))
    assert compare_spectra(ours.skewness, theirs.skewness) > 0.8
    assert compare_spectra(ours.skewness, mixed.skewness) < 0.2
    plain, after = (compare_mean_signals(ours.mean_signal, other.mean_signal) for other in (theirs, mixed))
    assert (after.fidelity, after.diversity) == pytest.approx((plain.fidelity, plain.diversity), abs=1e-9)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(VidretError, match="at least 4 frames for STREAM, got 3"):
        measure_signals(np.zeros((2, 3, 2)))
    with pytest.raises(VidretError, match="NaN or infinity in 1 of 2 videos"):
        measure_signals(np.stack([np.zeros((4, 2)), np.full((4, 2), np.nan)]))
    with pytest.raises(VidretError, match="at least 6 videos for STREAM-S, got 9 real and 5 generated"):
        compare_mean_signals(np.zeros((9, 2)), np.zeros((5, 2)))
    with pytest.raises(VidretError, match="both sets must have videos to be compared, got 0 and 5"):
        compare_spectra(np.zeros((0, 2)), np.zeros((5, 2)))


@pytest.mark.parametrize("case", find_cases("stream"), ids=lambda case: case.folder.name)
def test_equals_published_code(case: Case) -> None:
    outputs = {name: value.numpy() for name, value in case.outputs.items()}
    for name in ("real", "fake"):
        signals = measure_signals(case.inputs[name].numpy())
        # The published code transforms in float32, which errs by up to 4e-4 where an amplitude is nearly 0.
        errors = np.abs(signals.skewness / outputs[f"skewness_{name}"] - 1)
        assert errors.max() < 1e-3
        assert np.quantile(errors, 0.99) < 1e-4
        np.testing.assert_allclose(signals.mean_signal, outputs[f"mean_signal_{name}"], atol=1e-4)
    slopes = measure_signals(case.inputs["real"].numpy()).slope
    np.testing.assert_allclose(slopes[0], outputs["fit_real_0"][:, 0], atol=1e-4)
    found = compare_spectra(outputs["skewness_real"], outputs["skewness_fake"])
    assert found == pytest.approx(float(outputs["stream_T"]), abs=1e-6)
    real, fake = (outputs[f"mean_signal_{name}"].astype(np.float64) for name in ("real", "fake"))
    scores = compare_mean_signals(real, fake)
    assert scores.fidelity == pytest.approx(float(outputs["stream_F"]), abs=1e-6)
    assert scores.diversity == pytest.approx(float(outputs["stream_D"]), abs=1e-6)
