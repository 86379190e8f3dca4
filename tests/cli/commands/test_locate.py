"""Tests of vidret locate."""

import csv
import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.grounded import make_encoder
from vidret import cli
from vidret.engine import Engine


def test_overlapping_and_weak_moments_are_shown_on_request(run: Runner, index: Path, tmp_path: Path) -> None:
    film = write_film(tmp_path / "whole" / "red.mp4", ("red", 24))
    run.out("index", film)
    command = ("locate", "red", film)
    head, *rows = [line.split()[-4:-1] for line in run.out(*command).splitlines()]
    assert head == ["score", "start", "end"]
    events = [line.split() for line in run.out(*command, "--format", "edl").splitlines() if line[:3].isdigit()]
    assert len(events) == len(rows) > 0
    assert events[-1][-1] <= "00:00:24:00", "the edits are no longer than the film"
    assert run.out(*command, "--format", "chapters").count("title=red") == len(rows)
    every = (*command, "--overlapping", "--weak", "-k", 50)
    assert len(run.out(*every).splitlines()) >= 1 + len(rows)
    for form in ("edl", "fcpxml", "chapters", "csv", "srt", "json"):
        assert len(run.out("locate", "yellow", film, "--format", form)) > 2, "a named video answers"
    (tmp_path / "none").mkdir()
    for verb in ("search", "locate"):
        assert "No video matches these filters." in run.err(verb, "red", "--folder", tmp_path / "none")


@pytest.mark.usefixtures("index")
def test_one_video_or_all(run: Runner, films: Path) -> None:
    (moment,) = run.json("locate", "red", films / "red.mp4", "-k", 1)
    assert [moment["start"], moment["end"]] == pytest.approx([0, 3], abs=0.3)
    assert run.out("locate", "red").splitlines()[1].endswith("red.mp4")


@pytest.mark.usefixtures("index")
def test_contact_sheets_show_the_frames(run: Runner, tmp_path: Path) -> None:
    assert "contact sheet:" in run.err("search", "red", "--sheet", tmp_path / "new" / "hits.png")
    with Image.open(tmp_path / "new" / "hits.png") as sheet:
        first, width = sheet.getpixel((168, 130)), sheet.width
    assert isinstance(first, tuple)
    assert first[0] > 150
    assert max(first[1:3]) < 80, "the first tile is red"
    run.out("locate", "blue", "-k", 1, "--sheet", tmp_path / "moments.jpg")
    with Image.open(tmp_path / "moments.jpg") as sheet:
        assert sheet.width == width
    (tmp_path / "folder.png").mkdir()
    code, _, err = run("search", "red", "--sheet", tmp_path / "folder.png")
    assert (code, "folder.png: cannot be written" in err) == (1, True)


def test_table_says_whether_head_or_curve_located_the_moments(run_grounded: Runner) -> None:
    for options, by in (
        ((), "located by the trained grounding head"),
        (("--head", "none"), "located by the similarity curve (no trained head)"),
    ):
        code, out, err = run_grounded("locate", "rain", "--weak", "-k", 4, *options)
        head, *lines = out.splitlines()
        assert (code, by in err, len(lines)) == (0, True, 4)
        assert head.split() == ["rank", "match", "score", "start", "end", "video"]


def test_every_format(run_grounded: Runner, grounded: Path) -> None:
    rain = ("locate", "rain", "--weak", "-k", 3)
    rows = run_grounded.json(*rain)
    assert [row["by"] for row in rows] == ["head"] * 3
    assert run_grounded.out(*rain, "--format", "json") == run_grounded.out(*rain, "--json")
    table = list(csv.DictReader(io.StringIO(run_grounded.out(*rain, "--format", "csv"))))
    assert [(row["path"], row["by"], row["query"]) for row in table] == [(row["path"], "head", "rain") for row in rows]
    assert [float(row["start"]) for row in table] == pytest.approx([row["start"] for row in rows], abs=1e-6)
    assert run_grounded.out(*rain, "--format", "edl", "--fps", 50).startswith("TITLE: rain\nFCM: NON-DROP FRAME\n")
    for form, start in (("fcpxml", "<?xml"), ("otio", "{")):
        if form == "otio":
            pytest.importorskip("opentimelineio")
        code, out, err = run_grounded(*rain, "--format", form, "--handles", 0.5)
        assert (code, out[: len(start)]) == (0, start)
        assert "the timeline has 24 fps, and clips of 1 fps are fitted to its frames" in err
    text = run_grounded.out(*rain, grounded / "films" / "first.mp4", "--format", "chapters")
    assert [line for line in text.splitlines() if "title=r" in line] == [f"title=rain ({n})" for n in (1, 2, 3)]


def test_a_format_without_its_extra_is_refused_at_once(run_grounded: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: pytest.fail("a model is loaded"))
    run_grounded.check_refusal("locate rain --format otio", 1, 'the format otio needs the extra "editors"')


def test_undecodable_name_is_written_as_its_bytes(
    grounded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(grounded / "films" / "first.mp4", odd)
    with Engine(tmp_path / "index", make_encoder(), head=grounded / "head.safetensors") as engine:
        engine.index([odd])
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: make_encoder())
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    monkeypatch.setattr(sys, "argv", ["vidret", "locate", "rain", "--weak", "--format", "csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert b"caf\xe9.mp4" in capsysbinary.readouterr().out


def test_curve_is_drawn(run_grounded: Runner, tmp_path: Path) -> None:
    plain = run_grounded.out("locate", "rain", "--weak", "--json")
    picture = tmp_path / "new" / "curve.png"
    for options in ((), ("--head", "none")):
        code, out, err = run_grounded("locate", "rain", "--weak", "--json", "--curve", picture, *options)
        assert (code, "score curve:" in err) == (0, True)
        assert (out == plain) == (not options), "only data"
        with Image.open(picture) as chart:
            assert min(chart.size) > 100
        picture.unlink()
    picture.mkdir()
    code, _, err = run_grounded("locate", "rain", "--weak", "--curve", picture)
    assert (code, "curve.png: cannot be written" in err) == (1, True)


@pytest.mark.usefixtures("ffmpeg")
def test_moments_are_exported_as_clips(run_grounded: Runner, grounded: Path, tmp_path: Path) -> None:
    first, clips = grounded / "films" / "first.mp4", tmp_path / "clips"
    command = ("locate", "rain", "--weak", first, "-k", 2, "--export", clips)
    assert "2 clips in" in run_grounded.err(*command)
    assert [clip.name[:8] for clip in sorted(clips.iterdir())] == ["01_first", "02_first"]
    code, _, err = run_grounded(*command)
    assert (code, "exists already" in err) == (1, True)
    run_grounded.out(*command, "--overwrite")


def test_wrong_use_is_refused(run_grounded: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "text.txt").write_text("not a checkpoint")
    for command, code, sentence in (
        ("locate rain --weak --videos 0", 2, "--videos"),
        ("locate rain --format srt --handles 1", 2, "needs --format otio, fcpxml, edl, markers, got srt"),
        ("locate rain --overwrite", 2, "needs --export DIR, got none"),
        (
            "locate rain --export rain.mov",
            2,
            "must be a folder, got rain.mov; for a film: --save NAME, then vidret cut",
        ),
        ("locate rain --fps 25", 2, "needs --format otio, fcpxml, edl, markers, got table"),
        ("locate rain --format edl --handles -1", 2, "--handles"),
        ("locate rain --weak --format srt -k 100", 1, "srt must be of one video, got 2"),
        ("locate rain --weak --format edl --fps 23.5", 2, "fps must be a whole number in 1..100"),
        ("locate rain --weak nowhere.mp4", 1, "not in the index"),
        ("locate red car", 1, "car: not in the index; a query of several words goes in quotes"),
        ("locate red first", 1, "first.mp4? A query of several words goes in quotes"),
        ("locate rain --weak --head gone.safetensors", 2, "the file of a head, got gone.safetensors"),
        ("locate rain --weak --head text.txt", 1, "text.txt: "),
        ("index films --index new --prepare-moments", 2, "needs a --head, got none"),
        ("convert text.txt out.pt --from r2tuning", 2, "must end in .safetensors, got out.pt"),
        ("convert text.txt out.safetensors --from r2tuning --recipe msrvtt", 2, "got msrvtt"),
    ):
        run_grounded.check_refusal(command, code, sentence)
    assert not (tmp_path / "new").exists()
