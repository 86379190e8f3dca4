"""Scores of a head's spans that also depend on the encoder's similarity."""

import math

import numpy as np
import pytest

from tests.ground.samples import make_curve
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span
from vidret.types import Curve


def weigh_naively(spans: list[Span], curve: Curve, weight: float) -> list[Span]:
    mean = sum(curve.scores) / len(curve.scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in curve.scores) / len(curve.scores))
    products = []
    for span in spans:
        inside = [s for s, t in zip(curve.scores, curve.times, strict=True) if span.start <= t <= span.end]
        products.append(span.score * math.exp(weight * sum(inside) / len(inside) / deviation))
    best = products.index(max(products))
    factor = spans[best].score / products[best]
    weighed = [Span(s.start, s.end, p * factor) for s, p in zip(spans, products, strict=True)]
    return sorted(weighed, key=lambda span: -span.score)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 40.0])
def test_equals_a_naive_twin(weight: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        curve = make_curve(random.normal(size=30))
        starts, lengths = random.uniform(0, 20, 8), random.uniform(1, 10, 8)
        scores = np.sort(random.uniform(0.01, 1, 8))[::-1]
        spans = [Span(a, a + n, s) for a, n, s in zip(starts.tolist(), lengths.tolist(), scores.tolist(), strict=True)]
        weighed = weigh_by_similarity(spans, curve, weight)
        np.testing.assert_allclose(weighed, weigh_naively(spans, curve, weight), rtol=1e-9)
        assert all(0 <= span.score <= 1 for span in weighed)
        assert weighed[0] in spans, "the best one keeps its own score"


def test_flat_curve_and_no_spans_change_nothing() -> None:
    spans = [Span(5.0, 8.0, 0.6), Span(1.0, 2.0, 0.2)]
    assert weigh_by_similarity(spans, make_curve(np.full(9, 0.25)), 1.0) == spans
    assert weigh_by_similarity([], make_curve(np.array([0.1, 0.2])), 1.0) == []


def test_span_between_two_frames_has_the_similarity_of_the_nearest() -> None:
    curve = make_curve(np.array([0.0, 0.0, 1.0, 0.0]))
    spans = [Span(0.6, 1.2, 0.5), Span(2.6, 2.9, 0.5)]
    assert weigh_by_similarity(spans, curve, 1.0)[0] == spans[1]
