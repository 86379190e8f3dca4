"""Tests of the commands that move vectors: vidret export, import and merge."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from jaxtyping import Float32

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from tests.spoken import FakeSentences, fake_sentences, say
from vidret.channels.texts import sentence_models
from vidret.engine import Engine
from vidret.errors import EncoderError
from vidret.index import merging
from vidret.present.contents import write_embeddings
from vidret.search.query import planning
from vidret.types import EmbeddingLevel, Embeddings, Filters, TextEmbedding


def test_vectors_are_written_with_paths_and_times(run: Runner, index: Path, tmp_path: Path) -> None:
    with Engine(index, ColourEncoder()) as engine:
        held = engine.embeddings()
    assert [Path(path).name for path in held.paths] == sorted(Path(path).name for path in held.paths)
    assert np.linalg.norm(held.vectors, axis=1) == pytest.approx(1, abs=1e-3)
    err = run.err("export", "embeddings", tmp_path / "out" / "a.npy")
    assert f"{len(held.vectors)} vectors of {held.vectors.shape[1]}: " in err
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), held.vectors)
    with (tmp_path / "out" / "a.csv").open(encoding="utf-8") as lines:
        rows = [(row["path"], float(row["start"]), float(row["end"])) for row in csv.DictReader(lines)]
    assert rows == [(path, *times) for path, times in zip(held.paths, held.times.tolist(), strict=True)]


def test_parquet_has_a_row_for_each_frame(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    run.out("export", "embeddings", tmp_path / "a.parquet", "--level", "frame", "--folder", films)
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


def test_bytes_that_parquet_cannot_hold_are_told(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    with Engine(index, ColourEncoder()) as engine:
        held = engine.embeddings()
    for path, num_notes in (("/films/\udcff.mp4", 1), ("/films/é.mp4", 0)):
        write_embeddings(replace(held, paths=(path,) * len(held.paths)), tmp_path / "a.parquet", "parquet")
        assert capsys.readouterr().err.count("are replaced, since Parquet cannot hold them") == num_notes
        names = parquet.read_table(tmp_path / "a.parquet").to_pydict()["path"]
        assert names[0] == path.replace("\udcff", "\ufffd")


@pytest.mark.usefixtures("index")
def test_what_cannot_be_written_is_refused(run: Runner, films: Path, tmp_path: Path) -> None:
    for arguments, code, sentence in (
        (("a.txt",), 2, "must end in .npy, .parquet, .safetensors, got a.txt"),
        (("a.npy", "--folder", tmp_path / "none"), 1, "there is no vector to write"),
        (("a.npy", "--index", "nowhere"), 1, "no index"),
        ((films / "red.mp4" / "a.npy",), 1, "cannot be written"),
    ):
        run.check_refusal(("export", "embeddings", *arguments), code, sentence)


RED, BLUE = ColourEncoder().encode_text(["red", "blue"])


def read_all(index: Path, level: EmbeddingLevel) -> Embeddings:
    with Engine(index, ColourEncoder()) as engine:
        return engine.embeddings(level)


@pytest.mark.parametrize("level", ["segment", "frame"])
def test_exported_vectors_come_back(run: Runner, index: Path, tmp_path: Path, level: EmbeddingLevel) -> None:
    file, copy = tmp_path / "a.npy", tmp_path / "copy"
    run.out("export", "embeddings", file, "--level", level)
    report = run.json("import", file, "--index", copy)
    assert (report["imported"], report["failed"]) == (2, [])
    held, read = read_all(index, level), read_all(copy, level)
    assert (read.paths, read.times.tolist()) == (held.paths, held.times.tolist())
    # Frames are float16 in an index already; the means of segments are rounded once more.
    np.testing.assert_allclose(read.vectors, held.vectors, atol=0 if level == "frame" else 1e-3)
    assert [("imported" in run.out("info", "--index", path)) for path in (copy, index)] == [True, False]
    again = run.json("import", file, "--index", copy)
    assert (again["imported"], again["known"], again["num_segments"]) == (0, 2, 0)


def write_clip_retrieval(folder: Path, parts: Sequence[tuple[np.ndarray, dict[str, list[object]]]]) -> Path:
    """Write vectors and columns as clip-retrieval does."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    from pyarrow import parquet

    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for part_index, (vectors, columns) in enumerate(parts):
        np.save(folder / "img_emb" / f"img_emb_{part_index}.npy", vectors.astype(np.float16))
        parquet.write_table(pyarrow.table(columns), folder / "metadata" / f"metadata_{part_index}.parquet")
    return folder


def test_folder_of_clip_retrieval_is_searched(run: Runner, films: Path, tmp_path: Path) -> None:
    red, blue, gone = (str(films / f"{name}.mp4") for name in ("red", "blue", "gone"))
    columns: dict[str, list[object]] = {"image_path": [gone, red, red], "caption": ["", "", ""]}
    blues: dict[str, list[object]] = {"image_path": [blue], "caption": ["blue"]}
    parts = [(3 * BLUE.sentence[None], blues), (np.stack([RED.sentence] * 3), columns)]
    code, _, err = run("import", write_clip_retrieval(tmp_path / "made", parts), "--index", tmp_path / "new")
    assert code == 1
    assert "1 video imported" in err
    assert "normalised, since not of unit length: 1 vector." in err
    assert "gone.mp4: " in err
    assert "red.mp4: has 2 vectors, and not all have start_s and end_s" in err
    assert [hit["path"] for hit in run.json("search", "blue", "--index", tmp_path / "new")] == [blue]
    with Engine(tmp_path / "new", ColourEncoder()) as engine:
        np.testing.assert_allclose(engine.embeddings().times, [[0, 3]])


def test_sources_that_are_none_are_refused(run: Runner, films: Path, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("no array")
    (tmp_path / "empty" / "img_emb").mkdir(parents=True)
    late = tmp_path / "late.npy"
    np.save(late, RED.sentence[None])
    late.with_suffix(".csv").write_text(f"path,start_s,end_s\n{films / 'red.mp4'},0,60\n")
    for source, sentence in (
        ("none.npy", "none.npy: does not exist"),
        (films / "red.mp4", "must be a folder or end in .npy"),
        (tmp_path / "a.npy", "cannot be read as an array"),
        (tmp_path / "empty", "must hold img_emb/*.npy and metadata/*.parquet, got no vectors"),
        (late, "red.mp4: ends at 6 s, before its vectors, at 60 s"),
    ):
        run.check_refusal(("import", source, "--index", tmp_path / "new"), 1, sentence)


Sources = tuple[Path, Path]


@pytest.fixture
def sources(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Make two indexes, to be merged into ``tmp_path / "all"``."""
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "all"))
    write_film(tmp_path / "a" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "b" / "blue.mp4", ("blue", 3))
    (tmp_path / "b" / "bad.mp4").write_text("no video")
    for name in ("a", "b"):
        run.out("index", tmp_path / name, "--index", tmp_path / f"index-{name}", "--rerank", "none")
    return tmp_path / "index-a", tmp_path / "index-b"


def test_first_search_after_a_merge_encodes_its_query_only(
    run: Runner, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sentences(monkeypatch)
    for index, name in zip(sources, ("red", "blue"), strict=True):
        say(index, name, "speech", [(0, 1, f"the {name} line"), (1, 2, "and more")])
    assert "0 prepared moments, 4 texts, in " in run.err("merge", *sources)
    assert run.json("info")["words"] == [{"source": "speech", "texts": 4, "videos": 2, "complete": 2}]
    encoded: list[str] = []

    class NotingEncoder(ColourEncoder):
        def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
            encoded.extend(texts)
            return super().encode_text(texts)

    class NotingSentences(FakeSentences):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
            encoded.extend(texts)
            return super().encode(texts)

    for module in (planning, sentence_models):
        monkeypatch.setattr(module, "load_sentence_encoder", NotingSentences)
    with Engine(tmp_path / "all", NotingEncoder()) as engine:
        (hit,) = engine.search("blue", 1)
    assert Path(hit.path).name == "blue.mp4"
    assert set(encoded) == {"blue"}, "of pictures, and of words"


def test_merge_without_the_encoder_says_what_the_first_search_does(
    run: Runner, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vidret.engine, "load_encoder", Mock(side_effect=EncoderError("no such file")))
    err = run.err("merge", *sources)
    assert "2 videos copied" in err
    assert "its first search measures what unrelated queries score: no such file" in err


def test_interrupted_merge_continues(run: Runner, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(merging.Merge, "_write_paths", Mock(side_effect=KeyboardInterrupt))
        assert run("merge", *sources)[0] == 1
    assert "2 already present" in run.err("merge", *sources)


def test_wrong_use_is_refused(run: Runner, sources: Sources, tmp_path: Path) -> None:
    run.check_refusal("merge", 2, "Missing argument")
    run.check_refusal(("merge", *sources, "--index", sources[0]), 1, "out must not be one of the indexes")
    assert not (tmp_path / "all").exists()
    code, out, err = run("merge", *sources)
    assert (code, out) == (0, "")
    assert "2 videos copied, 0 completed, 0 already present; 3 segments, 3 files added, 0 changed" in err
    assert "texts" not in err
    for colour in ("red", "blue"):
        assert [Path(hit["path"]).name for hit in run.json("search", colour, "-k", 1)] == [f"{colour}.mp4"]
    assert "bad.mp4" in run.out("info", "--failed")
    report = run.json("merge", *sources)
    assert (report["copied"], report["known"], report["damaged"], report["interrupted"]) == (0, 2, [], False)
