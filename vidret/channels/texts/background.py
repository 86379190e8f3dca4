"""What unrelated texts look like: the level of cosines in each kind of words, and typical sentences."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from vidret.align.baseline import UNRELATED
from vidret.channels.picture.query_bank import SENTENCES
from vidret.store.texts.store import TextStore
from vidret.types import TEXT_SOURCES, TextSource, Vector

_KEY, _TYPICAL = "background", "background.typical"
_DIGEST_BYTES = 16
PRIOR_TEXTS = 30  # texts that the level of typical sentences counts for, beside those of the index
SAMPLE = 1024  # texts that levels are measured on
DRIFT = 1.25  # growth of the words above which they are measured again

Encode = Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextBackground:
    """The mean vectors of texts.

    Attributes:
        num_texts: Number of texts in the index when it was measured.
        typical: Mean vector of typical sentences.
        means: Mean vector of the texts of each source.
        counts: Number of texts of each source.
    """

    num_texts: int
    typical: Vector
    means: Mapping[TextSource, Vector] = field(default_factory=dict)
    counts: Mapping[TextSource, float] = field(default_factory=dict)

    def level(self, source: TextSource, vector: Vector) -> float:
        """Return the mean cosine of a clause with texts of a source, shrunk to that with typical sentences."""
        count, prior = self.counts.get(source, 0.0), float(self.typical @ vector)
        if not count:
            return prior
        return (count * float(self.means[source] @ vector) + PRIOR_TEXTS * prior) / (count + PRIOR_TEXTS)


def measure_background(texts: TextStore, encode: Encode) -> TextBackground:
    """Measure the background of the words of an index on a sample of them; ``encode`` embeds sentences."""
    ids = texts.store.searchable()
    sample = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), SAMPLE)).astype(np.int64))]
    rows = texts.read_segments(sample)
    vectors = texts.intact_vectors([each.id for each in rows])
    by_source = {
        source: [vectors[each.id] for each in rows if each.text.source == source and each.id in vectors]
        for source in TEXT_SOURCES
    }
    share = len(ids) / max(len(sample), 1)
    return TextBackground(
        num_texts=len(ids),
        typical=_load_typical(texts) if has_typical(texts) else encode([*SENTENCES, *UNRELATED]).mean(axis=0),
        means={source: np.mean(own, axis=0) for source, own in by_source.items() if own},
        counts={source: len(own) * share for source, own in by_source.items() if own},
    )


def load_background(texts: TextStore) -> TextBackground | None:
    """Return the background that is stored with the words of an index; None if there is none."""
    stored = texts.store.metadata.get(_KEY)
    if not isinstance(stored, bytes) or not stored or not has_typical(texts):
        return None
    with np.load(io.BytesIO(stored)) as file:
        sources = [source for source in TEXT_SOURCES if f"mean.{source}" in file]
        return TextBackground(
            num_texts=int(file["num_texts"]),
            typical=_load_typical(texts),
            means={source: file[f"mean.{source}"] for source in sources},
            counts={source: float(file[f"count.{source}"]) for source in sources},
        )


def store_background(texts: TextStore, background: TextBackground) -> None:
    """Store a background with the words of an index."""
    file = io.BytesIO()
    arrays = {f"mean.{source}": mean.astype(np.float32) for source, mean in background.means.items()}
    arrays |= {f"count.{source}": np.array(count) for source, count in background.counts.items()}
    np.savez(file, num_texts=np.array(background.num_texts), allow_pickle=False, **arrays)
    typical = _digest(texts) + background.typical.astype(np.float32).tobytes()
    texts.store.metadata.set_many({_KEY: file.getvalue(), _TYPICAL: typical})


def has_typical(texts: TextStore) -> bool:
    """Return whether the mean of typical sentences is stored, of this list and by this sentence encoder."""
    stored = texts.store.metadata.get(_TYPICAL)
    return isinstance(stored, bytes) and stored[:_DIGEST_BYTES] == _digest(texts)


def _load_typical(texts: TextStore) -> Vector:
    stored = texts.store.metadata.get(_TYPICAL)
    assert isinstance(stored, bytes)
    return np.frombuffer(stored, np.float32, offset=_DIGEST_BYTES)


def _digest(texts: TextStore) -> bytes:
    encoder = texts.store.encoder_fingerprint
    return hashlib.blake2b("\0".join((encoder, *SENTENCES, *UNRELATED)).encode(), digest_size=_DIGEST_BYTES).digest()
