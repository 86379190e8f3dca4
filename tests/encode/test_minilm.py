"""MiniLM in NumPy: states equal to loops and to transformers."""

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

from vidret.encode.sentences import SENTENCES, find_weights, gelu, load_sentence_encoder, map_weights

NAMES = ("word", "position", "token_type")
TEXTS = ["a dog on a beach", "", "two people ride their bicycles through a busy street in the rain", "x"]


@pytest.fixture(scope="module")
def folder() -> Path:
    return find_weights(SENTENCES).parent


def naive_states(weights: dict[str, Tensor], ids: list[int], num_heads: int = 12) -> Tensor:
    """Compute the states of one text layer by layer and head by head, as in the paper."""

    def apply(states: Tensor, name: str) -> Tensor:
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(states: Tensor, name: str) -> Tensor:
        factor, bias = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return nn.functional.layer_norm(states, states.shape[-1:], factor, bias, 1e-12)

    words, positions, kinds = (weights[f"embeddings.{name}_embeddings.weight"] for name in NAMES)
    x = torch.stack([words[word] + positions[position] + kinds[0] for position, word in enumerate(ids)])
    x = norm(x, "embeddings")
    for index in range(6):
        layer = f"encoder.layer.{index}"
        query, key, value = (apply(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        heads, width = [], x.shape[1] // num_heads
        for head in range(num_heads):
            head_slice = slice(head * width, (head + 1) * width)
            logits = query[:, head_slice] @ key[:, head_slice].T / width**0.5
            heads.append(logits.softmax(-1) @ value[:, head_slice])
        x = norm(x + apply(torch.cat(heads, dim=1), f"{layer}.attention.output.dense"), f"{layer}.attention.output")
        inner = nn.functional.gelu(apply(x, f"{layer}.intermediate.dense"))
        x = norm(x + apply(inner, f"{layer}.output.dense"), f"{layer}.output")
    return x


@torch.no_grad()
def test_states_equal_loops_and_ignore_padding(folder: Path) -> None:
    model, weights = load_sentence_encoder(), load_file(folder / "model.safetensors")
    words, mask = model.embed(TEXTS)
    for text, row, real in zip(TEXTS, words, mask, strict=True):
        alone = naive_states(weights, model.tokenizer.encode(text).ids)
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

    library_model: Any = transformers.BertModel.from_pretrained(folder, local_files_only=True)
    library_model.eval()
    ids = np.array([[101, 1037, 3899, 2006, 1037, 3509, 102], [101, 1060, 102, 0, 0, 0, 0]])
    mask, model = ids != 0, load_sentence_encoder()
    states = library_model(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long()
    ).last_hidden_state
    np.testing.assert_allclose(model.compute_states(ids, mask)[mask], states.numpy()[mask], atol=1e-5, rtol=0)
