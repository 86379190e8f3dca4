"""Tests of example queries."""

from vidret.search.suggestions import suggest_queries


def test_phrases_of_several_texts_come_first_and_each_from_another_video() -> None:
    texts = [
        (1, "Solar panels are cheap."),
        (1, "We mount solar panels today"),
        (2, "the quick brown fox"),
        (3, "Grated parmesan, fresh basil"),
        (3, "grated parmesan again"),
        (3, "grated parmesan"),
    ]
    assert suggest_queries(texts, 2) == ["grated parmesan", "solar panels"]
    assert suggest_queries(texts) == ["grated parmesan", "solar panels", "quick brown"]


def test_phrases_do_not_cross_punctuation_or_have_short_or_common_words() -> None:
    assert suggest_queries([(1, "bread, butter"), (2, "their house"), (3, "an old dog"), (4, "version 12 beta")]) == []
    assert suggest_queries([]) == []
