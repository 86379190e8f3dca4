"""Shared layers against sums over heads and tokens."""

import math

import pytest
import torch
from torch import Tensor, nn

from vidret.layers import SHORT, Attention, Block, Int8Linear, LowRank, Mlp, attend, quantize


def naive_low_rank(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Compute x A^T B^T by loops."""
    out = torch.zeros(len(x), len(b))
    for token in range(len(x)):
        for channel in range(len(b)):
            for rank in range(len(a)):
                inner = sum(float(x[token, i] * a[rank, i]) for i in range(x.shape[1]))
                out[token, channel] += b[channel, rank] * inner
    return out


def naive_attention(
    attention: Attention, queries: Tensor, memory: Tensor, *, bias: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Compute attention of one sequence by loops over heads and queries."""
    width, heads = queries.shape[1], attention.heads
    size = width // heads
    weight: Tensor = attention.in_proj_weight
    if attention.lora is not None:
        weight = weight + attention.lora.b @ attention.lora.a
    sources = zip(weight.chunk(3), attention.in_proj_bias.chunk(3), (queries, memory, memory), strict=True)
    query, key, value = (source @ w.T + b for w, b, source in sources)
    rows = []
    for i in range(len(queries)):
        channels = []
        for head in range(heads):
            head_slice = slice(head * size, (head + 1) * size)
            logits = [
                float(query[i, head_slice] @ key[j, head_slice]) / math.sqrt(size)
                + (0.0 if bias is None else float(bias[j]))
                for j in range(len(memory))
                if not causal or j <= i
            ]
            highest = max(logits)
            exponentials = [math.exp(logit - highest) for logit in logits]
            total = sum(
                (exponential * value[j, head_slice] for j, exponential in enumerate(exponentials)), torch.zeros(size)
            )
            channels.append(total / sum(exponentials))
        rows.append(attention.out_proj(torch.cat(channels)))
    return torch.stack(rows)


def make_attention(width: int = 12, heads: int = 3, lora_rank: int = 0) -> Attention:
    attention = Attention(width, heads, lora_rank=lora_rank)
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    if attention.lora is not None:
        nn.init.normal_(attention.lora.b, std=0.3)
    return attention


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@torch.no_grad()
def test_low_rank_equals_loops_and_starts_at_zero() -> None:
    layer, x = LowRank(7, 5, 2), torch.randn(4, 7)
    assert (layer(x) == 0).all()
    assert layer.a.abs().max() <= (1 / 7) ** 0.5, "Kaiming's uniform bound with a = sqrt 5"
    assert layer.a.abs().min() > 0
    nn.init.normal_(layer.b)
    torch.testing.assert_close(layer(x), naive_low_rank(x, layer.a, layer.b))
    torch.testing.assert_close(layer(x.expand(2, 3, 4, 7))[1, 2], layer(x))


@torch.no_grad()
@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_loops_and_ignores_later_tokens_if_causal(causal: bool, lora_rank: int) -> None:
    attention, x = make_attention(lora_rank=lora_rank), torch.randn(2, 6, 12)
    biases = None if causal else torch.randint(1, 9, (2, 6)).float().log()
    actual, _ = attention(x, bias=None if biases is None else biases[:, None, None], causal=causal)
    for index in range(2):
        bias = None if biases is None else biases[index]
        expected = naive_attention(attention, x[index], x[index], bias=bias, causal=causal)
        torch.testing.assert_close(actual[index], expected)
    if causal:
        later = x.clone()
        later[:, 4:] = torch.randn(2, 2, 12)
        torch.testing.assert_close(attention(later, causal=True)[0][:, :4], actual[:, :4])


@pytest.mark.parametrize("num_tokens", [5, SHORT, SHORT + 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_short_sequences_has_values_and_gradients_of_torchs_kernel(num_tokens: int, causal: bool) -> None:
    parts = torch.randn(3, 2, 3, num_tokens, 4).bfloat16()
    bias = None if causal else torch.randn(2, 1, 1, num_tokens).bfloat16()
    if bias is not None:
        bias[0, ..., 3] = -torch.inf
    weights, found = torch.randn(2, 3, num_tokens, 4).bfloat16(), []
    for dtype in (torch.bfloat16, torch.float64):  # the latter takes PyTorch's kernel
        inputs = parts.to(dtype).requires_grad_()
        query, key, value = inputs.unbind(0)
        mixed = attend(query, key, value, None if bias is None else bias.to(dtype), causal=causal)
        (grad,) = torch.autograd.grad((mixed * weights.to(dtype)).sum(), inputs)
        found.append((mixed.double(), grad.double()))
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(plain, fused, atol=0.05, rtol=0.02)


@torch.no_grad()
def test_cross_attention_equals_loops_and_ignores_a_hidden_key() -> None:
    attention, queries, memory = make_attention(), torch.randn(2, 3, 12), torch.randn(2, 7, 12)
    actual = attention.cross(queries, memory)
    for index in range(2):
        torch.testing.assert_close(actual[index], naive_attention(attention, queries[index], memory[index]))
    hidden = torch.zeros(2, 1, 1, 7)
    hidden[..., 5:] = -torch.inf
    torch.testing.assert_close(attention.cross(queries, memory, bias=hidden), attention.cross(queries, memory[:, :5]))


@torch.no_grad()
def test_parameters_equal_torchs_multihead_attention() -> None:
    attention, other = make_attention(), nn.MultiheadAttention(12, 3, batch_first=True)
    other.load_state_dict(attention.state_dict())
    x, memory = torch.randn(2, 5, 12), torch.randn(2, 4, 12)
    torch.testing.assert_close(attention(x)[0], other(x, x, x, need_weights=False)[0])
    torch.testing.assert_close(attention.cross(x, memory), other(x, memory, memory, need_weights=False)[0])


@torch.no_grad()
def test_returned_keys_include_update_and_bias() -> None:
    attention, x = make_attention(lora_rank=2), torch.randn(2, 5, 12)
    assert attention.lora is not None
    weight = (attention.in_proj_weight + attention.lora.b @ attention.lora.a)[12:24]
    _, keys = attention(x)
    expected = (x @ weight.T + attention.in_proj_bias[12:24]).view(2, 5, 3, 4).transpose(1, 2)
    torch.testing.assert_close(keys, expected)


@torch.no_grad()
def test_folding_keeps_the_output() -> None:
    attention, x = make_attention(lora_rank=3), torch.randn(2, 5, 12)
    before = attention(x)[0]
    for _ in range(2):
        attention.fold()
        assert attention.lora is None
        torch.testing.assert_close(attention(x)[0], before, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_block_equals_its_formula(quick_gelu: bool) -> None:
    block, x = Block(12, 3, quick_gelu=quick_gelu, mlp_ratio=2.0), torch.randn(1, 5, 12)
    between = x[0] + naive_attention(block.attn, block.ln_1(x[0]), block.ln_1(x[0]))
    rows = []
    for row in between:
        hidden = block.mlp.c_fc(block.ln_2(row))
        gates = [
            1 / (1 + math.exp(-1.702 * float(h))) if quick_gelu else math.erfc(-float(h) / 2**0.5) / 2 for h in hidden
        ]
        rows.append(row + block.mlp.c_proj(hidden * torch.tensor(gates)))
    for takes_gradients in (False, True):
        with torch.set_grad_enabled(takes_gradients):
            torch.testing.assert_close(block(x)[0], torch.stack(rows))
    assert isinstance(block.mlp, Mlp)
    assert block.mlp.c_fc.out_features == 24


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads must divide width 10, got 3"):
        Attention(10, 3)


def naive_int8(x: Tensor, weight: Tensor, bias: Tensor) -> list[list[float]]:
    """Multiply integers, number by number, with one scale per row of inputs and of weights."""

    def pack(row: list[float]) -> tuple[list[int], float]:
        scale = max(abs(value) for value in row) / 127
        return [round(value / scale) if scale else 0 for value in row], scale

    inputs, weights = ([pack(row) for row in rows.double().tolist()] for rows in (x, weight))
    return [
        [
            sum(a * b for a, b in zip(row, other, strict=True)) * scale * factor + offset
            for (other, factor), offset in zip(weights, bias.tolist(), strict=True)
        ]
        for row, scale in inputs
    ]


@torch.no_grad()
@pytest.mark.parametrize("num_rows", [1, 3, 20])
def test_an_int8_layer_equals_loops(num_rows: int) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 10), torch.randn(num_rows, 24) * torch.rand(num_rows, 1)
    x[0] = 0
    layer = Int8Linear(linear.weight, linear.bias)
    expected = torch.tensor(naive_int8(x, linear.weight, linear.bias))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.project(x, slice(3, 7)), expected[:, 3:7], atol=1e-5, rtol=0)
    assert layer(x[None, None]).shape == (1, 1, num_rows, 10)
    half_steps = (
        0.5
        / 127
        * (
            x.abs().amax(1)[:, None] * linear.weight.abs().sum(1)
            + x.abs().sum(1)[:, None] * linear.weight.abs().amax(1)
        )
    )
    assert ((layer(x) - linear(x)).abs() <= half_steps * 1.01 + 1e-5).all(), "wrong by half a step at most"
    unbiased = Int8Linear(linear.weight)
    torch.testing.assert_close(unbiased(x) + linear.bias, layer(x), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_quantized_block_is_close(lora_rank: int) -> None:
    torch.manual_seed(0)
    block, x = Block(64, 4, quick_gelu=False, lora_rank=lora_rank), torch.randn(2, 7, 64)
    if block.attn.lora is not None:
        block.attn.lora.b.normal_()
    expected, crossed = block(x), block.attn.cross(x[:, :2], x)
    quantize(block)
    assert not any(isinstance(module, nn.Linear) for module in block.modules())
    for actual, exact in ((block(x), expected), (block.attn.cross(x[:, :2], x), crossed)):
        assert not torch.equal(actual, exact)
        assert nn.functional.cosine_similarity(actual, exact, dim=-1).min() > 0.999
