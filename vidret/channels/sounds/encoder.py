"""The first layers of the encoder of the bundled Whisper model, and what they tell of sounds: labels and vectors.

A frozen speech encoder keeps background sounds. Each half second of its states and of its spectrogram is summarised,
once for labels and for windows. Two networks with one hidden layer compute these from the summaries;
``tools/build_sounds.py`` trains and measures them.

The encoder runs on one CPU thread. The first layer suffices to tell sounds apart; each further one takes as long, and
helps speech only: docs/sounds.md. CTranslate2 runs whole models only, so it loads a model written in memory, with this
layer, and one layer of the decoder and a few rows of its vocabulary, which are never used.

References:
    Gong et al. 2023, "Whisper-AT: Noise-Robust Automatic Speech Recognizers are Also Strong General Audio Event
    Taggers".
    The format of a model's file, https://github.com/OpenNMT/CTranslate2, ``python/ctranslate2/specs``.
"""

import functools
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float32
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from vidret.channels.speech import BUNDLED, SAMPLE_RATE, find_model
from vidret.errors import MissingExtraError, VidretError, read_fault

NUM_LAYERS = 1
_COLUMNS = 250  # of the spectrogram that are encoded together, 2.5 s: the cost of attention grows with their square
_VOCABULARY, _WIDTH = 8, 384
_EMBEDDINGS = "decoder/embeddings/weight"


@dataclass(frozen=True, slots=True, eq=False)
class EncodedAudio:
    """The input and the output of the encoder for up to 30 s of audio.

    Attributes:
        states: Its states, 50 a second.
        mel: The log-mel spectrogram, 100 columns a second.
    """

    states: Float32[np.ndarray, "frame 384"]
    mel: Float32[np.ndarray, "column 80"]


class SoundEncoder:
    """The spectrogram and the first layers of Whisper's encoder."""

    def __init__(self) -> None:
        """Load the bundled model.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
            VidretError: The model is damaged, or cannot be downloaded.
        """
        if find_spec("faster_whisper") is None:
            raise MissingExtraError("hearing sounds", "words")
        from ctranslate2.models import Whisper
        from faster_whisper.feature_extractor import FeatureExtractor
        from faster_whisper.utils import download_model

        source = find_model(BUNDLED)
        try:
            folder = Path(source if Path(source).is_dir() else download_model(source))
            files = {
                "model.bin": cut_model((folder / "model.bin").read_bytes(), num_layers=NUM_LAYERS),
                "config.json": (folder / "config.json").read_bytes(),
                "vocabulary.txt": "\n".join(map(str, range(_VOCABULARY))).encode(),
            }
            self._model = Whisper(str(folder), files=files, device="cpu", compute_type="int8", intra_threads=1)
        except Exception as error:
            raise VidretError(f"speech model {BUNDLED}: cannot be loaded: {read_fault(error)}") from error
        self._extractor = FeatureExtractor()

    def encode(self, audio: Float32[np.ndarray, " sample"]) -> EncodedAudio:
        """Encode up to 30 s of mono sound at 16 kHz."""
        num_frames = len(audio) // (2 * self._extractor.hop_length)
        mel = self._extractor(audio, padding=0)[:, : 2 * num_frames]
        whole = mel.shape[1] // _COLUMNS * _COLUMNS
        batches = [mel[:, :whole].reshape(len(mel), -1, _COLUMNS).swapaxes(0, 1), mel[None, :, whole:]]
        states = [self._run(batch).reshape(-1, _WIDTH) for batch in batches if batch.size]
        return EncodedAudio(states=np.concatenate(states), mel=mel.T)

    def _run(self, mels: Float32[np.ndarray, "part band column"]) -> Float32[np.ndarray, "part frame 384"]:
        from ctranslate2 import StorageView

        return np.asarray(self._model.encode(StorageView.from_array(np.ascontiguousarray(mels))))


@functools.lru_cache(maxsize=1)
def load_sound_encoder() -> SoundEncoder:
    """Load the encoder, once in a process."""
    return SoundEncoder()


def cut_model(data: bytes, *, num_layers: int) -> bytes:
    """Return the file of a Whisper model of CTranslate2 with fewer layers of its encoder, and with hardly a decoder."""
    position = 0

    def take(form: str) -> Any:
        nonlocal position
        (value,) = struct.unpack_from(f"<{form}", data, position)
        position += struct.calcsize(f"<{form}")
        return value

    def take_text() -> str:
        nonlocal position
        length = take("H")  # with the zero at its end
        position += length
        return data[position - length : position - 1].decode()

    take("I"), take_text(), take("I")  # the version of the format, the kind of model and its version
    head, kept = data[:position], list[bytes]()
    for _ in range(take("I")):
        begin, name = position, take_text()
        shape_at, shape = position, [take("I") for _ in range(take("B"))]
        dtype, size = take("B"), take("I")
        position += size
        part, layer = name.split("/")[:2]
        is_layer, layer_index = layer.startswith("layer_"), layer.removeprefix("layer_")
        if is_layer and layer_index.isdigit() and int(layer_index) >= (num_layers if part == "encoder" else 1):
            continue
        if name == _EMBEDDINGS:
            rest = size - size // shape[0] * _VOCABULARY
            numbers = struct.pack("<BIIBI", len(shape), _VOCABULARY, *shape[1:], dtype, size - rest)
            kept.append(data[begin:shape_at] + numbers + data[position - size : position - rest])
        else:
            kept.append(data[begin:position])
    return b"".join([head, struct.pack("<I", len(kept)), *kept, data[position:]])


FRAMES_PER_S = 50
STEP_S = 0.5
CONTEXT_STEPS = (3, 11)  # around each step, whose summaries are averaged
MEAN_STEPS = 5  # which score higher than one step
LEARNT = ("music", "speech")  # in the order of the weights
LABEL_WEIGHTS, WINDOW_WEIGHTS = (Path(__file__).with_name(f"{name}.safetensors") for name in ("labels", "windows"))
WINDOW_S, HOP_S = 2.0, 1.0
WINDOW_STEPS, HOP_STEPS = round(WINDOW_S / STEP_S), round(HOP_S / STEP_S)
_PARTS = np.cumsum([384, 384, 80, 80, 80])  # of a summary: see ``summarise_sound``


def summarise_sound(encoded: EncodedAudio) -> Float32[np.ndarray, "step 1088"]:
    """Return a summary of each half second.

    It has the mean of the states and of their squares; and of each band of the spectrogram the mean, the mean square,
    the change from column to column, and the least value: pauses of speech reveal background sounds.
    """
    size = round(STEP_S * FRAMES_PER_S)
    num_steps = len(encoded.states) // size
    states = rearrange(encoded.states[: num_steps * size], "(step frame) dim -> step frame dim", frame=size)
    mel = rearrange(encoded.mel[: 2 * num_steps * size], "(step column) band -> step column band", column=2 * size)
    parts = [states.mean(axis=1), (states**2).mean(axis=1), mel.mean(axis=1), (mel**2).mean(axis=1)]
    return np.concatenate([*parts, np.abs(np.diff(mel, axis=1)).mean(axis=1), mel.min(axis=1)], axis=1)


def describe(steps: Float32[np.ndarray, "step 1088"]) -> Float32[np.ndarray, "step 2256"]:
    """Return the features of each half second: means over two spans around it, and the mean of the least levels."""
    near = [_deviate(average_around(steps, num_near)) for num_near in CONTEXT_STEPS]
    softest = steps[:, _PARTS[-1] :]
    return np.concatenate([*near, np.broadcast_to(softest.mean(axis=0), softest.shape)], axis=1)


def describe_windows(steps: Float32[np.ndarray, "step 1088"]) -> Float32[np.ndarray, "window 1088"]:
    """Return the features of windows of ``WINDOW_S``, from every ``HOP_S`` on; one of a clip that is shorter."""
    return _deviate(sliding_window_view(steps, min(WINDOW_STEPS, len(steps)), axis=0)[::HOP_STEPS].mean(axis=-1))


def _deviate(summaries: Float32[np.ndarray, "row 1088"]) -> Float32[np.ndarray, "row 1088"]:
    """Return summaries with standard deviations in place of mean squares."""
    states, squares, mel, mel_squares, *others = np.split(summaries, _PARTS, axis=1)
    deviations = [np.sqrt((square - mean**2).clip(0)) for mean, square in ((states, squares), (mel, mel_squares))]
    return np.concatenate([states, deviations[0], mel, deviations[1], *others], axis=1)


def average_around(rows: Float32[np.ndarray, "step value"], num_near: int) -> Float32[np.ndarray, "step value"]:
    """Return the mean of an odd number of rows around each; the first and the last row are repeated beyond the ends."""
    padded = np.pad(rows, ((num_near // 2, num_near // 2), (0, 0)), mode="edge")
    means: Float32[np.ndarray, "step value"] = sliding_window_view(padded, num_near, axis=0).mean(axis=-1)
    return means


def rate_labels(features: Float32[np.ndarray, "step 2256"]) -> Float32[np.ndarray, "step label"]:
    """Return the probabilities of music and of speech, given ``describe``, averaged over the steps around each."""
    return average_around(1 / (1 + np.exp(-_apply(LABEL_WEIGHTS, features))), MEAN_STEPS)


def embed_windows(steps: Float32[np.ndarray, "step 1088"]) -> Float32[np.ndarray, "window 128"]:
    """Return unit vectors of windows, in which equal sounds are close; see ``describe_windows``.

    They are trained so that a sound stays close to itself under speech, music and noise (``tools/build_sounds.py``).
    """
    vectors = _apply(WINDOW_WEIGHTS, describe_windows(steps))
    unit: Float32[np.ndarray, "window 128"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    return unit


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
