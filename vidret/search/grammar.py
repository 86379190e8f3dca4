"""Plain English that joins events: which of them a query asks for, in which order, and what it excludes.

    query    = [first] step (then step)* exclusions       "first A, then B", "A before B", "after A, B"
    step     = event (while event)*                       "A while B", "A AND B", "as A, B"
    then     = ("," then | followed by | -> ...) [within 5 seconds]
    excluded = "-word" | '-"some words"' | ", no B" | "but not B"

A plain "and" joins events only between two clauses that each have a verb of their own, since it joins nouns more often.
Text in quotes is never split. Text without such a structure is searched as plain words.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from vidret.errors import VidretError
from vidret.types import MAX_EVENTS, Sequence

PHRASE = re.compile(r'"([^"]*)"')
NEGATIVE_TERM = re.compile(r'(?:(?<=\s)|^)-(?:"([^"]*)"|(?=@?\w)(\S+))')
_QUOTED = re.compile(rf"(?P<negative>{NEGATIVE_TERM.pattern})|{PHRASE.pattern}")
_MASK = "\ue000"  # stands for each character in quotes

_AFTER = (
    r"(?:then|afterwards?|after\s+(?:that|this|which)|subsequently|thereafter|later(?:\s+on)?|next|eventually|finally"
    r"|lastly|followed\s+by)"
)
_WHILE = (
    r"(?:just\s+)?(?:while|whilst|as)|when|whereas|meanwhile|at\s+the\s+same\s+time|at\s+that\s+(?:very\s+)?moment"
    r"|over\s+it|on\s+top\s+of\s+(?:it|that)|together\s+with|along\s+with|with"
)
_WITHIN = r"within\s+(?:\d+(?:\.\d+)?)\s*(?:s|secs?|seconds?|m|mins?|minutes?)"
_JOINT = re.compile(
    rf"(?P<then>[,;.]\s+(?:and\s+|but\s+)?(?:{_AFTER}(?:,?\s+{_WITHIN})?,?\s+)+"
    rf"|[,;.]\s+(?:and\s+|but\s+)?{_WITHIN},?\s+(?:{_AFTER},?\s+)?"
    rf"|(?<!\bnow)\s+and\s+(?:then|after\s+that|afterwards|later(?:\s+on)?|finally)(?:,?\s+{_WITHIN})?,?\s+"
    rf"|\s+followed(?:\s+{_WITHIN})?\s+by\s+"
    rf"|(?<!\bnow\sand)(?<!\b(?:back|even|till))(?<!\bsince)(?<!\buntil)(?<!\b(?:the))(?<!\bby)"
    rf"\s+then(?:,?\s+{_WITHIN})?,?\s+"
    r"|\s*(?:->|=>|\u2192)\s*)"
    rf"|(?P<together>[,;]\s+(?:and\s+)?(?:{_WHILE})(?:,?\s+(?:and\s+)?(?:{_WHILE}))*\s+"
    r"|(?<!\ba)(?<!\bthe)(?<!\bany)\s+(?:while|whilst|at\s+the\s+same\s+time\s+as)\s+(?!\w+ing\b))"
    r"|(?P<before>,?\s+before\s+)|(?P<after>,?\s+after\s+)|(?P<both>,?\s+and\s+)",
    re.IGNORECASE,
)
_CONNECTIVES = re.compile(r"\b(?:and|then|while|before|after|followed|by)\b", re.IGNORECASE)
_LEADING = re.compile(r"^(?P<word>while|whilst|as|when|after|before|once)\s+(?P<first>[^,]+),\s+(?P<second>.+)$", re.I)
_FIRST = re.compile(r"^(?:at\s+)?first(?:\s+of\s+all)?,?\s+", re.IGNORECASE)
_DANGLING = re.compile(
    r"^(?:[,;]\s*)?(?:and\s+)?(then|afterwards|meanwhile|followed\s+by|while|->)(?:\s|,|$)"
    r"|(?:[,\s]|^)(then|while|before|followed\s+by|and\s+then|->)[\s,.]*$",
    re.IGNORECASE,
)
_EXCLUDED = re.compile(
    r"(?:,\s+(?:(?:but|and)\s+)?|\s+but\s+)(?:no(?!\s+(?:one|longer|matter|doubt)\b)|not|without)\s+(?:any\s+|an?\s+|the\s+)?"
    r"(?P<what>[^,;]+?)(?=\s*(?:[,;.]|$)|\s+(?:and\s+then|then|while|followed\s+by)\s)",
    re.IGNORECASE,
)
_OR = re.compile(r"\s+(?:or|nor|and\s+no)\s+", re.IGNORECASE)
_GAP = re.compile(r"within\s+(\d+(?:\.\d+)?)\s*(m?)", re.IGNORECASE)
_DETERMINER = re.compile(
    r"^(?:an?|one|two|three|the|some\w*|another|this|that|these|those|his|her|their|its|he|she|it|they|people|everyone)\b",
    re.IGNORECASE,
)
# What someone says goes on after an "and".
_REPORTED = re.compile(
    r"\b(?:says?|said|explains?|tells?|told|announces?|asks?|warns?|describes?|that)\b", re.IGNORECASE
)
_AUXILIARIES = frozenset(("is", "are", "was", "were", "has", "have", "had", "does", "do", "can", "will", "gets"))
_LIKE_VERBS = (  # nouns and others that end as verbs do
    "thing something nothing anything everything king ring string building morning evening ceiling clothing wedding "
    "painting wing spring railing glass bus grass dress cross boss is as always perhaps"
)
_NO_VERBS = frozenset(_LIKE_VERBS.split(" "))
_PRONOUNS = frozenset(("he", "she", "it", "they", "we", "everyone", "everybody", "someone", "somebody"))
_PLURALS = frozenset(("two", "three", "four", "five", "many", "several", "some", "these", "those"))
_PREPOSITIONS = frozenset(
    ("of", "in", "on", "at", "with", "to", "from", "by", "for", "under", "over", "behind", "near", "between", "into")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryStep:
    """Events that happen at the same time.

    Attributes:
        events: Texts, with their quotes.
        gap_s: Maximum time in seconds since the end of the step before; None for any.
    """

    events: tuple[str, ...]
    gap_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpretation:
    """How a text query, or a ``Sequence``, is understood.

    Attributes:
        steps: What to look for; they follow one another.
        excluded: What must not be there.
        note: Why the query is searched as plain words although it looks like more; empty otherwise.
    """

    steps: tuple[QueryStep, ...]
    excluded: tuple[str, ...] = ()
    note: str = ""

    @property
    def events(self) -> tuple[str, ...]:
        """The events of all steps."""
        return tuple(event for step in self.steps for event in step.events)

    def describe(self) -> str:
        """Return a sentence that shows it to a person; empty for plain words.

        >>> interpret("a man enters, then a car leaves, no dogs").describe()
        'looking for 1. a man enters then 2. a car leaves; excluding dogs'
        """
        if self.note:
            return f"searching for plain words: {self.note}"
        if len(self.events) < 2 and not self.excluded:
            return ""
        parts, number = [], 0
        for index, step in enumerate(self.steps):
            numbered = []
            for event in step.events:
                number += 1
                numbered.append(f"{number}. {event}" if len(self.events) > 1 else event)
            within = "" if step.gap_s is None else f" within {step.gap_s:g} s"
            parts.append((f"then{within} " if index else "") + " while ".join(numbered))
        excluding = f"excluding {', '.join(self.excluded)}" if self.excluded else ""
        looking = f"looking for {' '.join(parts)}" if has_word(" ".join(self.events)) else ""  # beside an image
        return "; ".join(each for each in (looking, excluding) if each)


def interpret(query: str | Sequence) -> Interpretation:
    """Return the events of a query; any text has an interpretation.

    Raises:
        VidretError: A ``Sequence`` has no event, an empty one or too many, or its gap is negative.

    >>> [step.events for step in interpret("a dog barks while it rains, then a cat runs").steps]
    [('a dog barks', 'it rains'), ('a cat runs',)]
    >>> interpret('"a dog, then a cat"').events
    ('"a dog, then a cat"',)
    """
    if isinstance(query, Sequence):
        return _interpret_sequence(query)
    text, excluded = split_exclusions(query)
    plain = Interpretation(steps=(QueryStep(events=(text,)),), excluded=tuple(term for term in excluded if term))
    masked = _mask(text)
    dangling = _DANGLING.search(masked)
    pieces = list(_split(text, masked))
    num_events = len(pieces)
    is_nothing_joined = has_word(text) and not has_word(_CONNECTIVES.sub("", masked.replace(_MASK, "x")))
    is_nothing_joined |= num_events > 1 and not all(has_word(_CONNECTIVES.sub("", piece)) for _, piece in pieces)
    note = ""
    if num_events > MAX_EVENTS:
        note = f"they name {num_events} events, and at most {MAX_EVENTS} can be placed"
    elif is_nothing_joined:
        note = "a connective joins nothing"
    elif num_events == 1 and dangling is not None:
        note = f'"{dangling[1] or dangling[2]}" joins nothing'
    if note or num_events < 2:
        return Interpretation(steps=plain.steps, excluded=plain.excluded, note=note)
    return Interpretation(steps=_build_steps(pieces), excluded=plain.excluded)


def split_exclusions(query: str) -> tuple[str, tuple[str, ...]]:
    """Return a query without what it excludes, and these terms; one is empty for an empty pair of quotes.

    >>> split_exclusions('a beach -dog -"two cats", no people or boats')
    ('a beach', ('dog', 'two cats', 'people', 'boats'))
    """
    terms = []
    kept, at = [], 0
    for match in _QUOTED.finditer(query):
        if match["negative"] is not None:
            terms.append((match[2] or match[3] or "").strip())
            kept += [query[at : match.start()], " "]
            at = match.end()
    text = " ".join("".join([*kept, query[at:]]).split())
    masked, parts, at = _mask(text), [], 0
    for match in _EXCLUDED.finditer(masked):
        if not has_word(text[: match.start()]):
            continue  # nothing is left to look for
        start, end = match.span("what")
        terms += [PHRASE.sub(r"\1", term).strip() for term in _OR.split(text[start:end])]
        parts.append(text[at : match.start()])
        at = match.end()
    rest = "".join([*parts, text[at:]])
    return (rest if parts else text).strip(), tuple(terms)


def _interpret_sequence(query: Sequence) -> Interpretation:
    texts = [text for event in query.events for text in (event if isinstance(event, tuple) else [event])]
    if not all(isinstance(text, str) and text.strip() for text in texts) or () in query.events or not texts:
        raise VidretError(f"events must be texts with a word each, got {list(query.events)}")
    if len(texts) > MAX_EVENTS:
        raise VidretError(f"a query must have at most {MAX_EVENTS} events, got {len(texts)}")
    if query.gap is not None and not 0 <= query.gap < math.inf:
        raise VidretError(f"gap must be at least 0 seconds, got {query.gap}")
    steps = []
    for index, event in enumerate(query.events):
        events = (event,) if isinstance(event, str) else tuple(event)
        steps.append(QueryStep(events=events, gap_s=query.gap if index else None))
    return Interpretation(steps=tuple(steps))


def _mask(text: str) -> str:
    """Return text of the same length with a letter for each character in quotes."""
    return PHRASE.sub(lambda match: _MASK * len(match[0]), text)


def _split(text: str, masked: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a text, each with the connective before it; the first has none."""
    leading = _LEADING.match(masked)
    if leading is not None and _has_predicate(leading["first"]) and _has_predicate(leading["second"]):
        first, (start, end) = text[slice(*leading.span("first"))], leading.span("second")
        rest = list(_split(text[start:end], masked[start:end]))
        word = leading["word"].lower()
        if word == "before":
            yield from rest
            yield "then", first
        else:
            yield "", first
            yield ("then" if word in ("after", "once") else "together"), rest[0][1]
            yield from rest[1:]
        return
    at, joint = 0, ""
    for match in _JOINT.finditer(masked):
        kind = match.lastgroup or ""
        before, after = masked[at : match.start()], masked[match.end() :]
        is_clause = _DETERMINER.match(after) is not None and _has_predicate(before) and _has_predicate(after)
        if kind == "both":
            is_clause = _has_verb(before) and _is_clause(after) and not _REPORTED.search(before)
            is_clause = is_clause or "AND" in match[0]
        if kind in ("both", "before", "after") and not is_clause:
            continue
        yield joint, _trim(text[at : match.start()])
        at = match.end()
        gap = _GAP.search(match[0]) if kind == "then" else None
        joint = kind if gap is None else f"then {float(gap[1]) * (60 if gap[2] else 1)}"
    yield joint, _trim(text[at:])


def _build_steps(pieces: list[tuple[str, str]]) -> tuple[QueryStep, ...]:
    steps: list[QueryStep] = []
    for joint, piece in pieces:
        event = _FIRST.sub("", piece) if not steps else piece
        if joint in ("together", "both"):
            steps[-1] = QueryStep(events=(*steps[-1].events, event), gap_s=steps[-1].gap_s)
        elif joint == "after":
            steps.insert(len(steps) - 1, QueryStep(events=(event,)))
        else:
            _, _, gap = joint.partition(" ")
            steps.append(QueryStep(events=(event,), gap_s=float(gap) if gap else None))
    return tuple(steps)


def _trim(text: str) -> str:
    return text.strip().rstrip(",;. ").lstrip(",; ")


def has_word(text: str) -> bool:
    """Return whether a text says something: a letter, a digit, or a symbol such as an emoji.

    >>> has_word("dog"), has_word("\U0001f436"), has_word('"..."')
    (True, True, False)
    """
    return any(letter.isalnum() or unicodedata.category(letter) == "So" for letter in text)


def _is_clause(text: str) -> bool:
    """Return whether a text begins with a subject and goes on with a verb of its own."""
    return _DETERMINER.match(text) is not None and _has_verb(text)


def _has_verb(text: str) -> bool:
    """Return whether a text seems to have a verb: a guess by its form, which misses plural subjects.

    >>> _has_verb("a big airplane flies"), _has_verb("a woman in jeans"), _has_verb("two cats sleeping")
    (True, False, True)
    """
    words = re.findall(r"\w+", text.lower())
    for index, word in enumerate(words):
        if word in _AUXILIARIES:
            return index > 0
        if word in _PREPOSITIONS:
            break
        is_inflected = word.endswith("ing") or (word.endswith("s") and not word.endswith(("ss", "us")) and index > 1)
        is_spoken = index == 1 and word.endswith("s") and words[0] in ("someone", "somebody", "he", "she", "it")
        if index and (is_inflected or is_spoken) and word not in _NO_VERBS:
            return True
    return False


def _has_predicate(text: str) -> bool:
    """Return whether a text has a verb, also of a plural subject or after "with ...": for connectives of clauses alone.

    >>> _has_predicate("they travel home"), _has_predicate("two cats jump"), _has_predicate("a man with a bag runs")
    (True, True, True)
    >>> _has_predicate("two cats"), _has_predicate("a man with glasses"), _has_predicate("a man with the bags")
    (False, False, False)
    """
    words = re.findall(r"\w+", text.lower())
    if _has_verb(text):
        return True
    if words and words[0] in _PRONOUNS:
        return len(words) > 1 and words[1] not in _PREPOSITIONS
    if words and words[0] in _PLURALS:
        nouns = [index for index, word in enumerate(words) if index and _is_inflected(word)]
        return any(index + 1 < len(words) and words[index + 1] not in _PREPOSITIONS for index in nouns[:1])
    subject, _, rest = text.lower().partition(" with ")
    if not rest or any(word in _PREPOSITIONS for word in re.findall(r"\w+", subject)):
        return False
    what = re.findall(r"\w+", rest)
    inflected = [index for index, word in enumerate(what) if _is_inflected(word)]
    return any(index > 1 for index in inflected) if _DETERMINER.match(rest) else len(inflected) > 1


def _is_inflected(word: str) -> bool:
    return word.endswith("s") and not word.endswith(("ss", "us")) and word not in _NO_VERBS
