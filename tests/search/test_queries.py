"""What people type: words that are wanted, and words that must not fit."""

import pytest

from vidret.errors import VidretError
from vidret.search.queries import parse_query


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("a dog", ("a dog",)),
        ("dog -beach", ("dog", "beach")),
        ("-beach dog", ("dog", "beach")),
        ('dog  -"two cats"  on grass -snow', ("dog on grass", "two cats", "snow")),
        ("a black-and-white film", ("a black-and-white film",)),
        ("dog - beach", ("dog - beach",)),
        ("dog --beach", ("dog --beach",)),
        ("  two  spaces ", ("  two  spaces ",)),
        (
            "hund -strand -\N{LATIN SMALL LETTER O WITH STROKE}l",
            ("hund", "strand", "\N{LATIN SMALL LETTER O WITH STROKE}l"),
        ),
        ("it's 5-10 -6", ("it's 5-10", "6")),
    ],
)
def test_what_is_wanted_and_what_is_not(query: str, parts: tuple[str, ...]) -> None:
    assert parse_query(query) == parts


def test_something_must_be_wanted() -> None:
    for query in ("", "  "):
        with pytest.raises(VidretError, match="query must hold a word, got"):
            parse_query(query)
    with pytest.raises(VidretError, match="query must hold a word that is wanted, got '-beach'"):
        parse_query("-beach")
    with pytest.raises(VidretError, match="query must hold a word between"):
        parse_query('dog -" "')
