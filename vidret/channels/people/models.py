"""The bundled model of faces, which finds faces by MTCNN, and describes them by dlib's ResNet.

dlib's ResNet gives 128 numbers for an aligned face, close for the same person. Its weights
(``dlib_face_recognition_resnet_model_v1.dat``, CC0) are read from dlib's own format, without dlib, and the network is
run by torch. Reference: dlib's ``examples/dnn_face_recognition_ex.cpp``; He et al. 2016, "Deep Residual Learning for
Image Recognition", with a third fewer layers and half the filters.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch.nn import functional

from vidret.channels.identities import TRACK_KINDS
from vidret.channels.people.mtcnn import MTCNN
from vidret.errors import VidretError
from vidret.model_files import find_package

DIM = 128
SIDE = 150  # pixels of an aligned face
_MEANS, _SCALE = (122.782, 117.001, 104.298), 256.0
_LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))  # blocks; whether it shrinks
_FIRST = 7  # pixels of the first kernel
_LAYERS = re.compile(rb"\x05con_4|\x07affine_|\x04fc_2\x01\x80\x02\x00\x01")  # the last with its outputs and inputs
BUNDLED = TRACK_KINDS["face"].bundled
_RESNET = "dlib_face_recognition_resnet_model_v1.dat"
# MTCNN's points in images that dlib has aligned by its own points: medians, made symmetrical.
_TEMPLATE = np.array(((49.5, 46.5), (104.0, 46.5), (77.0, 78.0), (54.5, 106.8), (98.5, 106.8)))


class DlibResNet:
    """dlib's network, on one CPU thread."""

    def __init__(self, path: Path) -> None:
        """Load the weights; raise VidretError if the file is missing or damaged."""
        try:
            arrays = read_parameters(path.read_bytes())
            self._first = _take(arrays, 3, 32, _FIRST)
            self._blocks = []
            num_in = 32
            for num_out, num_blocks, shrinks in _LEVELS:
                for block in range(num_blocks):
                    pair = (_take(arrays, num_in, num_out, 3), _take(arrays, num_out, num_out, 3))
                    self._blocks.append((pair, shrinks and block == 0))
                    num_in = num_out
            self._last = next(arrays).reshape(num_in, DIM)
        except (OSError, ValueError, IndexError, StopIteration, RuntimeError) as error:
            raise VidretError(f"{path}: not the weights of dlib's ResNet for faces: {error!r}") from error

    @torch.inference_mode()
    def describe(self, chips: UInt8[np.ndarray, "face side side 3"]) -> Float32[np.ndarray, "face 128"]:
        """Return the vectors of aligned faces; they are not of unit length."""
        pixels = torch.from_numpy(chips.astype(np.float32)).permute(0, 3, 1, 2)
        maps = (pixels - torch.tensor(_MEANS).view(3, 1, 1)) / _SCALE
        maps = functional.max_pool2d(_convolve(maps, self._first, stride=2).relu(), 3, 2)
        for (one, other), shrinks in self._blocks:
            inner = _convolve(_convolve(maps, one, stride=2 if shrinks else 1).relu(), other)
            maps = _add(inner, functional.avg_pool2d(maps, 2) if shrinks else maps).relu()
        return (maps.mean(dim=(2, 3)) @ self._last).numpy()


_Convolution = tuple[torch.Tensor, torch.Tensor]  # a kernel (out, in, height, width) and a bias, scale included


def _take(arrays: Iterator[torch.Tensor], num_in: int, num_out: int, side: int) -> _Convolution:
    """Return the next convolution, with the scale and the bias that follow it folded into it."""
    convolution, affine = next(arrays), next(arrays)
    kernel, bias = convolution[:-num_out].reshape(num_out, num_in, side, side), convolution[-num_out:]
    gamma, beta = affine.reshape(2, num_out)
    return kernel * gamma.view(-1, 1, 1, 1), bias * gamma + beta


def _convolve(maps: torch.Tensor, convolution: _Convolution, *, stride: int = 1) -> torch.Tensor:
    """Return the output of a convolution, padded only where it does not shrink, as dlib does."""
    kernel, bias = convolution
    return functional.conv2d(maps, kernel, bias, stride=stride, padding=kernel.shape[-1] // 2 if stride == 1 else 0)


def _add(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the sum of two outputs, each extended by zeros to the larger channels, height and width of both."""
    shape = [max(sizes) for sizes in zip(one.shape, other.shape, strict=True)]
    padded = [
        functional.pad(maps, [side for axis in (3, 2, 1) for side in (0, shape[axis] - maps.shape[axis])])
        for maps in (one, other)
    ]
    return padded[0] + padded[1]


def read_parameters(data: bytes) -> Iterator[torch.Tensor]:
    """Yield the parameters of the layers of a network that dlib has serialised, from its input to its output.

    A layer is its name and a tensor: a version, four sizes, then floats. An integer is a byte with its number of bytes,
    then those; names and floats are stored as they are.
    """
    offset = 0
    while match := _LAYERS.search(data, offset):
        offset, sizes = match.end(), []
        for _ in range(5):  # the version, then the sizes
            length = data[offset] & 0x7F
            sizes.append(int.from_bytes(data[offset + 1 : offset + 1 + length], "little"))
            offset += 1 + length
        values = np.frombuffer(data, "<f4", count=int(np.prod(sizes[1:])), offset=offset)
        offset += values.nbytes
        yield torch.from_numpy(values.astype(np.float32))


class BundledFaces:
    """MTCNN finds faces, and dlib's ResNet describes them; their weights come with packages of the extra ``people``."""

    template, side = _TEMPLATE, SIDE
    # dlib's threshold of 0.6, about 0.43 at unit length, joins strangers when faces are as small as in videos.
    link_distance, maybe_distance = 0.37, 0.43

    def __init__(self) -> None:
        """Load the weights.

        Raise MissingExtraError if the extra ``people`` is not installed, or VidretError if weights are missing or
        damaged.
        """
        TRACK_KINDS["face"].check_installed(BUNDLED)
        weights = _find_folder("face_recognition_models") / "models" / _RESNET
        self.find = MTCNN(_find_folder("mtcnn") / "assets" / "weights").find
        self.describe = DlibResNet(weights).describe
        self.name = f"{BUNDLED}:unit:{hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()}"


def _find_folder(package: str) -> Path:
    folder = find_package(package)
    if folder is None:
        raise VidretError(f"{package}: the package has no folder; install it again")
    return folder
