"""vidret merge: what it says, in words and in JSON, and its exit codes."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import Runner, run  # noqa: F401  a fixture
from tests.colours import write_film
from vidret.index.merging import copying


@pytest.fixture
def apart(run: Runner, tmp_path: Path) -> tuple[Path, Path]:  # noqa: F811
    write_film(tmp_path / "a" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "b" / "blue.mp4", ("blue", 3))
    (tmp_path / "b" / "bad.mp4").write_text("no video")
    for name in ("a", "b"):
        assert run("index", tmp_path / name, "--index", tmp_path / f"index-{name}", "--rerank", "none")[0] == 0
    return tmp_path / "index-a", tmp_path / "index-b"


def test_indexes_become_one(run: Runner, apart: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    code, out, err = run("merge", *apart, "--index", tmp_path / "all")
    assert (code, out) == (0, "")
    assert "2 videos copied, 0 completed, 0 there already; 3 segments, 3 files added, 0 changed" in err
    for colour in ("red", "blue"):
        hits = json.loads(run("search", colour, "--index", tmp_path / "all", "-k", 1, "--json")[1])
        assert [Path(hit["path"]).name for hit in hits] == [f"{colour}.mp4"]
    assert "bad.mp4" in run("info", "--failed", "--index", tmp_path / "all")[1]


def test_a_merge_in_json(run: Runner, apart: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    report = json.loads(run("merge", *apart, "--index", tmp_path / "all", "--json")[1])
    assert (report["copied"], report["num_segments"], report["damaged"], report["interrupted"]) == (2, 3, [], False)


def test_what_is_damaged_is_named_with_what_to_do(run: Runner, apart: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    path = apart[0] / "features" / "frames.f16"
    path.write_bytes(bytes(8) + path.read_bytes()[8:])
    code, _, err = run("merge", *apart, "--index", tmp_path / "all")
    assert code == 0
    assert "red.mp4: " in err
    assert "are damaged (checksum)" in err
    assert f"is encoded again by: vidret index PATH... --index {tmp_path / 'all'}" in err
    assert "1 encoded" in run("index", tmp_path / "a", "--index", tmp_path / "all")[2]


def test_an_interrupted_merge_says_so(
    run: Runner,  # noqa: F811
    apart: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copying.Merge, "_write_paths", interrupt)
        code, _, err = run("merge", *apart, "--index", tmp_path / "all")
    assert code == 1
    assert "Interrupted" in err
    assert "run the same again" in err
    assert "2 there already" in run("merge", *apart, "--index", tmp_path / "all")[2]


def test_wrong_use_gets_one_sentence(run: Runner, apart: tuple[Path, Path], tmp_path: Path) -> None:  # noqa: F811
    assert run("merge", "--index", tmp_path / "all")[0] == 2
    code, _, err = run("merge", *apart, "--index", apart[0])
    assert code == 1
    assert "must not be one of the indexes that go into it" in err
    assert not (tmp_path / "all").exists()
