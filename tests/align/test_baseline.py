"""The list of unrelated queries."""

from vidret.align.baseline import UNRELATED


def test_unrelated_queries_are_64_distinct_phrases() -> None:
    assert len(UNRELATED) == 64
    assert len({query.casefold().strip() for query in UNRELATED}) == 64
    assert all(len(query.split()) >= 3 for query in UNRELATED)
