"""MiniLM on torch's layers and in NumPy: states equal to loops and to transformers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file
from torch import Tensor, nn

from vidret.encode.minilm import MiniLM, load_minilm
from vidret.encode.sentences import FEW, SENTENCES, find_weights, gelu, load_sentence_model, map_weights

TEXTS = ["a dog on a beach", "", "two people ride their bicycles through a busy street in the rain", "x"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_weights(SENTENCES).parent


def naive_states(model: MiniLM, ids: list[int]) -> Tensor:
    """Compute the states of one text layer by layer and head by head, as in the paper."""
    words, positions, kind = model.words.weight, model.positions.weight, model.kinds.weight[0]
    x = torch.stack([words[word] + positions[position] + kind for position, word in enumerate(ids)])
    x = nn.functional.layer_norm(x, x.shape[-1:], model.norm.weight, model.norm.bias, model.norm.eps)
    for part in model.encoder.layers:
        layer: Any = part
        attention = layer.self_attn
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        query, key, value = (x @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
        heads = []
        for head in range(attention.num_heads):
            own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            logits = query[:, own] @ key[:, own].T / attention.head_dim**0.5
            heads.append(logits.softmax(-1) @ value[:, own])
        x = layer.norm1(x + attention.out_proj(torch.cat(heads, dim=1)))
        x = layer.norm2(x + layer.linear2(nn.functional.gelu(layer.linear1(x))))
    return x


@torch.no_grad()
@pytest.mark.parametrize("repeats", [1, 2])
def test_states_equal_loops_and_ignore_padding(folder: Path, repeats: int) -> None:
    texts = repeats * TEXTS
    assert (len(texts) <= FEW) == (repeats == 1)  # in NumPy, and on torch
    model, naive = load_sentence_model(folder / "model.safetensors"), load_minilm(folder)
    words, mask = model.embed(texts)
    for text, row, real in zip(texts, words, mask, strict=True):
        alone = naive_states(naive, model.tokenizer.encode(text).ids)
        np.testing.assert_allclose(row[real], alone, atol=1e-5, rtol=0)


@given(arrays(np.float32, st.integers(1, 50), elements=st.floats(-30, 30, width=32)))
def test_gelu_equals_that_of_the_error_function(x: np.ndarray) -> None:
    expected = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x.astype(np.float64).tolist()]
    np.testing.assert_allclose(gelu(x), expected, atol=2e-6, rtol=1e-6)


def test_mapped_weights_equal_those_that_are_read(folder: Path) -> None:
    mapped, read = map_weights(folder / "model.safetensors"), load_file(folder / "model.safetensors")
    assert mapped.keys() == {name for name, tensor in read.items() if tensor.dtype == torch.float32}
    for name, values in mapped.items():
        np.testing.assert_array_equal(values, read[name].numpy())


@torch.no_grad()
def test_states_equal_transformers(folder: Path) -> None:
    import transformers

    theirs: Any = transformers.BertModel.from_pretrained(folder, local_files_only=True)
    theirs.eval()
    ids = torch.tensor([[101, 1037, 3899, 2006, 1037, 3509, 102], [101, 1060, 102, 0, 0, 0, 0]])
    mask = ids != 0
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(load_minilm(folder)(ids, mask)[mask], expected[mask], atol=1e-5, rtol=0)
