"""The queries of a question by a language model, added to those by rules; if the model fails, those by rules remain."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from vidret.language.endpoint import ChatEndpoint, EndpointError, ReplyCache, drop_thoughts
from vidret.language.questions import RetrievalQuery, plan_queries
from vidret.text import sanitize

VERSION = 1  # of the prompt, in the keys of the cache
CACHE = "planned"  # a folder of the index
MAX_WRITTEN = 4  # queries by the model
MAX_QUERY = 200  # characters
MAX_LIST = 4000  # characters of a reply in which a list is looked for
TIMEOUT_S = 20.0  # the request is not repeated: the rules are there
RULES = f"""\
You prepare a search of videos. It compares a query with what is seen, said and written in them.
Reply to a question with a JSON list of one to {MAX_WRITTEN} strings and nothing else: queries in plain English that
find the moments that answer it. A query says in at most 12 words what is seen, said or written at such a moment; it is
not the question, and has no quotation marks and no signs. Use several only if they look for different things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlan:
    """The queries of a question; ``notes`` say why a model wrote none of them."""

    queries: tuple[RetrievalQuery, ...]
    notes: tuple[str, ...] = ()


def plan_with_model(question: str, llm: ChatEndpoint, cache: ReplyCache | None = None) -> QueryPlan:
    """Return the queries of a question by rules, and those that a model writes in one request.

    Args:
        question: See ``plan_queries``.
        llm: Gets the question.
        cache: Where replies are kept; None to keep none.

    Raises:
        VidretError: The question has no word, or is too long; nothing is sent.
    """
    queries = plan_queries(question)
    try:
        written = write_queries(question, llm, cache)
    except EndpointError as error:
        return QueryPlan(queries=tuple(queries), notes=(f"the queries are those of the rules only: {error}",))
    known = {query.text.casefold() for query in queries}
    queries += [RetrievalQuery(text) for text in written if text.casefold() not in known]
    return QueryPlan(queries=tuple(queries))


def write_queries(question: str, llm: ChatEndpoint, cache: ReplyCache | None) -> list[str]:
    """Return the queries that a model writes.

    Raises:
        EndpointError: The endpoint does not answer in time, or its answer is no list of queries.
    """
    key = json.dumps([VERSION, llm.url, llm.model, question])
    kept = None if cache is None else cache.get(key)
    brief = replace(llm, timeout_s=min(llm.timeout_s, TIMEOUT_S), retries=0)
    reply = kept or brief.complete(write_planning(question))
    written = read_written_queries(reply)
    if not written:
        raise EndpointError(f"{llm.model}: must write a JSON list of queries, got none")
    if cache is not None and kept is None:
        cache.put(key, reply)
    return written


def write_planning(question: str) -> list[dict[str, Any]]:
    """Return the messages of a chat."""
    return [{"role": "system", "content": RULES}, {"role": "user", "content": question}]


def read_written_queries(reply: str) -> list[str]:
    r"""Return the queries in a model's reply, each once and as one line; none if it has no list of texts.

    >>> read_written_queries('Here they are:\n["a man opens a door", "a door", "", 3]')
    ['a man opens a door', 'a door']
    """
    for found in _find_lists(drop_thoughts(reply)[:MAX_LIST]):
        texts = [sanitize(" ".join(each.split()))[:MAX_QUERY] for each in found if isinstance(each, str)]
        queries = dict.fromkeys(text for text in texts if re.search(r"\w", text))
        if queries:
            return list(queries)[:MAX_WRITTEN]
    return []


def _find_lists(text: str) -> Iterator[list[Any]]:
    """Yield the JSON lists in a text that begin with a string; nested brackets would take long."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r'\[\s*"', text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value
