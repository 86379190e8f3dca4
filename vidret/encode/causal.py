"""Causal language models of transformers, read as scorers: next-token logits and attention, no generated text."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float

from vidret.encode.model_hub import find_repository
from vidret.encode.names import ModelName
from vidret.errors import EncoderError

Spans = Sequence[tuple[int, int]]  # start and end of spans of a text, in characters


class CausalModel:
    """A causal language model with its tokenizer; see ``load_causal_model``."""

    def __init__(self, name: str, model: Any, tokenizer: Any, device: torch.device) -> None:
        self.name, self.device = name, device
        self._model, self._tokenizer = model.to(device).eval(), tokenizer
        self._takes_limit = "logits_to_keep" in inspect.signature(model.forward).parameters

    @property
    def context(self) -> int:
        """The maximum number of tokens."""
        return int(getattr(self._model.config, "max_position_embeddings", None) or 2048)

    def format_chat(self, system: str, user: str) -> str:
        """Return a system line and a user message in the model's chat template, up to its answer."""
        if getattr(self._tokenizer, "chat_template", None) is None:
            return f"{system}\n\n{user}\n"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self._encode(text)["input_ids"])

    @torch.inference_mode()
    def score_next(self, text: str, choices: Sequence[str]) -> Float[torch.Tensor, " choice"]:
        """Return the logits of choices for the next token after a text.

        Raise EncoderError if the tokenizer does not encode each choice as a single token.
        """
        tokens = self._find_tokens(text[-1:], choices)
        ids = torch.tensor([self._encode(text)["input_ids"]], device=self.device)
        logits: torch.Tensor = self._model(input_ids=ids, **({"logits_to_keep": 1} if self._takes_limit else {})).logits
        return logits[0, -1, tokens].float().cpu()

    @torch.inference_mode()
    def attend(self, text: str, asked: Sequence[str], spans: Spans) -> list[list[Float[torch.Tensor, " token"]]]:
        """Return the attention that questions pay to spans of a text.

        Weights are averaged over the tokens of a question, and summed over heads and layers. The text is read once;
        each question continues it independently.

        Returns:
            For each question, the attention paid to each token of each span.
        """
        encoded = self._encode(text, offsets=True)
        offsets = encoded["offset_mapping"]
        inside = [
            [at for at, (begin, stop) in enumerate(offsets) if begin < end and stop > start] for start, end in spans
        ]
        ids = torch.tensor([encoded["input_ids"]], device=self.device)
        read = self._model(input_ids=ids, use_cache=True, **({"logits_to_keep": 1} if self._takes_limit else {}))
        paid = []
        for continuation in asked:
            continuation_ids = self._encode(continuation, special=False)["input_ids"]
            answer = self._model(
                input_ids=torch.tensor([continuation_ids], device=self.device),
                cache=copy.deepcopy(read.cache),  # a pass appends to it
                output_attentions=True,
            )
            per_token = sum(
                reduce(layer[..., : len(offsets)].float(), "1 head query token -> token", "sum")
                for layer in answer.attentions
            )
            assert isinstance(per_token, torch.Tensor)
            per_token = per_token.cpu() / len(continuation_ids)
            paid.append([per_token[tokens] for tokens in inside])
        return paid

    def _encode(self, text: str, *, offsets: bool = False, special: bool = True) -> Any:
        return self._tokenizer(text, return_offsets_mapping=offsets, add_special_tokens=special, verbose=False)

    def _find_tokens(self, before: str, choices: Sequence[str]) -> list[int]:
        start = self._encode(before, special=False)["input_ids"]
        token_ids = []
        for choice in choices:
            tokens = self._encode(before + choice, special=False)["input_ids"]
            if tokens[:-1] != start:
                raise EncoderError(f"{self.name}: must write {before}{choice} as two tokens, got {len(tokens)}")
            token_ids.append(tokens[-1])
        return token_ids


def load_causal_model(name: str, *, device: str) -> CausalModel:
    """Load ``org/name`` or a folder in fp32, with or without the prefix ``hf:``.

    Raise MissingExtraError if transformers is not installed, or EncoderError if the model cannot be found or loaded, or
    its tokenizer does not give the positions of its tokens.
    """
    repository = find_repository(ModelName(f"hf:{name.removeprefix('hf:')}"))
    tokenizer = repository.load("AutoTokenizer")
    model = repository.load_model("AutoModelForCausalLM", attn_implementation="eager")
    if not tokenizer.is_fast:
        raise EncoderError(f"{name}: must have a fast tokenizer, which tells where its tokens are")
    return CausalModel(name, model, tokenizer, torch.device(device))
