"""MiniLM on torch's layers: states equal to loops and to transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidret.encode.sentences import SENTENCES, MiniLM, embed_words, find_weights, load_minilm, load_sentence_model

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
def test_states_equal_loops_and_ignore_padding(folder: Path) -> None:
    tokenizer, model = load_sentence_model(folder / "model.safetensors")
    words, mask = embed_words(tokenizer, model, TEXTS)
    for text, row, real in zip(TEXTS, words, mask, strict=True):
        alone = naive_states(model, tokenizer.encode(text).ids)
        torch.testing.assert_close(row[real], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_states_equal_transformers(folder: Path) -> None:
    import transformers

    theirs: Any = transformers.BertModel.from_pretrained(folder, local_files_only=True)
    theirs.eval()
    ids = torch.tensor([[101, 1037, 3899, 2006, 1037, 3509, 102], [101, 1060, 102, 0, 0, 0, 0]])
    mask = ids != 0
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(load_minilm(folder)(ids, mask)[mask], expected[mask], atol=1e-5, rtol=0)
