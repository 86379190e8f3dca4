"""Encoders that run a model of transformers: of images, frame by frame, or of videos, segment by segment."""

import importlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from torch.nn import functional

from vidret.encode.clip.weights import first_line
from vidret.encode.encoder import digest_weights, encode_each_frame
from vidret.encode.families.transformers_models import MODEL_TYPES, ModelType, Preprocessing, read_preprocessing
from vidret.encode.long_text import encode_clauses
from vidret.encode.model_hub import find_source
from vidret.encode.names import ModelName
from vidret.encode.precision import DTYPES, choose_float_precision
from vidret.errors import EncoderError, MissingExtraError
from vidret.types import Frames, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)


class TextSide:
    """The tokenizer and text tower of a model of transformers."""

    def __init__(self, name: str, model: Any, tokenizer: Any, model_type: ModelType, *, device: torch.device) -> None:
        self._name, self._model, self._tokenizer, self._model_type = name, model, tokenizer, model_type
        positions = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
        self.context = min(model_type.context or positions, tokenizer.model_max_length)
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
        with self._lock:
            tokens = self._tokenizer(
                list(texts),
                padding="max_length" if self._model_type.pads else "longest",
                truncation=True,
                max_length=self.context,
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
        is_word = tokens.pop("special_tokens_mask") == 0
        output = self._model_type.texts(self._model, {key: value.to(self._device) for key, value in tokens.items()})
        sentences = functional.normalize(output.pooler_output.float().reshape(len(texts), -1), dim=-1).cpu()
        words = None
        if self._model_type.words is not None:
            states = self._model_type.words(self._model, output.last_hidden_state)
            words = functional.normalize(states.float(), dim=-1).cpu()
        embeddings = []
        for row, text in enumerate(texts):
            own = sentences[row : row + 1] if words is None or not is_word[row].any() else words[row][is_word[row]]
            embeddings.append(TextEmbedding(text, sentences[row].numpy(), own.numpy()))
        return embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersModel:
    """A loaded model of transformers with everything that it is run with."""

    name: str
    model: Any
    tokenizer: Any
    model_type: ModelType
    preprocessing: Preprocessing
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype

    def digest(self, context: int) -> str:
        """Return the fingerprint of an encoder with this model and this number of tokens."""
        facts = (self.model.config.model_type, self.preprocessing, self.sampling, context)
        return digest_weights(self.model.state_dict().items(), *facts)


class _LoadedEncoder:
    """What encoders of images and of videos share: the model on its device, and the texts."""

    def __init__(self, loaded: TransformersModel) -> None:
        self._loaded = loaded
        self._model = loaded.model.eval()
        self._text = TextSide(loaded.name, self._model, loaded.tokenizer, loaded.model_type, device=loaded.device)
        self.fingerprint = loaded.digest(self._text.context)
        self._model.to(loaded.device, loaded.dtype)
        self.name, self.device = loaded.name, str(loaded.device)
        self.resize, self.sampling = loaded.preprocessing.resize, loaded.sampling
        self.dim = len(self.encode_text(["a video"])[0].sentence)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one beyond the model's length is split into clauses, with a warning."""
        return self._text.encode(texts)


class TransformersEncoder(_LoadedEncoder):
    """A model of images and texts; a segment's vector is the mean of its frames' vectors.

    Attributes are those of ``Encoder``, and ``device``. Tokens are patches, if the model has any.
    """

    encodes_frames_alone = True

    def __init__(self, loaded: TransformersModel, *, batch_size: int = 64) -> None:
        super().__init__(loaded)
        self._batch_size = batch_size

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        Raises:
            EncoderError: ``tokens`` are requested of a model without patches.
        """
        loaded = self._loaded
        to_patches = loaded.model_type.patches
        if tokens and to_patches is None:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}")

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            output = loaded.model_type.encode(self._model, _normalise(loaded, pixels))
            vectors = functional.normalize(output.pooler_output.float().flatten(1), dim=-1).cpu()
            if not tokens or to_patches is None:
                return vectors, None
            return vectors, functional.normalize(to_patches(self._model, output).float(), dim=-1).cpu()

        return encode_each_frame(batch, self._batch_size, encode)


class TransformersVideoEncoder(_LoadedEncoder):
    """A model of videos and texts, which gives each segment one vector; it is repeated for every frame.

    A segment is shown as the model's own number of frames, spread over it as in training. Attributes are those of
    ``Encoder``, and ``device``.
    """

    encodes_frames_alone = False
    has_frame_vectors = False

    def __init__(self, loaded: TransformersModel, num_frames: int, *, batch_size: int = 64) -> None:
        """Wrap a loaded model that sees ``num_frames`` at once; ``batch_size`` counts frames."""
        super().__init__(loaded)
        self._num_frames = num_frames
        self._batch_size = max(1, batch_size // num_frames)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment as one video; frames must have the size that ``resize`` produces.

        Raises:
            EncoderError: ``tokens`` are requested.
        """
        if tokens:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}, which encodes videos")
        embeddings, choose = [], self._loaded.model_type.choose
        for start in range(0, len(batch), self._batch_size):
            chunk = batch[start : start + self._batch_size]
            shown = [frames.pixels[choose(len(frames), self._num_frames)] for frames in chunk]
            images = _normalise(self._loaded, torch.from_numpy(np.concatenate(shown)))
            videos = rearrange(images, "(video frame) c y x -> video frame c y x", frame=self._num_frames)
            output = self._loaded.model_type.encode(self._model, videos).pooler_output.float()
            vectors = functional.normalize(output.reshape(len(chunk), -1), dim=-1).cpu()
            for frames, vector in zip(chunk, vectors, strict=True):
                rows = repeat(vector, "dim -> frame dim", frame=len(frames)).numpy()
                embeddings.append(SegmentEmbedding(vector.numpy(), rows, frames.times))
        return embeddings


def _normalise(loaded: TransformersModel, pixels: torch.Tensor) -> torch.Tensor:
    constants = loaded.preprocessing.mean, loaded.preprocessing.std
    return loaded.model_type.normalise(loaded.model, pixels.to(loaded.device), *constants, loaded.dtype)


CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def load_transformers(
    name: ModelName, *, device: str, precision: str
) -> TransformersEncoder | TransformersVideoEncoder:
    """Load ``hf:org/name`` or ``hf:FOLDER``. Code that comes with a model is never run.

    Raises:
        MissingExtraError: transformers is not installed.
        EncoderError: The name is unknown, the hub cannot be reached, the files are not those of a model of a known
            family, or the precision does not apply.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"the model {name.base}", "hf")
    chosen = choose_float_precision(name.base, precision, torch.device(device))
    source, is_local = find_source(name, [CONFIG], WEIGHTS)
    options = {"trust_remote_code": False, "local_files_only": is_local}
    config, model, tokenizer, processor = _read_parts(name.base, source, options)
    model_type = MODEL_TYPES[config.model_type]
    num_frames = None if model_type.num_frames is None else model_type.num_frames(config, processor)
    sampling = name.sample(Sampling() if num_frames is None else Sampling(num_frames=num_frames))
    loaded = TransformersModel(
        name=str(replace(name, base=f"{name.scheme}:{source}")),
        model=getattr(model, model_type.part) if model_type.part else model,
        tokenizer=tokenizer,
        model_type=model_type,
        preprocessing=read_preprocessing(name.base, processor),
        sampling=sampling,
        device=torch.device(device),
        dtype=DTYPES[chosen],
    )
    return TransformersEncoder(loaded) if num_frames is None else TransformersVideoEncoder(loaded, num_frames)


def _read_parts(name: str, source: str, options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Return the configuration, model, tokenizer and processor of frames."""
    transformers: Any = importlib.import_module("transformers")

    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type not in MODEL_TYPES:
            known = ", ".join(MODEL_TYPES)
            raise EncoderError(f"{name}: must be a model of one of the types {known}, got {config.model_type}")
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        processor = _read_processor(source, options)
        with hide_progress():
            model, info = transformers.AutoModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )
    except EncoderError:
        raise
    except Exception as error:  # the library documents none, and its versions raise different ones
        raise EncoderError(f"{name} cannot be loaded: {first_line(error)}") from error
    check_complete(name, info)
    return config, model, tokenizer, processor


def check_complete(name: str, info: dict[str, Any]) -> None:
    """Raise EncoderError if transformers reports that weights of a model were missing."""
    if missing := sorted(str(key) for key in info["missing_keys"]):
        raise EncoderError(f"{name}: {len(missing)} weights missing: {', '.join(missing[:5])}")


@contextmanager
def hide_progress() -> Iterator[None]:
    """Hide transformers' bars of progress: loading weights takes a second, unlike downloading them.

    What it prints, which are remarks on its own documentation, is logged: standard output is for data.
    """
    log: Any = importlib.import_module("transformers").utils.logging
    shows_progress = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            logger.debug("transformers: %s", line)
        if shows_progress:
            log.enable_progress_bar()


def _read_processor(source: str, options: dict[str, Any]) -> Any:
    """Return what prepares the frames: of images where there is one, else of videos."""
    transformers: Any = importlib.import_module("transformers")

    processor = transformers.AutoProcessor.from_pretrained(source, **options)
    for part in ("image_processor", "video_processor"):
        if getattr(processor, part, None) is not None:
            return getattr(processor, part)
    return transformers.AutoImageProcessor.from_pretrained(source, **options)
