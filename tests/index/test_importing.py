"""Tests of vidret/index/importing.py: vectors are read as they were written, and bad ones are refused."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from tests.fakes import ColourEncoder, write_film
from tests.store.samples import damage
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.index.importing import check_embeddings, read_vectors
from vidret.present.contents import write_embeddings
from vidret.store.store import Store
from vidret.types import Embeddings

RED, BLUE = ColourEncoder().encode_text(["red", "blue"])


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_film(tmp_path / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "films" / "blue.mp4", ("blue", 3))
    return tmp_path / "films"


@pytest.mark.parametrize("form", ["npy", "safetensors", "parquet"])
def test_files_of_export_are_read_exactly(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow", reason="needs the extra parquet")
    rng = np.random.default_rng(0)
    vectors, starts = rng.standard_normal((5, 3)).astype(np.float32), rng.uniform(0, 99, 5)
    paths = ("/a.mp4", "/ü, b.mp4", "frames://c/1", "/d\n.mp4", "/a.mp4")
    held = Embeddings(paths, np.zeros(5, np.int64), np.stack([starts, starts + 1], axis=1), vectors)
    write_embeddings(held, tmp_path / f"a.{form}", form)
    read = read_vectors(tmp_path / f"a.{form}")
    assert (read.paths, read.times.tolist()) == (held.paths, held.times.tolist())
    np.testing.assert_array_equal(read.vectors, held.vectors)


def write_rows(folder: Path, rows: Sequence[tuple[object, ...]], vectors: np.ndarray) -> Path:
    np.save(folder / "a.npy", vectors)
    with (folder / "a.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([("path", "start_s", "end_s"), *rows])
    return folder / "a.npy"


def test_videos_are_complete_or_left_to_the_next_run(films: Path, tmp_path: Path) -> None:
    """Interrupted in the second video, an import has only the first, and the same call takes the rest."""
    spans = [(films / name, start, start + 1) for name in ("red.mp4", "blue.mp4") for start in (0, 1, 2)]
    read_vectors(file := write_rows(tmp_path, spans, np.stack([RED.sentence] * 3 + [BLUE.sentence] * 3)))
    with Engine(tmp_path / "new", ColourEncoder()) as engine:

        def interrupt(done: int, _total: int) -> None:
            if done == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.import_embeddings(read_vectors(file), on_progress=interrupt)
        assert [video.num_segments for video in engine.videos()] == [3]
        report = engine.import_embeddings(read_vectors(file))
        assert (report.imported, report.known, report.num_segments) == (1, 1, 3)
        assert [hit.path for hit in engine.search("blue", k=1)] == [str(films / "blue.mp4")]
        run = engine.index([films])
        assert (run.encoded, run.linked, run.unchanged) == (0, 0, 2)


def test_a_segment_that_is_lost_leaves_no_gap_when_its_video_is_cut_otherwise(films: Path, tmp_path: Path) -> None:
    rows = [(films / "red.mp4", start, start + 2) for start in (0, 2, 4)]
    with Engine(index := tmp_path / "new", ColourEncoder()) as engine:
        engine.import_embeddings(read_vectors(write_rows(tmp_path, rows, np.stack([RED.sentence] * 3))))
        damage(index / "features" / "video.f16", 7)
        with Store.open(index, write=True) as store:
            assert len(store.upkeep.verify(repair=True)) == 1
        assert engine.index([films / "red.mp4"]).encoded == 1
        with Store.open(index) as store:
            segments = store.segments.get(store.segments.ids_of_video(engine.video("red.mp4").id))
        spans = [(segment.start, segment.end) for segment in segments]
        assert spans[0][1] == 2, "stays"
        assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
        assert spans[-1][1] == pytest.approx(6)


def test_videos_of_frames_come_with_their_times(tmp_path: Path) -> None:
    """Nothing else says how long they are."""
    rows = [("frames://cam", 0, 1), ("frames://cam", 1, 2), ("frames://other", "nan", "nan")]
    vectors = read_vectors(write_rows(tmp_path, rows, np.stack([RED.sentence, BLUE.sentence, RED.sentence])))
    with Engine(tmp_path / "new", ColourEncoder()) as engine:
        report, again = (engine.import_embeddings(vectors) for _ in range(2))
        assert (report.imported, again.imported, again.known) == (1, 0, 1)
        assert report.failed == (("frames://other", "has no file, so start_s and end_s must be given"),)
        (hit,) = engine.search("blue", k=1)
        assert (hit.path, hit.segment.start, hit.segment.end) == ("frames://cam", 1, 2)
        assert [video.duration for video in engine.videos()] == [2]


ROWS = [("red.mp4", 0, 1), ("red.mp4", 1, 2)]


@pytest.mark.parametrize(
    ("rows", "vectors", "rule"),
    [
        (ROWS[:1], np.eye(3, dtype=np.float32)[:2], "must have a row for each of 2 vectors, got 1"),
        (ROWS, np.eye(4, dtype=np.float32)[:2], r"must have 3 values, .* got the shape \(2, 4\)"),
        (ROWS, np.array([[1, 0, 0], [np.nan, 0, 0]], np.float32), "must be finite and not zero, .* row 1"),
        (ROWS, np.array([[1, 0, 0], [0, 0, 0]], np.float32), "must be finite and not zero, .* row 1"),
        (ROWS, np.array([1, 0], np.float32), "must be an array"),
        *(
            (
                [ROWS[0], ("red.mp4", start, end)],
                np.eye(3, dtype=np.float32)[:2],
                "must be finite, not negative and asc",
            )
            for start, end in ((2, 1), (-1, 1), (1, "inf"))
        ),
        ([ROWS[0], ("red.mp4", 1, "soon")], np.eye(3, dtype=np.float32)[:2], "must be seconds"),
    ],
)
def test_invalid_rows_are_refused_and_leave_nothing(
    tmp_path: Path, rows: list[tuple[object, ...]], vectors: np.ndarray, rule: str
) -> None:
    file = write_rows(tmp_path, rows, vectors)
    with Engine(tmp_path / "new", ColourEncoder()) as engine, pytest.raises(VidretError, match=rule):
        engine.import_embeddings(read_vectors(file))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("column", ["start_s", "end_s"])
def test_times_have_both_ends(tmp_path: Path, column: str) -> None:
    file = write_rows(tmp_path, [], np.eye(3, dtype=np.float32)[:1])
    file.with_suffix(".csv").write_text(f"path,{column}\nred.mp4,1\n")
    with pytest.raises(VidretError, match=f"must have both start_s and end_s, got only {column}"):
        read_vectors(file)


@given(vectors=arrays.arrays(np.float32, (3, 4), elements=st.floats(0.125, 8, width=32)), scale=st.floats(0.25, 4))
def test_vectors_are_checked_up_to_their_length(vectors: np.ndarray, scale: float) -> None:
    """Only the direction counts."""
    made = [
        check_embeddings(Embeddings(("a", "b", "c"), np.zeros(3, np.int64), np.full((3, 2), np.nan), rows), 4)[0]
        for rows in (vectors, (vectors * np.float32(scale)).astype(np.float32))
    ]
    np.testing.assert_allclose(made[0].vectors, made[1].vectors, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made[0].vectors, axis=1), 1, rtol=1e-5)


def write_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (write_header((10**9, 384)) + bytes(100), "a.mp4,0,1"),
        (write_header((2**62, 2**62)), "a.mp4,0,1"),
        (b"", "a.mp4,0,1"),
        (write_header((1, 3)) + bytes(12), '"' + "a" * 200_000 + '",0,1'),
    ],
    ids=["huge", "overflow", "empty", "long field"],
)
def test_hostile_arrays_and_tables_end_as_sentences(tmp_path: Path, content: bytes, row: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    (tmp_path / "a.csv").write_text(f"path,start_s,end_s\n{row}\n")
    with pytest.raises(VidretError, match=r"a\.(npy|csv): cannot be read as"):
        read_vectors(tmp_path / "a.npy")


def test_hostile_paths_and_values_end_as_sentences(tmp_path: Path) -> None:
    stored: dict[str, np.ndarray] = {"embeddings": np.ones((1, 3), np.float32), "times": np.zeros((1, 2))}
    for paths in ("[" * 100_000, "null", "5", "{", '{"a": 1}'):
        save_file(stored, tmp_path / "a.safetensors", metadata={"paths": paths})
        with pytest.raises(VidretError):
            check_embeddings(read_vectors(tmp_path / "a.safetensors"), 4)
    huge = write_rows(tmp_path, [("/a.mp4", 0, 1)], np.full((1, 3), 1e300))
    with pytest.raises(VidretError, match="vectors must be finite"):
        check_embeddings(read_vectors(huge), 3)
    signed = write_rows(tmp_path, [("https://host/a.mp4?signature=5f", 2, 1)], np.eye(3, dtype=np.float32)[:1])
    with pytest.raises(VidretError, match=r"got 2 and 1 for https://host/a.mp4$"):
        check_embeddings(read_vectors(signed), 3)


def test_videos_are_probed_in_another_process(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("FFmpeg must not read the file in this process")

    monkeypatch.setattr("vidret.video.probe._inspect", refuse)
    vectors = Embeddings((str(films / "red.mp4"),), np.zeros(1, np.int64), np.array([[0.0, 1.0]]), RED.sentence[None])
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        report = engine.import_embeddings(vectors)
        assert (report.imported, report.failed) == (1, ())
        assert engine.videos()[0].duration == pytest.approx(6, abs=0.5)
