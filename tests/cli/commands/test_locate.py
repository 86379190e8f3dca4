"""Tests of vidret locate."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.grounded import make_encoder, write_head
from vidret import cli
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.ffmpeg import find_ffmpeg


def test_overlapping_and_weak_moments_are_shown_on_request(run: Runner, films: Path, tmp_path: Path) -> None:
    film, index = write_film(tmp_path / "whole" / "red.mp4", ("red", 24)), tmp_path / "index"
    run("index", film, films, "--index", index)
    command = ("locate", "red", film, "--index", index)
    head, *rows = [line.split()[-4:-1] for line in run(*command)[1].splitlines()]
    assert head == ["score", "start", "end"]
    events = [line.split() for line in run(*command, "--format", "edl")[1].splitlines() if line[:3].isdigit()]
    assert len(events) == len(rows) > 0
    assert events[-1][-1] <= "00:00:24:00", "the edits are no longer than the film"
    assert run(*command, "--format", "chapters")[1].count("[CHAPTER]") == len(rows)
    assert len(run(*command, "--overlapping", "-k", 50)[1].splitlines()) > 1 + len(rows)
    run.check_refusal(
        (*command, "--overlapping", "--weak", "-k", 50, "--format", "chapters"), 1, "chapters must not overlap"
    )
    for form in ("edl", "fcpxml", "chapters", "csv", "srt", "json"):
        assert len(run("locate", "yellow", film, "--index", index, "--format", form)[1]) > 2, "a named video answers"
    (tmp_path / "none").mkdir()
    assert "No matching videos" in run("locate", "red", "--folder", tmp_path / "none", "--index", index)[2]


def test_one_video_or_all(run: Runner, index: Path, films: Path) -> None:
    _, out, _ = run("locate", "red", films / "red.mp4", "--index", index, "--json", "-k", 1)
    moment = json.loads(out)[0]
    assert [moment["start"], moment["end"]] == pytest.approx([0, 3], abs=0.3)
    assert run("locate", "red", "--index", index)[1].splitlines()[1].endswith("red.mp4")


def test_contact_sheets_show_the_frames(run: Runner, index: Path, tmp_path: Path) -> None:
    _, _, err = run("search", "red", "--index", index, "--sheet", tmp_path / "new" / "hits.png")
    assert "contact sheet:" in err
    with Image.open(tmp_path / "new" / "hits.png") as sheet:
        first = sheet.getpixel((168, 130))
        width = sheet.width
    assert isinstance(first, tuple)
    assert first[0] > 150
    assert max(first[1:3]) < 80, "the first tile is red"
    run("locate", "blue", "--index", index, "-k", 1, "--sheet", tmp_path / "moments.jpg")
    with Image.open(tmp_path / "moments.jpg") as sheet:
        assert sheet.width == width
    (tmp_path / "folder.png").mkdir()
    code, _, err = run("search", "red", "--index", index, "--sheet", tmp_path / "folder.png")
    assert (code, "folder.png: cannot be written" in err) == (1, True)


def test_table_says_whether_head_or_curve_located_the_moments(run_grounded: Runner) -> None:
    code, out, err = run_grounded("locate", "rain", "--weak", "-k", 4)
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "match", "score", "start", "end", "video"]
    assert len(out.splitlines()) == 5
    assert "located by the trained grounding head" in err
    _, out, err = run_grounded("locate", "rain", "--weak", "--head", "none", "-k", 4)
    assert len(out.splitlines()) == 5
    assert "located by the similarity curve (no trained head)" in err


def test_every_format(run_grounded: Runner, grounded: Path) -> None:
    code, out, _ = run_grounded("locate", "rain", "--weak", "--json", "-k", 3)
    rows = json.loads(out)
    assert (code, len(rows)) == (0, 3)
    assert {row["by"] for row in rows} == {"head"}
    assert run_grounded("locate", "rain", "--weak", "--format", "json", "-k", 3)[1] == out
    _, text, _ = run_grounded("locate", "rain", "--weak", "--format", "csv", "-k", 3)
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(row["path"], row["by"], row["query"]) for row in table] == [(row["path"], "head", "rain") for row in rows]
    assert [row["likelihood"] for row in table] == [row["likelihood"] for row in rows]
    starts = [row["start"] for row in rows]
    assert [float(row["start"]) for row in table] == pytest.approx(starts, abs=1e-6)
    _, text, _ = run_grounded("locate", "rain", "--weak", "--format", "edl", "--fps", 50, "-k", 3)
    assert text.startswith("TITLE: rain\nFCM: NON-DROP FRAME\n")
    for form, start in (("fcpxml", "<?xml"), ("otio", "{")):
        if form == "otio":
            pytest.importorskip("opentimelineio")
        code, out, err = run_grounded("locate", "rain", "--weak", "--format", form, "--handles", 0.5, "-k", 3)
        assert (code, out[: len(start)]) == (0, start)
        assert "the timeline has 24 fps, and clips of 1 fps are fitted to its frames" in " ".join(err.split())
    codes = [line.split()[4] for line in text.splitlines() if line[:3].isdigit()]
    clocks = [[int(part) for part in code.split(":")] for code in codes]
    seconds = [60 * minute + second + frame / 50 for _, minute, second, frame in clocks]
    assert seconds == [int(start + 0.5) for start in starts], "the films have one frame per second"
    _, text, _ = run_grounded(
        "locate", "rain", "--weak", grounded / "films" / "first.mp4", "--format", "chapters", "-k", 3
    )
    assert text.startswith(";FFMETADATA1\n")
    assert [line for line in text.splitlines() if "title" in line] == [f"title=rain ({n})" for n in (1, 2, 3)]


def test_a_format_without_its_extra_is_refused_before_the_search(
    run_grounded: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: pytest.fail("a model is loaded"))
    code, out, err = run_grounded("locate", "rain", "--format", "otio")
    assert (code, out) == (1, "")
    assert 'the format otio needs the extra "editors"' in " ".join(err.split())


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
    plain = run_grounded("locate", "rain", "--weak", "--json")[1]
    for options in ((), ("--head", "none")):
        picture = tmp_path / "new" / "curve.png"
        code, out, err = run_grounded("locate", "rain", "--weak", "--json", "--curve", picture, *options)
        assert code == 0
        assert (out == plain) == (not options), "only data"
        assert "score curve:" in err
        with Image.open(picture) as chart:
            assert min(chart.size) > 100
        picture.unlink()
    picture.mkdir()
    code, _, err = run_grounded("locate", "rain", "--weak", "--curve", picture)
    assert (code, "curve.png: cannot be written" in err) == (1, True)


def test_moments_are_exported_as_clips(run_grounded: Runner, grounded: Path, tmp_path: Path) -> None:
    try:
        find_ffmpeg()
    except VidretError:
        pytest.skip("needs ffmpeg: the machine's, or the package imageio-ffmpeg")
    command = (
        "locate",
        "rain",
        "--weak",
        grounded / "films" / "first.mp4",
        "-k",
        2,
        "--json",
        "--export",
        tmp_path / "clips",
    )
    code, out, err = run_grounded(*command)
    assert code == 0
    assert len(json.loads(out)) == 2
    assert "2 clips in" in err
    clips = sorted((tmp_path / "clips").iterdir())
    assert [clip.name[:8] for clip in clips] == ["01_first", "02_first"]
    code, _, err = run_grounded(*command)
    assert (code, "exists already" in err) == (1, True)
    assert run_grounded(*command, "--overwrite")[0] == 0


def test_wrong_use_is_refused(run_grounded: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "text.txt").write_text("not a checkpoint")
    for command, code, sentence in (
        ("locate rain --weak --format xml", 2, "must be one of table, json, csv, otio"),
        ("locate rain --weak --videos 0", 2, "--videos"),
        ("locate rain --format srt --handles 1", 2, "needs --format otio, fcpxml, edl, markers, got srt"),
        ("locate rain --fps 25", 2, "needs --format otio, fcpxml, edl, markers, got table"),
        ("locate rain --format edl --handles -1", 2, "--handles"),
        ("locate rain --weak --format srt -k 100", 1, "srt must be of one video, got 2"),
        ("locate rain --weak --format edl --fps 23.5", 1, "fps must be a whole number in 1..100"),
        ("locate rain --weak --format chapters -k 100", 1, "chapters must be of one video, got 2"),
        ("locate rain --weak nowhere.mp4", 1, "not in the index"),
        ("locate rain --weak --head gone.safetensors", 2, "the file of a head, got gone.safetensors"),
        ("locate rain --weak --head text.txt", 1, "text.txt: "),
        ("index films --index new --head gone.safetensors", 2, "the file of a head, got gone.safetensors"),
        ("index films --index new --prepare-moments", 2, "needs a --head, got none"),
        ("convert text.txt out.pt --from r2tuning", 2, "must end in .safetensors, got out.pt"),
        ("convert text.txt out.safetensors --from r2tuning --recipe msrvtt", 2, "got msrvtt"),
        ("convert text.txt out.safetensors --from r2tuning", 1, "text.txt: "),
    ):
        run_grounded.check_refusal(command, code, sentence)
    assert not (tmp_path / "new").exists()


def test_encoder_without_layers_takes_no_head(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors")
    for command in (("index", films), ("locate", "red")):
        run.check_refusal(
            (*command, "--index", index, "--head", head),
            1,
            "head.safetensors: must have a CLIP model of ours as encoder, got colours",
        )
