"""vidret eval compare: which report is better, and the paired bootstrap against a naive version."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluate.world import Answer, read, run
from vidret.errors import VidretError
from vidret.evaluate import comparing as module
from vidret.evaluate.comparing import Comparison, compare, compare_reports
from vidret.evaluate.report import FORMAT


def make_report(task: str, key: str, values: Sequence[Any], **changes: Any) -> dict[str, Any]:
    """Return a report with two queries per video."""
    rows = [
        {"id": f"q{index}", "text": f"text {index}", "video": f"v{index // 2}", key: value}
        for index, value in enumerate(values)
    ]
    data = {"name": "captions", "num_videos": 40, "num_found": 38, "missing": ["a"], "failed": {"b": "no video"}}
    return {"format": 1, "task": task, "data": data, "per_query": rows, **changes}


@pytest.fixture
def ranks() -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(0)
    worse = rng.integers(1, 30, 60).astype(float)
    return (np.maximum(worse - rng.integers(0, 9, 60), 1)).tolist(), worse.tolist()


def test_rows_have_the_means_and_the_bootstrap_of_each_metric(ranks: tuple[list[float], list[float]]) -> None:
    first, second = (make_report("retrieval", "rank", rank) for rank in ranks)
    second["per_query"].reverse()  # the order of a report does not matter
    rows = {row["metric"]: row for row in compare_reports(first, second, seed=3)}
    assert list(rows) == ["R@1", "R@5", "R@10", "MnR"]
    for k in (1, 5, 10):
        row = rows[f"R@{k}"]
        recalls = [100 * sum(rank <= k for rank in model_ranks) / len(model_ranks) for model_ranks in ranks]
        assert (row["first"], row["second"]) == pytest.approx(recalls)
    order = np.argsort([f"q{index}" for index in range(60)])
    groups = np.unique([f"v{index // 2}" for index in order], return_inverse=True)[1]
    a, b = (np.array(rank)[order] for rank in ranks)
    expected = asdict(compare(a, b, seed=3, groups=groups))
    assert {name: rows["MnR"][name] for name in expected} == expected
    assert compare_reports(first, second, seed=3)[0] == rows["R@1"] != compare_reports(first, second, seed=4)[0]
    assert rows["MnR"]["better"] == "first", "a lower rank is better"
    assert rows["MnR"]["difference"] < 0
    swapped = {row["metric"]: row["better"] for row in compare_reports(second, first, seed=3)}
    assert swapped["MnR"] == "second"


def test_moments_and_highlights_are_compared() -> None:
    overlaps = [0.3, 0.29999, 0.5, 0.7, 0.0, 1.0]
    first, second = make_report("moments", "overlap", overlaps), make_report("moments", "overlap", [0.0] * 6)
    rows = {row["metric"]: row["first"] for row in compare_reports(first, second)}
    assert rows == pytest.approx({"R1@0.3": 400 / 6, "R1@0.5": 50, "R1@0.7": 200 / 6, "mIoU": 100 * sum(overlaps) / 6})
    for report, ranks in ((first, (0, 1, 5, 10, 100, 101)), (second, (1, 1, 1, 1, 1, 0))):
        for row, rank in zip(report["per_query"], ranks, strict=True):
            row["corpus"] = {"VCMR, IoU 0.5": rank, "VCMR, IoU 0.7": 0, "PRVR": 1}
    compared = {row["metric"]: (row["first"], row["second"]) for row in compare_reports(first, second)}
    assert [compared[f"R@{k}, VCMR, IoU 0.5"][0] for k in (1, 5, 10, 100)] == pytest.approx(
        [100 / 6, 200 / 6, 50, 400 / 6]
    )
    assert compared["R@1, VCMR, IoU 0.5"][1] == pytest.approx(500 / 6)
    assert compared["R@1, VCMR, IoU 0.7"] == (0, 0)
    assert compared["R@1, PRVR"] == (100, 100)
    for row in second["per_query"]:
        del row["corpus"]
    assert "R@1, PRVR" not in {row["metric"] for row in compare_reports(first, second)}, "only one is of the corpus"
    first, second = (make_report("highlights", "precision", [precision] * 6) for precision in (0.5, 0.25))
    (row,) = compare_reports(first, second)
    assert (row["metric"], row["first"], row["second"], row["better"]) == ("mAP", 50, 25, "first")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda other: other.update(task="moments"), "reports must have the same task, got retrieval and moments"),
        (lambda other: other.update(task="dreams"), "reports must have the same task, got retrieval and dreams"),
        (lambda other: other["per_query"].pop(), "the same queries, got 1 in one report only, such as q3"),
        (lambda other: other["per_query"][1].update(text="else"), "got different text of q1: text 1 and else"),
        (lambda other: other["per_query"][1].update(video="v9"), "got different video of q1: v0 and v9"),
        (lambda other: other["per_query"][1].update(true=[[0, 1]]), r"got different true of q1: None and \[\[0, 1\]\]"),
        (lambda other: other["per_query"][1].pop("rank"), "reports must have the rank of each query, got none for q1"),
        (
            lambda other: (other["per_query"].pop(), other["data"].update(name="msvd-test")),
            "must be on the same data, got captions and msvd-test",
        ),
        (
            lambda other: other["data"].update(missing=[], num_found=39),
            "the same videos, got 38 and 39, missing in one only: a",
        ),
        (
            lambda other: other["data"].update(missing=["c"]),
            "the same videos, got 38 and 38, missing in one only: a, c",
        ),
        (lambda other: other["data"].update(num_videos=39, num_found=37), "the same videos, got 38 and 37"),
        (
            lambda other: other.update(results={"corpus": {"num_videos": 39}}),
            "indexes with equally many videos, got 40 and 39",
        ),
    ],
)
def test_reports_that_are_not_comparable_are_rejected(change: Any, reason: str) -> None:
    first = make_report("retrieval", "rank", [1, 2, 3, 4], results={"corpus": {"num_videos": 40}})
    second = copy.deepcopy(first)
    change(second)
    with pytest.raises(VidretError, match=reason):
        compare_reports(first, second)


def test_every_task_of_an_evaluation_is_compared() -> None:
    marks = [{name: float(mark) for name in ("R@1", "R@10", "R1@0.5", "hit@1")} for mark in (1, 0, 1, 1)]
    first = make_report("queries", "correct", marks)
    first["per_query"] += [{"id": f"a{n}", "text": "no", "video": None, "nothing": n < 3} for n in range(4)]
    second = copy.deepcopy(first)
    second["per_query"][0]["correct"]["R@1"], second["per_query"][4]["nothing"] = 0.0, False
    rows = {row["metric"]: (row["first"], row["second"], row["num_queries"]) for row in compare_reports(first, second)}
    assert rows == {
        "R@1": (75, 50, 4),
        **dict.fromkeys(("R@10", "R1@0.5", "hit@1"), (75, 75, 4)),
        "nothing, if absent": (75, 50, 4),
    }
    gains = [{f"nDCG@{k}": float(k + n) for k in (10, 20, 40)} for n in range(2)]
    rated = make_report("rated", "0.3", gains)
    rated["per_query"] = [{**row, "0.5": row["0.3"], "0.7": row["0.3"]} for row in rated["per_query"]]
    for row in rated["per_query"]:
        del row["video"]
    assert [row["first"] for row in compare_reports(rated, rated)] == [10.5, 20.5, 40.5] * 3
    composed = make_report("composed", "rank", [1, 3, 9, 11])
    assert [row["first"] for row in compare_reports(composed, composed)] == [25, 50, 75]
    known = make_report("known-item", "points", [1000, 0])
    for row, found in zip(known["per_query"], (0, None), strict=True):
        row["found"] = found
    assert [(row["metric"], row["first"]) for row in compare_reports(known, known)] == [("found", 50), ("points", 500)]


def test_reports_without_queries_or_of_an_unknown_task_are_rejected() -> None:
    report = make_report("dreams", "rank", [1, 2])
    with pytest.raises(VidretError, match=r"must be of retrieval, .*, got dreams"):
        compare_reports(report, report)
    report = make_report("retrieval", "rank", [])
    with pytest.raises(VidretError, match="reports must have at least one query, got none"):
        compare_reports(report, report)


def test_command_prints_one_line_per_metric(searched: tuple[Path, Answer], world: Path, tmp_path: Path) -> None:
    index = ("--index", searched[0] / "index", "--out", tmp_path / "mean")
    assert run("eval", "retrieval", "--videos", world, "--rerank", "mean", *index).code == 0
    paths = searched[0] / "report.json", tmp_path / "mean" / "report.json"
    answer = run("eval", "compare", *paths)
    lines = answer.out.splitlines()
    assert (answer.code, answer.err) == (0, "")
    assert lines[0].split() == ["metric", "first", "second", "difference", "95", "%", "interval", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == ["R@1", "R@5", "R@10", "MnR"]
    rows = json.loads(run("eval", "compare", *paths, "--json").out)
    assert [f"{row['first']:.1f}" for row in rows] == [line.split()[1] for line in lines[1:]]
    assert run("eval", "compare", *paths, "--seed", -1).code == 2
    assert json.loads(run("eval", "compare", *paths, "--seed", 1, "--json").out) == compare_reports(
        *map(read, paths), seed=1
    )


def test_folders_are_compared_by_names_of_reports(ranks: tuple[list[float], list[float]], tmp_path: Path) -> None:
    for name, values in (("one", ranks[0]), ("other", ranks[1])):
        for kind in ("captions", "moments") if name == "one" else ("captions",):
            (tmp_path / name / kind).mkdir(parents=True)
            report = {"format": FORMAT, **make_report("retrieval", "rank", values)}
            (tmp_path / name / kind / "report.json").write_text(json.dumps(report))
    answer = run("eval", "compare", tmp_path / "one", tmp_path / "other")
    assert answer.out.splitlines()[0] == "captions"
    assert "Left out, in one folder only: moments" in answer.err
    single = run("eval", "compare", tmp_path / "one" / "captions", tmp_path / "other" / "captions")
    assert answer.out.splitlines()[1:] == single.out.splitlines()
    (tmp_path / "other" / "captions").rename(tmp_path / "other" / "words")
    answer = run("eval", "compare", tmp_path / "one", tmp_path / "other")
    assert answer.code == 1
    assert "folders must have reports of the same names, got captions, moments and words" in answer.err
    (tmp_path / "other" / "words").rename(tmp_path / "other" / "captions")
    assert run("eval", "compare", tmp_path / "one", tmp_path / "one").out.count("identical") == 8
    unlike = tmp_path / "one" / "captions" / "report.json"
    unlike.write_text(json.dumps({"format": FORMAT, **make_report("retrieval", "rank", [1.0])}))
    answer = run("eval", "compare", tmp_path / "one", tmp_path / "other")
    assert (answer.code, answer.out) == (1, "")
    assert "captions: reports must have the same queries" in answer.err
    empty = run("eval", "compare", tmp_path, tmp_path / "one")
    assert (empty.code, empty.out) == (1, "")
    assert "must hold a report.json that vidret eval wrote, got none" in empty.err


def test_file_that_is_no_report_is_rejected(located: tuple[Path, Answer], tmp_path: Path) -> None:
    report, other, bare = located[0] / "report.json", tmp_path / "other.json", tmp_path / "bare.json"
    other.write_text('{"format": 0}')
    bare.write_text('{"format": 1, "per_query": []}')
    for path, reason in (
        (other, "other.json: must be a report.json"),
        (bare, "bare.json: must be a report.json"),
        (located[0] / "predictions.jsonl", "predictions.jsonl: cannot be read: Extra data"),
        (tmp_path / "nowhere.json", "nowhere.json: cannot be read: No such file"),
    ):
        answer = run("eval", "compare", report, path)
        assert (answer.code, answer.out) == (1, "")
        assert reason in answer.err
        assert "Traceback" not in answer.err


def naive_compare(a: list[float], b: list[float], seed: int, num_resamples: int, groups: list[int]) -> Comparison:
    """Draw groups one by one, each with all its queries, and interpolate quantiles of the sorted means."""
    random = np.random.default_rng(seed)
    names, means = sorted(set(groups)), []
    for _ in range(num_resamples):
        first, second = [], []
        for drawn in random.integers(len(names), size=len(names)):
            for query, group in enumerate(groups):
                if group == names[drawn]:
                    first.append(a[query])
                    second.append(b[query])
        means.append(sum(first) / len(first) - sum(second) / len(second))
    ordered = sorted(means)

    def quantile(share: float) -> float:
        position = share * (num_resamples - 1)
        below = int(position)
        above = min(below + 1, num_resamples - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    low, high = quantile(0.025), quantile(0.975)
    smaller_tail = min(sum(mean <= 1e-12 for mean in means), sum(mean >= -1e-12 for mean in means))
    difference = sum(a) / len(a) - sum(b) / len(b)
    return Comparison(difference, low, high, 0.95, min(1.0, 2 * smaller_tail / num_resamples), len(a), num_resamples)


def check_same(found: Comparison, expected: Comparison) -> None:
    assert asdict(found) == pytest.approx(asdict(expected), abs=1e-12)


def sample(count: int, seed: int, gain: float = 0.0) -> tuple[Any, Any]:
    """Return results of two systems for which the same queries are difficult."""
    random = np.random.default_rng(seed)
    difficulty = random.standard_normal(count)
    return difficulty + gain + random.standard_normal(count), difficulty + random.standard_normal(count)


@pytest.mark.parametrize("num_resamples", [1, 40, 101])
@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_equals_naive_bootstrap(count: int, num_resamples: int) -> None:
    a, b = sample(count, seed=count)
    comparison = compare(a, b, seed=3, num_resamples=num_resamples)
    check_same(comparison, naive_compare(a.tolist(), b.tolist(), 3, num_resamples, list(range(count))))


def test_groups_and_bools_equal_naive_bootstrap() -> None:
    a, b = (values > 0.3 for values in sample(24, seed=1))
    groups = np.random.default_rng(0).integers(0, 7, 24) * 10
    comparison = compare(a, b, seed=5, num_resamples=60, groups=groups)
    check_same(comparison, naive_compare(a.tolist(), b.tolist(), 5, 60, groups.tolist()))


def test_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sample(31, seed=2)
    expected = compare(a, b, seed=0, num_resamples=257)
    for chunk in (1, 100, 31 * 256):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert compare(a, b, seed=0, num_resamples=257) == expected


def test_swapping_results_negates_the_difference() -> None:
    a, b = sample(50, seed=4)
    found, turned = compare(a, b, seed=0), compare(b, a, seed=0)
    check_same(replace(turned, difference=-turned.difference, low=-turned.high, high=-turned.low), found)


def test_equal_results_do_not_differ_and_a_constant_gain_is_certain() -> None:
    a, _ = sample(40, seed=6)
    same = compare(a, a, seed=0)
    assert (same.difference, same.low, same.high, same.share) == (0, 0, 0, 1)
    certain = compare(a + 2, a, seed=0)
    assert (certain.difference, certain.low, certain.high) == pytest.approx((2, 2, 2))
    assert certain.share == 0


def test_captions_of_one_video_are_not_independent() -> None:
    """Intervals of 95 % hold the truth about as often if videos are drawn, and far too rarely if captions are."""
    groups, coverage = np.repeat(np.arange(40), 10), []
    for drawn in (groups, None):
        found = []
        for seed in range(300):
            a, b = (values[groups] for values in sample(40, seed))
            found.append(compare(a, b, seed=seed, num_resamples=400, groups=drawn))
        coverage.append(np.mean([result.low <= 0 <= result.high for result in found]))
    assert 0.9 < coverage[0] < 0.98
    assert coverage[1] < 0.6


def test_values_that_are_not_finite_are_rejected() -> None:
    a, b = sample(5, seed=8)
    with pytest.raises(VidretError, match="a and b must be finite"):
        compare(a, np.append(b[:4], np.nan), seed=0)
