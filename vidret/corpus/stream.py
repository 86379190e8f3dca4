"""STREAM: how natural generated videos are in time and in space, from the features of their frames.

    real, fake = measure_signals(real_frames), measure_signals(generated_frames)
    compare_spectra(real.skewness, fake.skewness)                       # STREAM-T
    compare_mean_signals(real.mean_signal, fake.mean_signal)             # STREAM-S: fidelity and diversity

Scores depend on the number of videos: read them against those of two halves of the real set, of the same size.

References:
    Kim et al. 2024, "STREAM: Spatio-TempoRal Evaluation and Analysis Metric for Video Generative Models".
    Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vidret.errors import VidretError
from vidret.store.identities.grouping import measure_distances

MIN_FRAMES = 4  # two frequencies, so that a slope exists
BINS = 50
NEAREST = 5
PUBLISHED_EXPONENT, CORRECTED_EXPONENT = 0.5, 1.5
ROWS = 1024  # points to which distances are in memory at a time


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FrameSignals:
    """The signals that STREAM computes from the frame features of each video, per dimension.

    Attributes:
        slope: Exponent B of the power law A k^B that fits the amplitudes of the frequencies k.
        skewness: "Skewness" of the spectrum, a rising function of the slope; see ``compute_skewness``.
        mean_signal: Amplitude of the frequency 0: absolute value of the mean, times 2 F / (F // 2 + 1) for F frames.
    """

    slope: Float64[np.ndarray, "video dim"]
    skewness: Float64[np.ndarray, "video dim"]
    mean_signal: Float64[np.ndarray, "video dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialScores:
    """STREAM-S in 0..1, higher is better.

    Attributes:
        fidelity: Share of generated videos that are near a real one (STREAM-F, precision).
        diversity: Share of real videos that are near a generated one (STREAM-D, recall).
    """

    fidelity: float
    diversity: float


def measure_signals(frames: Float[np.ndarray, "video frame dim"], exponent: float = PUBLISHED_EXPONENT) -> FrameSignals:
    """Return the signals of videos with equally many frames each, evenly spaced in time.

    Published for features that are not normalised; for the exponent see ``compute_skewness``. Raise VidretError if
    there are fewer than four frames, or a feature is not finite.
    """
    num_frames = frames.shape[1]
    if num_frames < MIN_FRAMES:
        raise VidretError(f"videos must have at least {MIN_FRAMES} frames for STREAM, got {num_frames}")
    if not np.isfinite(frames).all():
        num_wrong = np.count_nonzero(~np.isfinite(frames).all(axis=(1, 2)))
        raise VidretError(f"features must be finite, got NaN or infinity in {num_wrong} of {len(frames)} videos")
    half = num_frames // 2
    amplitudes = 2 * np.abs(np.fft.rfft(frames.astype(np.float64), axis=1)) / (half + 1)
    logs = np.log(np.arange(1, half + 1))
    centred = logs - logs.mean()
    slope = np.einsum("k,vkd->vd", centred / (centred @ centred), np.log(amplitudes[:, 1:] + 1e-6))
    return FrameSignals(
        slope=slope,
        skewness=compute_skewness(slope, half, exponent),
        mean_signal=np.ascontiguousarray(amplitudes[:, 0]),
    )


def compute_skewness(
    slope: Float64[np.ndarray, "video dim"], num_frequencies: int, exponent: float = PUBLISHED_EXPONENT
) -> Float64[np.ndarray, "video dim"]:
    """Return E[k^3] / E[k^2]^1.5 of frequencies k = 1.. with the probabilities p_k ~ k^slope, or the published form.

    The published code raises the sum of k^(slope + 2) to the power 1/2 where that formula has 3/2. Scores of the two
    forms are not comparable: ``PUBLISHED_EXPONENT`` is the one in papers.
    """
    k = np.arange(1, num_frequencies + 1, dtype=np.float64)
    power, square, cube = (np.exp((slope[..., None] + extra) * np.log(k)).sum(axis=-1) for extra in (0, 2, 3))
    skewness: Float64[np.ndarray, "video dim"] = cube * np.sqrt(power) / square**exponent
    return skewness


def compare_spectra(real: Float64[np.ndarray, "real dim"], generated: Float64[np.ndarray, "generated dim"]) -> float:
    """Return STREAM-T of the skewness of two sets, in 0..1: the squared correlation of their histograms, averaged.

    Raise VidretError if a set is empty.
    """
    if not len(real) or not len(generated):
        raise VidretError(f"both sets must have videos to be compared, got {len(real)} and {len(generated)}")
    scores = []
    for real_values, generated_values in zip(real.T, generated.T, strict=True):
        both = np.concatenate([real_values, generated_values])
        limits = (int(both.min()) - 1, int(both.max()) + 1)
        first, second = (
            np.histogram(values, BINS, limits)[0] / len(real) for values in (real_values, generated_values)
        )
        first, second = first - first.mean(), second - second.mean()
        scores.append((first @ second / (np.sqrt(first @ first) * np.sqrt(second @ second) + 1e-12)) ** 2)
    return float(np.mean(scores))


def compare_mean_signals(
    real: Float64[np.ndarray, "real dim"], generated: Float64[np.ndarray, "generated dim"]
) -> SpatialScores:
    """Return STREAM-S of the mean signals of two sets.

    A point is near a set if it is strictly inside the sphere around one of its points whose radius is the distance to
    that point's ``NEAREST``-th neighbour in the set. Raise VidretError if a set has too few videos for that.
    """
    if min(len(real), len(generated)) <= NEAREST:
        sizes = f"{len(real)} real and {len(generated)} generated"
        raise VidretError(f"both sets must have at least {NEAREST + 1} videos for STREAM-S, got {sizes}")
    return SpatialScores(
        fidelity=_share_inside(generated, real, _find_radii(real)),
        diversity=_share_inside(real, generated, _find_radii(generated)),
    )


def _find_radii(points: np.ndarray) -> np.ndarray:
    """Return the distance of each point to its ``NEAREST``-th neighbour, itself excluded."""
    radii = []
    for start in range(0, len(points), ROWS):
        distances = measure_distances(points[start : start + ROWS], points)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        radii.append(np.partition(distances, NEAREST - 1, axis=1)[:, NEAREST - 1])
    return np.concatenate(radii)


def _share_inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> float:
    """Return the share of points inside the sphere of a centre."""
    num_inside = 0
    for start in range(0, len(points), ROWS):
        distances = measure_distances(points[start : start + ROWS], centres)
        num_inside += int((distances < radii).any(axis=1).sum())
    return num_inside / len(points)
