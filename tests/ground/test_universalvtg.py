"""UniversalVTG's network and spans against twins in loops, its scan, padding and shapes, and its weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ground.samples import naive_overlap
from tests.ground.universalvtg_samples import make_head, make_inputs
from vidret.errors import VidretError
from vidret.ground.universalvtg import (
    Level,
    UniversalVtg,
    build_universal,
    decode_levels,
    load_universal,
    make_positions,
    save_universal,
)
from vidret.ground.universalvtg_layers import scan_states

Array = Any  # of float64


# A twin: rows first, one row after the other


class Twin:
    """The network from its description, over the weights by their published names."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.weights = {name: weight.numpy() for name, weight in weights.items()}

    def linear(self, name: str, x: Array) -> Array:
        weight = self.weights[f"{name}.weight"]
        bias = self.weights.get(f"{name}.bias", np.zeros(len(weight)))
        return x @ weight.reshape(len(weight), -1).T + bias

    def norm(self, name: str, x: Array) -> Array:
        weight, bias = self.weights[f"{name}.weight"].ravel(), self.weights[f"{name}.bias"].ravel()
        return plain_norm(x) * weight + bias

    def rms(self, name: str, x: Array, eps: float) -> Array:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps) * self.weights[f"{name}.weight"]

    def scale(self, name: str) -> Array:
        return self.weights[f"{name}.scale"].ravel()

    def conv(self, name: str, x: Array) -> Array:
        """Convolve rows: every kernel is odd, depthwise where it has one input."""
        weight = self.weights[f"{name}.weight"]
        side = weight.shape[2] // 2
        out = np.zeros((len(x), len(weight)))
        for row in range(len(x)):
            for offset in range(-side, side + 1):
                if 0 <= row + offset < len(x):
                    kernel = weight[:, :, offset + side]
                    out[row] += x[row + offset] * kernel[:, 0] if kernel.shape[1] == 1 else kernel @ x[row + offset]
        return out + self.weights.get(f"{name}.bias", 0.0)

    def attend(
        self, name: str, queries: Array, keys: Array, values: Array, heads: int, window: int, mask: Array
    ) -> Array:
        q, k, v = (
            self.linear(f"{name}.{kind}", x) for kind, x in (("query", queries), ("key", keys), ("value", values))
        )
        size = q.shape[1] // heads
        out = np.zeros_like(q)
        for row in range(len(q)):
            near = [key for key in range(len(k)) if not window or abs(key - row) <= window // 2]
            for head in range(heads):
                head_slice = slice(head * size, (head + 1) * size)
                logits = np.array([q[row, head_slice] @ k[key, head_slice] / math.sqrt(size) for key in near])
                logits = logits + np.where(mask[near], 0, -1e4 if window else -np.inf)
                weights = np.exp(logits - logits.max())
                out[row, head_slice] = (weights / weights.sum()) @ v[near][:, head_slice]
            if window and not mask[row]:
                out[row] = 0
        return self.linear(f"{name}.proj", out)

    def feed(self, name: str, x: Array) -> Array:
        return self.linear(f"{name}.proj", gelu(self.linear(f"{name}.fc", x)))

    def fuse(self, x: Array, real: Array, text: Array) -> Array:
        for layer in ("fusion.layers.0", "fusion.layers.1"):
            x = x * real
            query = self.norm(
                f"{layer}.xattn.q_norm",
                self.conv(f"{layer}.xattn.q_conv.conv", self.norm(f"{layer}.ln_xattn_q", x) * real),
            )
            memory = self.norm(f"{layer}.ln_xattn_kv", text)
            seen = self.attend(f"{layer}.xattn.xattn", query, memory, memory, 4, 0, np.ones(len(text), bool))
            x = seen[:, : x.shape[1]] * plain_norm(x) + seen[:, x.shape[1] :]
            x = (
                x
                + self.scale(f"{layer}.drop_path_ffn")
                * self.feed(f"{layer}.ffn", self.norm(f"{layer}.ln_ffn", x))
                * real
            )
        return self.norm("fusion.ln_out", x)

    def hydra(self, name: str, x: Array) -> Array:
        inner = 2 * x.shape[1]
        heads = inner // 64
        projected = self.linear(f"{name}.in_proj", x)
        gate, mixed, steps = np.split(projected, [inner, 2 * inner + 256], axis=1)
        mixed = silu(self.conv(f"{name}.conv1d", mixed))
        rows, b_forward, c_forward, b_back, c_back = np.split(mixed, inner + 64 * np.arange(4), axis=1)
        steps = np.log1p(np.exp(steps + np.tile(self.weights[f"{name}.dt_bias"], 2)))
        rates = -np.exp(self.weights[f"{name}.A_log"])
        rows = rows.reshape(len(x), heads, 64)
        forward = naive_scan(rows, steps[:, :heads], rates, b_forward, c_forward)
        back = naive_scan(rows[::-1], steps[::-1, heads:], rates, b_back[::-1], c_back[::-1])
        out = np.zeros_like(rows)
        for row in range(len(x)):
            if row > 0:
                out[row] += forward[row - 1]
            if row + 1 < len(x):
                out[row] += back[::-1][row + 1]
            factor = self.linear(f"{name}.fc_D", rows[row].reshape(1, inner))[0] + self.weights[f"{name}.D"]
            out[row] += rows[row] * factor[:, None]
        return self.linear(f"{name}.out_proj", self.rms(f"{name}.norm", out.reshape(len(x), inner), 1e-5) * silu(gate))

    def block(self, index: int, x: Array, num_real: int) -> tuple[Array, Array]:
        name, window = f"vid_net.branch.{index}", 5 if index < 5 else 0
        x = np.where(np.arange(len(x))[:, None] < num_real, x, 0)
        padded = np.concatenate([x, np.zeros((len(x) % 2, x.shape[1]))])
        u: list[Array] = []
        for pair in range(len(padded) // 2):
            one, two = padded[2 * pair : 2 * pair + 2]
            u += [(one + two) / 2, one, two]
        joined = np.array(u)
        mask = np.arange(len(joined)) < num_real + math.ceil(num_real / 2)
        real = mask[:, None]
        local = f"{name}.local_encoder"
        seen = (
            self.scale(f"{name}.drop_path_global")
            * self.hydra(f"{name}.global_encoder", self.rms(f"{name}.norm_global", joined, 1e-6))
            + joined
        ) * real
        gate = sigmoid(self.linear(f"{name}.gate1.0", np.concatenate([joined, seen], axis=1)))
        f = gate * seen + (1 - gate) * joined
        y = self.rms(f"{name}.norm_local", f, 1e-6) * real
        h = self.norm(f"{local}.ln_attn", y)
        q, k, v = (
            self.norm(f"{local}.attn.{kind}_norm", self.conv(f"{local}.attn.{kind}_conv.conv", h * real))
            for kind in "qkv"
        )
        y = y * real + self.scale(f"{local}.drop_path_attn") * self.attend(
            f"{local}.attn.attn", q, k, v, 2, window, mask
        )
        y = y + self.scale(f"{local}.drop_path_ffn") * self.feed(f"{local}.ffn", self.norm(f"{local}.ln_ffn", y)) * real
        near = (self.scale(f"{name}.drop_path_local") * y + f) * real
        gate = sigmoid(self.linear(f"{name}.gate2.0", np.concatenate([f, near], axis=1)))
        h = gate * near + (1 - gate) * f
        out = h + self.scale(f"{name}.drop_path_ffn") * gelu(
            self.linear(f"{name}.ffn.0", self.rms(f"{name}.norm_ffn", h, 1e-6))
        )
        rows = np.array([row for place, row in enumerate(out) if place % 3])
        return rows[: len(x)], out[::3]

    def stack(self, name: str, x: Array, real: Array, convs: str = "convs", norms: str = "norms") -> Array:
        for index in range(2):
            x = np.maximum(self.norm(f"{name}.{norms}.{index}", self.conv(f"{name}.{convs}.{index}.conv", x * real)), 0)
        return x

    def __call__(self, frames: Array, words: Array) -> list[tuple[Array, Array]]:
        x = self.linear("text_net.embd_fc.conv", words)
        h = np.concatenate([x.mean(axis=0, keepdims=True), x])
        text = np.concatenate([self.attend("text_net.attn_pool.attn", h, h, h, 4, 0, np.ones(len(h), bool))[:1], x])
        num_real = len(frames)
        rows = np.zeros((math.ceil(num_real / 128) * 128, frames.shape[1]))
        rows[:num_real] = frames
        real = np.arange(len(rows))[:, None] < num_real
        rows = self.fuse(self.linear("vid_proj.conv", rows), real, text)
        rows = self.stack("vid_net", self.linear("vid_net.embd_fc.conv", rows * real), real, "embd_convs", "embd_norms")
        rows = rows + make_positions(len(rows), rows.shape[1]).numpy().T * real
        levels = []
        for index in range(8):
            level, rows = self.block(index, rows, num_real)
            real = np.arange(len(level))[:, None] < num_real
            fused = self.fuse(level, real, text)
            logits = self.conv("cls_head.cls_head.conv", self.stack("cls_head", fused, real) * real)
            offsets = self.conv("reg_head.reg_head.conv", self.stack("reg_head", fused, real) * real)
            offsets = np.maximum(offsets * self.weights[f"reg_head.scales.{index}.scale"], 0)
            levels.append((logits[:num_real, 0], offsets[:num_real]))
            num_real = math.ceil(num_real / 2)
        return levels


def naive_scan(x: Array, steps: Array, rates: Array, b: Array, c: Array) -> Array:
    state = np.zeros((x.shape[1], x.shape[2], b.shape[1]))
    out = np.zeros_like(x)
    for row in range(len(x)):
        for head in range(x.shape[1]):
            decay = math.exp(rates[head] * steps[row, head])
            state[head] = decay * state[head] + steps[row, head] * np.outer(x[row, head], b[row])
            out[row, head] = state[head] @ c[row]
    return out


def plain_norm(x: Array) -> Array:
    return (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(("num_frames", "num_words"), [(77, 5), (130, 2)])
def test_network_equals_its_twin(num_frames: int, num_words: int) -> None:
    head = make_head()
    frames, words = make_inputs(num_frames, num_words)
    with torch.no_grad():
        levels = head(frames, words)
    expected = Twin(head.state_dict())(frames.numpy(), words.numpy())
    assert [level.stride for level in levels] == [1, 2, 4, 8, 16, 32, 64, 128]
    for level, (logits, offsets) in zip(levels, expected, strict=True):
        np.testing.assert_allclose(level.logits.numpy(), logits, atol=1e-9)
        np.testing.assert_allclose(level.offsets.numpy(), offsets, atol=1e-9)
    assert max(float(level.offsets.max()) for level in levels) > 0


@given(num_rows=st.integers(1, 9), chunk=st.integers(1, 10), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_scan_in_chunks_is_the_recurrence(num_rows: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, b, c = (torch.randn(num_rows, *shape, generator=generator).double() for shape in ((2, 3), (4,), (4,)))
    steps, rates = torch.rand(num_rows, 2, generator=generator).double() * 5, -torch.tensor([0.1, 40.0]).double()
    expected = naive_scan(x.numpy(), steps.numpy(), rates.numpy(), b.numpy(), c.numpy())
    np.testing.assert_allclose(scan_states(x, steps, rates, b, c, chunk=chunk).numpy(), expected, atol=1e-12)


def test_shapes_are_those_of_the_published_head() -> None:
    with torch.device("meta"):
        head = UniversalVtg()
    assert sum(weight.numel() for weight in head.parameters()) == 63_726_987
    assert len(head.state_dict()) == 474
    assert head.state_dict()["vid_net.branch.0.global_encoder.in_proj.weight"].shape == (2336, 512)


def test_positions_of_long_videos_are_interpolated() -> None:
    table, longer = make_positions(4608, 8), make_positions(9215, 8)
    torch.testing.assert_close(longer[:, ::2], table)
    assert table[0, 1].item() == pytest.approx(math.sin(1) / math.sqrt(8))
    assert table[1, 100].item() == pytest.approx(math.sin(100 / 10_000 ** (1 / 4)) / math.sqrt(8), abs=1e-6)
    assert table[4, 1].item() == pytest.approx(math.cos(1) / math.sqrt(8))


def naive_spans(levels: list[Level], duration: float) -> list[tuple[float, float, float]]:
    points = []
    for level in levels:
        for row, (logit, offsets) in enumerate(zip(level.logits.tolist(), level.offsets.tolist(), strict=True)):
            start, end = row * level.stride - offsets[0] * level.stride, row * level.stride + offsets[1] * level.stride
            score = 1 / (1 + math.exp(-logit))
            if score >= 0.001 and end - start >= 0.1:
                points.append((start, end, score))
    points = sorted(points, key=lambda point: -point[2])[:2000]
    remaining, chosen = [list(point) for point in points], list[tuple[float, float, float]]()
    while remaining and len(chosen) < 5:
        best = max(remaining, key=lambda point: point[2])
        remaining.remove(best)
        if best[2] < 0.001:
            break
        agreeing = [point for point in points if naive_overlap(point, tuple(best)) >= 0.95]
        total = sum(point[2] for point in agreeing)
        edges = [sum(point[2] * point[side] for point in agreeing) / total for side in (0, 1)]
        start, end = (min(max((edge + 0.5) / 2, 0), duration) for edge in edges)
        chosen.append((start, end, best[2]))
        for point in remaining:
            point[2] *= math.exp(-(naive_overlap(tuple(point), tuple(best)) ** 2) / 0.9)
    return [span for span in chosen if span[1] > span[0]]


@given(seed=st.integers(0, 999), num_rows=st.integers(1, 40))
def test_spans_equal_their_twin(seed: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride in (1, 2, 4):
        count = -(-num_rows // stride)
        logits = torch.randn(count, generator=generator, dtype=torch.float64) * 4 - 2
        levels.append(Level(stride, logits, torch.rand(count, 2, generator=generator, dtype=torch.float64) * 3))
    found = decode_levels(levels, duration=15.0)
    np.testing.assert_allclose([tuple(span) for span in found], naive_spans(levels, 15.0), atol=1e-9)


def test_what_agrees_votes_and_a_point_without_length_is_no_span() -> None:
    logits, offsets = torch.tensor([0.0, 3.0, 3.0]), torch.tensor([[0.0, 0.0], [1.0, 39.0], [2.2, 37.8]])
    span, other = decode_levels([Level(1, logits.double(), offsets.double())], duration=60.0)
    assert span[:2] == other[:2]
    np.testing.assert_allclose(span[:2], [(0.0 - 0.2) / 2 / 2 + 0.25, (40.0 + 39.8) / 2 / 2 + 0.25], atol=1e-6)
    assert decode_levels([Level(1, torch.full((3,), -9.0).double(), offsets.double())], duration=60.0) == []


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weights = make_head().state_dict()
    weights.pop("fusion.ln_out.bias")
    weights["more"] = torch.zeros(1)
    with pytest.raises(VidretError, match=r"1 weight missing: fusion\.ln_out\.bias; 1 weight unknown: more"):
        build_universal(weights)
    with pytest.raises(VidretError, match=r"vid_proj\.conv\.weight"):
        build_universal({})
    path = tmp_path / "head.safetensors"
    save_universal(make_head(), path)
    path.write_bytes(path.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(VidretError, match="format must be 1, got 9"):
        load_universal(path)
