"""CAM++: a speaker encoder of densely connected time-delay layers, each weighted by a mask of its context.

Reference: Wang et al. 2023, "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking".
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

BLOCKS = ((12, 1), (24, 2), (16, 2))  # layers and dilation
_CONTEXT = 100  # frames whose mean is the local context


class CamPlusPlus:
    """Log mel filter banks to a vector of the voice, with weights by the names that 3D-Speaker published them under."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Store the weights; a missing one is a KeyError when it is used."""
        self._weights = weights

    def __call__(self, banks: Float[Tensor, "window frame bin"]) -> Float[Tensor, "window dim"]:
        """Return vectors that are not normalised of windows of equal length, less their means over time."""
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
        x = x.contiguous(memory_format=torch.channels_last)  # in which such convolutions are faster
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
