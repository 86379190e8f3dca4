"""Log mel filter banks as Kaldi computes them, which speaker encoders are trained on."""

import numpy as np
from jaxtyping import Float32, Float64

SAMPLE_RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512  # in samples
NUM_BINS = 80
LOW_HZ, HIGH_HZ = 20.0, SAMPLE_RATE / 2
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)


def compute_fbank(audio: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame bin"]:
    """Return the log energies of 80 mel bands every 10 ms, without dither.

    Args:
        audio: Mono sound at 16 kHz in -1..1, at least one frame (25 ms) long.

    Reference: Povey et al. 2011, "The Kaldi Speech Recognition Toolkit", ``compute-fbank-feats``.
    """
    frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME)[::HOP].astype(np.float64)
    frames -= frames.mean(axis=1, keepdims=True)
    frames = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1) * -_PREEMPHASIS + frames
    power = np.abs(np.fft.rfft(frames * _WINDOW, FFT)) ** 2
    banks: Float32[np.ndarray, "frame bin"] = np.log(np.maximum(power @ _BANDS, _FLOOR)).astype(np.float32)
    return banks


def _make_bands() -> Float64[np.ndarray, "frequency bin"]:
    """Return the weight of each frequency of the spectrum in each band: triangles that are even in mel."""

    def to_mel(hertz: Float64[np.ndarray, " any"]) -> Float64[np.ndarray, " any"]:
        return 1127.0 * np.log1p(hertz / 700.0)

    low, high = to_mel(np.array([LOW_HZ, HIGH_HZ]))
    corners = np.linspace(low, high, NUM_BINS + 2)
    mels = to_mel(np.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT))[:, None]
    rising = (mels - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mels) / (corners[2:] - corners[1:-1])
    bands: Float64[np.ndarray, "frequency bin"] = np.maximum(0.0, np.minimum(rising, falling))
    return bands


_WINDOW = np.hanning(FRAME) ** 0.85  # Povey's
_BANDS = _make_bands()
