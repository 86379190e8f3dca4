"""What the wording of a clause asks for: something seen, something said, or text on the screen.

"a sign against bathing" asks for text, "hikers are warned" for speech. A linear model of the clause's sentence vector
tells; ``tools/build_intent.py`` fits it to examples.
Reference: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from safetensors.numpy import load_file

from vidret.encode.families.starter import is_english
from vidret.types import Source

WEIGHTS = Path(__file__).with_name("intent.safetensors")
CLASSES: tuple[Source, ...] = ("picture", "speech", "screen")  # in the order of the weights


def read_intents(texts: Sequence[str], vectors: Float32[np.ndarray, "text dim"]) -> list[Mapping[Source, float]]:
    """Return for each text the probability that it asks for each of ``CLASSES``, given its sentence vector.

    They add up to 1. A text that is not English has none.
    """
    rows = zip(texts, estimate(vectors).tolist(), strict=True)
    return [dict(zip(CLASSES, row, strict=True)) if is_english(text) else {} for text, row in rows]


def estimate(vectors: Float32[np.ndarray, "text dim"]) -> Float64[np.ndarray, "text category"]:
    """Return the probability of each of ``CLASSES`` for sentence vectors."""
    weights, offsets = _load_weights()
    logits = (vectors @ weights.T + offsets).astype(np.float64)
    shares: Float64[np.ndarray, "text category"] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


@lru_cache(maxsize=1)
def _load_weights() -> tuple[Float32[np.ndarray, "category dim"], Float32[np.ndarray, " category"]]:
    tensors = load_file(WEIGHTS)
    return tensors["weights"].astype(np.float32), tensors["offsets"].astype(np.float32)
