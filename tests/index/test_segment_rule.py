"""The rule for segments: what a run follows, what it records, and what it refuses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidret.errors import VidretError
from vidret.index.options import record_rule
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "index", encoder_name="made-up", encoder_fingerprint="f1", dim=4) as store:
        yield store


def choose(store: Store, **given: Any) -> str | None:
    return record_rule(store, **{"shots": None, "mode": None, "whole": False, "decoder": "auto", **given})


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "exact"),
        ({"shots": True, "mode": "fast"}, "fast"),
        ({"mode": "balanced", "decoder": "pyav"}, "balanced"),
        ({"decoder": "decord"}, "exact"),
        ({"shots": False}, None),
        ({"whole": True}, None),
        ({"whole": True, "shots": False}, None),
    ],
)
def test_a_new_index_remembers_its_rule(store: Store, given: dict[str, Any], chosen: str | None) -> None:
    assert choose(store, **given) == chosen
    assert store.metadata.get(SEGMENTS) == (FIXED_GRID if chosen is None else FOLLOW_SHOTS)
    assert store.metadata.get(SAMPLING) == (chosen or "exact")
    assert choose(store, whole=given.get("whole", False)) == chosen


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"mode": "quick"}, "sampling must be exact, balanced, fast, got quick"),
        ({"mode": "fast", "shots": False}, "sampling must be exact where segments do not follow shots, got fast"),
        ({"mode": "fast", "decoder": "decord"}, "decoder must be auto or pyav with sampling fast, got decord"),
        ({"mode": "fast", "decoder": "torchcodec"}, "with sampling fast, got torchcodec, which decodes all frames"),
        ({"decoder": "magic"}, "decoder must be auto, decord, pyav, torchcodec, got magic"),
        ({"shots": True, "whole": True}, "shots must be off for an encoder of whole videos, got on"),
    ],
)
def test_what_has_no_meaning_is_refused_and_not_recorded(store: Store, given: dict[str, Any], rule: str) -> None:
    with pytest.raises(VidretError, match=rule):
        choose(store, **given)
    assert (store.metadata.get(SEGMENTS), store.metadata.get(SAMPLING)) == (None, None)


def test_the_recorded_rule_holds_for_later_runs(store: Store) -> None:
    choose(store, shots=True, mode="balanced")
    with pytest.raises(VidretError, match="shots must be on, as the index was made, got off"):
        choose(store, shots=False)
    with pytest.raises(VidretError, match="with sampling balanced, got decord"):
        choose(store, decoder="decord")
    assert choose(store, decoder="decord", mode="exact") == "exact"
