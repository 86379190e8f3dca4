"""Tests of vidret duplicates, and of search and locate with a clip."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.copies.films import draw_footage, mirror, write_frames
from tests.fakes import PatchEncoder
from tests.scripted_server import Reply
from tests.scripted_server import serve as serve_replies
from vidret.engine import Engine


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a film, a mirrored copy, the same content again and another film, beside their index."""
    root = tmp_path_factory.mktemp("copies")
    film = draw_footage(1, 8)
    write_frames(root / "films" / "film.mp4", film)
    shutil.copyfile(root / "films" / "film.mp4", root / "films" / "twin.mp4")
    write_frames(root / "films" / "mirrored.mp4", film[10:], change=mirror)
    write_frames(root / "films" / "other.mp4", draw_footage(2, 8))
    Engine(root / "index", PatchEncoder()).index([root / "films"])
    return root


@pytest.fixture
def run_copies(run: Runner, encoder: PatchEncoder, copies: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    assert encoder.name == "patches"
    monkeypatch.setenv("VIDRET_INDEX", str(copies / "index"))
    monkeypatch.chdir(copies / "films")
    return run


def test_groups_are_printed_and_drawn(run_copies: Runner, tmp_path: Path) -> None:
    code, out, err = run_copies("duplicates", "--sheet", tmp_path / "sheet.png")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["group", "pixels", "kbit/s", "length", "at", "best", "at", "what", "video"]
    assert len(lines) == 4
    assert {line.split()[-1] for line in lines[1:]} == {"film.mp4", "twin.mp4", "mirrored.mp4"}
    assert "best" in lines[1]
    assert "mirrored" in out
    assert "3 files in 1 groups of the same footage; nothing was changed." in err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1200


def test_groups_are_json_with_the_best_first(run_copies: Runner) -> None:
    code, out, _ = run_copies("duplicates", "mirrored.mp4", "--json")
    (group,) = json.loads(out)
    assert code == 0
    assert [Path(file["path"]).name for file in group[:1]] in (["film.mp4"], ["mirrored.mp4"])
    assert all(file["width"] == 160 and file["bit_rate"] > 0 for file in group)


def test_a_server_is_asked(run_copies: Runner) -> None:
    events = b'event: progress\ndata: {"checked": 3, "total": 3}\n\nevent: groups\ndata: {"groups": []}\n\n'
    with serve_replies() as server:
        server.replies = [Reply(events, kind="text/event-stream")]
        code, out, err = run_copies("duplicates", "--server", server.url)
        assert (code, out, server.asked[0].body) == (0, "", {"videos": []})
        assert "No copies" in err
        refused = ("duplicates", "--server", server.url, "--sheet", "a.png")
        run_copies.check_refusal(refused, 2, "--sheet: needs a local index, got --server URL")


def test_no_copies_and_unknown_paths_are_said(run_copies: Runner, tmp_path: Path) -> None:
    code, out, err = run_copies("duplicates", "other.mp4")
    assert (code, out) == (0, "")
    assert "No copies: no two files of this index show the same footage." in err
    run_copies.check_refusal(("duplicates", "none.mp4"), 1, "none.mp4: not in the index; index it first")
    run_copies.check_refusal(("duplicates", "--index", tmp_path / "no"), 1, "there is no index here")


def test_a_clip_is_searched_and_located(run_copies: Runner, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", draw_footage(1, 8)[20:70])
    code, out, err = run_copies("search", "--clip", clip, "--from", 1, "--to", 4, "--sheet", tmp_path / "sheet.png")
    assert code == 0, err
    assert {line.split()[-1] for line in out.splitlines()} >= {"film.mp4", "mirrored.mp4"}
    assert (tmp_path / "sheet.png").is_file()
    code, out, _ = run_copies("locate", "--clip", clip, "film.mp4", "--json")
    (found,) = json.loads(out)
    assert (found["start"], found["end"]) == pytest.approx((2, 7), abs=0.2)
    assert (found["speed"], found["mirrored"], [Path(path).name for path in found["copies"]]) == (
        1.0,
        False,
        ["twin.mp4"],
    )


def test_a_clip_longer_than_every_film_is_found_by_what_they_share(run_copies: Runner, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", [*draw_footage(8, 3), *draw_footage(1, 8), *draw_footage(9, 2)])
    code, out, _ = run_copies("search", "--clip", clip, "--json")
    found = {Path(row["path"]).name: row for row in json.loads(out)}
    assert (code, "other.mp4" in found) == (0, False)
    assert found["film.mp4"]["clip_start"] == pytest.approx(3, abs=0.2)


def test_footage_that_is_not_there_is_said(run_copies: Runner, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", draw_footage(7, 5))
    code, out, err = run_copies("locate", "--clip", clip)
    assert (code, out) == (0, "")
    assert "No video of this index shows this footage." in err


def test_options_that_do_not_fit_are_refused(run_copies: Runner, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    for command, code, sentence in (
        ("search dog --clip film.mp4", 2, "give a query, --image FILE, both, or only --clip FILE"),
        ("search --clip ''", 2, "--clip: must be a file, got an empty name"),
        ("search dog --from 2", 2, "--from: needs --clip FILE, got none"),
        ("search --clip film.mp4 --from 5 --to 2", 2, "--from: must be less than --to 2, got 5"),
        ("locate", 2, "give a query or --clip FILE, got neither"),
        ("locate film.mp4 other.mp4 --clip film.mp4", 2, "--clip: needs at most a VIDEO"),
        ("locate --clip film.mp4 --format srt", 2, "--clip: needs at most a VIDEO"),
        (f"search --clip {tmp_path}/bad.mp4", 1, "bad.mp4: "),
        ("search --clip film.mp4 --from 70", 1, "film.mp4: has no frame between 70.0 and 8.0 s"),
    ):
        run_copies.check_refusal(command, code, sentence)
