"""Encoders with a model of transformers: of images, frame by frame, or of videos, segment by segment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32
from torch.nn import functional

from vidret.encode.encoder import digest_weights, embed_whole, encode_each_frame
from vidret.encode.families.qwen3_vl import MODEL_TYPE, QwenVideoEncoder, load_qwen
from vidret.encode.families.transformers_models import (
    MODEL_TYPES,
    ModelType,
    Preprocessing,
    canonicalise,
    read_preprocessing,
)
from vidret.encode.long_text import encode_clauses
from vidret.encode.model_hub import Repository, find_repository
from vidret.encode.names import ModelName, refuse_sizes
from vidret.encode.precision import DTYPES, choose_float_precision
from vidret.errors import EncoderError
from vidret.types import Frames, Sampling, SegmentEmbedding, TextEmbedding

BATCH_SIZE = 64  # frames
FULL_SCALE = 32768  # of 16-bit samples


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersModel:
    """A loaded model of transformers with its settings and processors."""

    name: str
    model: Any
    tokenizer: Any
    model_type: ModelType
    preprocessing: Preprocessing
    sampling: Sampling
    device: torch.device
    dtype: torch.dtype
    listener: Any = None  # prepares the sound, for a model with sound


class _LoadedEncoder:
    """The base of encoders of images and of videos: the model on its device, and the encoding of texts."""

    def __init__(self, loaded: TransformersModel) -> None:
        self._loaded, self._model_type, self._tokenizer = loaded, loaded.model_type, loaded.tokenizer
        self._model, self._device = loaded.model.eval(), loaded.device
        self._lock = Lock()  # truncation is a setting of a fast tokenizer for all threads
        longest = self._tokenizer.model_max_length
        positions = getattr(self._model.config.text_config, "max_position_embeddings", longest)
        self._context = min(self._model_type.context or positions, longest)
        facts = [self._model.config.model_type, loaded.preprocessing, loaded.sampling, self._context]
        facts += [] if self._model_type.canonicalise is str else [canonicalise.__name__]
        self.fingerprint = digest_weights(self._model.state_dict().items(), *facts)
        self._model.to(loaded.device, loaded.dtype)
        self.name, self.device = loaded.name, str(loaded.device)
        self.resize, self.sampling = loaded.preprocessing.resize, loaded.sampling
        self.dim = len(self.encode_text(["a video"])[0].sentence)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text; one beyond the model's length is split into clauses, with a warning."""
        return encode_clauses(texts, self._encode_short, self._fits, context=self._context, name=self.name)

    def _fits(self, text: str) -> bool:
        with self._lock:
            canonical = self._model_type.canonicalise(text)
            num_tokens = len(self._tokenizer(canonical, truncation=False, verbose=False)["input_ids"])
        return bool(num_tokens <= self._context)

    @torch.inference_mode()
    def _encode_short(self, texts: Sequence[str]) -> list[TextEmbedding]:
        with self._lock:
            tokens = self._tokenizer(
                list(map(self._model_type.canonicalise, texts)),
                padding="max_length" if self._model_type.pads else "longest",
                truncation=True,
                max_length=self._context,
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
            word_vectors = (
                sentences[row : row + 1] if words is None or not is_word[row].any() else words[row][is_word[row]]
            )
            embeddings.append(TextEmbedding(text, sentences[row].numpy(), word_vectors.numpy()))
        return embeddings

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        how = self._loaded.preprocessing
        pixels = pixels.to(self._device)
        return self._model_type.normalise(self._model, pixels, how.mean, how.std, self._loaded.dtype)


class TransformersEncoder(_LoadedEncoder):
    """A model of images and texts; a segment's vector is the mean of its frames' vectors.

    Attributes are those of ``Encoder``, and ``device``. Tokens are patches, if the model has any.
    """

    encodes_frames_alone = True

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested of a model without patches.
        """
        to_patches = self._model_type.patches
        if tokens and to_patches is None:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}")

        def encode(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            output = self._model_type.encode(self._model, self._normalise(pixels))
            vectors = functional.normalize(output.pooler_output.float().flatten(1), dim=-1).cpu()
            if not tokens or to_patches is None:
                return vectors, None
            return vectors, functional.normalize(to_patches(self._model, output).float(), dim=-1).cpu()

        return encode_each_frame(batch, BATCH_SIZE, encode)


class TransformersVideoEncoder(_LoadedEncoder):
    """A model of videos and texts, with one vector per segment, which is repeated for every frame.

    A segment is encoded with the model's number of frames, spread over it as in training; a model with sound gets its
    sound, too, or silence for an image. Attributes are those of ``Encoder``, and ``device``.
    """

    encodes_frames_alone = False
    has_frame_vectors = False

    def __init__(self, loaded: TransformersModel, num_frames: int) -> None:
        """Wrap a loaded model that takes ``num_frames`` frames at once."""
        super().__init__(loaded)
        self._num_frames = num_frames
        self._batch_size = max(1, BATCH_SIZE // num_frames)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment as one video; frames must have the size that ``resize`` produces.

        Raise EncoderError if ``tokens`` are requested.
        """
        if tokens:
            raise EncoderError(f"tokens must come from a model with patches, got {self.name}, which encodes videos")
        vectors = np.empty((len(batch), self.dim), np.float32)
        lengths = [0 if self._loaded.listener is None else len(self._listen(frames)) for frames in batch]
        for length in set(lengths):  # sounds of equal length need no padding, which would change their vectors
            rows = [row for row, sound_length in enumerate(lengths) if sound_length == length]
            for start in range(0, len(rows), self._batch_size):
                chosen = rows[start : start + self._batch_size]
                vectors[chosen] = self._encode_videos([batch[row] for row in chosen])
        return [embed_whole(vector, frames.times) for vector, frames in zip(vectors, batch, strict=True)]

    def _encode_videos(self, batch: Sequence[Frames]) -> Float32[np.ndarray, "video dim"]:
        loaded, model_type = self._loaded, self._model_type
        shown = [frames.pixels[model_type.choose(len(frames), self._num_frames)] for frames in batch]
        images = self._normalise(torch.from_numpy(np.concatenate(shown)))
        videos = rearrange(images, "(video frame) c y x -> video frame c y x", frame=self._num_frames)
        if model_type.hear is None:
            output = model_type.encode(self._model, videos)
        else:
            heard = loaded.listener(
                [self._listen(frames) for frames in batch], sampling_rate=self.sampling.sound_rate, return_tensors="pt"
            )
            sound = {"padding_mask": heard["padding_mask"].to(loaded.device)}
            sound["input_values"] = heard["input_values"].to(loaded.device, loaded.dtype)
            output = model_type.hear(self._model, videos, sound)
        return functional.normalize(output.pooler_output.float().reshape(len(batch), -1), dim=-1).cpu().numpy()

    def _listen(self, frames: Frames) -> Float32[np.ndarray, " sample"]:
        """Return the sound of a segment in -1..1, at least one step of the model; a second of silence without sound."""
        if frames.sound is None:
            return np.zeros(self.sampling.sound_rate, np.float32)
        missing = max(0, self._loaded.listener.hop_length - len(frames.sound))
        return np.pad(frames.sound.astype(np.float32) / FULL_SCALE, (0, missing))


def load_transformers(
    name: ModelName, *, device: str, precision: str
) -> TransformersEncoder | TransformersVideoEncoder | QwenVideoEncoder:
    """Load ``hf:org/name`` or ``hf:FOLDER``. Code that comes with a model is never run.

    Raise MissingExtraError if transformers is not installed, or EncoderError if the name is unknown, the hub cannot be
    reached, the files are not those of a model of a known family, or the precision does not apply.
    """
    repository = find_repository(name)
    dtype = DTYPES[choose_float_precision(name.base, precision, torch.device(device))]
    config = repository.load("AutoConfig")
    if config.model_type == MODEL_TYPE:
        return load_qwen(repository, device=device, precision=precision)
    refuse_sizes(name)
    if config.model_type not in MODEL_TYPES:
        model_types = ", ".join(MODEL_TYPES)
        raise EncoderError(f"{name.base}: must be a model of one of the types {model_types}, got {config.model_type}")
    model_type = MODEL_TYPES[config.model_type]
    processor, listener, tokenizer = _load_processors(repository)
    listener = None if model_type.hear is None else listener
    num_frames = None if model_type.num_frames is None else model_type.num_frames(config, processor)
    rate = 0 if listener is None else int(listener.sampling_rate)
    sampling = name.sample(Sampling() if num_frames is None else Sampling(num_frames=num_frames, sound_rate=rate))
    loaded = TransformersModel(
        name=str(replace(name, base=f"{name.scheme}:{repository.source}")),
        model=repository.load_model(),
        tokenizer=tokenizer,
        model_type=model_type,
        preprocessing=read_preprocessing(name.base, processor),
        sampling=sampling,
        device=torch.device(device),
        dtype=dtype,
        listener=listener,
    )
    return TransformersEncoder(loaded) if num_frames is None else TransformersVideoEncoder(loaded, num_frames)


def _load_processors(repository: Repository) -> tuple[Any, Any, Any]:
    """Return the processors of frames (of images, or else of videos), of sound, and of texts."""
    processor = repository.load("AutoProcessor")
    # A processor has loaded the tokenizer already, which takes a second if the vocabulary is large.
    tokenizer = getattr(processor, "tokenizer", None) or repository.load("AutoTokenizer")
    for part in ("image_processor", "video_processor"):
        if getattr(processor, part, None) is not None:
            return getattr(processor, part), getattr(processor, "feature_extractor", None), tokenizer
    return repository.load("AutoImageProcessor"), None, tokenizer
