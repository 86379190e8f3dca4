"""The image tower of the starter: EfficientNet-Lite0, whose standardised logits mix the vectors of its classes."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float32
from torch import nn
from torch.nn import functional

from vidret.encode.encoder import encode_each_frame, normalise_pixels
from vidret.encode.families.efficientnet import RELU6, LiteTrunk, LiteWeights, load_weights
from vidret.types import Frames, SegmentEmbedding

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CPU_BATCH, GPU_BATCH = 4, 32  # frames; on a CPU, the activations of more leave its cache


class StarterImages:
    """Frames to mixtures of class vectors; see ``starter`` for the reference and how the mixing weights differ."""

    def __init__(
        self, weights: Path, classes: Float32[np.ndarray, "category dim"], *, device: str, precision: str
    ) -> None:
        """Load the classifier; ``classes`` are the centred vectors of its classes. See ``StarterEncoder``."""
        loaded, self._device = load_weights(weights), torch.device(device)
        self._batch_size = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH
        self._standardise = make_standardiser(loaded).to(self._device)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._trunk = LiteTrunk(loaded, device=self._device, dtype=dtype)
        self._classes = torch.from_numpy(classes).to(self._device)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Frames], *, tokens: bool) -> list[SegmentEmbedding]:
        """Encode each segment's frames."""
        return encode_each_frame(batch, self._batch_size, partial(self._encode_images, tokens=tokens))

    def _encode_images(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode uint8 (frame, height, width, 3): frames (frame, dim), and with ``tokens`` regions (frame, 49, dim)."""
        features = self._trunk(normalise_pixels(pixels.to(self._device), MEAN, STD, torch.float32))
        frames = self._mix(self._standardise(reduce(features, "frame dim row column -> frame dim", "mean")))
        if not tokens:
            return frames, None
        regions = rearrange(features, "frame dim row column -> frame (row column) dim")
        return frames, self._mix(self._standardise(regions))

    def _mix(self, logits: torch.Tensor) -> torch.Tensor:
        """Mix class vectors by standardised logits (..., class) into unit vectors (..., dim)."""
        return functional.normalize(logits.clamp(min=0).square() @ self._classes, dim=-1).cpu()


def make_standardiser(weights: LiteWeights) -> nn.Linear:
    """Return a linear layer from pooled features to standardised logits, (logit - mean) / deviation.

    Mean and deviation are those over the classifier's training set: by the last batch normalisation each channel is
    normal with mean ``bias`` and deviation ``|weight|``, followed by ReLU6 and a linear layer. Channels are taken as
    independent.
    """
    last, weight = weights.read_norm("_bn1"), weights.tensors["_fc.weight"].double()
    mean, variance = clipped_normal(last.bias.double(), last.weight.double().abs(), RELU6)
    deviation = (weight.square() @ variance).sqrt()
    standardise = nn.Linear(weight.shape[1], weight.shape[0])
    standardise.weight.data = (weight / deviation.unsqueeze(1)).float().detach()
    standardise.bias.data = (-(weight @ mean) / deviation).float().detach()
    return standardise


def clipped_normal(mean: torch.Tensor, deviation: torch.Tensor, top: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of min(max(x, 0), top) for normal x, elementwise, in closed form."""
    deviation = deviation.clamp(min=1e-12)
    low, high = -mean / deviation, (top - mean) / deviation
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    above = torch.special.ndtr(-high)
    density_low, density_high = (torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    first = mean * inside + deviation * (density_low - density_high) + top * above
    spread = low * density_low - high * density_high
    second = (
        (mean.square() + deviation.square()) * inside
        + 2 * mean * deviation * (density_low - density_high)
        + deviation.square() * spread
        + top**2 * above
    )
    return first, (second - first.square()).clamp(min=0)
