"""vidret eval retrieval: equality with scores computed by loops, and the content of the report."""

import json
import multiprocessing
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.evaluate.conftest import BANK
from tests.evaluate.world import CAPTIONS, HERE, Answer, colour_encoder, read, run
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from vidret.align.hubness import qb_norm, sk_norm
from vidret.channels.picture.ranking import FrameRanker, Ranker
from vidret.channels.picture.reranking import TOTAL
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import find_videos
from vidret.encode.encoder import Encoder
from vidret.encode.names import WHOLE
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate import retrieval
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.report import Gallery
from vidret.evaluate.retrieval import Bank, correct, evaluate_retrieval, measure_scores, score_texts
from vidret.metrics.ranks import rank_matrix
from vidret.metrics.retrieval import Direction, Row, calibrate_scores, evaluate, evaluate_dual_softmax, make_row
from vidret.types import Sampling
from vidret.video.probe import probe
from vidret.video.reader import read_frames
from vidret.video.sampling import cut_segments, nearest

Searched = tuple[Path, Answer]
QUERIED = [(video, kind, text) for video, kind, texts in CAPTIONS for text in texts if video in HERE]


def score_naively(encoder: ColourEncoder, text: str, path: Path) -> float:
    """Return the highest score of a video's segments: the mean similarity of their four best frames."""
    info = probe(path)
    sentence = encoder.encode_text([text])[0].sentence
    scores = []
    for cut in cut_segments(info.duration, info.times, Sampling(4)):
        indices = sorted(set(nearest(info.times, np.array(cut.times)).tolist()))
        frames = read_frames(str(path), indices=indices, resize=encoder.resize)
        vectors = encoder.encode_frames([frames])[0].frames.astype(np.float16)
        best = sorted(sum(float(a) * float(b) for a, b in zip(vector, sentence, strict=True)) for vector in vectors)[
            -4:
        ]
        scores.append(sum(best) / len(best))
    return max(scores)


def rank_naively(scores: list[float], true_column: int) -> float:
    """Return the mean rank of the correct video, by counting."""
    higher = sum(score > scores[true_column] for score in scores)
    return 1 + higher + (sum(score == scores[true_column] for score in scores) - 1) / 2


BALANCE = partial(sk_norm, temperature=0.05)


def rate(
    label: str, direction: Direction, bank: str, scores: np.ndarray, bank_scores: np.ndarray, calibrate: Any, truth: Any
) -> Row:
    """Return the row of scores that were corrected by a bank."""
    corrected = calibrate_scores(direction, scores, bank_scores, calibrate)
    return make_row(label, direction, rank_matrix(corrected, truth), bank)


@pytest.fixture(scope="module")
def matrix(world: Path) -> np.ndarray:
    """Return the scores of every caption of an available video, followed by the bank's."""
    encoder = colour_encoder()
    texts = [text for _, _, text in QUERIED] + list(BANK)
    scores = [[score_naively(encoder, text, world / "videos" / video) for video in HERE] for text in texts]
    return np.array(scores, np.float32)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return np.array([HERE.index(video) for video, _, _ in QUERIED])


@pytest.fixture(scope="module")
def report(searched: Searched) -> dict[str, Any]:
    return read(searched[0] / "report.json")


def test_ranks_equal_loops(report: dict[str, Any], matrix: np.ndarray, truth: np.ndarray) -> None:
    rows = report["per_query"]
    assert [(row["video"], row["domain"], row["text"]) for row in rows] == QUERIED
    assert [row["id"] for row in rows][:2] == ["red.mp4_0", "red.mp4_1"]
    for row, scores, true_column in zip(rows, matrix.tolist(), truth.tolist(), strict=False):
        assert row["rank"] == rank_naively(scores, true_column)
        assert row["score"] == pytest.approx(scores[true_column], abs=1e-4)
        assert [name for name, _ in row["top"]] == [
            HERE[column] for column in np.argsort(-np.array(scores), kind="stable")
        ]
        assert [score for _, score in row["top"]] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)


def test_rows_equal_the_metrics_of_the_matrix(report: dict[str, Any], matrix: np.ndarray, truth: np.ndarray) -> None:
    scores, bank_scores = matrix[: len(truth)], matrix[len(truth) :]
    bank = "5 queries of bank.jsonl, 3 of them in the test set"
    as_glscl = partial(qb_norm, beta=70.0, min_queries=3)
    expected = [
        *evaluate(scores, truth),
        rate("SK-norm", "t2v", bank, scores, bank_scores, BALANCE, truth),
        rate("QB-norm", "t2v", bank, scores, bank_scores, qb_norm, truth),
        rate("QB-norm, as GLSCL has it", "t2v", bank, scores, bank_scores, as_glscl, truth),
        *(evaluate_dual_softmax(direction, 100 * scores, truth) for direction in ("t2v", "v2t")),
    ]
    assert sum(text in {text for _, _, text in QUERIED} for text in BANK) == 3
    assert report["results"]["rows"] == [json.loads(json.dumps(row.to_dict())) for row in expected]


def test_domains_are_evaluated_with_own_videos(report: dict[str, Any], matrix: np.ndarray, truth: np.ndarray) -> None:
    kinds = [kind for _, kind, _ in QUERIED]
    assert set(report["results"]["domains"]) == {"real", "drawn"}
    for domain, rows in report["results"]["domains"].items():
        query_indices = [index for index, kind in enumerate(kinds) if kind == domain]
        columns = sorted({int(truth[index]) for index in query_indices})
        expected = evaluate(
            matrix[query_indices][:, columns], np.array([columns.index(truth[index]) for index in query_indices])
        )
        assert rows == [json.loads(json.dumps(row.to_dict())) for row in expected]


def test_captions_without_a_kind_are_those_of_the_kind_other(searched: Searched, world: Path) -> None:
    split = read_split("captions", world)
    kinds = {"real": "other", "drawn": ""}
    captions = tuple(replace(caption, domain=kinds[caption.domain]) for caption in split.captions)
    with Engine(searched[0] / "index", colour_encoder()) as engine:
        gallery = Gallery(find_videos(HERE, world)[0], [], {})
        one = evaluate_retrieval(Evaluation(engine, replace(split, captions=captions), gallery), rerank="none")
        assert "domains" not in one.results, "all are of one kind"
        captions = (replace(captions[0], domain="drawn"), *captions[1:])
        two = evaluate_retrieval(Evaluation(engine, replace(split, captions=captions), gallery), rerank="none")
    assert {kind: rows[0]["num_queries"] for kind, rows in two.results["domains"].items()} == {"drawn": 1, "other": 7}


def test_ties_are_counted_and_bounds_are_printed(report: dict[str, Any], searched: Searched) -> None:
    plain = report["results"]["rows"][0]
    assert plain["num_ties"] == 2, "white and its copy"
    assert plain["optimistic"]["R@1"] > plain["R@1"] == plain["pessimistic"]["R@1"]
    lines = searched[1].out.splitlines()
    assert lines[0] == "search: 8 captions, 5 videos"
    assert lines[2].split()[:4] == ["text", "to", "video", "plain"]
    assert lines[3].split()[:2] == ["optimistic", "ties"]
    assert all(line[lines[1].index("R@1") + 2] in "0123456789" for line in lines[2:10]), "numbers align to the right"
    assert "R@50" not in searched[1].out, "trivial with five videos"


def test_report_describes_data_model_and_settings(report: dict[str, Any], world: Path) -> None:
    assert (report["format"], report["task"]) == (1, "retrieval")
    data, model = report["data"], report["model"]
    assert data["files"] == [str(world / "captions.jsonl")]
    assert (data["num_captions"], data["num_videos"], data["num_found"]) == (10, 7, 5)
    assert data["missing"] == ["gone.mp4"]
    assert list(data["failed"]) == ["bad.mp4"]
    assert data["failed"]["bad.mp4"]
    assert (model["name"], model["fingerprint"], model["dim"], model["card"]) == ("colours", "colours-cut", 3, None)
    assert (model["num_frames"], model["fps"], model["segments"]) == (4, 1.0, "following shots")
    assert model["num_segments"] == 7, "copies are stored once"
    assert report["settings"].pop("seconds_per_pair") > 0
    assert report["settings"] == {
        "protocol": "classic",
        "complete": False,
        "rows": [8, 10],
        "frames": "seconds, at most 4",
        "instruction": None,
        "metric": "R@1",
        "rerank": "none",
        "levels": {"frames": 1.0},
        "bank": "bank.jsonl",
        "num_bank": 5,
        "video_bank": None,
        "num_video_bank": 0,
        "sk_norm_temperature": 0.05,
        "dual_softmax_scale": 100.0,
    }
    assert report["seconds"]["indexing"] > 0
    assert report["seconds"]["scoring"] > 0
    assert {"python", "vidret", "torch", "numpy"} <= report["versions"].keys()
    assert "mean rank" in report["results"]["rows"][0]["protocol"]


def test_corrected_rows_name_their_bank(searched: Searched) -> None:
    by_label = {line[15:27].strip(): line for line in searched[1].out.split("\n\n")[0].splitlines()[2:]}
    for label in ("SK-norm", "QB-norm"):
        assert by_label[label].endswith("5 queries of bank.jsonl, 3 of them in the test set")
    assert by_label["dual softmax"].endswith("all 5 videos of the test set at once")


def test_batches_of_texts_do_not_change_the_scores(
    searched: Searched, world: Path, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    split = read_split("captions", world)
    gallery = Gallery(find_videos(HERE, world)[0], [], {})
    progress: list[tuple[int, int]] = []
    monkeypatch.setattr(retrieval, "AT_ONCE", 3)
    with Engine(searched[0] / "index", colour_encoder()) as engine:
        evaluation = Evaluation(engine, split, gallery, lambda *at: progress.append(at))
        again = evaluate_retrieval(evaluation, rerank="none", bank=Bank("bank.jsonl", BANK))
        assert again.results == report["results"]
        assert progress == [(7 * batch + 7, 28) for batch in range(4)], "7 segments, 12 different texts"
        monkeypatch.setattr(retrieval, "MEMORY", 100)
        with pytest.raises(VidretError, match="scores must fit into 0 GiB, got 8 texts and 5 videos"):
            evaluate_retrieval(evaluation, rerank="none")
        with pytest.raises(
            VidretError, match="captions: must have at least one caption of an available video, got none"
        ):
            evaluate_retrieval(Evaluation(engine, split, Gallery({}, list(split.videos), {})), rerank="none")


class Rounding:
    """An engine whose scores depend in their last digit on the row of a text, as those of matrix products may."""

    def choose_ranker(self, _: str | None) -> Ranker:
        return FrameRanker()

    def score_videos(self, texts: list[str], paths: list[Path], **_: Any) -> dict[str, np.ndarray]:
        scores = np.add.outer(1e-7 * np.arange(len(texts)), np.arange(len(paths))).astype(np.float32)
        return {"frames": scores, TOTAL: scores}


@pytest.mark.parametrize("at_once", [2, 9])
def test_captions_that_videos_share_are_ties(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "AT_ONCE", at_once)
    texts, paths = ["dog", "cat", "bird", "dog", "cat"], [Path("a"), Path("b")]
    scores = score_texts(cast(Engine, Rounding()), texts, paths, None)
    for level in scores.values():
        assert np.array_equal(level[0], level[3])
        assert np.array_equal(level[1], level[4])
        assert level[:, 1].tolist() == pytest.approx([1.0] * 5)


def test_captions_of_a_part_of_their_video_are_noted(searched: Searched, world: Path, tmp_path: Path) -> None:
    rows = [{"annotation_id": 1, "video": "red.mp4", "description": "red"}]
    (tmp_path / "test_data.json").write_text(json.dumps(rows))
    (tmp_path / "test_list.txt").write_text("red.mp4\n")
    index = ("--index", searched[0] / "index", "--annotations", tmp_path, "--out", tmp_path / "out")
    answer = run("eval", "retrieval", "--data", "didemo", "--videos", world, *index)
    assert answer.code == 0
    assert "note: captions that describe a part of their video, though the whole video is scored: 1" in answer.err
    assert "R@50" not in answer.out
    assert "only" not in answer.out, "there is a single domain"


def test_report_names_the_ranker(searched: Searched, world: Path, tmp_path: Path) -> None:
    index = ("--index", searched[0] / "index", "--out", tmp_path / "mean")
    assert run("eval", "retrieval", "--videos", world, "--rerank", "mean", *index).code == 0
    facts = read(tmp_path / "mean" / "report.json")
    assert (facts["settings"]["rerank"], facts["settings"]["levels"]) == ("mean", {"segment": 1.0})
    assert facts["settings"]["bank"] is None
    assert [row["label"] for row in facts["results"]["rows"]] == ["plain", "plain", "dual softmax", "dual softmax"]
    assert not (tmp_path / "mean" / "report.html").exists()


def test_bank_may_be_a_text_file(searched: Searched, world: Path, tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("something else\nred\n")
    index = ("--index", searched[0] / "index", "--out", tmp_path / "out")
    answer = run("eval", "retrieval", "--videos", world, "--calibrate", tmp_path / "bank.txt", *index)
    assert "2 queries of bank.txt, 1 of them in the test set" in answer.out


def test_videos_are_the_bank_for_texts(world: Path, matrix: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    films = {"red": (("red", 3),), "green": (("green", 2),), "both": (("yellow", 2), ("blue", 2))}
    for name, scenes in films.items():
        write_film(tmp_path / "bank" / f"{name}.mp4", *scenes)
    (tmp_path / "bank" / "bad.mp4").write_text("no video")
    shutil.copy(world / "videos" / "white.mp4", tmp_path / "bank")
    out = ("--out", tmp_path / "out", "--workers", 1)
    answer = run("eval", "retrieval", "--videos", world, "--video-bank", tmp_path / "bank", *out)
    assert answer.code == 0, answer.err
    bad = tmp_path / "bank" / "bad.mp4"
    assert f"{bad.parent}: 1 video unreadable, omitted from the bank: {bad}" in answer.err
    encoder, names = colour_encoder(), ("both", "green", "red", "white")
    texts = [text for _, _, text in QUERIED]
    bank_scores = np.array(
        [[score_naively(encoder, text, tmp_path / "bank" / f"{name}.mp4") for name in names] for text in texts],
        np.float32,
    )
    scores, bank = matrix[: len(truth)], f"4 videos of {tmp_path / 'bank'}"
    expected = [
        rate("SK-norm", "v2t", bank, scores, bank_scores, BALANCE, truth),
        rate("QB-norm", "v2t", bank, scores, bank_scores, qb_norm, truth),
    ]
    report = read(tmp_path / "out" / "report.json")
    assert report["results"]["rows"][2:4] == [json.loads(json.dumps(row.to_dict())) for row in expected]
    assert report["settings"]["num_video_bank"] == 4
    shown = [line for line in answer.out.splitlines() if "SK-norm" in line]
    assert shown[0].startswith("video to text  SK-norm"), shown


def test_bank_of_videos_names_those_of_the_test_set(searched: Searched, world: Path, tmp_path: Path) -> None:
    index = ("--index", searched[0] / "index", "--out", tmp_path / "out")
    answer = run("eval", "retrieval", "--videos", world, "--video-bank", world / "videos", *index)
    assert f"5 videos of {world / 'videos'}, 5 of them in the test set" in answer.out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--calibrate", "empty.txt"), "empty.txt: the bank must contain at least one query, got none"),
        (("--video-bank", "none"), "none: the bank must contain at least one video, got none"),
        (("--video-bank", "nowhere"), "nowhere: no such file"),
        (("--calibrate", "bank.txt"), "scores must fit into 0 GiB, got 10 texts and 6 videos"),
    ],
)
def test_banks_are_checked_before_anything_is_indexed(
    options: tuple[str, str], reason: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("bank.txt").write_text("something\n")
    Path("none").mkdir()
    monkeypatch.setattr(retrieval, "MEMORY", 500)
    monkeypatch.setattr(Engine, "index", lambda *_, **__: pytest.fail("indexed before the check"))
    answer = run("eval", "retrieval", "--videos", world, *options, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (1, "")
    assert reason in answer.err


def read_peak() -> int:
    """Return the bytes that this process has held at most; ``ru_maxrss`` begins with what its parent held."""
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    return 1024 * int(kilobytes)


def measure_peak(num_levels: int, direction: Direction) -> tuple[int, int]:
    """Return the bytes that scores and their corrections took at most, and what was expected; for a new process."""
    ranker = cast(Ranker, SimpleNamespace(weights=dict.fromkeys("abc"[:num_levels], 1.0), temperature=1.0))
    rng, before, size = np.random.default_rng(0), 0, 0
    for size in (8, 4000):  # a small case first, so that what is loaded and started once does not count
        before = read_peak()
        full = {name: rng.random((2 * size, size), dtype=np.float32) for name in (*ranker.weights, TOTAL)}
        scores, bank = (
            {name: level[part] for name, level in full.items()} for part in (slice(size), slice(size, None))
        )
        correct(ranker, scores, bank, rng.permutation(size), "bank", direction=direction)
        evaluate_dual_softmax(direction, 100 * scores[TOTAL], rng.permutation(size))
    return read_peak() - before, measure_scores(ranker, size, size, size)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
@pytest.mark.parametrize(("num_levels", "direction"), [(1, "t2v"), (3, "t2v"), (3, "v2t")])
def test_scores_take_as_much_memory_as_expected(num_levels: int, direction: Direction) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, expected = pool.apply(measure_peak, (num_levels, direction))
    assert 0.8 * expected < peak <= expected


class Weighted:
    """A ranker with two levels of unequal weights."""

    name = "weighted"
    fingerprint = ""
    weights: Mapping[str, float] = {"coarse": 1.0, "fine": 0.5}
    temperature = 0.2
    wants_tokens = False


def test_levels_are_corrected_separately_and_weighted_as_in_search() -> None:
    rng = np.random.default_rng(0)
    scores, bank_scores = (
        {name: rng.standard_normal((num, 6)).astype(np.float32) for name in Weighted.weights} for num in (9, 7)
    )
    for levels in (scores, bank_scores):
        levels[TOTAL] = levels["coarse"] + np.float32(0.5) * levels["fine"]
    truth = np.sort(rng.integers(0, 6, 9))
    row, coarse, fine, *others = correct(cast(Ranker, Weighted()), scores, bank_scores, truth, "a bank")
    expected = []
    for text in range(9):
        corrected = []
        for video in range(6):
            total = 0.0
            for name, weight in Weighted.weights.items():
                potentials = sk_norm(torch.from_numpy(bank_scores[name]), temperature=0.2).potentials
                total += weight * (float(scores[name][text, video]) + float(potentials[video]))
            corrected.append(total)
        expected.append(rank_naively(corrected, int(truth[text])))
    assert row.ranks.mean.tolist() == expected
    assert expected != [
        rank_naively(list(line), int(column)) for line, column in zip(scores[TOTAL], truth, strict=True)
    ]
    assert [report_row.label for report_row in (row, *others)] == ["SK-norm", "QB-norm", "QB-norm, as GLSCL has it"]
    for level, name in ((coarse, "coarse"), (fine, "fine")):
        assert level.label == f"SK-norm, level {name}"
        balanced = sk_norm(torch.from_numpy(bank_scores[name]), temperature=0.2).correct(torch.from_numpy(scores[name]))
        assert level.ranks.mean.tolist() == [
            rank_naively(line, int(column)) for line, column in zip(balanced.tolist(), truth, strict=True)
        ]
    assert {report_row.bank for report_row in (row, coarse, fine, *others)} == {"a bank"}


def test_a_trained_ranker_has_a_row_a_level_and_poolings(searched: Searched, world: Path, tmp_path: Path) -> None:
    index = ("--index", tmp_path / "index", "--rerank", "ucofia", "--out", tmp_path / "out", "--workers", 1)
    answer = run("eval", "retrieval", "--videos", world, *index, load=load_patches)
    assert answer.code == 0, answer.err
    report = read(tmp_path / "out" / "report.json")
    labels = [row["label"] for row in report["results"]["rows"] if row["direction"] == "t2v"]
    levels = [f"plain, level {name}" for name in report["settings"]["levels"]]
    assert len(levels) > 1
    assert labels == ["plain", *levels, "plain, rerank mean", "plain, rerank none", "dual softmax"]
    assert report["settings"]["seconds_per_pair"] > 0
    alone = run("eval", "retrieval", "--videos", world, *index[:2], "--rerank", "mean", *index[4:], load=load_patches)
    assert alone.code == 0, alone.err
    rows = {row["label"]: row for row in report["results"]["rows"] if row["direction"] == "t2v"}
    mean = read(tmp_path / "out" / "report.json")["results"]["rows"][0]
    assert {**rows["plain, rerank mean"], "label": "plain"} == mean
    pooled = run("eval", "retrieval", "--videos", world, *index[:2], "--rerank", "glscl", *index[4:], load=load_patches)
    assert pooled.code == 0, pooled.err
    labels = [row["label"] for row in read(tmp_path / "out" / "report.json")["results"]["rows"]]
    assert labels[2:] == [label for label in ("plain, rerank mean", "plain, rerank none", "dual softmax") for _ in "tv"]


def load_patches(name: str = "starter", **_: Any) -> Encoder:
    encoder = PatchEncoder()
    encoder.sampling = Sampling(num_frames=4, fps=1.0, whole=name.endswith(WHOLE))
    return encoder
