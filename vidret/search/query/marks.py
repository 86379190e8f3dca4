"""Markup in a text query: words in quotes, mentions of concepts and persons as ``@name``, and excluded terms.

Exclusions must follow words to look for: "no woman, no cry" excludes nothing.
"""

import re
import unicodedata
from collections.abc import Mapping

from vidret.errors import OptionError
from vidret.text import MENTION_NAME, make_handle
from vidret.types import MAX_QUERY_LENGTH

MAX_EXCLUSIONS = 16  # each is encoded separately
PHRASE = re.compile(r'"([^"]*)"')
MENTION = re.compile(rf"(?<![^\s(])@({MENTION_NAME})")
_QUOTED_OR_MENTION = re.compile(f"{PHRASE.pattern}|{MENTION.pattern}")
# "-5 degrees" is a number, and "docker run -t" has a flag.
_NEGATIVE_TERM = r'(?:(?<=\s)|^)-(?:"([^"]*)"|(?=@?[^\W\d_])(?![a-zA-Z](?:\s|$))(\S+?)(?=[,;.]*(?:\s|$)))'
_QUOTED = re.compile(rf"(?P<negative>{_NEGATIVE_TERM})|{PHRASE.pattern}")
_CURLY = str.maketrans(dict.fromkeys("\u201c\u201d\u201e\u201f\xab\xbb", '"'))
_SINGLE_CURLY = re.compile(r"\u2018((?:[^\u2018\u2019]|\u2019(?=\w))*)\u2019(?!\w)")
_SPACED = re.compile(r"\s+(?=[,;.](?:\s|$))")  # spaces left before punctuation
MASK = "\ue000"  # stands for each character in quotes

_EXCLUDED = re.compile(
    r"(?:,\s+(?:(?:but|and)\s+)?|\s+but\s+)"
    r"(?:no(?!\s+(?:one|longer|matter|doubt|way|more|less|\w+er\s+than)\b)|not(?!\s+(?:now|yet|only|just|to)\b)|without)"
    r"\s+(?:any\s+|an?\s+|the\s+)?"
    r"(?P<what>[^,;]+?)(?=\s*(?:[,;.]|$)|\s+(?:and\s+then|then|while|followed\s+by)\s)",
    re.IGNORECASE,
)
_OR = re.compile(r"\s+(?:or|nor|and\s+no)\s+", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:no|not|nor|never|neither|none|nothing|nobody|without|cannot|\w+n['\u2019]t)\b", re.IGNORECASE
)


def straighten_quotes(text: str) -> str:
    r"""Return a text with straight quotes in place of curly ones, and double ones in place of a pair of single ones.

    >>> straighten_quotes("\u201ctwo cats\u201d, \u2018don\u2019t go\u2019, a dog\u2019s")
    '"two cats", "don\'t go", a dog\'s'
    """
    return _SINGLE_CURLY.sub(r'"\1"', text.translate(_CURLY)).replace("\u2019", "'")


def split_negatives(query: str) -> tuple[str, tuple[str, ...]]:
    """Return a query without the terms that are written with a minus, and these terms.

    Blanks, curly quotes, a full stop at the end and separate accents (NFC) are normalised. A term is empty for an empty
    pair of quotes.

    Raises:
        VidretError: The query is too long.

    >>> split_negatives('a beach at -5 degrees -dog -"two cats", no people')
    ('a beach at -5 degrees, no people', ('dog', 'two cats'))
    """
    check_length(query)
    query, terms, kept, at = straighten_quotes(unicodedata.normalize("NFC", query)), [], [], 0
    for match in _QUOTED.finditer(query):
        if match["negative"] is not None:
            terms.append(" ".join((match[2] or match[3] or "").split()))
            kept += [query[at : match.start()], " "]
            at = match.end()
    text = " ".join("".join([*kept, query[at:]]).split())
    return (_SPACED.sub("", text) if terms else text).rstrip(",;. "), tuple(terms)


def split_exclusions(query: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return a query without its exclusions, the terms that are written with a minus, and the other excluded terms.

    A term is empty for an empty pair of quotes.

    Raises:
        VidretError: The query is too long, or excludes too much.

    >>> split_exclusions('a beach -dog -"two cats", no people or boats')
    ('a beach', ('dog', 'two cats'), ('people', 'boats'))
    """
    text, negatives = split_negatives(query)
    masked, at = mask_quotes(text), 0
    terms: list[str] = []
    parts: list[str] = []
    for match in _EXCLUDED.finditer(masked):
        start = match.start()
        if not parts and (not has_word(text[:start]) or _NEGATED.search(masked[:start])):
            continue  # no words to look for are left, or the "no" is part of the sentence
        start, end = match.span("what")
        terms += [PHRASE.sub(r"\1", term).strip() for term in _OR.split(text[start:end])]
        parts.append(text[at : match.start()])
        at = match.end()
    if (num_terms := len(negatives) + len(terms)) > MAX_EXCLUSIONS:
        raise OptionError(f"query must exclude at most {MAX_EXCLUSIONS} words or phrases, got {num_terms}")
    return "".join([*parts, text[at:]]).strip(), negatives, tuple(terms)


def check_length(query: str) -> None:
    """Check that a text is not too long.

    Raises:
        VidretError: It is too long.
    """
    if len(query) > MAX_QUERY_LENGTH:
        raise OptionError(f"query must have at most {MAX_QUERY_LENGTH} characters, got {len(query)}")


def mask_quotes(text: str) -> str:
    """Return text of the same length with a letter for each character in quotes."""
    return PHRASE.sub(lambda match: MASK * len(match[0]), text)


def has_word(text: str) -> bool:
    """Return whether a text has a letter, a digit, or a symbol such as an emoji.

    >>> has_word("dog"), has_word("\U0001f436"), has_word('"..."')
    (True, True, False)
    """
    return any(letter.isalnum() or unicodedata.category(letter) == "So" for letter in text)


def find_mentions(text: str) -> list[str]:
    """Return the names of the concepts that a text mentions outside straight quotes, in lower case, each once.

    >>> find_mentions('@Mascot and (@anna) write to anna@home "@work", then @mascot leaves')
    ['mascot', 'anna']
    """
    names = MENTION.findall(PHRASE.sub(" ", text)) if "@" in text else ()
    return list(dict.fromkeys(map(make_handle, names)))


def replace_mentions(text: str, meanings: Mapping[str, str]) -> str:
    """Return a text with the known concepts outside straight quotes replaced by their meanings.

    >>> replace_mentions('@mascot, then @other "with @mascot"', {"mascot": "a red fox"})
    'a red fox, then @other "with @mascot"'
    """
    return _QUOTED_OR_MENTION.sub(lambda match: meanings.get(make_handle(match[2] or ""), match[0]), text)


def check_concept_name(name: str) -> str:
    """Return the name of a concept in lower case, without an @ before it.

    Raises:
        VidretError: It is not a letter followed by up to 63 letters, digits, _ or -.
    """
    bare = name.removeprefix("@")
    if not re.fullmatch(MENTION_NAME, bare):
        raise OptionError(f"name must be a letter and up to 63 letters, digits, _ or -, got {name!r}")
    return make_handle(bare)
