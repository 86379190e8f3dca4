"""Scores with hubness correction: equality with correction by hand, both directions, and published numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.metrics.published import PRINTED, Golden, check_published, find_goldens
from vidret.align.hubness import qb_norm, sk_norm
from vidret.errors import VidretError
from vidret.metrics.retrieval import calibrate_scores, evaluate, evaluate_dual_softmax


def sample(texts: int, videos: int, seed: int = 0, scale: float = 2.0) -> Any:
    return scale * np.random.default_rng(seed).standard_normal((texts, videos))


@pytest.mark.parametrize("calibrate", [sk_norm, qb_norm, partial(qb_norm, beta=2.0, k=2)])
def test_text_to_video_corrects_videos_with_a_bank_of_texts(calibrate: Any) -> None:
    scores, bank = sample(9, 4), sample(30, 4, seed=1)
    correction = calibrate(torch.from_numpy(bank))
    corrected = [correction.correct(torch.from_numpy(row)).tolist() for row in scores]
    assert calibrate_scores("t2v", scores, bank, calibrate).tolist() == corrected


def test_video_to_text_corrects_texts_with_a_bank_of_videos() -> None:
    scores, bank = sample(9, 4), sample(9, 30, seed=1)
    corrected = scores + sk_norm(torch.from_numpy(bank).T).potentials.numpy()[:, None]
    assert np.array_equal(calibrate_scores("v2t", scores, bank, sk_norm), corrected)


def test_scores_are_not_modified() -> None:
    scores, bank = sample(6, 6), sample(20, 6, seed=1)
    kept = scores.copy(), bank.copy()
    calibrate_scores("t2v", scores, bank, qb_norm)
    evaluate_dual_softmax("t2v", scores)
    assert np.array_equal(scores, kept[0])
    assert np.array_equal(bank, kept[1])


def test_scores_that_are_not_finite_are_rejected() -> None:
    holed = sample(20, 4, seed=1)
    holed[7, 2] = np.nan
    cases: list[Callable[[], object]] = [
        lambda: calibrate_scores("t2v", sample(4, 4), holed, sk_norm),
        lambda: evaluate_dual_softmax("t2v", holed),
    ]
    for call in cases:
        with pytest.raises(VidretError, match="scores must be finite, got nan for text 7 and video 2"):
            call()


@pytest.fixture(scope="module", params=find_goldens(), ids=str)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def measure(scores: Any) -> dict[str, float]:
    return evaluate(scores)[0].summary


def test_qb_norm_equals_published_code(golden: Golden) -> None:
    cosines, bank = golden.corrected
    results = dict(golden.metrics["qbnorm"]["results"])
    check_published(measure(cosines), results.pop("base"), PRINTED)
    assert len(results) >= 9
    for name, expected in results.items():
        k, beta = name.removeprefix("k").split("_beta")
        calibrate = partial(qb_norm, beta=1 / 1.99 if beta == "0.5025" else float(beta), k=int(k))
        corrected = calibrate_scores("t2v", cosines, bank, calibrate)
        assert int((corrected != cosines).any(axis=1).sum()) == expected["n_normalised_rows"]
        check_published(measure(corrected), expected["metrics"], PRINTED)


def test_sk_norm_equals_published_code(golden: Golden) -> None:
    results, (logits, bank) = golden.metrics["sinkhorn"]["results"], (100 * scores for scores in golden.corrected)
    check_published(measure(logits), results["none"]["t2v"])
    for name, bank_scores in [("bank_x100", bank), ("test_x100", logits)]:
        check_published(measure(calibrate_scores("t2v", logits, bank_scores, sk_norm)), results[name]["t2v"])


def test_dual_softmax_equals_published_code(golden: Golden) -> None:
    logits, expected = 10 * golden.distinct, golden.metrics["dsl"]
    check_published(evaluate_dual_softmax("t2v", logits).summary, expected["t2v"])
    check_published(evaluate_dual_softmax("v2t", logits).summary, expected["v2t"])
