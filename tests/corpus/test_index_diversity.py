"""Diversity of an index and of what matches a prompt."""

from pathlib import Path

import pytest

from tests.evaluate import colour_index
from tests.fakes import ColourEncoder
from tests.noting import note_calls
from vidret.corpus import diversity
from vidret.corpus.diversity import IndexDiversity, measure_index_diversity
from vidret.corpus.overview import make_overview
from vidret.errors import VidretError
from vidret.store.store import Store

COLOURS = ["red", "green", "blue", "yellow"]


def measure(index: Path, prompt: str | None = None) -> IndexDiversity:
    with Store.open(index) as store:
        return measure_index_diversity(store, ColourEncoder(), prompt)


def test_copies_lower_diversity(tmp_path: Path) -> None:
    varied = measure(colour_index.write_colour_index(tmp_path / "a", {"a": COLOURS * 3}, noise=0.05))
    copies = measure(colour_index.write_colour_index(tmp_path / "b", {"a": ["red"] * 12}, noise=0.05))
    assert copies.vendi < 1.1 < 2 < varied.vendi
    assert copies.parts.by_text < varied.parts.by_text
    assert varied.parts.by_corpus > 0.99  # 1 is none
    assert (varied.num_segments, varied.prompt) == (24, None)


def test_the_phrases_that_are_encoded_are_those_of_descriptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = colour_index.write_colour_index(tmp_path / "a", {"a": COLOURS})
    asked = note_calls(monkeypatch, ColourEncoder, "encode_text", lambda _, texts: tuple(texts))
    measure(index)
    with Store.open(index) as store:
        make_overview(store, ColourEncoder(), "/a")
    assert len(asked) == 2
    assert len(set(asked)) == 1, "so that they are cached once"


def test_a_prompt_takes_what_it_names_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "MATCHES", 12)
    index = colour_index.write_colour_index(tmp_path / "a", {"a": COLOURS * 3}, noise=0.05)
    found = measure(index, "red")
    assert found.parts.num_samples == 12
    assert found.parts.warning is None
    monkeypatch.setattr(diversity, "MATCHES", 2)
    assert "at most 2" in str(measure(index, "red").parts.warning)


def test_too_few_segments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="must be a segment to describe, got an empty index"):
        measure(colour_index.write_colour_index(tmp_path / "a", {}))
