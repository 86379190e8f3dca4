"""A tiny causal language model with random weights, saved to a folder as published ones are."""

import importlib
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

transformers: Any = importlib.import_module("transformers")  # whose annotations are incomplete
CONTEXT = 2048


def write_causal_model(folder: Path) -> Path:
    """Write a model of bytes: two layers, four heads that share two keys, as grouped-query attention has them."""
    torch.manual_seed(0)
    letters = {letter: token_id for token_id, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_ = Tokenizer(models.BPE(vocab=letters, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_, model_max_length=CONTEXT).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.5,  # so that attention differs from token to token
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
