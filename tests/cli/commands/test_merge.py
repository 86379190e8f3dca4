"""Tests of vidret merge."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.indexed_texts import add_words, find_content
from vidret.index import merging


@pytest.fixture
def sources(run: Runner, tmp_path: Path) -> tuple[Path, Path]:
    write_film(tmp_path / "a" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "b" / "blue.mp4", ("blue", 3))
    (tmp_path / "b" / "bad.mp4").write_text("no video")
    for name in ("a", "b"):
        assert run("index", tmp_path / name, "--index", tmp_path / f"index-{name}", "--rerank", "none")[0] == 0
    return tmp_path / "index-a", tmp_path / "index-b"


def test_indexes_are_merged(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, err = run("merge", *sources, "--index", tmp_path / "all")
    assert (code, out) == (0, "")
    assert "2 videos copied, 0 completed, 0 already present; 3 segments, 3 files added, 0 changed" in err
    for colour in ("red", "blue"):
        hits = json.loads(run("search", colour, "--index", tmp_path / "all", "-k", 1, "--json")[1])
        assert [Path(hit["path"]).name for hit in hits] == [f"{colour}.mp4"]
    assert "bad.mp4" in run("info", "--failed", "--index", tmp_path / "all")[1]


def test_words_are_merged(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    assert "texts" not in run("merge", sources[0], "--index", tmp_path / "without")[2]
    for index, name in zip(sources, ("red.mp4", "blue.mp4"), strict=True):
        add_words(index, find_content(index, name), [name, "and more"])
    assert "0 prepared moments, 4 texts, in " in run("merge", *sources, "--index", tmp_path / "all")[2]
    (words,) = json.loads(run("info", "--index", tmp_path / "all", "--json")[1])["words"]
    assert words == {"source": "speech", "texts": 4, "tracks": 2, "complete": 2}


def test_report_in_json(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    report = json.loads(run("merge", *sources, "--index", tmp_path / "all", "--json")[1])
    assert (report["copied"], report["num_segments"], report["damaged"], report["interrupted"]) == (2, 3, [], False)


def test_damage_is_reported_with_what_to_do(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    path = sources[0] / "features" / "frames.f16"
    path.write_bytes(bytes(8) + path.read_bytes()[8:])
    code, _, err = run("merge", *sources, "--index", tmp_path / "all")
    assert code == 0
    assert "red.mp4: " in err
    assert "are damaged (checksum)" in err
    assert f"To encode again what was not copied: vidret index PATH... --index {tmp_path / 'all'}" in err
    assert "1 encoded" in run("index", tmp_path / "a", "--index", tmp_path / "all")[2]


def test_interrupted_merge_continues(
    run: Runner,
    sources: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging.Merge, "_write_paths", interrupt)
        code, _, err = run("merge", *sources, "--index", tmp_path / "all")
    assert code == 1
    assert "Interrupted" in err
    assert "run the same command again" in err
    assert "2 already present" in run("merge", *sources, "--index", tmp_path / "all")[2]


def test_wrong_use_is_refused(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("merge", "--index", tmp_path / "all")[0] == 2
    code, _, err = run("merge", *sources, "--index", sources[0])
    assert code == 1
    assert "out must not be one of the indexes" in err
    assert not (tmp_path / "all").exists()
