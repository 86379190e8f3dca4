"""The plan of a query: its clauses, their order, and the vectors that each channel compares.

A query is text with negative terms, images, both, or a vector. The wording of a clause asks for something seen, said or
shown as text: "a sign against bathing" for text, "hikers are warned" for speech. A linear model predicts this from its
sentence vector; ``tools/build_weights.py`` fits it.

Reference: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
"""

from collections.abc import Container, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from safetensors.numpy import load_file

from vidret.channels.base import Clause, EncodedQuery
from vidret.channels.texts.channel import TextChannel
from vidret.encode.encoder import Encoder
from vidret.encode.families.starter import ignore_language
from vidret.encode.sentences import is_english, load_sentence_encoder
from vidret.errors import OptionError, VidretError
from vidret.search.concepts.encoder import Composer, ConceptEncoder
from vidret.search.concepts.storage import check_mentions
from vidret.search.open_index import OpenIndex
from vidret.search.query.clauses import (
    A_PERSON,
    AnalysedQuery,
    QueryStructure,
    check_exclusions,
    make_structure,
    parse_structure,
    read_clause,
    read_exclusions,
)
from vidret.search.query.grammar import Interpretation, interpret, make_plain
from vidret.search.query.marks import find_mentions, has_word, replace_mentions, split_exclusions, split_negatives
from vidret.types import (
    QUERY_RULE,
    SOURCES,
    TEXT_SOURCES,
    ComposedQuery,
    Frames,
    Picture,
    Query,
    Source,
    TextEmbedding,
    TextSource,
    Vector,
)
from vidret.types import Sequence as EventSequence

VERBATIM = "exactly this is said or shown in a video"
WEIGHTS = Path(__file__).with_name("intent.safetensors")
CLASSES: tuple[Source, ...] = ("picture", "speech", "screen")  # the classes of wording, in the order of the weights
TEXT_WEIGHT = 0.5  # of words beside images, whose weights sum to 1; measured with measure_clips.py


def interpret_for(index: OpenIndex, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
    """Return the interpretation of a query: plain words if a text of the index has exactly these words."""
    texts = index.texts
    interpretation = interpret(query)
    if texts is None or not isinstance(query, str) or not set(sources or SOURCES) & set(TEXT_SOURCES):
        return interpretation
    text, negatives = split_negatives(query)
    plain = make_plain(text, negatives, negatives)
    if interpretation == plain or not texts.holds(text):
        return interpretation
    return replace(plain, note=VERBATIM)


def plan(
    index: OpenIndex, query: Query, *, sources: Sequence[Source] | None = None, person: str | None = None
) -> AnalysedQuery:
    """Return a query with its structure and vectors, to ask it of an index, or of several of its videos.

    Args:
        index: The index.
        query: The query.
        sources: What the query is compared with; None for all that the index has.
        person: Names of persons who must be there in each clause, besides those that it names.

    Raises:
        VidretError: It has no positive term, an empty negative one, or excludes what it looks for; a concept or a
            person is unknown; an image or a vector is invalid; it has nothing to compare with the sources; or a source
            is unknown, or of words and the index has none.
    """
    _check_sources(index, sources)
    encoder, people, texts = index.encoder, index.people, index.texts
    query, persons = people.name_handles(query), people.read_names(person)
    handles, is_without_pictures = people.find_handles(query), sources is not None and "picture" not in sources
    check_mentions(index.store, query, handles)
    if not isinstance(query, str | EventSequence):
        if is_without_pictures:
            raise OptionError("sources must include picture for an image or a vector, got words only")
        return _plan_vector(query, encoder, handles, persons)
    if isinstance(query, str):
        parse_query(query)
    structure = make_structure(interpret_for(index, query, sources), handles)
    is_compared_with_texts = texts is not None and set(sources or SOURCES) != {"picture"}
    clauses = tuple(
        replace(
            clause,
            persons=tuple(dict.fromkeys([*clause.persons, *persons])),
            phrases=clause.phrases if is_compared_with_texts else (),  # no text could hold a phrase
            source=_choose_hint(clause, sources, texts),
        )
        for clause in structure.clauses
    )
    structure = replace(structure, clauses=clauses)
    check_exclusions(structure)
    sounds = [encoder.find_sounds(clause.text) for clause in clauses]
    for clause, examples in zip(clauses, sounds, strict=True):
        is_heard = len(examples) > 0 and "sound" in (sources or ())
        if is_without_pictures and clause.text and not (clause.content or clause.phrases or is_heard):
            raise VidretError(f"sources must include picture for a concept or a person, got others for {clause.text!r}")
    with ignore_language() if is_read_by_another(index, sources) else nullcontext():
        embeddings = encoder.encode_text([*(clause.text for clause in clauses), *structure.excluded])
    negatives = tuple(embeddings[len(clauses) :])
    vectors = np.zeros((len(clauses), 0 if texts is None else texts.texts.store.dim), np.float32)
    if texts is not None and is_compared_with_texts:
        contents = [clause.content for clause in clauses]
        vectors = texts.model.encode_queries(contents)
        content_vectors = vectors if texts.has_bundled_model else load_sentence_encoder().encode(contents)
        structure = replace(structure, clauses=_add_intents(clauses, content_vectors))
    return AnalysedQuery(
        structure=structure,
        encoded=[
            EncodedQuery(positive=embedding, negatives=negatives, is_text=not find_mentions(clause.text))
            for embedding, clause in zip(embeddings, clauses, strict=False)
        ],
        vectors=vectors,
        examples=sounds,
    )


def is_read_by_another(index: OpenIndex, sources: Sequence[Source] | None) -> bool:
    """Return whether a search compares words only, by a sentence model that the user has chosen."""
    texts = None if "picture" in (sources or SOURCES) else index.texts
    return texts is not None and not texts.has_bundled_model


def _check_sources(index: OpenIndex, sources: Sequence[Source] | None) -> None:
    if sources is not None and (not sources or not set(sources) <= set(SOURCES)):
        raise OptionError(f"sources must be some of {', '.join(SOURCES)}, got {', '.join(sources) or 'none'}")
    if sources is not None and index.texts is None and set(sources) != {"picture"}:
        paths = ", ".join(str(part.path) for part in index.store.parts.values())
        raise VidretError(f"{paths}: has no words to search; to read them: vidret index PATH --words on")


def _add_intents(clauses: Sequence[Clause], vectors: Float32[np.ndarray, "clause dim"]) -> tuple[Clause, ...]:
    """Return clauses with the probability that their wording asks for each of ``CLASSES``, given content vectors.

    Vectors are of the bundled sentence model, whichever the texts have: the weights were fitted to it. Clauses not in
    English get no probabilities, nor do those without content: a taught concept is seen.
    """
    rows = [
        vector if clause.content == clause.text else load_sentence_encoder().encode([clause.text])[0]
        for clause, vector in zip(clauses, vectors, strict=True)
    ]
    return tuple(
        replace(clause, intent=dict(zip(CLASSES, shares, strict=True)))
        if clause.content and is_english(clause.text)
        else clause
        for clause, shares in zip(clauses, estimate_intents(np.stack(rows)).tolist(), strict=True)
    )


def estimate_intents(vectors: Float32[np.ndarray, "text dim"]) -> Float64[np.ndarray, "text category"]:
    """Return the probability that texts ask for each of ``CLASSES``, given their sentence vectors."""
    weights, offsets = _load_weights()
    logits = (vectors @ weights.T + offsets).astype(np.float64)
    shares: Float64[np.ndarray, "text category"] = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


@lru_cache(maxsize=1)
def _load_weights() -> tuple[Float32[np.ndarray, "category dim"], Float32[np.ndarray, " category"]]:
    tensors = load_file(WEIGHTS)
    return tensors["weights"].astype(np.float32), tensors["offsets"].astype(np.float32)


def _plan_vector(
    query: Picture | Vector | ComposedQuery, encoder: ConceptEncoder, handles: Container[str], persons: Sequence[str]
) -> AnalysedQuery:
    text, terms = _parse(query)
    named = [name for name in find_mentions(text) if name in handles]
    _, unwanted = read_exclusions(terms, handles)
    clause = Clause(text="", content="", persons=tuple(dict.fromkeys([*persons, *named])))
    structure = QueryStructure(clauses=(clause,), unwanted=unwanted)
    check_exclusions(structure)
    return AnalysedQuery(
        structure=structure,
        encoded=[embed_query(query, encoder, handles)],
        vectors=np.zeros((1, 0), np.float32),
        is_text=False,
    )


def _choose_hint(clause: Clause, sources: Sequence[Source] | None, texts: TextChannel | None) -> TextSource | None:
    """Return the source that a clause hints at: sounds if only those are searched, never if the index has none."""
    if sources is not None and set(sources) == {"sound"}:
        return "sound"
    has_sounds = clause.source != "sound" or (texts is not None and "sound" in texts.sources)
    return clause.source if has_sounds else None


def embed_query(query: Query, encoder: ConceptEncoder, people: Container[str] = ()) -> EncodedQuery:
    """Encode a query of one event as searches do, given the handles of known persons, whom no encoder must read.

    Raises:
        VidretError: It has no positive term or several events, or an image or vector is invalid.
    """
    text, terms = _parse(query)
    if isinstance(query, str):
        text = read_clause(text, people).text
    stand_in = A_PERSON if isinstance(query, EventSequence) else ""
    text = replace_mentions(text, {name: stand_in for name in find_mentions(text) if name in people})
    text = text if isinstance(query, EventSequence) else text.strip()
    terms, _ = read_exclusions(terms, people)
    texts = [*([text] if text else []), *terms]
    embeddings = encoder.encode_text(texts) if texts else []
    words, negatives = embeddings[0] if text else None, tuple(embeddings[bool(text) :])
    if isinstance(query, str | EventSequence):
        assert words is not None
        return EncodedQuery(positive=words, negatives=negatives, is_text=not find_mentions(text))
    if isinstance(query, ComposedQuery):
        images = [encode_image(image, encoder) for image in query.images]
        positive = compose_images(images, words, encoder.composer)
    else:
        positive = embed_vector(query, encoder) if query.ndim == 1 else encode_image(query, encoder)
    return EncodedQuery(positive=positive, negatives=negatives, is_text=False)


def _parse(query: Query) -> tuple[str, tuple[str, ...]]:
    """Return the positive words of a query, empty without any, and its negative terms."""
    if isinstance(query, EventSequence):
        (event, *more) = parse_structure(query).clauses
        if more or not query.verbatim:
            raise OptionError(f"query must be text, an image or a vector here, got {len(query.events)} events")
        return event.text, ()
    if isinstance(query, str):
        return parse_query(query)
    if not isinstance(query, ComposedQuery | np.ndarray):
        raise OptionError(f"{QUERY_RULE}, got {query!r:.60}")
    if not isinstance(query, ComposedQuery):
        return "", ()
    if not query.images:
        raise VidretError("images must hold an image, got none")
    if query.verbatim:
        return query.text, ()
    return parse_query(query.text, is_beside_images=True)


def compose_images(images: Sequence[TextEmbedding], words: TextEmbedding | None, composer: Composer) -> TextEmbedding:
    """Return images and words as one embedding with one word; a single image without words as it is."""
    if len(images) == 1 and words is None:
        return images[0]
    parts = [(image.sentence, 1 / len(images)) for image in images]
    if words is not None:
        parts.append((words.sentence, TEXT_WEIGHT))
    vector, offset = composer.compose(parts)
    return TextEmbedding("images" if words is None else words.text, vector, vector[None], offset=offset)


def check_query(query: str | EventSequence) -> None:
    """Check a query for errors that do not depend on an index.

    Raises:
        OptionError: It has no positive word, excludes what it looks for, or is too long.
    """
    if isinstance(query, str):
        parse_query(query)
    check_exclusions(parse_structure(query))


def parse_query(query: str, *, is_beside_images: bool = False) -> tuple[str, tuple[str, ...]]:
    """Return the positive part of a text query, which may be empty beside images, and its negative terms.

    >>> parse_query('dog -beach on the grass -"two cats", no people')
    ('dog on the grass', ('beach', 'two cats', 'people'))

    Raises:
        VidretError: There is no positive term, or a negative term is empty.
    """
    positive, negatives, others = split_exclusions(query)
    excluded = tuple(dict.fromkeys(negatives + others))
    if not all(excluded):
        raise OptionError(f'query must contain a word between -" and ", got {query!r}')
    if not is_beside_images and not has_word(positive):
        raise OptionError(f"query must contain a {'positive ' if excluded else ''}word, got {query!r}")
    return positive, excluded


def embed_vector(vector: Vector, encoder: Encoder) -> TextEmbedding:
    """Return a vector of the encoder's space, scaled to unit length, as an embedding.

    Raises:
        VidretError: The vector has the wrong dimension, or its length is 0 or not finite.
    """
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if vector.shape != (encoder.dim,) or not 0 < length < np.inf:
        raise VidretError(
            f"vector must have {encoder.dim} numbers and a finite length above 0, got {len(vector)} and {length:g}"
        )
    unit = (vector / length).astype(np.float32)
    return TextEmbedding("a vector", unit, unit[None])


def encode_image(image: Picture, encoder: Encoder) -> TextEmbedding:
    """Encode an image like a frame of a video.

    Raises:
        VidretError: The image is not RGB with 8 bits per channel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise VidretError(f"image must be uint8 (height, width, 3), got {image.dtype} {image.shape}")
    from vidret.video.geometry import resize_image

    frames = Frames(resize_image(np.ascontiguousarray(image), encoder.resize)[None], np.zeros(1))
    vector = encoder.encode_frames([frames])[0].video
    return TextEmbedding("an image", vector, vector[None])
