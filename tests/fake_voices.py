"""Films in which made voices speak, and an encoder that knows voices by their pitch."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from jaxtyping import Float32

SAMPLE_RATE = 16_000
PITCHES = {"ann": 140.0, "bob": 110.0}  # in Hz; what else varies makes it speech to Silero
VOWELS = np.array([(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)])
Samples = Float32[np.ndarray, " sample"]


class PitchVoices:
    """A vector is near the axis of the person whose pitch is nearest."""

    digest, same_in_film, same_voice = "pitch 1", 0.5, 0.6

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        return np.stack([self._describe(window) for window in windows])

    def _describe(self, window: Samples) -> Samples:
        lags = np.arange(SAMPLE_RATE // 180, SAMPLE_RATE // 80)
        spectrum = np.abs(np.fft.rfft(window, 2 * len(window))) ** 2
        pitch = SAMPLE_RATE / lags[np.fft.irfft(spectrum)[lags].argmax()]
        nearest = min(range(2), key=lambda row: abs(list(PITCHES.values())[row] - pitch))
        vector: Samples = np.eye(4, dtype=np.float32)[nearest]
        return vector


class BrokenVoices(PitchVoices):
    """Fails at every window."""

    digest = "broken"

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        raise RuntimeError("no voice today")


def speak(name: str, seconds: float) -> Samples:
    """Return vowels that glide into one another, four a second, at the pitch of a person."""
    rng, times = np.random.default_rng(3), np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = PITCHES[name] * (1 + 0.05 * np.sin(8.2 * times) + 0.02 * np.sin(31.4 * times))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    chosen, (steps, shares) = rng.integers(0, len(VOWELS), int(4 * seconds) + 2), np.divmod(4 * times, 1)
    first, second = VOWELS[chosen[steps.astype(int)]], VOWELS[chosen[steps.astype(int) + 1]]
    formants = first + (second - first) * shares[:, None]
    audio = 0.01 * rng.standard_normal(len(times))
    for harmonic in range(1, int(4000 / PITCHES[name])):
        offsets = (harmonic * pitch[:, None] - formants) / (60, 100, 140)
        audio += ((1, 0.6, 0.3) / (1 + offsets**2)).sum(1) * np.sin(harmonic * phase)
    audio *= 0.35 + 0.65 * np.abs(np.sin(2 * np.pi * 2 * times)) ** 0.7
    spoken: Samples = (0.4 * audio / np.abs(audio).max()).astype(np.float32)
    return spoken


def write_talk(path: Path, *turns: tuple[str, float], shade: int = 80, late_s: float = 0.0) -> Path:
    """Write a film in which people speak one after another, with a second of silence before each turn.

    Its sound begins ``late_s`` after its pictures.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    silence = np.zeros(SAMPLE_RATE)
    audio = np.concatenate([part for name, seconds in turns for part in (silence, speak(name, seconds))] + [silence])
    audio += 0.003 * np.random.default_rng(0).standard_normal(len(audio))
    with av.open(str(path), "w") as container:
        video = cast(Any, container.add_stream("libx264", rate=4, options={"preset": "ultrafast"}))
        sound = cast(Any, container.add_stream("alac", rate=SAMPLE_RATE, layout="mono"))
        (video.width, video.height), video.pix_fmt = (64, 48), "yuv420p"
        for _ in range(int(4 * (len(audio) / SAMPLE_RATE + late_s))):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        heard = av.AudioFrame.from_ndarray((audio * 32767).astype(np.int16)[None], format="s16", layout="mono")
        heard.sample_rate, heard.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
        heard.pts = round(late_s * SAMPLE_RATE)
        container.mux([*sound.encode(heard), *sound.encode(None), *video.encode(None)])
    return path
