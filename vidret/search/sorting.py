"""Sorting of results by an attribute, such as "crowded".

Two texts, the attribute and its opposite, cancel what they share: a segment has more of the attribute the nearer it is
to one than to the other. Examples of a taught concept do the same without an opposite.

Reference: Wang et al. 2023, "Exploring CLIP for Assessing the Look and Feel of Images" (antonym prompts).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32

from vidret.errors import OptionError
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.concepts.storage import check_mentions
from vidret.search.query.marks import find_mentions, has_word
from vidret.types import MAX_QUERY_LENGTH, Hit, Vector

# Each word is in one pair, and both words of a pair are attributes.
_PAIRS = (
    "beautiful/ugly blurry/sharp bright/dark busy/calm clean/dirty clear/foggy cloudy/sunny cold/hot colorful/gray "
    "colourful/grey crowded/empty detailed/simple dry/wet fast/slow flat/steep funny/serious happy/sad "
    "indoors/outdoors large/small modern/old-fashioned narrow/wide new/old professional/amateur rough/smooth "
    "rural/urban scary/cute tall/short thick/thin tidy/messy"
)
OPPOSITES = dict(pair.split("/") for pair in _PAIRS.split())
OPPOSITES |= {less: more for more, less in OPPOSITES.items()}
NEARLY = 3.0  # nats below the best score; about half of the matching videos are within, and few others


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attribute:
    """A direction in the encoder's space along which the segments of an index have more of an attribute.

    Attributes:
        name: Its name in results.
        direction: A vector of the encoder's space.
        mean: Mean of the inner products of segments with it.
        deviation: Their standard deviation.
    """

    name: str
    direction: Vector
    mean: float
    deviation: float

    def rate(self, vectors: Float32[np.ndarray, "segment dim"]) -> Float[np.ndarray, " segment"]:
        """Return the attribute of segments, in standard deviations above the mean of the index."""
        rated: Float[np.ndarray, " segment"] = (vectors @ self.direction - self.mean) / self.deviation
        return rated


def parse_attribute(text: str) -> tuple[str, str]:
    """Return an attribute and its opposite, which is empty for a taught concept.

    Raises:
        VidretError: It is neither a word with a known opposite, nor a pair of texts, nor a concept; or it is too long.

    >>> parse_attribute("empty"), parse_attribute("many people / few people"), parse_attribute("@festive")
    (('empty', 'crowded'), ('many people', 'few people'), ('@festive', ''))
    """
    if len(text) > MAX_QUERY_LENGTH:
        raise OptionError(f"sort_by must have at most {MAX_QUERY_LENGTH} characters, got {len(text)}")
    parts = [part.strip() for part in text.split("/")]
    if len(parts) == 2 and all(map(has_word, parts)):
        return parts[0], parts[1]
    if find_mentions(text) == [text.strip().casefold().removeprefix("@")]:
        return text.strip(), ""
    if (word := text.strip().casefold()) in OPPOSITES:
        return word, OPPOSITES[word]
    known = ", ".join(sorted(OPPOSITES))
    rule = f"must be two opposites such as crowded/empty, a taught concept as @NAME, or one of {known}"
    raise OptionError(f"sort_by {rule}, got {text[:80]!r}")


def fit_attribute(text: str, encoder: ConceptEncoder) -> Attribute:
    """Return an attribute for the index of an encoder.

    Raises:
        VidretError: The text names no attribute, or mentions an unknown concept.
    """
    terms = [term for term in parse_attribute(text) if term]
    check_mentions(encoder.store, " ".join(terms))
    more, *less = (embedding.sentence.astype(np.float64) for embedding in encoder.encode_text(terms))
    direction = more - less[0] if less else more
    sample = encoder.composer.sample
    deviation = sample.measure_spread(direction)
    return Attribute(
        name=terms[0], direction=direction, mean=float(sample.mean @ direction), deviation=deviation or 1.0
    )


def sort_hits(
    hits: Sequence[Hit], vectors: Sequence[Float32[np.ndarray, " dim"] | None], attribute: Attribute
) -> list[Hit]:
    """Return the hits that match, most of the attribute first, then the others in their order.

    A hit matches if it is not unlikely, or scores nearly as high as the best. ``vectors`` are those of the segments
    found; a hit without one is among the others.
    """
    least = max((hit.score for hit in hits), default=0.0) - NEARLY
    rated = {
        index: float(attribute.rate(vector[None])[0])
        for index, (hit, vector) in enumerate(zip(hits, vectors, strict=True))
        if vector is not None and (hit.likelihood != "unlikely" or hit.score >= least)
    }
    first = sorted(rated, key=lambda index: -rated[index])
    rest = [index for index in range(len(hits)) if index not in rated]
    named = [replace(hits[index], why={**hits[index].why, attribute.name: rated[index]}) for index in first]
    return [*named, *(hits[index] for index in rest)]
