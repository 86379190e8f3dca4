"""Mentions of taught concepts in a query: ``@name``."""

import re
from collections.abc import Mapping

from vidret.errors import VidretError
from vidret.search.query.exclusions import straighten_quotes
from vidret.text import MENTION_NAME

MENTION = re.compile(rf"(?<![^\s(])@({MENTION_NAME})")
QUOTED = re.compile(r'"[^"]*"')


def find_mentions(text: str) -> list[str]:
    """Return the names of the concepts that a text mentions outside quotes, in lower case, each once.

    >>> find_mentions('@Mascot and (@anna) write to anna@home "@work", then @mascot leaves')
    ['mascot', 'anna']
    """
    return list(dict.fromkeys(name.casefold() for name in MENTION.findall(QUOTED.sub(" ", straighten_quotes(text)))))


def replace_mentions(text: str, meanings: Mapping[str, str]) -> str:
    """Return a text with the known concepts replaced by their meanings.

    >>> replace_mentions("@mascot, then @other", {"mascot": "a red fox"})
    'a red fox, then @other'
    """
    return MENTION.sub(lambda match: meanings.get(match[1].casefold(), match[0]), text)


def check_concept_name(name: str) -> str:
    """Return the name of a concept in lower case, without an @ before it.

    Raises:
        VidretError: It is not a letter followed by up to 63 letters, digits, _ or -.
    """
    bare = name.removeprefix("@")
    if not re.fullmatch(MENTION_NAME, bare):
        raise VidretError(f"name must be a letter and up to 63 letters, digits, _ or -, got {name!r}")
    return bare.casefold()
