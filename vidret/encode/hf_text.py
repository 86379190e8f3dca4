"""Texts for models of transformers: tokens, sentences and words."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch.nn import functional

from vidret.encode.hf_families import Family
from vidret.encode.long_text import encode_clauses
from vidret.types import TextEmbedding

TEXT_BATCH = 64


class TextSide:
    """The tokenizer and text tower of a model of transformers."""

    def __init__(self, name: str, model: Any, tokenizer: Any, family: Family, *, device: torch.device) -> None:
        """Set the loaded model and its tokenizer."""
        self._name, self._model, self._tokenizer, self._family = name, model, tokenizer, family
        positions = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
        self.context = min(family.context or positions, tokenizer.model_max_length)
        self._device, self._lock = device, Lock()  # a fast tokenizer is set to truncate or not, for all threads

    def encode(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one that is longer than the model's context is split into clauses."""
        return encode_clauses(texts, self._encode_short, self._fits, context=self.context, name=self._name)

    def _fits(self, text: str) -> bool:
        with self._lock:
            num_tokens = len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])
        return bool(num_tokens <= self.context)

    @torch.inference_mode()
    def _encode_short(self, texts: Sequence[str]) -> list[TextEmbedding]:
        embeddings = []
        for start in range(0, len(texts), TEXT_BATCH):
            embeddings += self._encode_batch(list(texts[start : start + TEXT_BATCH]))
        return embeddings

    def _encode_batch(self, texts: list[str]) -> list[TextEmbedding]:
        with self._lock:
            tokens = self._tokenizer(
                texts,
                padding="max_length" if self._family.pads else "longest",
                truncation=True,
                max_length=self.context,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
        is_word = tokens.pop("special_tokens_mask") == 0
        output = self._family.texts(self._model, {key: value.to(self._device) for key, value in tokens.items()})
        sentences = functional.normalize(output.pooler_output.float().reshape(len(texts), -1), dim=-1).cpu()
        words = None
        if self._family.words is not None:
            states = self._family.words(self._model, output.last_hidden_state)
            words = functional.normalize(states.float(), dim=-1).cpu()
        embeddings = []
        for row, text in enumerate(texts):
            own = sentences[row : row + 1] if words is None or not is_word[row].any() else words[row][is_word[row]]
            embeddings.append(TextEmbedding(text, sentences[row].numpy(), own.numpy()))
        return embeddings
