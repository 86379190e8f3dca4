"""Diversity of an index: as a whole, and of what matches a prompt."""

from dataclasses import dataclass

import numpy as np

from vidret.errors import VidretError
from vidret.evaluate.phrase_vectors import TextEncoder, encode_phrases
from vidret.evaluate.phrases import list_class_names
from vidret.evaluate.video_means import read_index_vectors
from vidret.metrics.diversity import DiversityParts, compute_vendi, split_by_direction, split_diversity
from vidret.store.store import Store

MAX_SAMPLES = 20_000  # segments of an index, drawn at random where it has more
MATCHES = 1000  # segments that a prompt matches


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDiversity:
    """Diversity of segments: the Vendi score, and its parts by text and by the videos.

    Attributes:
        prompt: The prompt; None for the index as a whole.
        num_segments: Number of segments in the index.
        vendi: Effective number of different segments.
        parts: With a prompt, what its direction explains and the rest; without, what the best-fitting class name of
            each segment explains and the rest.
    """

    prompt: str | None
    num_segments: int
    vendi: float
    parts: DiversityParts


def measure_index_diversity(
    store: Store, encoder: TextEncoder, prompt: str | None = None, *, seed: int = 0
) -> IndexDiversity:
    """Measure the diversity of an index, or of the segments that match a prompt best.

    Raises:
        VidretError: There are fewer than two segments, or a vector is not finite.
    """
    vectors = read_index_vectors(store)
    num_segments = len(vectors.segments)
    if num_segments < 2:
        raise VidretError(f"{store.path}: diversity needs at least 2 segments, got {num_segments}")
    if prompt is not None:
        text = encode_phrases(encoder, [prompt])
        scores = vectors.segments.astype(np.float32) @ text[0]
        chosen = vectors.segments[np.argsort(-scores, kind="stable")[:MATCHES]].astype(np.float32)
        parts = split_by_direction(chosen, text)
    else:
        drawn = np.random.default_rng(seed).permutation(num_segments)[:MAX_SAMPLES]
        chosen = vectors.segments[np.sort(drawn)].astype(np.float32)
        texts = encode_phrases(encoder, list_class_names())
        parts = split_diversity(texts[(chosen @ texts.T).argmax(axis=1)], chosen)
    return IndexDiversity(prompt=prompt, num_segments=num_segments, vendi=compute_vendi(chosen), parts=parts)
