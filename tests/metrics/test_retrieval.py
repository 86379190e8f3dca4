"""Retrieval metrics: equality with naive versions, the content of reports, and results of published evaluators."""

import json
import math
from typing import Any

import numpy as np
import pytest

from tests.metrics.published import PRINTED, SINGLE, Golden, check_published, draw_scores, find_goldens
from vidret.errors import VidretError
from vidret.metrics.ranks import Ranks
from vidret.metrics.retrieval import evaluate, summarise


def naive_summary(ranks: list[float], cuts: tuple[int, ...]) -> dict[str, float]:
    """Return the summary of ranks, computed by loops."""
    ordered, count = sorted(ranks), len(ranks)
    recalls = {}
    for k in {*cuts, 1, 5, 10}:
        top = [rank for rank in ranks if rank <= k]
        recalls[k] = 100 * len(top) / count
    lower, upper = ordered[(count - 1) // 2], ordered[count // 2]
    return {
        **{f"R@{k}": recalls[k] for k in cuts},
        "MdR": (lower + upper) / 2,
        "MdR_lower": lower,
        "MnR": sum(ranks) / count,
        "geometric_mean": (recalls[1] * recalls[5] * recalls[10]) ** (1 / 3),
        "R-Sum": recalls[1] + recalls[5] + recalls[10],
        "nDCG@10": 100 * sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10) / count,
    }


@pytest.mark.parametrize("cuts", [(1, 5, 10, 50), (3,), (2, 100)])
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_summary_equals_naive_version(count: int, cuts: tuple[int, ...]) -> None:
    ranks = np.random.default_rng(count).integers(2, 40, count) / 2
    assert summarise(ranks, cuts) == pytest.approx(naive_summary(ranks.tolist(), cuts), abs=1e-9)


def test_report_has_metrics_and_protocol() -> None:
    forth, back = (json.loads(json.dumps(row.to_dict())) for row in evaluate(np.eye(3)))
    numbers = {"R@1": 100, "R@5": 100, "R@10": 100, "R@50": 100, "MdR": 1, "MdR_lower": 1, "MnR": 1}
    assert {name: forth[name] for name in numbers} == numbers
    assert forth["geometric_mean"] == 100
    assert (forth["label"], forth["bank"], forth["direction"]) == ("plain", None, "t2v")
    assert (forth["num_queries"], forth["gallery_size"], forth["num_ties"]) == (3, 3, 0)
    assert "optimistic" not in forth
    assert "pessimistic" not in forth
    assert forth["protocol"].startswith("Text to video: 3 texts, each to find its video among 3. Ties by mean")
    assert (back["direction"], back["num_queries"]) == ("v2t", 3)
    assert back["protocol"].startswith("Video to text: 3 videos, each to find its text among 3.")


def test_report_has_bounds_if_there_are_ties() -> None:
    row = evaluate(np.ones((4, 4)))[0]
    report = row.to_dict()
    assert report["num_ties"] == 4
    assert (report["R@1"], report["MnR"], row.ranks.mean.tolist()) == (0, 2.5, [2.5] * 4)
    assert (report["optimistic"]["R@1"], report["optimistic"]["MnR"]) == (100, 1)
    assert (report["pessimistic"]["R@1"], report["pessimistic"]["MnR"]) == (0, 4)


def test_protocol_describes_the_gallery() -> None:
    scores, truth = draw_scores(7, 4), np.array([0, 0, 1, 1, 1, 3, 3])
    forth, back = evaluate(scores, truth)
    assert "7 texts, each to find its video among 4." in forth.protocol
    assert "3 videos, each to find its best caption among the best of each video." in back.protocol
    assert back.ranks.queries.tolist() == [0, 1, 3]


# Results of published evaluators on the same scores.


@pytest.fixture(scope="module", params=find_goldens(), ids=str)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


CUTS = (1, 5, 10, 50, 100)


def measure(scores: Any, truth: Any = None) -> dict[str, dict[str, float]]:
    return {row.direction: summarise(row.ranks.mean, CUTS) for row in evaluate(scores, truth)}


EVALUATORS = {"clip4clip": 1e-6, "tempme_R50": 1e-6, "qbnorm_ce_avg_ties": PRINTED, "promptswitch_argsort": 1e-6}


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_all_evaluators_agree_without_ties(golden: Golden, evaluator: str) -> None:
    cases = [(golden.distinct, golden.metrics["n1000_distinct"]["metrics"])]
    cases += [golden.small[name] for name in ("identity5", "negative", "one")]
    for scores, expected in cases:
        for direction, found in measure(scores).items():
            check_published(found, expected[evaluator][direction], EVALUATORS[evaluator])


def test_ties_equal_the_evaluator_that_averages_them(golden: Golden) -> None:
    for scores, expected in golden.tied:
        for row in evaluate(scores):
            # At 1 it has our rule; beyond, a tie for the places K and K + 1 is a hit there, which is another rule.
            ranks = row.ranks.mean
            summary = summarise(ranks, CUTS)
            theirs = {f"R@{k}": 100 * float((ranks == 1 if k == 1 else ranks < k + 1).mean()) for k in CUTS}
            theirs["geometric_mean"] = float(np.cbrt(theirs["R@1"] * theirs["R@5"] * theirs["R@10"]))
            assert theirs["R@1"] == summary["R@1"]
            check_published(summary | theirs, expected["qbnorm_ce_avg_ties"][row.direction], PRINTED)


def all_tied_ranks(ranks: Ranks) -> Any:
    """Return every rank of every tie as if each were a query, as code does that sorts and compares scores."""
    return np.concatenate([np.arange(a, b + 1) for a, b in zip(ranks.optimistic, ranks.pessimistic, strict=True)])


def test_published_code_counts_a_tied_query_once_per_rank(golden: Golden) -> None:
    # The published number is a mean over ranks, not queries: a query with many ties has a higher weight, and a constant
    # matrix of 4 gets R@1 25. Ours is a mean over queries, and the bounds show the effect of ties.
    for scores, expected in golden.tied:
        for row in evaluate(scores):
            tied_ranks = all_tied_ranks(row.ranks)
            assert len(tied_ranks) == expected["clip4clip_len_ind"][row.direction] >= len(scores)
            check_published(summarise(tied_ranks), expected["clip4clip"][row.direction])
            check_published(summarise(tied_ranks), expected["tempme_R50"][row.direction])
    report = evaluate(golden.ties)[0].to_dict()
    assert (report["num_queries"], report["R@1"]) == (1000, pytest.approx(10.9))
    assert golden.metrics["n1000_ties"]["metrics"]["clip4clip"]["t2v"]["R1"] < 1


def test_arbitrary_order_of_ties_is_within_the_bounds(golden: Golden) -> None:
    # Sorting leaves ties in an arbitrary order, so such a number is a random draw.
    for scores, expected in golden.tied:
        for row in evaluate(scores):
            published = expected["promptswitch_argsort"][row.direction]
            ranks = row.ranks
            best, worst = summarise(ranks.optimistic, CUTS), summarise(ranks.pessimistic, CUTS)
            for k in CUTS:
                assert worst[f"R@{k}"] - 1e-9 <= published[f"R{k}-{row.direction}"] <= best[f"R@{k}"] + 1e-9
            assert best["MdR"] <= published[f"MedR-{row.direction}"] <= worst["MdR"]
            assert best["MnR"] - 1e-9 <= published[f"MeanR-{row.direction}"] <= worst["MnR"] + 1e-9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan_diag", "got nan for text 1 and video 1"),
        ("nan_offdiag", "got nan for text 1 and video 2"),
        ("inf_offdiag", "got inf for text 1 and video 2"),
    ],
)
def test_infinite_scores_are_rejected_unlike_in_published_code(golden: Golden, name: str, message: str) -> None:
    # NaN compares False with everything: a query whose correct score is NaN drops out of the mean.
    scores, expected = golden.small[name]
    with pytest.raises(VidretError, match=message):
        evaluate(scores)
    published = expected["clip4clip"]["t2v"]["R1"]
    assert math.isfinite(published)
    if name == "nan_diag":
        assert published == 100
        assert expected["clip4clip_len_ind"]["t2v"] == len(scores) - 1


def find_captioned(golden: Golden) -> dict[str, tuple[Any, Any]]:
    found = {path.stem: golden.read(path.name) for path in sorted(golden.folder.glob("multicap_*.npz"))}
    assert {"multicap_small40", "multicap_equal50x20"} <= set(found)
    return found


def test_several_captions_equal_published_code(golden: Golden) -> None:
    for name, (scores, truth) in find_captioned(golden).items():
        expected = golden.metrics[name]
        assert all(row.ranks.num_ties <= (name == "multicap_msvd670") for row in evaluate(scores, truth))
        found = measure(scores, truth)
        check_published(found["t2v"], expected["metrics"]["t2v"], SINGLE, lower_median=True)
        check_published(found["v2t"], expected["metrics"]["v2t"])
        assert found["t2v"]["R@50"] == pytest.approx(expected["metrics"]["t2v_R50"], abs=SINGLE)
        for direction in found if "promptswitch" in expected else ():
            check_published(found[direction], expected["promptswitch"][direction], SINGLE)
