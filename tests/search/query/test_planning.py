"""Text queries: the positive part and the negative terms."""

import pytest

from vidret.errors import VidretError
from vidret.search.query.planning import parse_query


@pytest.mark.parametrize(
    ("query", "positive", "negatives"),
    [
        ("a dog", "a dog", ()),
        ("dog -beach", "dog", ("beach",)),
        ("-beach dog", "dog", ("beach",)),
        ('dog  -"two cats"  on grass -snow', "dog on grass", ("two cats", "snow")),
        ("a black-and-white film", "a black-and-white film", ()),
        ("dog - beach", "dog - beach", ()),
        ("dog --beach", "dog --beach", ()),
        ("  two  spaces ", "  two  spaces ", ()),
        (
            "hund -strand -\N{LATIN SMALL LETTER O WITH STROKE}l",
            "hund",
            ("strand", "\N{LATIN SMALL LETTER O WITH STROKE}l"),
        ),
        ("it's 5-10 -6", "it's 5-10 -6", ()),
        ('it\'s 5-10 -"6"', "it's 5-10", ("6",)),
    ],
)
def test_negative_terms_are_parsed(query: str, positive: str, negatives: tuple[str, ...]) -> None:
    assert parse_query(query) == (positive, negatives)


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("", "must contain a word, got"),
        ("  ", "must contain a word, got"),
        ("-beach", "must contain a positive word, got '-beach'"),
        ('dog -" "', "must contain a word between"),
    ],
)
def test_query_without_a_positive_word_or_with_an_empty_negative_one_is_refused(query: str, rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        parse_query(query)
