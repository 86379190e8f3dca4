"""What unrelated queries reach in each source of an index, which makes scores of different sources comparable."""

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from vidret.align.baseline import UNRELATED
from vidret.search.text_matching import TextBaseline
from vidret.store.text_store import TextStore
from vidret.types import TextSource

_KEY, _VECTORS = "fusion", "fusion.unrelated"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionBaseline:
    """What unrelated queries reach at best in each source of an index: mean and standard deviation.

    ``sizes`` are the numbers of segments and texts that it was measured on.
    """

    sizes: tuple[int, int]
    picture_mean: float = 0.0
    picture_deviation: float = 1.0
    texts: dict[TextSource, TextBaseline] = field(default_factory=dict)


def load_baseline(texts: TextStore) -> FusionBaseline | None:
    """Return the baseline that is stored with the texts of an index; None if there is none."""
    stored = texts.store.get_meta(_KEY)
    if not stored:
        return None
    facts = json.loads(stored)
    return FusionBaseline(
        sizes=tuple(facts["sizes"]),
        picture_mean=facts["picture"][0],
        picture_deviation=facts["picture"][1],
        texts={source: TextBaseline(*figures) for source, figures in facts["texts"].items()},
    )


def forget_baseline(texts: TextStore) -> None:
    """Remove the baseline, as the vectors of the pictures are about to change."""
    texts.store.set_meta(_KEY, "")


def store_baseline(texts: TextStore, baseline: FusionBaseline) -> None:
    """Store a baseline with the texts of an index."""
    figures = {
        source: [each.cosine_mean, each.cosine_deviation, each.cover_mean, each.cover_deviation]
        for source, each in baseline.texts.items()
    }
    picture = [baseline.picture_mean, baseline.picture_deviation]
    texts.store.set_meta(_KEY, json.dumps({"sizes": baseline.sizes, "picture": picture, "texts": figures}))


def load_unrelated(texts: TextStore, encoder: str) -> Float32[np.ndarray, "query dim"] | None:
    """Return the stored vectors of the unrelated queries; None unless they are of this list and this encoder.

    Args:
        texts: The words of an index.
        encoder: Fingerprint of the encoder.
    """
    stored = texts.store.get_meta(_VECTORS)
    if not isinstance(stored, bytes) or stored[:_DIGEST_BYTES] != _digest(encoder):
        return None
    vectors: Float32[np.ndarray, "query dim"] = np.frombuffer(stored, np.float32, offset=_DIGEST_BYTES)
    return vectors.reshape(len(UNRELATED), -1)


def store_unrelated(texts: TextStore, encoder: str, vectors: Float32[np.ndarray, "query dim"]) -> None:
    """Store the vectors of the unrelated queries, so that the first search of a process need not encode them."""
    texts.store.set_meta(_VECTORS, _digest(encoder) + np.ascontiguousarray(vectors, np.float32).tobytes())


def _digest(encoder: str) -> bytes:
    return hashlib.blake2b("\0".join((encoder, *UNRELATED)).encode(), digest_size=_DIGEST_BYTES).digest()
