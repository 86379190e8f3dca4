"""What the encoder of the bundled Whisper model hears: labels, and vectors of windows.

A frozen speech encoder keeps background sounds. Its states are averaged over time, with their deviations. Two networks
with one hidden layer make of them what is searched; ``tools/build_sounds.py`` trains and measures them.

Reference: Gong et al. 2023, "Whisper-AT: Noise-Robust Automatic Speech Recognizers are Also Strong General Audio Event
Taggers".
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from vidret.channels.speech import BUNDLED, SAMPLE_RATE, load_recogniser

FRAMES_PER_S = 50
STEP_S = 0.5
CONTEXTS_S = (1, 5)
FLOOR_STEPS = (3, 11)  # whose softest columns are averaged
MEAN_STEPS = 5  # which score higher than one step
LEARNT = ("music", "speech")  # in the order of the weights
LABEL_WEIGHTS, WINDOW_WEIGHTS = (Path(__file__).with_name(f"{name}.safetensors") for name in ("labels", "windows"))
WINDOW_S, HOP_S = 2.0, 1.0
WINDOW_FRAMES = round(WINDOW_S * FRAMES_PER_S)
_MEL_STEP = 160  # samples
_COLUMNS = 500  # of the spectrogram that are encoded at a time: 5 s; 10 s take a fifth longer and find no more


@dataclass(frozen=True, slots=True, eq=False)
class EncodedAudio:
    """What the encoder reads and makes of up to 30 s of audio.

    Attributes:
        states: Its states, 50 a second.
        mel: The log-mel spectrogram, 100 columns a second.
    """

    states: Float32[np.ndarray, "frame 384"]
    mel: Float32[np.ndarray, "column 80"]


def encode_audio(audio: Float32[np.ndarray, " sample"]) -> EncodedAudio:
    """Encode up to 30 s of mono sound at 16 kHz by Whisper's encoder."""
    model: Any = load_recogniser(BUNDLED).model
    num_frames = len(audio) // (2 * _MEL_STEP)
    mel = model.feature_extractor(audio, padding=0)[:, : 2 * num_frames]
    parts = [mel[:, start : start + _COLUMNS] for start in range(0, 2 * num_frames, _COLUMNS)]
    return EncodedAudio(states=np.concatenate([np.asarray(model.encode(part))[0] for part in parts]), mel=mel.T)


def describe(encoded: EncodedAudio) -> Float32[np.ndarray, "step 1776"]:
    """Return the features of each half second: of the second and the 5 s around it, and how soft it gets around it."""
    hop = round(STEP_S * FRAMES_PER_S)
    pooled = pool(encoded.states, widths=[width * FRAMES_PER_S for width in CONTEXTS_S], hop=hop)
    return np.concatenate([pooled, measure_floors(encoded.mel, hop=2 * hop)], axis=1)


def measure_floors(mel: Float32[np.ndarray, "column band"], *, hop: int) -> Float32[np.ndarray, "step feature"]:
    """Return the softest of every ``hop`` columns in each band: the means of the steps around each, and of all steps.

    What goes on behind speech is heard in its pauses.
    """
    num_steps = len(mel) // hop
    softest = rearrange(mel[: num_steps * hop], "(step column) band -> step column band", column=hop).min(axis=1)
    near = [average_around(softest, num_near) for num_near in FLOOR_STEPS]
    return np.concatenate([*near, np.broadcast_to(softest.mean(axis=0), softest.shape)], axis=1)


def average_around(rows: Float32[np.ndarray, "step value"], num_near: int) -> Float32[np.ndarray, "step value"]:
    """Return the mean of an odd number of rows around each; those at the ends stand for what is beyond."""
    padded = np.pad(rows, ((num_near // 2, num_near // 2), (0, 0)), mode="edge")
    means: Float32[np.ndarray, "step value"] = sliding_window_view(padded, num_near, axis=0).mean(axis=-1)
    return means


def pool(
    states: Float32[np.ndarray, "frame dim"], *, widths: Sequence[int], hop: int
) -> Float32[np.ndarray, "step feature"]:
    """Return means and standard deviations of so many frames around the middle of every ``hop``, cut off at the ends.

    Frames are summed once, from one border of any width to the next.
    """
    middles = np.arange(hop // 2, len(states) - hop + hop // 2 + 1, hop)
    spans = [((middles - width // 2).clip(0), (middles + width - width // 2).clip(max=len(states))) for width in widths]
    borders = np.unique([0, len(states), *(border for span in spans for ends in span for border in ends)])
    totals = [np.add.reduceat(values, borders[:-1], axis=0) for values in (states, states**2)]
    sums, squares = (np.cumsum(np.pad(own, ((1, 0), (0, 0))), axis=0, dtype=np.float64) for own in totals)
    features = []
    for begins, ends in spans:
        first, last, counts = *np.searchsorted(borders, (begins, ends)), (ends - begins)[:, None]
        means = (sums[last] - sums[first]) / counts
        variances = (squares[last] - squares[first]) / counts - means**2
        features += [means, np.sqrt(variances.clip(0))]
    return np.concatenate(features, axis=1).astype(np.float32)


def rate_labels(features: Float32[np.ndarray, "step 1776"]) -> Float32[np.ndarray, "step label"]:
    """Return the probabilities of music and of speech, given ``describe``: each the mean of the steps around it."""
    return average_around(1 / (1 + np.exp(-_apply(LABEL_WEIGHTS, features))), MEAN_STEPS)


def embed_windows(encoded: EncodedAudio) -> Float32[np.ndarray, "window 128"]:
    """Return unit vectors of windows of ``WINDOW_S``, from every ``HOP_S`` on, that tell sounds apart.

    A small network makes them of the means and deviations of states and of the spectrogram, and how the latter moves.
    It was trained so that a sound is near itself over other speech, music and noise (``tools/build_sounds.py``).
    """
    starts = range(0, max(len(encoded.states) - WINDOW_FRAMES, 0) + 1, round(HOP_S * FRAMES_PER_S))
    vectors = _apply(WINDOW_WEIGHTS, np.stack([describe_window(encoded, start) for start in starts]))
    unit: Float32[np.ndarray, "window 128"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    return unit


def describe_window(encoded: EncodedAudio, start: int) -> Float32[np.ndarray, " 1008"]:
    """Return the features of a window that begins at a frame."""
    states = encoded.states[start : start + WINDOW_FRAMES]
    mel = encoded.mel[2 * start : 2 * (start + WINDOW_FRAMES)]
    flux = np.abs(np.diff(mel, axis=0)).mean(axis=0)
    parts = [states.mean(axis=0), states.std(axis=0), mel.mean(axis=0), mel.std(axis=0), flux]
    return np.concatenate(parts).astype(np.float32)


def _apply(path: Path, features: Float32[np.ndarray, "row feature"]) -> Float32[np.ndarray, "row output"]:
    """Return the outputs of a network with one hidden layer."""
    weights = _load_weights(path)
    standard = (features - weights["mean"]) / weights["deviation"]
    hidden = np.maximum(standard @ weights["hidden"].T + weights["hidden_bias"], 0)
    outputs: Float32[np.ndarray, "row output"] = hidden @ weights["output"].T + weights.get("output_bias", 0)
    return outputs.astype(np.float32)


@functools.lru_cache(maxsize=2)
def _load_weights(path: Path) -> dict[str, Float32[np.ndarray, "..."]]:
    return {name: array.astype(np.float32) for name, array in load_file(path).items()}


def measure_levels(audio: Float32[np.ndarray, " sample"], *, step_s: float) -> Float[np.ndarray, " step"]:
    """Return the level of each step in dBFS: 10 log10 of the mean square; -120 at least."""
    size = round(step_s * SAMPLE_RATE)
    steps = rearrange(
        audio[: len(audio) // size * size].astype(np.float64), "(step sample) -> step sample", sample=size
    )
    levels: Float[np.ndarray, " step"] = 10 * np.log10((steps**2).mean(axis=1).clip(1e-12))
    return levels
