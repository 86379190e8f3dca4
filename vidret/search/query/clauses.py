"""The clauses of a query: what each is compared with, the phrases its text must contain, and their order.

>>> parse_structure('a dog runs, while someone says "good boy"').clauses[1].source
'speech'
"""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from vidret.channels.base import Clause, EncodedQuery
from vidret.channels.registry import find_hint
from vidret.errors import OptionError
from vidret.search.query.grammar import Interpretation, interpret
from vidret.search.query.marks import PHRASE, find_mentions, replace_mentions
from vidret.text import MENTION_NAME, make_handle
from vidret.types import Sequence as EventSequence

_SAID_BY = re.compile(rf"\bby\s+(?=@({MENTION_NAME}))")
A_PERSON = "a person"  # stands for a person's name in the text that channels compare
_JOINS = {"and", "or", "with", "together", "also", "both"}
_ARTICLE = re.compile(r"^(?:an?|the|some|any)\s+", re.IGNORECASE)
_SPEAKER = (
    r"(?:some(?:one|body)|people|an?\s+(?:voice|person|man|woman|speaker|caller|guide|teacher|cook|mechanic|handyman"
    r"|presenter|reporter|narrator|report|recording|announcement)|callers?|they|he|she|the\s+(?:voice|speaker|narrator))"
)
_SAYS = (
    r"(?:says?|said|saying|explains?|announces?|mentions?|tells?|describes?|asks?|warns?|hears?|reports?|advises?"
    r"|informs?|gives?|finds?\s+out|talks?\s+about|is\s+saying|is\s+talking\s+about|(?:is|are)\s+told)"
)
# The words around reported speech, such as "someone explains how to ...", which are not spoken themselves.
_FRAME = re.compile(rf"^(?:and\s+)?{_SPEAKER}\s+{_SAYS}\s+(?:(?:that|how|the|for|about)\s+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryStructure:
    """The clauses of a query in their order.

    Attributes:
        clauses: At least one.
        steps: Indices of the clauses of each step. Steps follow one another; the clauses of a step hold at the same
            time.
        gaps_s: For each step the maximum time in seconds since the end of the one before; None for any.
        excluded: Terms that must not be there.
        forbidden: The excluded terms that no text may contain either.
        unwanted: Persons who must not be there.
    """

    clauses: tuple[Clause, ...]
    steps: tuple[tuple[int, ...], ...] = ((0,),)
    gaps_s: tuple[float | None, ...] = (None,)
    excluded: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()

    @property
    def is_joint(self) -> bool:
        """Whether there are several clauses."""
        return len(self.clauses) > 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AnalysedQuery:
    """A text query with its structure, and the vectors of its clauses.

    Attributes:
        structure: Clauses and their order.
        encoded: Each clause, as pictures are compared with it.
        vectors: Each clause, as a sentence vector for words; of 0 dimensions if it is compared with none.
        is_text: Whether the query is text, not images or a vector.
        examples: Vectors of examples of the sounds that each clause mentions; see ``ChannelQuery``.
    """

    structure: QueryStructure
    encoded: Sequence[EncodedQuery]
    vectors: Float32[np.ndarray, "clause dim"]
    is_text: bool = True
    examples: Sequence[Float32[np.ndarray, "_example _dim"]] = ()

    @property
    def has_mentions(self) -> bool:
        """Whether a clause or a negative term mentions a taught concept."""
        texts = [*(clause.text for clause in self.structure.clauses), *self.structure.excluded]
        return any(find_mentions(text) for text in texts)


def parse_structure(query: str | EventSequence) -> QueryStructure:
    """Return the structure of a query; any text has one.

    >>> [clause.text for clause in parse_structure("first a dog barks, and then a cat runs away").clauses]
    ['a dog barks', 'a cat runs away']
    >>> parse_structure('"fourth day" strike').clauses[0].phrases
    ('fourth day',)
    """
    return make_structure(interpret(query))


def make_structure(interpretation: Interpretation, people: Container[str] = ()) -> QueryStructure:
    """Return the structure of an interpreted query, given the handles of known persons."""
    clauses = tuple(read_clause(event, people) for event in interpretation.events)
    if interpretation.verbatim:
        clauses = tuple(
            clause if clause.persons else replace(clause, text=event)
            for clause, event in zip(clauses, interpretation.events, strict=True)
        )
    excluded, unwanted = read_exclusions(interpretation.excluded, people)
    numbers = iter(range(len(clauses)))
    return QueryStructure(
        clauses=clauses,
        steps=tuple(tuple(next(numbers) for _ in step.events) for step in interpretation.steps),
        gaps_s=tuple(step.gap_s for step in interpretation.steps),
        excluded=excluded,
        forbidden=tuple(term for term in excluded if term in interpretation.forbidden),
        unwanted=unwanted,
    )


def read_exclusions(terms: Sequence[str], people: Container[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the excluded terms of a query without names of persons, and the excluded persons."""
    clauses = [(term, read_clause(term, people)) for term in terms]
    excluded = tuple(clause.text if clause.persons else term for term, clause in clauses if not clause.is_bare)
    return excluded, tuple(person for _, clause in clauses if clause.is_bare for person in clause.persons)


def check_exclusions(structure: QueryStructure) -> None:
    """Check that a query does not exclude what it looks for.

    Raises:
        VidretError: It does.
    """
    both = {person for clause in structure.clauses for person in clause.persons} & {*structure.unwanted}
    if both:
        raise OptionError(f"query must not exclude what it looks for, got @{sorted(both)[0]} for both")
    wanted = {_ARTICLE.sub("", clause.text.casefold()) for clause in structure.clauses}
    for term in structure.excluded:
        if _ARTICLE.sub("", term.casefold()) in wanted:
            raise OptionError(f"query must not exclude what it looks for, got {term!r} for both")


def read_clause(event: str, people: Container[str] = ()) -> Clause:
    """Return a clause with the names of persons replaced by "a person", or removed if there are no other words.

    Quotes are straight ones, as ``KnownPersons.name_handles`` and ``interpret`` make them.

    >>> clause = read_clause('"the budget" by @mum', ["mum"])
    >>> clause.phrases, clause.speakers
    (('the budget',), ('mum',))
    """
    speakers = tuple(name for name in map(make_handle, _SAID_BY.findall(event)) if name in people)
    if speakers and PHRASE.search(event):
        return replace(read_clause(_SAID_BY.sub("", event), people), speakers=speakers, shown=" ".join(event.split()))
    persons = tuple(name for name in find_mentions(event) if name in people)
    if not persons:
        return make_clause(event)
    rest = PHRASE.sub(" ", replace_mentions(event, dict.fromkeys(persons, "")))
    is_alone = not set(re.findall(r"\w+", rest.casefold())) - _JOINS
    clause = make_clause(replace_mentions(event, dict.fromkeys(persons, "" if is_alone else A_PERSON)))
    is_bare = is_alone and not clause.phrases
    if is_bare:
        clause = Clause(text=A_PERSON, content="")
    return replace(clause, persons=persons, is_bare=is_bare, shown=" ".join(event.split()))


def make_clause(event: str) -> Clause:
    """Return a clause that names no person, with its phrases and the source that its words hint at.

    >>> make_clause("a voice says that the line is busy").content
    'the line is busy'
    >>> make_clause("a town limit sign").source
    'screen'
    """
    phrases = tuple(phrase for quoted in PHRASE.findall(event) if (phrase := " ".join(quoted.split())))
    text = " ".join(event.replace('"', " ").split())
    content, source = _FRAME.sub("", text) or text, find_hint(text)
    if names := find_mentions(event):
        rest = replace_mentions(content, dict.fromkeys(names, ""))
        content = "" if source is None else " ".join(rest.split())
    return Clause(text=text, content=content, source=source, phrases=phrases)
