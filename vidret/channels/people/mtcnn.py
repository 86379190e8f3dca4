"""MTCNN: a cascade of three small networks that finds faces and five points of each.

Reference: Zhang et al. 2016, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks".
Weights are those of the package ``mtcnn`` (MIT licence), which is not imported; results equal those of facenet-pytorch
but for ``HALVE_BELOW`` and the first of ``MIN_SCORES``.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from PIL import Image
from torch import nn
from torch.nn import functional

from vidret.channels.people.faces import Face
from vidret.errors import VidretError
from vidret.types import Picture

SHRINK = 0.709  # from one scale of the pyramid to the next
CELL = 12  # pixels that P-Net sees at once
STRIDE = 2  # pixels between two of its cells
HALVE_BELOW = 0.3  # of the image: smaller scales are made from one of half the size, which is quicker
MIN_SCORES = (0.7, 0.7, 0.7)  # of P-Net (0.6 elsewhere, which finds no more faces), R-Net and O-Net
_POOLS = {"pnet": ((2, 2), None, None), "rnet": ((3, 2), (3, 2), None), "onet": ((3, 2), (3, 2), (2, 2), None)}

Boxes = Float[np.ndarray, "_box 4"]  # left, top, right and bottom
Scores = Float[np.ndarray, " _box"]


class _Net(nn.Module):
    """Convolutions with PReLU and pooling, then linear heads, the first for boxes and the last for the class.

    P-Net returns one row per cell, the others one row per image.
    """

    def __init__(self, arrays: Sequence[Float32[np.ndarray, "..."]], pools: Sequence[tuple[int, int] | None]) -> None:
        """Take weights in the order of Keras: a kernel (height, width, in, out), a bias and slopes each."""
        super().__init__()
        tensors = [torch.from_numpy(np.array(array)) for array in arrays]
        layers: list[nn.Module] = []
        for pool in pools:
            kernel, bias, slopes, *tensors = tensors
            convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], (kernel.shape[0], kernel.shape[1]))
            layers += [_fill(convolution, kernel.permute(3, 2, 0, 1), bias), _make_prelu(slopes)]
            layers += [] if pool is None else [nn.MaxPool2d(*pool, ceil_mode=True)]
        self.features = nn.Sequential(*layers)
        self.dense = nn.Sequential()
        if tensors[0].ndim == 2:  # R-Net and O-Net
            weight, bias, slopes, *tensors = tensors
            self.dense = nn.Sequential(_fill(nn.Linear(*weight.shape), weight.T, bias), _make_prelu(slopes))
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        self.heads = nn.ModuleList(
            _fill(nn.Linear(*weight.shape[-2:]), weight.flatten(0, -2).T, bias) for weight, bias in pairs
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of the heads for images (N, 3, height, width)."""
        maps = self.features(images)
        rows = self.dense(maps.permute(0, 3, 2, 1).flatten(1)) if self.dense else maps.permute(0, 2, 3, 1)
        *others, classes = (head(rows) for head in self.heads)
        return [*others, (classes[..., 1] - classes[..., 0]).sigmoid()]  # softmax, but quicker


def _fill(layer: Any, weight: torch.Tensor, bias: torch.Tensor) -> Any:
    is_kernel = weight.ndim == 4  # PyTorch is quickest with channels last
    layout = torch.channels_last if is_kernel else torch.contiguous_format
    layer.weight.data, layer.bias.data = weight.contiguous(memory_format=layout), bias
    return layer


def _make_prelu(slopes: torch.Tensor) -> nn.PReLU:
    prelu = nn.PReLU(slopes.numel())
    prelu.weight.data = slopes.flatten()
    return prelu


class MTCNN:
    """The detector, on one CPU thread."""

    def __init__(self, folder: Path) -> None:
        """Load the weights, files of the package ``mtcnn``; raise VidretError if a file is missing or damaged."""
        self._pnet, self._rnet, self._onet = (
            _Net(read_arrays(folder / f"{name}.lz4"), pools).eval().requires_grad_(False)
            for name, pools in _POOLS.items()
        )

    @torch.inference_mode()
    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        """Return the faces of an image that are at least ``min_size`` pixels large, highest score first."""
        boxes = self._propose(image, min_size)
        boxes = self._refine(image, boxes)
        return self._decide(image, boxes)

    def _propose(self, image: Picture, min_size: float) -> Boxes:
        """Return square boxes where P-Net sees faces, at all sizes."""
        (height, width), scale, factor = image.shape[:2], CELL / min_size, 1
        pixels = None
        found: list[Float[np.ndarray, "box 9"]] = [np.empty((0, 9))]
        while min(height, width) * scale >= CELL:
            if pixels is None or factor * scale < HALVE_BELOW:
                while factor * scale < HALVE_BELOW:
                    image, factor = np.asarray(Image.fromarray(image).reduce(2)), 2 * factor
                pixels = _as_tensor(image)
            small = functional.interpolate(pixels, size=(int(height * scale + 1), int(width * scale + 1)), mode="area")
            offsets, scores = (out[0].numpy() for out in self._pnet(_normalise(small)))
            rows, columns = np.nonzero(scores >= MIN_SCORES[0])
            cells = np.stack((columns, rows, columns, rows), axis=1) * STRIDE + (1, 1, CELL, CELL)
            boxes = np.floor(cells / np.float32(scale))
            kept = suppress(boxes, scores[rows, columns], 0.5)
            parts = (boxes, scores[rows, columns, None], offsets[rows, columns])
            found.append(np.concatenate(parts, axis=1)[kept])
            scale *= SHRINK
        every = np.concatenate(found)
        every = every[suppress(every[:, :4], every[:, 4], 0.7)]
        return make_square(shift(every[:, :4], every[:, 5:], extra=0))

    def _refine(self, image: Picture, boxes: Boxes) -> Boxes:
        """Return the boxes that R-Net takes for faces, square and with refined positions."""
        images, boxes = _crop(image, boxes, 24)
        offsets, scores = (out.numpy() for out in self._rnet(images))
        sure = scores > MIN_SCORES[1]
        boxes, offsets, scores = boxes[sure], offsets[sure], scores[sure]
        kept = suppress(boxes, scores, 0.7)
        return make_square(shift(boxes[kept], offsets[kept], extra=1))

    def _decide(self, image: Picture, boxes: Boxes) -> list[Face]:
        """Return the faces among the boxes, with their points, by O-Net."""
        images, boxes = _crop(image, boxes, 48)
        offsets, points, scores = (out.numpy() for out in self._onet(images))
        sure = scores > MIN_SCORES[2]
        boxes, offsets, points, scores = boxes[sure], offsets[sure], points[sure], scores[sure]
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        points = points.reshape(-1, 2, 5).swapaxes(1, 2) * sizes[:, None] + boxes[:, None, :2] - 1
        boxes = shift(boxes, offsets, extra=1)
        kept = suppress(boxes, scores, 0.7, over="smaller")
        return [Face(tuple(boxes[row].tolist()), points[row], float(scores[row])) for row in kept]


def _as_tensor(image: Picture) -> torch.Tensor:
    """Return an image as (1, 3, height, width)."""
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]


def _normalise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 127.5) / 128


def _crop(image: Picture, boxes: Boxes, side: int) -> tuple[torch.Tensor, Boxes]:
    """Return the contents of boxes within the image, resized to one side, and the boxes that have any."""
    height, width = image.shape[:2]
    edges = np.trunc(boxes).astype(int)
    low, high = np.maximum(edges[:, :2], 1) - 1, np.minimum(edges[:, 2:], (width, height))
    has_pixels = (high > low).all(axis=1)
    images = [
        functional.interpolate(_as_tensor(image[top:bottom, left:right]), size=(side, side), mode="area")
        for (left, top), (right, bottom) in zip(low[has_pixels], high[has_pixels], strict=True)
    ]
    return _normalise(torch.cat(images) if images else torch.empty(0, 3, side, side)), boxes[has_pixels]


def shift(boxes: Boxes, offsets: Boxes, *, extra: int) -> Boxes:
    """Return boxes whose edges are moved by parts of their sizes, which count ``extra`` pixels more."""
    sizes = boxes[:, 2:] - boxes[:, :2] + extra
    shifted: Boxes = boxes + offsets * np.tile(sizes, 2)
    return shifted


def make_square(boxes: Boxes) -> Boxes:
    """Return boxes with the same centres, as wide and high as their longer sides."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    longer = sizes.max(axis=1, keepdims=True)
    low = boxes[:, :2] + (sizes - longer) / 2
    return np.concatenate((low, low + longer), axis=1)


def suppress(
    boxes: Boxes, scores: Scores, threshold: float, *, over: Literal["union", "smaller"] = "union"
) -> Int64[np.ndarray, " kept"]:
    """Return the rows of the boxes that no better box overlaps by more than a threshold, the best first.

    It is a share of the area of their union, or of the smaller box, whose sides count a pixel more then.
    """
    extra = 1 if over == "smaller" else 0
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1)
    waiting, kept = np.argsort(-scores, kind="stable"), []
    while waiting.size:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[waiting, :2]), np.minimum(boxes[best, 2:], boxes[waiting, 2:])
        shared = np.prod(np.maximum(high - low + extra, 0), axis=1)
        smaller, union = np.minimum(areas[best], areas[waiting]), areas[best] + areas[waiting] - shared
        waiting = waiting[shared <= threshold * (smaller if over == "smaller" else union)]
    return np.array(kept, np.int64)


def read_arrays(path: Path) -> list[Float32[np.ndarray, "..."]]:
    """Return the arrays of a file of weights, which joblib has pickled: it is as trusted as the code of its package.

    Raise VidretError if the file is missing or damaged.
    """
    import joblib
    import lz4.frame

    try:  # joblib's own reader of lz4 leaves a file open, of which Python 3.13 warns
        arrays: list[Float32[np.ndarray, ...]] = joblib.load(io.BytesIO(lz4.frame.decompress(path.read_bytes())))
    except Exception as error:
        raise VidretError(f"{path}: not the weights of MTCNN: {error}") from error
    return arrays
