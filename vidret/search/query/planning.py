"""The plan of a query: its clauses, their order, and the vectors by which each channel is asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from vidret.channels.base import Clause
from vidret.encode.sentences import load_sentence_encoder
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.query.clauses import AnalysedQuery, QueryStructure, check_exclusions, make_structure
from vidret.search.query.encoding import encode_queries, parse_query
from vidret.search.query.exclusions import split_negatives
from vidret.search.query.grammar import Interpretation, interpret, make_plain
from vidret.types import SOURCES, TEXT_SOURCES, Query, Source
from vidret.types import Sequence as EventSequence

VERBATIM = "exactly this is said or shown in a video"
HoldsText = Callable[[str], bool]


def interpret_for(
    query: str | EventSequence, sources: Sequence[Source] | None, holds: HoldsText | None
) -> Interpretation:
    """Return how a query is understood: as plain words if a text of the index says or shows exactly these.

    Args:
        query: The query.
        sources: What it is compared with.
        holds: Returns whether a text of the index holds some words; None for an index without texts.
    """
    interpretation = interpret(query)
    if holds is None or not isinstance(query, str) or not set(sources or SOURCES) & set(TEXT_SOURCES):
        return interpretation
    text, negatives = split_negatives(query)
    plain = make_plain(text, negatives, negatives)
    if interpretation == plain or not holds(text):
        return interpretation
    return replace(plain, note=VERBATIM)


def plan(
    query: Query, encoder: ConceptEncoder, sources: Sequence[Source] | None, holds: HoldsText | None
) -> AnalysedQuery:
    """Return a query with its structure and vectors; for ``sources`` and ``holds`` see ``interpret_for``.

    Raises:
        VidretError: It has no positive term, an empty negative one, or excludes what it looks for; or an image or a
            vector is invalid.
    """
    if not isinstance(query, str | EventSequence):
        encoded = encode_queries([query], encoder, encoder.composer)[0]
        return AnalysedQuery(
            structure=QueryStructure(clauses=(Clause(text="", content=""),)),
            embeddings=[encoded.positive],
            vectors=np.zeros((1, 0), np.float32),
            negatives=encoded.negatives,
            is_text=False,
        )
    if isinstance(query, str):
        parse_query(query)
    structure = make_structure(interpret_for(query, sources, holds))
    check_exclusions(structure)
    if holds is None or set(sources or SOURCES) == {"picture"}:  # no text could hold a phrase
        plain = tuple(replace(clause, phrases=()) for clause in structure.clauses)
        structure = replace(structure, clauses=plain)
    clauses = structure.clauses
    texts = encoder.encode_text([*(clause.text for clause in clauses), *structure.excluded])
    return AnalysedQuery(
        structure=structure,
        embeddings=texts[: len(clauses)],
        vectors=_encode_sentences([clause.content for clause in clauses], holds),
        negatives=texts[len(clauses) :],
    )


def _encode_sentences(texts: Sequence[str], holds: HoldsText | None) -> Float32[np.ndarray, "text dim"]:
    return np.zeros((len(texts), 0), np.float32) if holds is None else load_sentence_encoder().encode(texts)
