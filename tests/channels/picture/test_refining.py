"""Refined rankings: the videos and scores of the paper's loops, and nothing lost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import DIM, PatchEncoder, make_text
from vidret.align.refine import refine_hits, score_refined, standardise_scores
from vidret.channels.picture import refining
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.types import Hit

LEVELS = ("segment", "frames", "words")


@pytest.fixture
def engine(index: Path) -> Engine:
    return Engine(index, PatchEncoder())


def vectors_of(engine: Engine, hits: list[Hit]) -> np.ndarray:
    store = engine._index.store
    ids = store.segments.find_many([(hit.segment.video, hit.segment.number) for hit in hits])
    return store.features.read_vectors(ids).astype(np.float32)


def test_images_and_vectors_are_ordered_as_published(engine: Engine) -> None:
    query = np.random.default_rng(3).standard_normal(DIM).astype(np.float32)
    plain, refined = engine.search(query), engine.search(query, refine=True)
    unit = query / np.linalg.norm(query)
    expected = score_refined(unit, refine_hits(vectors_of(engine, plain)).vectors).published
    check_refined(plain, refined, expected)


def test_text_keeps_half_of_its_own_scores(engine: Engine) -> None:
    plain, refined = engine.search("a dog"), engine.search("a dog", refine=True)
    scores = np.array([float(np.mean([hit.why[name] for name in LEVELS])) for hit in plain])
    sentence = make_text("a dog").sentence
    hits = score_refined(sentence, refine_hits(vectors_of(engine, plain)).vectors)
    check_refined(plain, refined, (standardise_scores(scores) + hits.standardised) / 2)


def check_refined(plain: Sequence[Hit], refined: Sequence[Hit], expected: np.ndarray) -> None:
    """Compare refined hits with the refined scores of plain ones; their evidence is that of plain ones, in order."""
    by_path = {hit.path: score for hit, score in zip(plain, expected, strict=True)}
    assert [hit.path for hit in refined] == sorted(by_path, key=lambda path: -by_path[path])
    assert [hit.why["refined"] for hit in refined] == pytest.approx([by_path[hit.path] for hit in refined], abs=1e-5)
    assert [hit.score for hit in refined] == [hit.score for hit in plain]
    assert [hit.weak for hit in refined] == [hit.weak for hit in plain]


def test_further_hits_follow_in_their_first_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine.search("a dog")
    monkeypatch.setattr(refining, "NUM_HITS", 1)
    refined = engine.search("a dog", refine=True)
    assert [hit.path for hit in refined] == [hit.path for hit in plain]
    refined_scores = [hit.why["refined"] for hit in refined]
    assert refined_scores == sorted(refined_scores, reverse=True)
    assert [hit.score for hit in refined] == [hit.score for hit in plain]


def test_words_are_not_refined(engine: Engine) -> None:
    with pytest.raises(VidretError, match="has no words to search"):
        engine.search("a dog", refine=True, sources=("speech",))
