"""The grammar of queries in plain English: their events, the order of events, and excluded terms.

    query    = [first] step (then step)* exclusions       "first A, then B", "A before B", "after A, B"
    step     = event (while event)*                       "A while B", "A AND B", "as A, B"
    then     = ("," then | followed by | -> ...) [within 5 seconds]
    excluded = "-word" | '-"some words"' | ", no B" | "but not B"

A connective joins the clause after it to the last clause before it: "A after B while C" is B while C, then A. A plain
"and" joins events only between two clauses that each have a verb of their own, since it joins nouns more often. "While
they talk" belongs to the event before it, since "they" refers to that. Text in quotes, straight or curly, is never
split. Text without such a structure is searched as plain words.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vidret.errors import OptionError
from vidret.search.query.marks import MASK, check_length, has_word, mask_quotes, split_exclusions
from vidret.types import MAX_EVENTS, Sequence

_AFTER = (
    r"(?:then|afterwards?|after\s+(?:that|this|which)|subsequently|thereafter|later(?:\s+on)?|next|eventually|finally"
    r"|lastly|followed\s+by)"
)
_WHILE = (
    r"(?:just\s+)?(?:while|whilst|as(?!\s+soon\b))|when|whereas|meanwhile|at\s+the\s+same\s+time|at\s+that\s+(?:very\s+)?moment"
    r"|over\s+it|on\s+top\s+of\s+(?:it|that)|together\s+with|along\s+with|with"
)
_WITHIN = r"within\s+(?:\d+(?:\.\d+)?)\s*(?:s|secs?|seconds?|m|mins?|minutes?)"
_ARROW = r"(?:->|=>|\u2192)"
_JOINT = re.compile(
    rf"(?P<then>[,;.]\s+(?:and\s+|but\s+)?(?:{_AFTER}(?:,?\s+{_WITHIN})?,?\s+)+"
    rf"|[,;.]\s+(?:and\s+|but\s+)?{_WITHIN},?\s+(?:{_AFTER},?\s+)?"
    rf"|(?<!\bnow)\s+and\s+(?:then|after\s+that|afterwards|later(?:\s+on)?|finally)(?:,?\s+{_WITHIN})?,?\s+"
    rf"|\s+followed(?:\s+{_WITHIN})?\s+by\s+"
    rf"|(?<!\bnow\sand)(?<!\b(?:back|even|till))(?<!\bsince)(?<!\buntil)(?<!\b(?:the))(?<!\bby)"
    rf"\s+then(?:,?\s+{_WITHIN})?,?\s+"
    rf"|\s+{_ARROW}\s+)"
    rf"|(?P<together>[,;]\s+(?:and\s+)?(?:{_WHILE})(?:,?\s+(?:and\s+)?(?:{_WHILE}))*\s+"
    r"|(?<!\ba)(?<!\bthe)(?<!\bany)\s+(?:while|whilst|at\s+the\s+same\s+time\s+as)\s+(?!\w+ing\b))"
    r"|(?P<before>,?\s+before\s+)|(?P<after>,?\s+(?:after|as\s+soon\s+as)\s+)|(?P<both>,?\s+and\s+)",
    re.IGNORECASE,
)
_CONNECTIVES = re.compile(r"\b(?:and|then|while|before|after|followed|by)\b", re.IGNORECASE)
_LEADING = re.compile(
    r"^(?P<word>while|whilst|as\s+soon\s+as|as|when|after|before|once)\s+(?P<first>[^,]+),\s+(?P<second>.+)$", re.I
)
_DETERMINER_WORDS = (
    r"(?:@[\w-]+|(?:an?|one|two|three|the|some\w*|another|this|that|these|those|his|her|their|its|he|she|it|they"
    r"|people|everyone)\b)"
)
_DETERMINER = re.compile(rf"^{_DETERMINER_WORDS}", re.IGNORECASE)
# An ordinal, as in "first aid", stays.
_FIRST = re.compile(rf"^(?:at\s+first\b|first\s+of\s+all\b|first(?=,|\s+{_DETERMINER_WORDS})),?\s+", re.IGNORECASE)
_SUBORDINATE = re.compile(r"\b(?:(?P<when>as|when)|while|whilst|whereas)\s+$", re.IGNORECASE)
_SAME_SUBJECT = re.compile(r"(?:i|you|he|she|we|they)\b", re.IGNORECASE)
_DANGLING = re.compile(
    r"^(?:[,;]\s*)?(?:and\s+)?(then|afterwards|meanwhile|followed\s+by|while|->)(?:\s|,|$)"
    r"|(?:[,\s]|^)(then|while|before|followed\s+by|and\s+then|->)[\s,.]*$",
    re.IGNORECASE,
)
_GAP = re.compile(r"within\s+(\d+(?:\.\d+)?)\s*(m?)", re.IGNORECASE)
# Reported speech continues after an "and".
_REPORTED = re.compile(
    r"\b(?:says?|said|explains?|tells?|told|announces?|asks?|warns?|describes?|that)\b", re.IGNORECASE
)
_AUXILIARIES = frozenset(("is", "are", "was", "were", "has", "have", "had", "does", "do", "can", "will", "gets"))
_LIKE_VERBS = (  # nouns and others with the endings of verbs
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
    """The interpretation of a text query, or of a ``Sequence``.

    Attributes:
        steps: The steps to look for, which follow one another.
        excluded: Terms that must not be there.
        forbidden: The excluded terms that are written with a minus: no text may contain them.
        note: The reason why a query that looks structured is searched as plain words; empty otherwise.
        verbatim: See ``Sequence``.
    """

    steps: tuple[QueryStep, ...]
    excluded: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    note: str = ""
    verbatim: bool = False

    @property
    def events(self) -> tuple[str, ...]:
        """The events of all steps."""
        return tuple(event for step in self.steps for event in step.events)

    def describe(self) -> str:
        """Return the interpretation as a sentence for users; empty for plain words.

        >>> interpret("a man enters, then a car leaves, no dogs").describe()
        'looking for 1. a man enters then 2. a car leaves; excluding dogs'
        """
        if self.note:
            return f"searching for plain words: {self.note}"
        if len(self.events) < 2 and not self.excluded:
            return ""
        parts, num_events = [], 0
        for index, step in enumerate(self.steps):
            numbered = []
            for event in step.events:
                num_events += 1
                numbered.append(f"{num_events}. {event}" if len(self.events) > 1 else event)
            within = "" if step.gap_s is None else f" within {step.gap_s:g} s"
            parts.append((f"then{within} " if index else "") + " while ".join(numbered))
        excluding = f"excluding {', '.join(self.excluded)}" if self.excluded else ""
        looking = f"looking for {' '.join(parts)}" if has_word(" ".join(self.events)) else ""  # beside an image
        return "; ".join(filter(None, (looking, excluding)))


def interpret(query: str | Sequence) -> Interpretation:
    """Return the events of a query; any text has an interpretation.

    Raises:
        VidretError: The query is not text, is too long, or excludes too much; or a ``Sequence`` has no event, an empty
            one or too many, or its gap is negative.

    >>> [step.events for step in interpret("a dog barks while it rains, then a cat runs").steps]
    [('a dog barks', 'it rains'), ('a cat runs',)]
    >>> interpret('"a dog, then a cat"').events
    ('"a dog, then a cat"',)
    """
    if isinstance(query, Sequence):
        return _interpret_sequence(query)
    if not isinstance(query, str):
        raise OptionError(f"query must be text or events, got {query!r:.60}")
    text, negatives, others = split_exclusions(query)
    plain = make_plain(text, negatives + others, negatives)
    masked = mask_quotes(text)
    dangling = _DANGLING.search(masked)
    pieces = list(_split(text, masked))
    num_events = len(pieces)
    is_nothing_joined = has_word(text) and not has_word(_CONNECTIVES.sub("", masked.replace(MASK, "x")))
    is_nothing_joined |= num_events > 1 and not all(has_word(_CONNECTIVES.sub("", piece)) for _, piece in pieces)
    note = ""
    if num_events > MAX_EVENTS:
        note = f"they name {num_events} events, and at most {MAX_EVENTS} can be placed"
    elif is_nothing_joined:
        note = "a connective joins nothing"
    elif num_events == 1 and dangling is not None:
        note = f'"{dangling[1] or dangling[2]}" joins nothing'
    if note or num_events < 2:
        return replace(plain, note=note)
    return replace(plain, steps=_build_steps(pieces))


def make_plain(text: str, excluded: tuple[str, ...], forbidden: tuple[str, ...]) -> Interpretation:
    """Return the interpretation of a text as plain words; empty and repeated terms are left out."""
    return Interpretation(
        steps=(QueryStep(events=(text,)),),
        excluded=tuple(dict.fromkeys(filter(None, excluded))),
        forbidden=tuple(dict.fromkeys(filter(None, forbidden))),
    )


def check_events(query: Sequence) -> list[str]:
    """Return the texts of all events; at least one is required.

    Raises:
        OptionError: There is none, or one is not a text with a word.
    """
    events = query.events if isinstance(query.events, tuple) else ()
    texts = [text for event in events for text in (event if isinstance(event, tuple) else [event])]
    if not texts or () in events or not all(isinstance(text, str) and text.strip() for text in texts):
        raise OptionError(f"events must be texts with a word each, got {query.events!r:.200}")
    return texts


def _interpret_sequence(query: Sequence) -> Interpretation:
    texts = check_events(query)
    for text in texts:
        check_length(text)
    if len(texts) > MAX_EVENTS:
        raise OptionError(f"a query must have at most {MAX_EVENTS} events, got {len(texts)}")
    if query.gap is not None and not _is_gap(query.gap):
        raise OptionError(f"gap must be at least 0 seconds, got {query.gap}")
    steps = []
    for index, event in enumerate(query.events):
        events = (event,) if isinstance(event, str) else tuple(event)
        steps.append(QueryStep(events=events, gap_s=query.gap if index else None))
    return Interpretation(steps=tuple(steps), verbatim=query.verbatim)


def _is_gap(gap: float) -> bool:
    try:
        return 0 <= gap <= sys.float_info.max
    except TypeError:  # a file may have any value
        return False


def _split(text: str, masked: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a text, each with the connective before it; the first has none."""
    leading = _LEADING.match(masked)
    if leading is not None and _has_predicate(leading["first"]) and _has_predicate(leading["second"]):
        first, (start, end) = text[slice(*leading.span("first"))], leading.span("second")
        rest = list(_split(text[start:end], masked[start:end]))
        word = " ".join(leading["word"].lower().split())
        if word == "before":
            yield from rest
            yield "then", first
        else:
            yield "", first
            is_earlier = word in ("after", "once") or word.endswith("soon as")
            yield ("then" if is_earlier else "together"), rest[0][1]
            yield from rest[1:]
        return
    at, joint = 0, ""
    in_capitals = text.isupper() and masked.replace("AND", "").isupper()
    for match in _JOINT.finditer(masked):
        kind = match.lastgroup or ""
        before, after = masked[at : match.start()], masked[match.end() :]
        has_subject = _DETERMINER.match(after) is not None
        is_clause = has_subject and _has_predicate(before) and _has_predicate(after)
        if kind == "both":
            is_clause = _has_verb(before) and has_subject and _has_verb(after) and not _REPORTED.search(before)
            is_clause = is_clause or ("AND" in match[0] and not in_capitals)
        if kind in ("both", "before", "after") and not is_clause:
            continue
        if kind in ("then", "together") and _is_same_event(match[0], after):
            continue
        yield joint, _trim(text[at : match.start()])
        at = match.end()
        gap = _GAP.search(match[0]) if kind == "then" else None
        joint = kind if gap is None else f"then {float(gap[1]) * (60 if gap[2] else 1)}"
    yield joint, _trim(text[at:])


def _is_same_event(joint: str, after: str) -> bool:
    """Return whether the words after a connective are not a separate event.

    Examples are "he reads, as always" and "while they talk". An arrow before a capital is a path: "File -> Save As".
    """
    if re.fullmatch(_ARROW, joint.strip()):
        return after[:1].isupper() and _DETERMINER.match(after) is None
    subordinate = _SUBORDINATE.search(joint)
    if subordinate is None:
        return False
    return _SAME_SUBJECT.match(after) is not None or (subordinate["when"] is not None and not _has_predicate(after))


def _build_steps(pieces: list[tuple[str, str]]) -> tuple[QueryStep, ...]:
    steps: list[QueryStep] = []
    last = 0  # the step of the last clause
    for joint, piece in pieces:
        event = _FIRST.sub("", piece) if not steps else piece
        if joint in ("together", "both"):
            steps[last] = replace(steps[last], events=(*steps[last].events, event))
        elif joint == "after":
            steps.insert(last, QueryStep(events=(event,)))
        else:
            _, _, gap = joint.partition(" ")
            last = len(steps)
            steps.append(QueryStep(events=(event,), gap_s=float(gap) if gap else None))
    return tuple(steps)


def _trim(text: str) -> str:
    return text.strip().rstrip(",;. ").lstrip(",; ")


def _has_verb(text: str) -> bool:
    """Return whether a text seems to have a verb: a guess by its form, which misses plural subjects.

    >>> _has_verb("a big airplane flies"), _has_verb("a woman in jeans"), _has_verb("two cats sleeping")
    (True, False, True)
    >>> _has_verb("@mum opens a door")
    True
    """
    words = re.findall(r"\w+", text.lower().replace("@", "a "))
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
    """Return whether a text has a verb, also of a plural subject or after "with ...": for connectives of clauses only.

    >>> _has_predicate("they travel home"), _has_predicate("two cats jump"), _has_predicate("a man with a bag runs")
    (True, True, True)
    >>> _has_predicate("two cats"), _has_predicate("a man with glasses"), _has_predicate("a man with the bags")
    (False, False, False)
    >>> _has_predicate("two children"), _has_predicate("a man with glasses runs")
    (False, True)
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
