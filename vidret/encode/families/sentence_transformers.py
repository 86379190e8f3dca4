"""Embedding models of sentence-transformers, by ``st:NAME``: of images and texts, or of texts only.

Videos are encoded frame by frame. Prompts are those of the model: ``query`` for queries, ``document`` for frames and
for stored texts.
"""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch.nn import functional

from vidret.devices import choose_device
from vidret.encode.clip.weights import first_line
from vidret.encode.encoder import digest_weights, encode_each_frame
from vidret.encode.families.qwen3_vl import MODEL_TYPE, QwenVideoEncoder, load_qwen
from vidret.encode.families.transformers_models import read_preprocessing
from vidret.encode.long_text import encode_clauses
from vidret.encode.model_hub import Repository, find_repository, hide_progress
from vidret.encode.names import ModelName, refuse_sizes
from vidret.encode.precision import DTYPES, choose_float_precision
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

CONFIGURATIONS = ("modules.json", "config.json")
ANY_SIZE = Resize(shorter=384, crop=384)  # for models that take images of any size
BATCH_SIZE = 32  # frames or texts
UNLIMITED = 1 << 20  # tokens, where a model states no limit


class EmbeddingModelEncoder:
    """A model of sentence-transformers; a segment's vector is the mean of its frames' vectors.

    Attributes are those of ``Encoder``, ``device``, and ``prompts``, which the model puts before queries and frames.
    """

    encodes_frames_alone = True

    def __init__(self, name: str, model: Any, *, resize: Resize, sampling: Sampling) -> None:
        self.name, self.device, self.resize, self.sampling = name, str(model.device), resize, sampling
        self.prompts = {key: text for key, text in model.prompts.items() if text}
        self._model, self._lock = model.eval(), Lock()
        self._context = int(model.max_seq_length or UNLIMITED)
        self.fingerprint = digest_weights(model.state_dict().items(), self.prompts, resize, sampling, self._context)
        self.dim = len(self.encode_text(["a video"])[0].sentence)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested.
        """
        if tokens:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}")

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
            return _encode_units(self._model.encode_document, list(map(Image.fromarray, pixels.numpy()))), None

        return encode_each_frame(batch, BATCH_SIZE, encode)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one beyond the model's length is split into clauses, with a warning."""
        return encode_clauses(texts, self._encode_short, self._fits, context=self._context, name=self.name)

    def _encode_short(self, texts: Sequence[str]) -> list[TextEmbedding]:
        with self._lock:  # truncation is a setting of a fast tokenizer for all threads
            rows = _encode_units(self._model.encode_query, list(texts)).numpy()
        return [TextEmbedding(text, row, row[None]) for text, row in zip(texts, rows, strict=True)]

    def _fits(self, text: str) -> bool:
        prompted = self.prompts.get("query", "") + text
        with self._lock:
            num_tokens = len(self._model.tokenizer(prompted, truncation=False, verbose=False)["input_ids"])
        return num_tokens <= self._context


class TextModel:
    """A model of sentence-transformers as a thread-safe ``SentenceModel``; long texts are truncated to its length."""

    def __init__(self, model: Any) -> None:
        self._model, self._lock = model.eval(), Lock()
        prompts = {key: text for key, text in model.prompts.items() if text}  # versions differ about empty ones
        self.fingerprint = digest_weights(model.state_dict().items(), prompts, model.max_seq_length)
        self.dim = len(self._encode(model.encode_document, ["a text"])[0])

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors of stored texts."""
        return self._encode(self._model.encode_document, texts) if texts else np.zeros((0, self.dim), np.float32)

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return unit vectors of queries."""
        return self._encode(self._model.encode_query, texts) if texts else np.zeros((0, self.dim), np.float32)

    def _encode(self, encode: Any, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        # Tokenizers refuse lone surrogates, as in invalid file names and arguments.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        with self._lock:
            units: Float32[np.ndarray, "text dim"] = _encode_units(encode, clean).numpy()
        return units


def _encode_units(encode: Any, inputs: list[Any]) -> torch.Tensor:
    """Return a model's vectors for inputs, scaled to unit length, as float32 on the CPU."""
    vectors = encode(inputs, batch_size=BATCH_SIZE, convert_to_tensor=True, show_progress_bar=False)
    return functional.normalize(torch.as_tensor(vectors).float(), dim=-1).cpu()


@lru_cache(maxsize=2)  # of an index, and of another to compare with
def load_text_model(name: str) -> TextModel:
    """Load ``st:org/name`` or ``st:FOLDER`` as a text model. Code that comes with a model is never run.

    Raise MissingExtraError if sentence-transformers is not installed, or EncoderError if the name is unknown, the hub
    cannot be reached, or the model does not encode texts.
    """
    repository = _find(ModelName(name))
    with hide_progress():
        model = _load(repository, choose_device("auto"), torch.float32)
    if "text" not in model.modalities:
        raise EncoderError(f"{name}: must encode texts, got a model of {', '.join(model.modalities)}")
    return TextModel(model)


def load_embedding_model(name: ModelName, *, device: str, precision: str) -> EmbeddingModelEncoder | QwenVideoEncoder:
    """Load ``st:org/name`` or ``st:FOLDER``. Code that comes with a model is never run.

    Raise MissingExtraError if sentence-transformers is not installed, or EncoderError if the name is unknown, the hub
    cannot be reached, or the model does not encode images and texts.
    """
    repository = _find(name)
    if repository.read_type() == MODEL_TYPE:  # it sees videos, and does not need this library
        return load_qwen(repository, device=device, precision=precision)
    refuse_sizes(name)
    dtype = DTYPES[choose_float_precision(name.base, precision, torch.device(device))]
    model = _load(repository, device, dtype)
    if not {"text", "image"} <= set(model.modalities):
        raise EncoderError(f"{name.base}: must encode text and images, got a model of {', '.join(model.modalities)}")
    encoder = EmbeddingModelEncoder(
        str(replace(name, base=f"{name.scheme}:{repository.source}")),
        model,
        resize=_read_resize(name.base, model),
        sampling=name.sample(Sampling()),
    )
    for kind, prompt in encoder.prompts.items():
        logger.info("%s: the prompt of a %s is %r", name.base, kind, prompt)
    return encoder


def _find(name: ModelName) -> Repository:
    return find_repository(name, library="sentence_transformers", extra="st", configurations=CONFIGURATIONS, weights=())


def _load(repository: Repository, device: str, dtype: torch.dtype) -> Any:
    library: Any = importlib.import_module("sentence_transformers")
    try:
        return library.SentenceTransformer(
            repository.source, device=device, **repository.options, model_kwargs={"dtype": dtype}
        )
    except Exception as error:  # the library documents no exceptions, and versions differ
        raise EncoderError(f"{repository.name.base} cannot be loaded: {first_line(error)}") from error


def _read_resize(name: str, model: Any) -> Resize:
    """Return the frame size of a model's processor; a usual one for models that take any size."""
    processor = getattr(getattr(model[0], "processor", None), "image_processor", None)
    try:
        return read_preprocessing(name, processor).resize
    except (EncoderError, AttributeError, TypeError, KeyError):
        logger.info("%s: frames are cropped to %d pixels, as it takes images of any size", name, ANY_SIZE.crop)
        return ANY_SIZE
