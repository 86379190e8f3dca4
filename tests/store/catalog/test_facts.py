"""Filters by facts: a snapshot and the catalog answer what loops over the files do; unknown facts match nothing."""

from pathlib import Path

import numpy as np
import pytest

from vidret.errors import VidretError
from vidret.store.catalog.facts import has_fact_filters, match_facts, stack_facts
from vidret.types import ALL_VIDEOS, Filters

from .. import naive
from ..recorded import FACT_FILTERS, FACTS
from ..samples import add_clip, create


def test_filters_by_facts_are_those_of_loops_over_the_files(tmp_path: Path) -> None:
    found = set()
    with create(tmp_path) as store:
        for content, facts in enumerate(FACTS):
            times_ns = {folder: content * (5 + (folder == "b")) * 10**9 for folder in "ab"[: 1 + content % 2]}
            files = {f"/{folder}/{content}.mp4": None if content == 5 else time for folder, time in times_ns.items()}
            add_clip(store, content, files, facts=facts)
        for filters in FACT_FILTERS:
            expected = naive.find_videos(store, filters)
            assert {video.id for video in store.videos.find(filters)} == expected, filters
            assert store.snapshot().select(filters).ids().tolist() == naive.matching(store, filters), filters
            assert store.select(filters).num_videos == len(expected)
            found.add(frozenset(expected))
    assert len(found) > 12, "filters differ"


@pytest.mark.parametrize(
    "filters",
    [
        *(Filters(near=near) for near in ("", "48", "a,b", "91,0", "0,181", "1,2,0", "1,2,-3", "1,2,nan", "1,2,3,4")),
        Filters(orientation="tall"),
    ],
)
def test_what_cannot_be_understood_is_said(filters: Filters) -> None:
    with pytest.raises(VidretError, match=r"^(near|orientation) must be .*, got "):
        match_facts(filters, stack_facts([]), np.zeros(0))


def test_filters_that_every_store_applies_are_no_facts() -> None:
    assert not has_fact_filters(ALL_VIDEOS)
    assert not has_fact_filters(Filters(folder="/a", name="b", min_seconds=1, max_seconds=2, after=3, before=4))
    assert all(map(has_fact_filters, FACT_FILTERS))
