"""Tests of vidret demo, and of contact sheets without results."""

from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import write_film
from vidret.cli.commands import demo


def test_without_results_no_contact_sheet_is_written(run: Runner, tmp_path: Path) -> None:
    films, out_folder = tmp_path / "films", tmp_path / "demo"
    films.mkdir()
    (films / "bad.mp4").write_text("no video")
    code, out, err = run("demo", films, "--out", out_folder)
    assert (code, out, str(films) in err, "vidret info --failed" in err) == (1, "", True, True)
    assert "no contact sheet" in run.err(
        "search", "red", "--index", out_folder / "index", "--sheet", out_folder / "hits.jpg"
    )
    assert not list(out_folder.glob("*.jpg"))


def test_own_videos_are_searched_without_samples(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_folder, samples = (
        write_film(tmp_path / name / f"{name}.mp4", ("red", 2)).parent for name in ("own", "samples")
    )
    monkeypatch.setattr(demo, "sample_videos", lambda: samples)
    assert "samples.mp4" in run.out("demo", "--out", tmp_path / "demo")
    out = run.out("demo", user_folder, "--out", tmp_path / "demo")
    assert ("own.mp4" in out, "samples.mp4" in out) == (True, False)
    second = write_film(tmp_path / "second" / "second.mp4", ("red", 2)).parent
    out = run.out("demo", second, "--out", tmp_path / "demo")
    assert ("second.mp4" in out, "own.mp4" in out) == (True, False)
    (tmp_path / "empty").mkdir()
    run.check_refusal(("demo", tmp_path / "empty", "--out", tmp_path / "demo"), 1, "empty: no video")
