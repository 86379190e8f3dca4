"""Made sound and weights, the same on every machine."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from vidret.channels.voices.campplus import BLOCKS
from vidret.channels.voices.fbank import SAMPLE_RATE

Shape = tuple[int, ...]


def make_sound(seconds: float = 0.5) -> Float32[np.ndarray, " sample"]:
    """Return a buzz whose pitch and loudness change, with noise."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(7 * times)) / SAMPLE_RATE
    buzz = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 20))
    noise = np.random.default_rng(3).standard_normal(len(times))
    return (0.1 * (1 + 0.5 * np.sin(20 * times)) * buzz + 0.003 * noise).astype(np.float32)


def make_weights() -> dict[str, Tensor]:
    """Return weights of CAM++ that are drawn by their names in alphabetical order."""
    drawn, weights = np.random.default_rng(0), {}
    for name, shape in sorted(list_shapes()):
        fan_in = max(1, int(np.prod(shape[1:])))
        values = drawn.standard_normal(shape) / np.sqrt(fan_in)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            values = 1 + 0.1 * np.abs(values)
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def list_shapes() -> Iterator[tuple[str, Shape]]:
    """Yield the names of the published weights with their shapes."""
    yield from _list_layer("head.conv1", (32, 1, 3, 3), "head.bn1")
    for layer in (1, 2):
        for block in (0, 1):
            name = f"head.layer{layer}.{block}"
            for number in (1, 2):
                yield from _list_layer(f"{name}.conv{number}", (32, 32, 3, 3), f"{name}.bn{number}")
        name = f"head.layer{layer}.0.shortcut"
        yield from _list_layer(f"{name}.0", (32, 32, 1, 1), f"{name}.1")
    yield from _list_layer("head.conv2", (32, 32, 3, 3), "head.bn2")
    yield from _list_layer("xvector.tdnn.linear", (128, 320, 5), "xvector.tdnn.nonlinear.batchnorm")
    channels = 128
    for block, (num_layers, _) in enumerate(BLOCKS, 1):
        for layer in range(1, num_layers + 1):
            name = f"xvector.block{block}.tdnnd{layer}"
            yield from _list_norm(f"{name}.nonlinear1.batchnorm", channels)
            yield from _list_layer(f"{name}.linear1", (128, channels, 1), f"{name}.nonlinear2.batchnorm")
            yield f"{name}.cam_layer.linear_local.weight", (32, 128, 3)
            for number, shape in ((1, (64, 128, 1)), (2, (32, 64, 1))):
                yield f"{name}.cam_layer.linear{number}.weight", shape
                yield f"{name}.cam_layer.linear{number}.bias", shape[:1]
            channels += 32
        yield from _list_norm(f"xvector.transit{block}.nonlinear.batchnorm", channels)
        yield f"xvector.transit{block}.linear.weight", (channels // 2, channels, 1)
        channels //= 2
    yield from _list_norm("xvector.out_nonlinear.batchnorm", channels)
    yield "xvector.dense.linear.weight", (192, 2 * channels, 1)
    yield from list(_list_norm("xvector.dense.nonlinear.batchnorm", 192))[:2]


def _list_layer(name: str, shape: Shape, norm: str) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield from _list_norm(norm, shape[0])


def _list_norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield from ((f"{name}.{part}", (channels,)) for part in ("running_mean", "running_var", "weight", "bias"))
