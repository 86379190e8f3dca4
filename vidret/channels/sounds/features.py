"""What the encoder of the bundled Whisper model hears: features, and the labels that follow from them.

A frozen speech encoder keeps background sounds. Its states are averaged over time, with their deviations; a logistic
regression on them tells music and speech, which ``tools/train_sounds.py`` fits.

Reference: Gong et al. 2023, "Whisper-AT: Noise-Robust Automatic Speech Recognizers are Also Strong General Audio Event
Taggers".
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32
from safetensors.numpy import load_file

from vidret.channels.speech import BUNDLED, SAMPLE_RATE, load_recogniser

FRAMES_PER_S = 50
STEP_S = 0.5
CONTEXTS_S = (1, 5)
LEARNT = ("music", "speech")  # in the order of the weights
WEIGHTS = Path(__file__).with_name("labels.safetensors")
_MEL_STEP = 160  # samples


def encode_audio(audio: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame 384"]:
    """Return the states of Whisper's encoder for up to 30 s of mono sound at 16 kHz, 50 frames per second."""
    model: Any = load_recogniser(BUNDLED).model
    num_frames = len(audio) // (2 * _MEL_STEP)
    mel = model.feature_extractor(audio, padding=0)[:, : 2 * num_frames]
    states: Float32[np.ndarray, "frame 384"] = np.asarray(model.encode(mel))[0]
    return states


def pool(states: Float[np.ndarray, "frame dim"], *, width: int, hop: int) -> Float32[np.ndarray, "step feature"]:
    """Return the mean and the standard deviation of ``width`` frames around every ``hop``, cut off at the ends."""
    sums = np.cumsum(np.pad(states.astype(np.float64), ((1, 0), (0, 0))), axis=0)
    squares = np.cumsum(np.pad(states.astype(np.float64) ** 2, ((1, 0), (0, 0))), axis=0)
    middles = np.arange(hop // 2, len(states) - hop + hop // 2 + 1, hop)
    begins, ends = (middles - width // 2).clip(0), (middles + width - width // 2).clip(max=len(states))
    counts = (ends - begins)[:, None]
    means = (sums[ends] - sums[begins]) / counts
    variances = (squares[ends] - squares[begins]) / counts - means**2
    return np.concatenate([means, np.sqrt(variances.clip(0))], axis=1).astype(np.float32)


def describe(states: Float32[np.ndarray, "frame 384"]) -> Float32[np.ndarray, "step 1536"]:
    """Return the features of each half second: of the second around it, and of 5 s around it."""
    hop = round(STEP_S * FRAMES_PER_S)
    return np.concatenate([pool(states, width=width * FRAMES_PER_S, hop=hop) for width in CONTEXTS_S], axis=1)


def rate_labels(features: Float32[np.ndarray, "step 1536"]) -> Float32[np.ndarray, "step label"]:
    """Return the probabilities of music and of speech, given ``describe``."""
    weights = _load_weights()
    standard = (features - weights["mean"]) / weights["deviation"]
    logits = standard @ weights["weight"].T + weights["bias"]
    probabilities: Float32[np.ndarray, "step label"] = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return probabilities


@functools.lru_cache(maxsize=1)
def _load_weights() -> dict[str, Any]:
    return dict(load_file(WEIGHTS))


def measure_levels(audio: Float32[np.ndarray, " sample"], *, step_s: float) -> Float[np.ndarray, " step"]:
    """Return the level of each step in dBFS: 10 log10 of the mean square; -120 at least."""
    size = round(step_s * SAMPLE_RATE)
    steps = rearrange(
        audio[: len(audio) // size * size].astype(np.float64), "(step sample) -> step sample", sample=size
    )
    levels: Float[np.ndarray, " step"] = 10 * np.log10((steps**2).mean(axis=1).clip(1e-12))
    return levels
