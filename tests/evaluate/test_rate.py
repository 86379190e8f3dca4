"""vidret eval rate: one protocol for several encoders."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.world import read, run
from tests.fakes import ColourEncoder
from vidret.encode.encoder import REPEATS, measure_speed


def test_models_are_rated_side_by_side(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run("eval", "rate", "starter", "good", "starter", "--data", world, "--out", "out", "--workers", 1)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split()[:3] == ["model", "frames", "side"]
    assert len(lines) == 4, "two models and one comparison: a repeated name counts once"
    assert "may be chance" in lines[3], "both names are the same encoder here"
    assert "Of ties, the mean rank counts" in answer.err
    rating = read(tmp_path / "out/rating.json")
    single = read(tmp_path / "out/model-good/report.json")
    first, second = rating["models"]
    assert first["results"] == second["results"]
    assert first["results"]["t2v"]["R@1"] == single["results"]["rows"][0]["R@1"]
    assert first["results"]["t2v"]["num_queries"] == 8
    assert rating["comparisons"][0]["difference"] == 0
    assert (
        json.loads(run("eval", "rate", "starter", "--data", world, "--out", "out", "--json").out)["comparisons"] == []
    )


def test_a_benchmark_needs_its_videos() -> None:
    answer = run("eval", "rate", "starter", "--data", "msrvtt-1k-a")
    assert (answer.code, "must be given for a benchmark, got none" in answer.err) == (2, True)


def test_speed_is_the_best_of_the_runs_and_size_follows_from_the_vectors() -> None:
    encoder = ColourEncoder()
    speed = measure_speed(encoder)
    assert encoder.num_frames == (1 + REPEATS) * 4, "one run to warm up"
    assert min(speed.frame_ms, speed.query_ms) > 0
    np.testing.assert_allclose(speed.mb_per_hour, (3600 + 900) * 3 * 2 / 1e6)  # a vector a frame and one a segment
