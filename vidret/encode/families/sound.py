"""Sound models of transformers: CLAP and PE-A-Frame compare sounds with texts, AST tags them with fixed names.

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
FRAMES_AT_ONCE = 10  # of PE-A-Frame, 0.04 s each, averaged to one stored vector
NAME_WORDS = 2  # a text of at most this many words is the name of a sound, not a sentence
COLUMNS_PER_S = 100  # of the spectrogram of AST
MIN_SAMPLES = 400  # of one column
TAGGER = "audio-spectrogram-transformer"
TYPES = ("clap", "pe_audio", TAGGER)


class SoundModel(Protocol):
    """A model that compares sounds with texts by the dot product of their vectors.

    Attributes:
        sample_rate: Samples per second of mono sound in -1..1.
        window_s: Duration of a window, which is encoded at once, in seconds; the last one of a video may be shorter.
        hop_s: Seconds from the start of a window to the start of the next.
        step_s: Seconds of sound per vector in a window.
        is_calibrated: Whether dot products are log-odds that a text describes a sound.
    """

    sample_rate: int
    window_s: float
    hop_s: float
    step_s: float
    is_calibrated: bool

    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound step dim"]:
        """Return the vectors of sounds of equal length."""

    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the vector of each text."""


class _Loaded:
    """The base of sound models: the weights, and the preprocessing of sounds and texts."""

    kind, has_texts = "AutoModel", True

    def __init__(self, repository: Repository) -> None:
        self._model = repository.load_model(self.kind).eval()
        self._listener = repository.load("AutoFeatureExtractor")
        self._tokenizer: Any = repository.load("AutoTokenizer") if self.has_texts else None
        self._lock = Lock()  # truncation is a setting of a fast tokenizer for all threads
        self.sample_rate = int(self._listener.sampling_rate)

    def _tokenize(self, texts: Sequence[str]) -> Any:
        positions = self._model.config.text_config.max_position_embeddings
        with self._lock:
            return self._tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=min(self._tokenizer.model_max_length, positions - 2),  # RoBERTa does not use the first two
                return_tensors="pt",
            )

    def _listen(self, sounds: Sequence[Float32[np.ndarray, " sample"]], **settings: Any) -> Any:
        return self._listener(list(sounds), sampling_rate=self.sample_rate, return_tensors="pt", **settings)


class ClapEncoder(_Loaded):
    """CLAP: one unit vector for a sound of up to 10 s; shorter sounds are repeated."""

    window_s, hop_s, step_s, is_calibrated = 10.0, 5.0, 10.0, False

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound 1 dim"]:
        """Return the unit vector of each sound."""
        inputs = self._listen(sounds, truncation="rand_trunc", padding="repeatpad")  # no sound is long enough to be cut
        output = self._model.get_audio_features(input_features=inputs["input_features"])
        return _read_vectors(output)[:, None]

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
        """Return the unit vector of each text; the name of a sound is put into a sentence, as by the authors."""
        framed = [f"This is a sound of {text}." if len(text.split()) <= NAME_WORDS else text for text in texts]
        return _read_vectors(self._model.get_text_features(**self._tokenize(framed)))


class FrameEncoder(_Loaded):
    """PE-A-Frame: the mean of its 0.04 s vectors over each 0.4 s; dot products are its logits.

    Text vectors include the scale, and the bias as an additional dimension, which is 1 in sound vectors.
    """

    window_s, hop_s, step_s, is_calibrated = 10.0, 10.0, 0.4, True
    kind = "PeAudioFrameLevelModel"

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        self.step_s = FRAMES_AT_ONCE * self._listener.hop_length / self.sample_rate

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound step dim"]:
        """Return the vector of each 0.4 s; the rest at the end belongs to the last one."""
        missing = max(0, self._listener.hop_length + 1 - len(sounds[0]))  # too few samples for reflection padding
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
    """AST: the probabilities of the classes of AudioSet in 10.24 s, any number of which may be heard.

    ``labels`` names its classes. Its windows are cut like those of a ``SoundModel``.
    """

    kind, has_texts = "ASTForAudioClassification", False

    def __init__(self, repository: Repository) -> None:
        super().__init__(repository)
        config = self._model.config
        self.labels = [str(config.id2label[index]).lower() for index in range(config.num_labels)]
        self.window_s = self.hop_s = self.step_s = config.max_length / COLUMNS_PER_S

    @torch.inference_mode()
    def encode_sounds(self, sounds: Sequence[Float32[np.ndarray, " sample"]]) -> Float32[np.ndarray, "sound 1 label"]:
        """Return the probability of each class in each sound; short sounds are padded with silence."""
        missing = max(0, MIN_SAMPLES - len(sounds[0]))
        inputs = self._listen([np.pad(sound, (0, missing)) for sound in sounds])
        rated: Float32[np.ndarray, "sound label"] = self._model(inputs["input_values"]).logits.sigmoid().numpy()
        return rated[:, None]


def _read_vectors(output: Any) -> Float32[np.ndarray, "row dim"]:
    """Return the unit vectors of an output of transformers."""
    return torch.nn.functional.normalize(output.pooler_output, dim=-1).numpy()


@functools.lru_cache(maxsize=1)
def load_sound_model(name: str) -> SoundModel | SoundTagger:
    """Load ``hf:org/name`` or ``hf:FOLDER``, cached for the last model. Code that comes with a model is never run.

    Raise MissingExtraError if transformers is not installed, or EncoderError if the name is unknown, the hub cannot be
    reached, or it is not a model of sounds.
    """
    if not name.startswith(SCHEME):
        raise EncoderError(f"sound model must be {SCHEME}org/name or {SCHEME}FOLDER, got {name}")
    repository = find_repository(parse_model_name(name))
    config = repository.load("AutoConfig")
    if config.model_type not in TYPES:
        raise EncoderError(f"{name}: must be a model of one of the types {', '.join(TYPES)}, got {config.model_type}")
    if config.model_type == "clap":
        if config.audio_config.enable_fusion:  # it would hear random parts of a sound
            raise EncoderError(f"{name}: must be a CLAP without fusion, such as laion/clap-htsat-unfused")
        return ClapEncoder(repository)
    return SoundTagger(repository) if config.model_type == TAGGER else FrameEncoder(repository)
