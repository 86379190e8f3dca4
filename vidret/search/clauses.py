"""Structure of a text query: phrases in quotes, clauses that are related in time, and hints at a source.

>>> parse_structure('a dog runs, while someone says "good boy"').clauses[1].source
'speech'
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from vidret.search.queries import NEGATIVE_TERM
from vidret.types import TextEmbedding, TextSource

Relation = Literal["together", "then"]

PHRASE = re.compile(r'"([^"]*)"')
_THEN = r"(?:and\s+)?(?:then|afterwards|after\s+that|later(?:\s+on)?|next|finally|followed\s+by)"
_WHILE = (
    r"(?:just\s+)?(?:while|as)|when|whereas|meanwhile|at\s+the\s+same\s+time|at\s+that\s+(?:very\s+)?moment"
    r"|over\s+it|on\s+top\s+of\s+(?:it|that)|together\s+with|along\s+with|with"
)
_CONNECTOR = re.compile(
    rf",\s+(?:(?P<then>{_THEN})|(?:and\s+)?(?:{_WHILE})(?:,?\s+(?:and\s+)?(?:{_WHILE}))*)\s+|"
    r"\s+(?P<bare_then>and\s+then|followed\s+by)\s+|\s+(?:while|at\s+the\s+same\s+time\s+as)\s+",
    re.IGNORECASE,
)
_FIRST = re.compile(r"^(?:at\s+)?first,?\s+", re.IGNORECASE)
_SPEAKER = (
    r"(?:some(?:one|body)|people|an?\s+(?:voice|person|man|woman|speaker|caller|guide|teacher|cook|mechanic|handyman"
    r"|presenter|reporter|narrator|report|recording|announcement)|callers?|they|he|she|the\s+(?:voice|speaker|narrator))"
)
_SAYS = (
    r"(?:says?|said|saying|explains?|announces?|mentions?|tells?|describes?|asks?|warns?|hears?|reports?|advises?"
    r"|informs?|gives?|finds?\s+out|talks?\s+about|is\s+saying|is\s+talking\s+about|(?:is|are)\s+told)"
)
# The words around what is said, "someone explains how to ...", which are not said themselves.
_FRAME = re.compile(rf"^(?:and\s+)?{_SPEAKER}\s+{_SAYS}\s+(?:(?:that|how|the|for|about)\s+)?", re.IGNORECASE)
_SPOKEN = re.compile(
    r"\b(voices?|says?|said|saying|tells?|told|announce\w*|explain\w*|mention\w*|speak\w*|spoken|talk(?:s|ing)?\s+about"
    r"|speech|hears?|heard|asks?|asked|warns?|advis\w+|reports?\s+(?:that|says)|describes?|instructions?\s+(?:are|is)"
    r"|callers?|informed|recording|voice-?over|narrat\w+)\b",
    re.IGNORECASE,
)
_WRITTEN = re.compile(
    r"\b(signs?|captions?|titles?|notices?|labels?|boards?|menu|slides?|(?:on|over)\s+the\s+screen|displayed|display|text"
    r"|written|writing|posters?|banners?|headlines?|scoreboard|strip|credits?|tag|dialog|message\s+box|window\s+asking"
    r"|code|subtitles?|sheet|logo|chart)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A part of a query that describes one thing.

    Attributes:
        text: The clause.
        content: The clause without words such as "someone explains how to".
        source: The source of words that it hints at; None without a hint.
    """

    text: str
    content: str
    source: TextSource | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryStructure:
    """The parts of a text query.

    Attributes:
        clauses: One, or two.
        relation: How two clauses are related in time; None for one clause.
        phrases: Words in quotes, which must be said or shown as they are.
    """

    clauses: tuple[Clause, ...]
    relation: Relation | None = None
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AnalysedQuery:
    """A text query with its structure, and the vectors of its clauses.

    Attributes:
        structure: Clauses and phrases.
        embeddings: Each clause, as the encoder embeds it for pictures.
        vectors: Each clause, as a sentence vector for words.
        negatives: Negative terms, as the encoder embeds them.
    """

    structure: QueryStructure
    embeddings: Sequence[TextEmbedding]
    vectors: Float32[np.ndarray, "clause dim"]
    negatives: Sequence[TextEmbedding] = ()


def parse_structure(query: str) -> QueryStructure:
    """Return the structure of a text query; its negative terms are left out.

    >>> [clause.text for clause in parse_structure("first a dog barks, and then a cat runs away").clauses]
    ['a dog barks', 'a cat runs away']
    >>> parse_structure('"fourth day" strike').phrases
    ('fourth day',)
    """
    positive = NEGATIVE_TERM.sub(" ", query)
    phrases = tuple(phrase for found in PHRASE.findall(positive) if (phrase := " ".join(found.split())))
    text = " ".join(positive.replace('"', " ").split())
    match = _CONNECTOR.search(text)
    if match is None or not (before := text[: match.start()].strip()) or not (after := text[match.end() :].strip()):
        return QueryStructure(clauses=(make_clause(text),), phrases=phrases)
    relation: Relation = "then" if match["then"] or match["bare_then"] else "together"
    clauses = make_clause(_FIRST.sub("", before)), make_clause(after)
    return QueryStructure(clauses=clauses, relation=relation, phrases=phrases)


def make_clause(text: str) -> Clause:
    """Return a clause with the source that its words hint at.

    >>> make_clause("a voice says that the line is busy").content
    'the line is busy'
    >>> make_clause("a town limit sign").source
    'screen'
    """
    source: TextSource | None = None
    if _SPOKEN.search(text):
        source = "speech"
    elif _WRITTEN.search(text):
        source = "screen"
    return Clause(text=text, content=_FRAME.sub("", text) or text, source=source)
