"""Tests of vidret export, and of the vectors that it writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.cli.runner import Runner
from tests.fakes import ColourEncoder
from vidret.engine import Engine
from vidret.types import Filters


def test_vectors_are_written_with_paths_and_times(run: Runner, index: Path, tmp_path: Path) -> None:
    with Engine(index, ColourEncoder()) as engine:
        held = engine.embeddings()
    assert [Path(path).name for path in held.paths] == sorted(Path(path).name for path in held.paths)
    assert np.linalg.norm(held.vectors, axis=1) == pytest.approx(1, abs=1e-3)
    for form in ("npy", "safetensors"):
        code, _, err = run("export", "embeddings", tmp_path / "out" / f"a.{form}", "--format", form, "--index", index)
        assert (code, f"{len(held.vectors)} vectors of {held.vectors.shape[1]}: " in err) == (0, True)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), held.vectors)
    with (tmp_path / "out" / "a.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["path"], float(row["start"]), float(row["end"])) for row in rows] == [
        (path, *times) for path, times in zip(held.paths, held.times.tolist(), strict=True)
    ]
    with safe_open(tmp_path / "out" / "a.safetensors", "np") as stored:
        np.testing.assert_array_equal(stored.get_tensor("times"), held.times)
        assert json.loads(stored.metadata()["paths"]) == list(held.paths)


def test_parquet_has_a_row_for_each_frame(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    options = ("--format", "parquet", "--level", "frame", "--folder", films, "--index", index)
    assert run("export", "embeddings", tmp_path / "a.parquet", *options)[0] == 0
    rows = parquet.read_table(tmp_path / "a.parquet").to_pydict()
    with Engine(index, ColourEncoder()) as engine:
        held = engine.embeddings("frame")
        (red,) = (video.id for video in engine.videos() if video.paths[0].endswith("red.mp4"))
        curve = engine.curve("red", red)
        nothing = engine.embeddings(filters=Filters(folder="/nowhere"))
    assert (rows["path"], rows["start"]) == (list(held.paths), held.times[:, 0].tolist())
    np.testing.assert_array_equal(np.array(rows["embedding"], np.float32), held.vectors)
    np.testing.assert_array_equal(held.times[held.videos == red, 0], curve.times)
    assert (nothing.paths, nothing.times.shape, nothing.vectors.shape) == ((), (0, 2), (0, held.vectors.shape[1]))


def test_what_cannot_be_written_is_refused(run: Runner, index: Path, tmp_path: Path) -> None:
    for arguments, code, sentence in (
        (("a.npy", "--format", "safetensors"), 2, "must end in .safetensors, got a.npy"),
        (("a.npy", "--folder", tmp_path / "none"), 1, "there is no vector to write"),
        (("a.npy", "--index", "nowhere"), 1, "no index"),
        ((tmp_path / "films" / "red.mp4" / "a.npy",), 1, "cannot be written"),
    ):
        run.check_refusal(("export", "embeddings", "--index", index, *arguments), code, sentence)
