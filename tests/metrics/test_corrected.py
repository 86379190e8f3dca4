"""Metrics with hubness correction: equality with scores corrected by hand, both directions, and published numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.metrics.published import PRINTED, Golden, check_published, find_goldens
from vidret.align.hubness import qb_norm, sk_norm
from vidret.errors import VidretError
from vidret.metrics.retrieval import Row, evaluate, evaluate_calibrated, evaluate_dual_softmax

CUTS = (1, 5, 10, 50)


def sample(texts: int, videos: int, seed: int = 0, scale: float = 2.0) -> Any:
    return scale * np.random.default_rng(seed).standard_normal((texts, videos))


def check_same(found: Row, scores: Any, truth: Any = None) -> None:
    """Check that a row equals the plain row of scores that were corrected beforehand."""
    expected = evaluate(scores, truth)[0 if found.direction == "t2v" else 1].metrics
    assert found.metrics.to_dict() == expected.to_dict()


@pytest.mark.parametrize("calibrate", [sk_norm, qb_norm, partial(qb_norm, beta=2.0, k=2)])
def test_row_equals_metrics_of_corrected_scores(calibrate: Any) -> None:
    scores, bank, truth = sample(9, 4), sample(30, 4, seed=1), np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    correction = calibrate(torch.from_numpy(bank))
    corrected = np.array([correction.correct(torch.from_numpy(row)).tolist() for row in scores])
    row = evaluate_calibrated("QB-norm", "t2v", scores, bank, calibrate, truth, bank="made-up queries")
    check_same(row, corrected, truth)
    assert (row.label, row.direction, row.bank) == ("QB-norm", "t2v", "made-up queries")


def test_video_to_text_corrects_texts_with_a_bank_of_videos() -> None:
    scores, bank, truth = sample(9, 4), sample(9, 30, seed=1), np.array([0, 0, 1, 1, 1, 2, 2, 3, 3])
    correction = sk_norm(torch.from_numpy(bank).T)
    corrected = scores + correction.potentials.numpy()[:, None]
    row = evaluate_calibrated("SK-norm", "v2t", scores, bank, sk_norm, truth, bank="made-up videos")
    check_same(row, corrected, truth)


def test_scores_are_not_modified() -> None:
    scores, bank = sample(6, 6), sample(20, 6, seed=1)
    kept = scores.copy(), bank.copy()
    evaluate_calibrated("QB-norm", "t2v", scores, bank, qb_norm, bank="queries")
    evaluate_dual_softmax("t2v", scores)
    assert np.array_equal(scores, kept[0])
    assert np.array_equal(bank, kept[1])


@pytest.mark.wrong_shapes
def test_invalid_arguments_are_rejected() -> None:
    scores, bank = sample(4, 4), sample(20, 4, seed=1)
    holed = bank.copy()
    holed[7, 2] = np.nan
    direction: Any = "sideways"
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (
            lambda: evaluate_calibrated("SK-norm", "t2v", scores, holed, sk_norm, bank="queries"),
            VidretError,
            "scores must be finite, got nan for text 7 and video 2",
        ),
        (lambda: evaluate_dual_softmax("t2v", holed), VidretError, "got nan for text 7 and video 2"),
        (lambda: evaluate_dual_softmax("t2v", scores[0]), ValueError, r"a matrix of floats, got float64 \(4,\)"),
        (lambda: evaluate_dual_softmax(direction, scores), ValueError, "direction must be t2v or v2t, got sideways"),
        (
            lambda: evaluate_calibrated("SK-norm", "t2v", scores, bank, sk_norm, bank=""),
            ValueError,
            "named for any other, got 'SK-norm' and ''",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


class Corrected(Golden):
    """The published numbers, with the cosines that were corrected."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder)
        pairs, bank = np.load(folder / "n1000_embeddings_int16.npz"), np.load(folder / "qb_bank_int16.npz")["bank"]
        text, video, bank = (
            each / np.linalg.norm(each, axis=1, keepdims=True)
            for each in (part.astype(np.float64) for part in (pairs["text"], pairs["video"], bank))
        )
        self.cosines, self.bank = text @ video.T, bank @ video.T


@pytest.fixture(scope="module", params=find_goldens(), ids=str)
def golden(request: pytest.FixtureRequest) -> Corrected:
    return Corrected(request.param)


def test_qb_norm_equals_published_code(golden: Corrected) -> None:
    results = dict(golden.metrics["qbnorm"]["results"])
    check_published(evaluate(golden.cosines)[0].metrics.summary, results.pop("base"), PRINTED)
    assert len(results) >= 9
    for name, expected in results.items():
        k, beta = name.removeprefix("k").split("_beta")
        calibrate = partial(qb_norm, beta=1 / 1.99 if beta == "0.5025" else float(beta), k=int(k))
        row = evaluate_calibrated("QB-norm", "t2v", golden.cosines, golden.bank, calibrate, bank="3,000 texts")
        check_published(row.metrics.summary, expected["metrics"], PRINTED)


def test_sk_norm_equals_published_code(golden: Corrected) -> None:
    results, logits = golden.metrics["sinkhorn"]["results"], 100 * golden.cosines
    check_published(evaluate(logits)[0].metrics.summary, results["none"]["t2v"])
    for name, bank in [("bank_x100", 100 * golden.bank), ("test_x100", logits)]:
        row = evaluate_calibrated("SK-norm", "t2v", logits, bank, sk_norm, bank=name)
        check_published(row.metrics.summary, results[name]["t2v"])


def test_dual_softmax_equals_published_code(golden: Corrected) -> None:
    logits, expected = 10 * golden.distinct, golden.metrics["dsl"]
    check_published(evaluate_dual_softmax("t2v", logits).metrics.summary, expected["t2v"])
    check_published(evaluate_dual_softmax("v2t", logits).metrics.summary, expected["v2t"])
