"""The first layers of the encoder of the bundled Whisper model, on one CPU thread.

The first layer suffices to tell sounds apart; each further one takes as long, and helps speech only: docs/sounds.md.
CTranslate2 runs whole models only, so it loads a model written in memory, with this layer, and one layer of the decoder
and a few rows of its vocabulary, which are never used.

Reference: the format of a model's file, https://github.com/OpenNMT/CTranslate2, ``python/ctranslate2/specs``.
"""

import functools
import struct
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.speech import BUNDLED, find_model
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
