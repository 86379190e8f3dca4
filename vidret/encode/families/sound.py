"""Models of transformers that compare sounds with texts, CLAP and PE-A-Frame, or tag them with fixed names, AST.

References: Wu et al. 2023, "Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and
Keyword-to-Caption Augmentation"; Vyas et al. 2025, "Pushing the Frontier of Audiovisual Perception with Large-Scale
Multimodal Correspondence Learning"; Gong et al. 2021, "AST: Audio Spectrogram Transformer".
"""

import functools
from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32

from vidret.encode.model_hub import Repository, find_repository
from vidret.encode.names import parse_model_name
from vidret.errors import EncoderError

SCHEME = "hf:"
FRAMES_AT_ONCE = 10  # of PE-A-Frame, 0.04 s each, that are stored as one
NAME_WORDS = 2  # up to which a text is the name of a sound, not a sentence
COLUMNS_PER_S = 100  # of the spectrogram of AST
MIN_SAMPLES = 400  # of one of its columns
TAGGER = "audio-spectrogram-transformer"
TYPES = ("clap", "pe_audio", TAGGER)


class SoundModel(Protocol):
    """Compares sounds with texts by the dot product of their vectors.

    Attributes:
        sample_rate: Samples per second of mono sound in -1..1.
        window_s: Length of a sound that is encoded at once, in seconds; the last one of a video may be shorter.
        hop_s: From the start of one to the start of the next.
        step_s: What each vector of a sound is of, from its start on.
        is_calibrated: Whether dot products are log-odds that a sound is what a text says.
    """

    sample_rate: int
    window_s: float
    hop_s: float
    step_s: float
    is_calibrated: bool

    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound step dim"]:
        """Return the vectors of sounds of one length."""

    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the vector of each text."""


class _Loaded:
    """What both models share: the weights, and what prepares sounds and texts."""

    kind, has_texts = "AutoModel", True

    def __init__(self, repository: Repository) -> None:
        self._model = repository.load_model(self.kind).eval()
        self._listener = repository.load("AutoFeatureExtractor")
        self._tokenizer: Any = repository.load("AutoTokenizer") if self.has_texts else None
        self._lock = Lock()  # a fast tokenizer is set to truncate, for all threads
        self.sample_rate = int(self._listener.sampling_rate)

    def _tokenize(self, texts: Sequence[str]) -> Any:
        positions = self._model.config.text_config.max_position_embeddings
        with self._lock:
            return self._tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=min(self._tokenizer.model_max_length, positions - 2),  # RoBERTa's first two are not used
                return_tensors="pt",
            )

    def _listen(self, sounds: Sequence[Float32[np.ndarray, " sample"]], **settings: Any) -> Any:
        return self._listener(list(sounds), sampling_rate=self.sample_rate, return_tensors="pt", **settings)


class ClapEncoder(_Loaded):
    """CLAP: a unit vector of up to 10 s, which is repeated if it is shorter."""

    window_s, hop_s, step_s, is_calibrated = 10.0, 5.0, 10.0, False

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound 1 dim"]:
        """Return the unit vector of each sound."""
        inputs = self._listen(sounds, truncation="rand_trunc", padding="repeatpad")  # what is not longer is not cut
        output = self._model.get_audio_features(input_features=inputs["input_features"])
        return _read_vectors(output)[:, None]

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the unit vector of each text; the name of a sound becomes a sentence, as its authors do."""
        framed = [f"This is a sound of {text}." if len(text.split()) <= NAME_WORDS else text for text in texts]
        return _read_vectors(self._model.get_text_features(**self._tokenize(framed)))


class FrameEncoder(_Loaded):
    """PE-A-Frame: the mean of its vectors of 0.04 s in each 0.4 s; its logits are dot products.

    The scale is in the vectors of texts, and the bias in a dimension of its own, which is 1 in those of sounds.
    """

    window_s, hop_s, step_s, is_calibrated = 10.0, 10.0, 0.4, True
    kind = "PeAudioFrameLevelModel"

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        self.step_s = FRAMES_AT_ONCE * self._listener.hop_length / self.sample_rate

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound step dim"]:
        """Return the vectors of each 0.4 s; what is left at the end belongs to the last one."""
        missing = max(0, self._listener.hop_length + 1 - len(sounds[0]))  # fewer samples cannot be reflected
        inputs = self._listen([np.pad(sound, (0, missing)) for sound in sounds])
        frames = self._model.get_audio_embeds(inputs["input_values"], inputs["padding_mask"]).numpy()
        firsts = np.arange(0, max(frames.shape[1] // FRAMES_AT_ONCE, 1)) * FRAMES_AT_ONCE
        counts = np.diff([*firsts, frames.shape[1]])[:, None]
        vectors: Float32[np.ndarray, "sound step dim"] = np.add.reduceat(frames, firsts, axis=1) / counts
        return np.pad(vectors, ((0, 0), (0, 0), (0, 1)), constant_values=1.0).astype(np.float32)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the vector of each text."""
        states = self._model.text_model(**self._tokenize(texts), output_hidden_states=True).hidden_states[-1][:, 0]
        scaled = self._model.text_audio_head(states) * self._model.text_audio_logit_scale
        biases = self._model.text_audio_logit_bias.expand(len(texts), 1)
        return torch.cat([scaled, biases], dim=1).numpy()


class SoundTagger(_Loaded):
    """AST: which of the classes of AudioSet are heard in 10.24 s, any number of them.

    ``labels`` names its classes; what cuts windows for a ``SoundModel`` cuts them for it.
    """

    kind, has_texts = "ASTForAudioClassification", False

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        config = self._model.config
        self.labels = [str(config.id2label[index]).lower() for index in range(config.num_labels)]
        self.window_s = self.hop_s = self.step_s = config.max_length / COLUMNS_PER_S

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound 1 label"]:
        """Return the probability of each class in each sound; silence follows one that is shorter than a window."""
        missing = max(0, MIN_SAMPLES - len(sounds[0]))
        inputs = self._listen([np.pad(sound, (0, missing)) for sound in sounds])
        rated: Float32[np.ndarray, "sound label"] = self._model(inputs["input_values"]).logits.sigmoid().numpy()
        return rated[:, None]


def _read_vectors(output: Any) -> Float32[np.ndarray, "row dim"]:
    """Return unit vectors: transformers 5 returns them in an object, 4 as a tensor."""
    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@functools.lru_cache(maxsize=1)
def load_sound_model(name: str) -> SoundModel | SoundTagger:
    """Load ``hf:org/name`` or ``hf:FOLDER``, or return it if it was loaded last. Code that comes with it is never run.

    Raise MissingExtraError if transformers is not installed, or EncoderError if the name is unknown, the hub cannot be
    reached, or it is no model of sounds.
    """
    if not name.startswith(SCHEME):
        raise EncoderError(f"sound model must be {SCHEME}org/name or {SCHEME}FOLDER, got {name}")
    repository = find_repository(parse_model_name(name))
    config = repository.load("AutoConfig")
    if config.model_type not in TYPES:
        raise EncoderError(f"{name}: must be a model of one of the types {', '.join(TYPES)}, got {config.model_type}")
    if config.model_type == "clap":
        if config.audio_config.enable_fusion:  # which hears random stretches of a sound
            raise EncoderError(f"{name}: must be a CLAP without fusion, such as laion/clap-htsat-unfused")
        return ClapEncoder(repository)
    return SoundTagger(repository) if config.model_type == TAGGER else FrameEncoder(repository)
