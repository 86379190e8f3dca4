"""Tests of vidret demo, and of contact sheets without results."""

from pathlib import Path

from tests.cli.runner import Runner


def test_without_results_no_contact_sheet_is_written(run: Runner, tmp_path: Path) -> None:
    films, demo = tmp_path / "films", tmp_path / "demo"
    films.mkdir()
    (films / "bad.mp4").write_text("no video")
    code, out, err = run("demo", films, "--out", demo)
    assert (code, out, str(films) in err, "vidret info --failed" in err) == (1, "", True, True)
    assert "no contact sheet" in run.err("search", "red", "--index", demo / "index", "--sheet", demo / "hits.jpg")
    assert not list(demo.glob("*.jpg"))
