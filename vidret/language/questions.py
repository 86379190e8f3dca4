"""What to search for to answer a question: one or several queries, by rules of English."""

import re
from dataclasses import dataclass

from vidret.errors import VidretError
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
_WORD = re.compile(r"\w")


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
    """Return the queries that find what answers a question, the most general first.

    Raises:
        VidretError: The question has no word, or is too long.

    >>> [query.text for query in plan_queries("Who opens the door, and when?")][:1]
    ['opens the door']
    >>> [query.sources for query in plan_queries("What does the speaker say about taxes?")]
    [None, ('speech', 'subtitles'), ('picture',)]
    >>> [query.sources for query in plan_queries("How long does it take?")]
    [None, ('speech', 'subtitles', 'screen'), ('picture',)]
    """
    if len(question) > MAX_QUESTION:
        raise VidretError(f"question must have at most {MAX_QUESTION} characters, got {len(question)}")
    if not _WORD.search(question):
        raise VidretError(f"question must contain a word, got {question!r}")
    queries: list[RetrievalQuery] = []
    for part in split_questions(question):
        text = strip_interrogatives(part)
        is_spoken, is_written, is_seen = (bool(each.search(part)) for each in (_SPOKEN, _WRITTEN, _SEEN))
        queries.append(RetrievalQuery(text))
        if is_spoken:
            queries.append(RetrievalQuery(text, ("speech", "subtitles")))
        if is_written:
            queries.append(RetrievalQuery(text, ("screen",)))
        if not is_spoken and not is_written:
            weight = UNASKED_WORDS if is_seen else 1.0
            queries.append(RetrievalQuery(text, ("speech", "subtitles", "screen"), weight, is_asked=False))
        queries.append(RetrievalQuery(text, ("picture",), 1.0 if is_seen else UNASKED_PICTURES))
    return queries[:MAX_QUERIES]


def split_questions(question: str) -> list[str]:
    """Return the questions that one asks, without those that only ask when or where.

    >>> split_questions("Who opens the door, and when? And what is on the table?")
    ['Who opens the door', 'what is on the table']
    """
    text = " ".join(question.split()).rstrip("?!. ")
    pieces = [_AND_WHEN.sub("", piece).strip(" ,;?!.") for piece in _NEXT_QUESTION.split(text)]
    return [piece for piece in pieces if " " in piece] or [text]


def strip_interrogatives(question: str) -> str:
    """Return a question as a statement: without what asks, and without what says that it is said or shown.

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
