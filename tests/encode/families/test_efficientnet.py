"""EfficientNet-Lite2: the fast forward pass against timm's, on both kinds of convolution."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from vidret.encode.families import efficientnet
from vidret.encode.families.efficientnet import (
    WIDE,
    FoldedConv,
    LiteTrunk,
    LiteWeights,
    clear_margins,
    load_weights,
    pad,
)
from vidret.encode.families.starter import CLASSIFIER
from vidret.encode.sentences import find_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> LiteWeights:
    return load_weights(find_weights(CLASSIFIER))


@pytest.fixture(scope="module")
def network(weights: LiteWeights) -> Any:
    """Return timm's network, which lists the same tensors in the same order."""
    network = timm.create_model("tf_efficientnet_lite2", pretrained=False).eval()
    network.load_state_dict(dict(zip(network.state_dict(), weights.tensors.values(), strict=True)))
    return network


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run with and without oneDNN's fused convolutions."""
    if not request.param:
        monkeypatch.setattr(efficientnet, "supports_onednn", lambda _device, _dtype: False)
    elif not efficientnet.supports_onednn(CPU, torch.float32):
        pytest.skip("this PyTorch has no oneDNN")
    return bool(request.param)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_conv(images: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """Convolve output by output; TensorFlow pads the end more than the start."""
    size, (num_images, channels, height, width) = weight.shape[-1], images.shape
    down, across = -(-height // stride), -(-width // stride)
    starts = [max((out - 1) * stride + size - length, 0) // 2 for out, length in ((down, height), (across, width))]
    out = torch.zeros(num_images, len(weight), down, across)
    per_group, filters_per_group = channels // groups, len(weight) // groups
    for image, channel, row, column, y, x in np.ndindex(*out.shape, size, size):
        top, left = row * stride - starts[0] + y, column * stride - starts[1] + x
        if 0 <= top < height and 0 <= left < width:
            first = channel // filters_per_group * per_group
            out[image, channel, row, column] += (
                images[image, first : first + per_group, top, left] @ weight[channel, :, y, x]
            )
    return out + bias[:, None, None]


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("relu6", [True, False])
@torch.inference_mode()
def test_a_folded_convolution_equals_loops(fused: bool, size: int, stride: int, depthwise: bool, relu6: bool) -> None:
    groups = 4 if depthwise else 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv, norm = nn.Conv2d(4, 4, size, stride, bias=False, groups=groups).eval(), nn.BatchNorm2d(4).eval()
        for values in (norm.weight, norm.bias, norm.running_mean):
            assert values is not None
            values.data.normal_()
    layer, images = FoldedConv(conv, norm, relu6=relu6, device=CPU), 4 * noise(2, 4, 6, 5)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = naive_conv(
        images, conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale, stride, groups
    )
    padded = pad(images, layer.margins(6), layer.margins(5)).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(padded), expected.clamp(0, 6) if relu6 else expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_trunk_equals_timms_network(fused: bool, weights: LiteWeights, network: Any) -> None:
    images = noise(2, 3, 224, 224)
    expected, features = network.forward_features(images), LiteTrunk(weights)(images)
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_any_size_of_image(fused: bool, weights: LiteWeights, network: Any) -> None:
    """Odd sides need other padding."""
    images = noise(1, 3, 75, 98)
    torch.testing.assert_close(LiteTrunk(weights)(images), network.forward_features(images), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_bfloat16_rounds_wide_layers_only(fused: bool, weights: LiteWeights) -> None:
    narrow, wide = (
        FoldedConv(nn.Conv2d(channels, 8, 1).eval(), nn.BatchNorm2d(8).eval(), device=CPU, dtype=torch.bfloat16)
        for channels in (WIDE - 1, WIDE)
    )
    assert (narrow._weight.dtype, wide._weight.dtype) == (torch.float32, torch.bfloat16)
    images = noise(1, 3, 64, 64)
    exact, rough = (LiteTrunk(weights, dtype=dtype)(images) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.998


def test_margins_are_cleared_in_place() -> None:
    images = torch.ones(1, 2, 5, 6)
    clear_margins(images, (1, 2), (0, 1))
    assert images[:, :, 1:3, :5].eq(1).all()
    assert images.sum() == 2 * 2 * 5


@torch.inference_mode()
def test_weights_are_reordered_once(weights: LiteWeights, capfd: pytest.CaptureFixture[str]) -> None:
    if not efficientnet.supports_onednn(CPU, torch.float32):
        pytest.skip("without oneDNN, weights stay as they are")
    trunk, images = LiteTrunk(weights), noise(4, 3, 224, 224)
    trunk(images)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
        trunk(images)
    executed = capfd.readouterr().out
    assert ",convolution," in executed
    assert ",reorder," not in executed
