"""The queries that find answers to a question, made by rules of English or by a language model.

If the model fails, the queries by rules remain.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vidret.endpoints.transport import EndpointError
from vidret.errors import OptionError
from vidret.language.endpoint import NO_CACHE, ChatEndpoint, ReplyCache, drop_thoughts, write_chat
from vidret.text import sanitize
from vidret.types import Source

MAX_QUERIES = 6
# Weights of pictures for a question that does not ask for them, and of words for one that asks for pictures only.
UNASKED_PICTURES, UNASKED_WORDS = 0.75, 0.25
MAX_QUESTION = 1000  # characters
_ASKS = r"who|whom|whose|what|when|where|which|why|how"
_AUXILIARY = r"is|are|was|were|do|does|did|can|could|will|would|has|have|had|should"
_ACTOR = r"(?:someone|somebody|anyone|anybody|one|we|i|you|they|people|the (?:speaker|narrator|voice|video|film|clip))"
# Further questions about the same thing: "..., and when?", "... and where exactly"
_AND_WHEN = re.compile(
    r"(?<![\s,;])[\s,;]*\b(?:and|or)\s+(?:at\s+)?(?:when|where|why|how|who|what\s+time|in\s+which\s+\w+)(?:\s+exactly)?\s*$",
    re.I,
)
# Two questions in one: "who opens the door, and what is on the table"
_NEXT_QUESTION = re.compile(rf"[?;]\s*(?:and\s+)?|,?\s+and\s+(?=(?:{_ASKS})\b)", re.I)
_LEADS = [
    re.compile(pattern, re.I)
    for pattern in (
        r"^(?:please\s+)?(?:tell me|show me|find|describe|list|explain)\s+",
        r"^(?:at|in|on|from|to|by|with)\s+(?=what|which|whom)",
        r"^(?:what|which)\s+(?:time|moment|point|minute|second|video|film|clip|scene|part)s?\s*(?:of the \w+)?\s*",
        r"^how\s+(?:many|much|long|often|far|old)\s+",
        rf"^(?:{_ASKS})(?:'s)?\s+",
        rf"^(?:{_AUXILIARY})\s+",
        rf"^{_ACTOR}\s+(?=\w)",
        r"^there\s+(?:is|are|was|were)?\s*(?:an?y?\s+)?",
        r"^(?:see|watch|find|hear|notice|shows?|appears?)\s+",
        r"^(?:says?|said|tells?|told|mentions?|mentioned|talks?|talked|speaks?|explains?|announces?|announced)\s+"
        r"(?:us\s+|to\s+\w+\s+)?(?:about|of|that|on)?\s*",
        r"^(?:written|shown|printed|displayed)\s+(?:on|about|in)?\s*(?:the\s+screen\s+)?(?:about\s+)?",
        r"^(?:about|happens?\s+(?:when|while|if|after)|happening\s+(?:when|while|in))\s+",
    )
]
_TAILS = re.compile(
    r"\s+(?:says?|said|mentioned|heard|seen|shown|visible|written(?:\s+on\s+the\s+screen)?|on\s+the\s+screen|"
    r"appears?|happens?|in\s+the\s+(?:video|film|clip))$",
    re.I,
)
_SPOKEN = re.compile(
    r"\b(?:say|says|said|tells?|told|mention\w*|talk\w*|speak\w*|spoken|announce\w*|hears?|heard)\b", re.I
)
_WRITTEN = re.compile(
    r"\b(?:written|writing|signs?|captions?|slides?|screen|title|label\w*|reads|text|poster|printed|displayed)\b", re.I
)
_SEEN = re.compile(
    r"\b(?:see|sees|seen|look\w*|watch\w*|visible|wear\w*|doing|happen\w*|appear\w*|colou?rs?|"
    r"which (?:video|film|clip|scene))\b",
    re.I,
)
_WHO = re.compile(r"\W*who\b(?!')", re.I)  # asks for somebody who is seen, unless the question is about words
_WORD = re.compile(r"\w")
VERSION = 2  # of the prompts, in the keys of the cache
CACHE = "planned"  # a folder of the index
MAX_WRITTEN = 4  # queries by the model in one request
MAX_QUERY = 200  # characters
MAX_LIST = 4000  # characters of a reply that are searched for a list
TIMEOUT_S = 20.0  # without a retry, since the queries by rules remain
RULES = f"""\
You prepare a search of videos. It compares a query with what is seen, said and written in them.
Reply to a question with a JSON list of one to {MAX_WRITTEN} strings and nothing else: queries in plain English that
find the moments that answer it. A query says in at most 12 words what is seen, said or written at such a moment; it is
not the question, and has no quotation marks and no signs. Use several only if they look for different things."""
TRIED = "These queries found no moment that answers it; write other ones, with other words: "


@dataclass(frozen=True, slots=True)
class RetrievalQuery:
    """A query of a question.

    Attributes:
        text: The query.
        sources: What it is compared with; None for all.
        weight: Its weight among the queries of the question.
        is_asked: Whether the question asks for these sources, so that it must be said if the index lacks them.
    """

    text: str
    sources: tuple[Source, ...] | None = None
    weight: float = 1.0
    is_asked: bool = True


def plan_queries(question: str) -> list[RetrievalQuery]:
    """Return the queries that may find the answer to a question, the most general first.

    Raises:
        VidretError: The question has no word, or is too long.

    >>> [query.text for query in plan_queries("Who opens the door, and when?")][:1]
    ['a person opens the door']
    >>> [query.sources for query in plan_queries("What does the speaker say about taxes?")]
    [None, ('speech', 'subtitles'), ('picture',)]
    >>> [query.sources for query in plan_queries("How long does it take?")]
    [None, ('speech', 'subtitles', 'screen'), ('picture',)]
    """
    if len(question) > MAX_QUESTION:
        raise OptionError(f"question must have at most {MAX_QUESTION} characters, got {len(question)}")
    if not _WORD.search(question):
        raise OptionError(f"question must contain a word, got {question!r}")
    queries: list[RetrievalQuery] = []
    for part in split_questions(question):
        text = strip_interrogatives(part)
        is_spoken, is_written, is_seen = (bool(pattern.search(part)) for pattern in (_SPOKEN, _WRITTEN, _SEEN))
        seen = f"a person {text}" if _WHO.match(part) and not is_spoken and not is_written else text
        queries.append(RetrievalQuery(seen))
        if is_spoken:
            queries.append(RetrievalQuery(text, ("speech", "subtitles")))
        if is_written:
            queries.append(RetrievalQuery(text, ("screen",)))
        if not is_spoken and not is_written:
            weight = UNASKED_WORDS if is_seen else 1.0
            queries.append(RetrievalQuery(text, ("speech", "subtitles", "screen"), weight, is_asked=False))
        queries.append(RetrievalQuery(seen, ("picture",), 1.0 if is_seen else UNASKED_PICTURES))
    return queries[:MAX_QUERIES]


def split_questions(question: str) -> list[str]:
    """Return the separate questions in a question, without those that only ask when or where.

    >>> split_questions("Who opens the door, and when? And what is on the table?")
    ['Who opens the door', 'what is on the table']
    """
    text = " ".join(question.split()).rstrip("?!. ")
    pieces = [_AND_WHEN.sub("", piece).strip(" ,;?!.") for piece in _NEXT_QUESTION.split(text)]
    return [piece for piece in pieces if " " in piece] or [text]


def strip_interrogatives(question: str) -> str:
    """Return a question as a statement, without question words and phrases such as "does the speaker talk about".

    >>> strip_interrogatives("When does the speaker talk about the second coat?")
    'the second coat'
    >>> strip_interrogatives("What happens when a dog sees a cat?")
    'a dog sees a cat'
    """
    text = question.strip(" ?!.,;")
    for pattern in _LEADS:
        shorter = pattern.sub("", text, count=1)
        if _WORD.search(shorter):
            text = shorter
    shorter = _TAILS.sub("", text)
    return shorter if _WORD.search(shorter) else text


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlan:
    """The queries of a question; ``notes`` say why a model wrote none of them."""

    queries: tuple[RetrievalQuery, ...]
    notes: tuple[str, ...] = ()


def plan_with_model(
    question: str, llm: ChatEndpoint, cache: ReplyCache = NO_CACHE, *, tried: Sequence[RetrievalQuery] = ()
) -> QueryPlan:
    """Return the queries of a question by rules, and those that a model writes in one request.

    The model gets the texts of ``tried`` queries, which found no answer, and writes others, which join them.

    Raises:
        VidretError: The question has no word, or is too long; nothing is sent.
    """
    queries = list(tried) or plan_queries(question)
    known_texts = {query.text.casefold() for query in queries}
    try:
        written = write_queries(question, llm, cache, [query.text for query in tried])
    except EndpointError as error:
        kept = "those before" if tried else "those of the rules only"
        return QueryPlan(queries=tuple(queries), notes=(f"the queries are {kept}: {error}",))
    queries += [RetrievalQuery(text) for text in written if text.casefold() not in known_texts]
    return QueryPlan(queries=tuple(queries))


def write_queries(question: str, llm: ChatEndpoint, cache: ReplyCache, tried: Sequence[str]) -> list[str]:
    """Return the queries that a model writes; an ``EndpointError`` if it writes none."""
    key = json.dumps([VERSION, llm.url, llm.model, question, *tried])
    brief = replace(llm, timeout_s=min(llm.timeout_s, TIMEOUT_S), retries=0)
    messages = write_chat(
        RULES, f"{question}\n\n{TRIED}{json.dumps(list(dict.fromkeys(tried)))}" if tried else question
    )
    written = cache.ask(key, lambda: brief.complete(messages), lambda reply: read_written_queries(reply) or None)
    if written is None:
        raise EndpointError(f"{llm.model}: must write a JSON list of queries, got none")
    return written


def read_written_queries(reply: str) -> list[str]:
    r"""Return the queries in a model's reply, each once and as one line; none if it has no list of texts.

    >>> read_written_queries('Here they are:\n["a man opens a door", "a door", "", 3]')
    ['a man opens a door', 'a door']
    """
    for listed in _find_lists(drop_thoughts(reply)[:MAX_LIST]):
        texts = [sanitize(" ".join(query.split()))[:MAX_QUERY] for query in listed if isinstance(query, str)]
        queries = dict.fromkeys(text for text in texts if re.search(r"\w", text))
        if queries:
            return list(queries)[:MAX_WRITTEN]
    return []


def _find_lists(text: str) -> Iterator[list[Any]]:
    """Yield the JSON lists in a text that begin with a string; to try nested brackets would take long."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r'\[\s*"', text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value
