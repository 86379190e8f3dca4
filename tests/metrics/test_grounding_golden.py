"""Equality with the output of published evaluators for whole files, and with their results per query."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.metrics.submissions import (
    DATA,
    GOLDENS,
    check_as_published,
    find_files,
    needs_data,
    needs_goldens,
    read_rows,
    to_query,
)
from vidret.data.records import OPEN_LENGTHS
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import score_highlights
from vidret.metrics.predictions import read_predictions


def test_r2_tuning_evaluator() -> None:
    for folder in (path.parent for path in find_files("r2tuning/metrics/expected.json")):
        queries = [to_query(row) for row in read_rows(folder / "gt.jsonl")]
        predictions = read_predictions(folder / "pred.jsonl")
        moments = score_moments(queries, predictions, lengths=OPEN_LENGTHS)
        highlights = score_highlights(queries, predictions)
        check_as_published(moments, highlights, json.loads((folder / "expected.json").read_text("utf-8")))


def unpack(path: Path, folder: Path) -> Path:
    """Return the path of a file, decompressed into ``folder`` if only its .gz exists."""
    if path.exists():
        return path
    unpacked = folder / path.name
    unpacked.write_bytes(gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()))
    return unpacked


@needs_goldens
def test_official_qvhighlights_evaluator(tmp_path: Path) -> None:
    folder = GOLDENS / "qvhighlights"
    queries = [to_query(row) for row in read_rows(folder / "gt_val.jsonl")]
    assert len(queries) == 1550
    names = [path.stem.removeprefix("metrics_") for path in sorted(folder.glob("metrics_*.json"))]
    names = [name for name in names if not name.startswith("test_")]
    assert len(names) >= 2
    for name in names:
        predictions = read_predictions(unpack(folder / f"pred_{name}.jsonl", tmp_path))
        moments, highlights = score_moments(queries, predictions), score_highlights(queries, predictions)
        check_as_published(moments, highlights, json.loads((folder / f"metrics_{name}.json").read_text("utf-8")))
        with np.load(folder / f"perquery_{name}.npz") as each:
            assert tuple(map(str, each["qid"])) == moments.full.ids == highlights.ids
            np.testing.assert_allclose(moments.full.average_precision, each["mr_ap"], atol=1e-12, rtol=0)
            np.testing.assert_allclose(moments.full.best_overlaps[:, 0], each["r1_iou"], atol=1e-12, rtol=0)
            np.testing.assert_allclose(highlights.average_precision, each["hl_ap"], atol=1e-12, rtol=0)
            np.testing.assert_array_equal(highlights.hits, each["hit1"])
        assert highlights.to_dict()["VeryGood"]["mAP_ceiling"] == pytest.approx(70.30, abs=0.005)


@needs_data
def test_two_published_tacos_evaluators(tmp_path: Path) -> None:
    queries = [to_query(row) for row in read_rows(DATA / "tacos" / "tacos_test_release.jsonl")]
    predictions = read_predictions(unpack(GOLDENS / "grounding" / "pred_tacos.jsonl", tmp_path))
    report = score_moments(queries, predictions, lengths=OPEN_LENGTHS)
    assert len(report.full.ids) == 4001
    for evaluator in ("r2tuning", "lighthouse"):
        expected = json.loads((GOLDENS / "grounding" / f"metrics_tacos_{evaluator}.json").read_text("utf-8"))
        check_as_published(report, None, expected)
    with np.load(GOLDENS / "grounding" / "top1_iou_tacos.npz") as top:
        np.testing.assert_allclose(report.full.best_overlaps[:, 0], top["iou"], atol=1e-12, rtol=0)
