"""Tests of vidret demo, and of contact sheets without results."""

from pathlib import Path

from tests.cli.runner import Runner


def test_folder_without_readable_videos_is_an_error(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "bad.mp4").write_text("no video")
    code, out, err = run("demo", tmp_path / "films", "--out", tmp_path / "demo")
    assert code == 1
    assert out == ""
    assert str(tmp_path / "films") in err
    assert "vidret info --failed" in err
    assert not list((tmp_path / "demo").glob("*.jpg"))


def test_no_results_write_no_contact_sheet(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "bad.mp4").write_text("no video")
    run("index", tmp_path / "films", "--index", tmp_path / "index")
    _, _, err = run("search", "red", "--index", tmp_path / "index", "--sheet", tmp_path / "hits.jpg")
    assert not (tmp_path / "hits.jpg").exists()
    assert "no contact sheet" in err
