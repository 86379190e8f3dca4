"""Mentions of concepts in queries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.errors import VidretError
from vidret.search.query.marks import check_concept_name, find_mentions, replace_mentions

NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("@mascot", ["mascot"]),
        ("@Mascot on a beach, then @anna-2.", ["mascot", "anna-2"]),
        ("(@mascot) @mascot", ["mascot"]),
        ("write to anna@home, or @ noon, or @2", []),
        ('"@mascot" is written', []),
        ("@दिव्या and @สุดา", ["दिव्या", "สุดา"]),  # vowel signs are no letters for Python
        ("@İbrahim, @Jose\N{COMBINING ACUTE ACCENT}", ["i\N{COMBINING DOT ABOVE}brahim", "josé"]),
        ("a dog", []),
    ],
)
def test_mentions_are_found_outside_quotes_and_words(query: str, names: list[str]) -> None:
    assert find_mentions(query) == names


@given(names=st.lists(NAMES, max_size=4, unique=True), words=st.text("ab ,.", max_size=9))
def test_what_is_found_is_what_is_replaced(names: list[str], words: str) -> None:
    query = " ".join([words, *(f"@{name} {words}" for name in names)])
    assert find_mentions(query) == names
    assert "@" not in replace_mentions(query, dict.fromkeys(names, "x"))
    assert replace_mentions(query, {}) == query


@given(NAMES)
def test_a_valid_name_is_found_as_it_is_kept(name: str) -> None:
    assert find_mentions(f"@{name.upper()}") == [check_concept_name(f"@{name.upper()}")] == [name]


def test_invalid_names_are_refused() -> None:
    for name in ("", "@", "2nd", "a b", "_x", "@@a", "a" * 65):
        with pytest.raises(VidretError, match="name must be a letter and up to 63 letters, digits, _ or -, got"):
            check_concept_name(name)
