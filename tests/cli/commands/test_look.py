"""Tests of the commands that look into videos, of search and locate with a clip, and of vidret info --diversity."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner, run_without
from tests.copies.films import draw_footage, mirror, write_frames
from tests.evaluate.colour_index import write_colour_index
from tests.fakes import ColourEncoder, PatchEncoder
from tests.followed import follow_shots
from tests.indexed_texts import add_words, find_content
from tests.made_identities import make_voice, store_people
from tests.scripted_server import TEXT, VIDEO, Reply, serve
from vidret.engine import Engine
from vidret.present import sheet
from vidret.store.identities.persons import Persons
from vidret.types import ShotChange, TextEmbedding


@pytest.fixture
def known(index: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an index that knows the words and the two shots of one of its two films, and go to the films."""
    monkeypatch.chdir(films)
    follow_shots(index, films / "red.mp4", [ShotChange(3.0, 3.0, "cut")], duration_s=6.0)
    follow_shots(index, films / "blue.mp4", None, duration_s=3.0)
    add_words(index, find_content(index, "red.mp4"), ["one red apple", "two pears"])
    add_words(index, find_content(index, "red.mp4"), ["EXIT"], source="screen")
    return index


def test_words_are_printed_by_time_without_a_model(run: Runner, known: Path, films: Path) -> None:
    lines = ["0:00.0  speech  one red apple", "0:00.0  screen  EXIT", "0:02.0  speech  two pears"]
    assert run("transcript", "red.mp4") == (0, "\n".join(lines) + "\n", "")
    assert run.out("transcript", "red.mp4", "--source", "screen") == "0:00.0  EXIT\n"
    assert len(json.loads(run.out("transcript", "red.mp4", "--source", "speech,subtitles", "--format", "json"))) == 2
    assert run.out("transcript", "red.mp4", "--format", "vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")
    assert run_without("torch", "transcript", films / "red.mp4", "--index", known).splitlines()[-1:] == lines[2:]


def test_a_video_that_was_read_has_no_words_to_read(run: Runner, known: Path) -> None:
    for source in ("speech", "screen"):
        add_words(known, find_content(known, "blue.mp4"), [], source=source)
    rule = "blue.mp4: the index has no words of this video"
    run.check_refusal("transcript blue.mp4", 1, f"{rule}; none were found in its speech, screen")
    run.check_refusal("transcript blue.mp4 --source speech", 1, f"{rule} from speech; none were found")
    run.check_refusal("transcript blue.mp4 --source subtitles", 1, f"{rule} from subtitles; vidret index PATH --words")


def test_speakers_are_named_and_others_told_apart_only_if_asked(run: Runner, known: Path) -> None:
    voices = [make_voice(who, at, at + 1.0) for who, at in ((0, 0.0), (1, 2.0), (0, 4.0), (1, 6.0))]
    store_people(known, {"red": voices})
    first = min(person.id for person in Persons(known).list_persons("voice"))
    Persons(known).rename(first, "Anna Lee")
    asked = ("transcript", "red.mp4", "--source", "speech")
    assert run.out(*asked) == "0:00.0  Anna Lee: one red apple\n0:02.0  two pears\n"
    assert run.out(*asked, "--speakers").endswith(f"person-{first + 1}: two pears\n")


def test_shots_are_printed_without_a_model(run: Runner, known: Path, films: Path) -> None:
    code, out, err = run("shots", "red.mp4")
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split() == ["2", "0:03.0", "0:06.0", "3.0", "s", "cut"]
    assert json.loads(run.out("shots", "red.mp4", "--format", "json"))[1]["begins_with"] == "cut"
    out = run_without("torch", "shots", films / "red.mp4", "--index", known, "--format", "csv")
    assert out.splitlines()[-1:] == ["2,3.0,6.0,3.0,cut"]


@pytest.mark.usefixtures("known")
def test_storyboard_shows_the_middle_of_each_shot(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # red.mp4 is the end of a path
    code, out, err = run("shots", "red.mp4", "--sheet", tmp_path / "new" / "board.png")
    assert (code, err) == (0, f"storyboard: {tmp_path / 'new' / 'board.png'}")
    assert out.startswith("shot ")
    with Image.open(tmp_path / "new" / "board.png") as board:
        pixels = np.asarray(board.convert("RGB"), np.int64)
    first, second = pixels[130, 168], pixels[130, 168 + sheet.TILE[0] + sheet.GAP]
    assert first[0] > 150 > first[1], "red"
    assert second.max() < 60, "black"


def test_long_storyboard_shows_the_longest_shots(
    run: Runner, known: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [ShotChange(time, time, "cut") for time in (1.0, 1.5, 3.0)]
    follow_shots(known, films / "blue.mp4", changes, duration_s=3.2)
    monkeypatch.setattr(sheet, "MAX_SHOTS", 2)
    err = run.err("shots", "blue.mp4", "--sheet", tmp_path / "board.png")
    assert err.startswith("the storyboard shows the 2 longest of 4 shots storyboard: ")


@pytest.mark.usefixtures("known")
def test_what_there_is_not_is_said(run: Runner, films: Path) -> None:
    for command, code, sentence in (
        (
            "transcript blue.mp4",
            1,
            "blue.mp4: the index has no words of this video; vidret index PATH --words on reads",
        ),
        (
            "transcript red.mp4 --source subtitles",
            1,
            "red.mp4: the index has no words of this video from subtitles; vidret index PATH --words on reads them",
        ),
        ("transcript red.mp4 --source sound", 1, "from sound; vidret index PATH --sounds on reads them"),
        ("transcript red.mp4 --source generated", 1, "from generated; vidret index PATH --describe URL reads them"),
        ("transcript bad.mp4", 1, "bad.mp4: not in the index ("),
        ("transcript RED", 1, "RED: not in the index; did you mean red.mp4?"),
        ("shots bleu.mp4", 1, "bleu.mp4: not in the index; did you mean blue.mp4?"),
        ("shots submarine.mp4", 1, "submarine.mp4: not in the index"),
        ("transcript red.mp4 --source smell", 2, "must list some of speech, screen, subtitles, generated, sound, got"),
        ("transcript red.mp4 --token secret", 2, "needs --server URL"),
        ("shots blue.mp4", 1, "blue.mp4: the index has no shots of this video, which it cut at fixed lengths; to find"),
    ):
        run.check_refusal(command, code, sentence)
    run.check_refusal(
        ("locate", "red", films),
        1,
        "films: not in the index, since it is a folder, which vidret search and locate take",
    )


def test_a_server_is_asked(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shots = {"shots": [{"start": 0, "end": 2, "begins_with": None}]}
    with serve() as server:
        for command, reply, out, line in (
            (("transcript", "--source", "speech"), {"texts": [TEXT]}, "0:12.5  Welcome.", "transcript?sources=speech"),
            (("transcript", "--speakers"), {"texts": [TEXT]}, "0:12.5  Welcome.", "transcript?unnamed=true"),
            (("shots", "--format", "csv"), shots, "1,0.0,2.0,2.0,", "shots"),
        ):
            server.replies = [Reply({"videos": [VIDEO], "next": None}), Reply(reply)]
            assert run.out(*command, "/films/red.mp4", "--server", server.url).splitlines()[-1] == out
            assert server.asked[-1].line == f"GET /api/videos/7/{line}"


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


def test_groups_are_printed_drawn_and_json(run_copies: Runner, tmp_path: Path) -> None:
    code, out, err = run_copies("duplicates", "--sheet", tmp_path / "sheet.png")
    head, best, *others = out.splitlines()
    assert (code, head.split()) == (0, ["group", "pixels", "kbit/s", "length", "at", "best", "at", "what", "video"])
    assert {line.split()[-1] for line in (best, *others)} == {"film.mp4", "twin.mp4", "mirrored.mp4"}
    assert len(others) == 2
    assert "best" in best
    assert "mirrored" in out
    assert "3 files in 1 group of the same footage; nothing was changed." in err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1200
    (group,) = run_copies.json("duplicates", "mirrored.mp4")
    assert Path(group[0]["path"]).name in ("film.mp4", "mirrored.mp4"), "the best first"
    assert all(file["width"] == 160 and file["bit_rate"] > 0 for file in group)


def test_a_clip_is_searched_and_located(run_copies: Runner, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", draw_footage(1, 8)[20:70])
    out = run_copies.out("search", "--clip", clip, "--from", 1, "--to", 4, "--sheet", tmp_path / "sheet.png")
    assert {line.split()[-1] for line in out.splitlines()} >= {"film.mp4", "mirrored.mp4"}
    assert (tmp_path / "sheet.png").is_file()
    (found,) = run_copies.json("locate", "--clip", clip, "film.mp4")
    assert (found["start"], found["end"]) == pytest.approx((2, 7), abs=0.2)
    assert (found["speed"], found["mirrored"]) == (1.0, False)
    assert [Path(path).name for path in found["copies"]] == ["twin.mp4"]


def test_what_is_not_there_is_said(run_copies: Runner, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", draw_footage(7, 5))
    for command, message in (
        (("locate", "--clip", clip), "No other video of this index shows this footage."),
        (("duplicates", "other.mp4"), "No copies: no two files of this index show the same footage."),
    ):
        code, out, err = run_copies(*command)
        assert (code, out, message in err) == (0, "", True)


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
        ("search --clip film.mp4 --from 70", 1, "film.mp4: ends at 8.0 s, before the clip begins at 70.0 s"),
        ("duplicates none.mp4", 1, "none.mp4: not in the index; index it first"),
        (f"duplicates --index {tmp_path}/no", 1, "there is no index here"),
    ):
        run_copies.check_refusal(command, code, sentence)


SAME = ["green", "yellow"] * 6


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of red and of blue videos, beside a file of phrases."""
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "phrases.csv").write_text("red\nblue\ngreen\n")
    return write_colour_index(folder / "index", {"red": ["red"] * 12, "blue": ["blue"] * 12})


@pytest.fixture
def phrases(coloured: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Let commands look in the index, and return the option of the phrases."""
    monkeypatch.setenv("VIDRET_INDEX", str(coloured))
    return "--phrases", coloured.parent / "phrases.csv"


def test_a_folder_is_compared_in_text_json_and_a_page(run: Runner, phrases: tuple[str, Path], tmp_path: Path) -> None:
    common = ("describe", "/red", "--against", "/blue", *phrases)
    code, out, err = run(*common, "--html", tmp_path / "page.html")
    assert (code, "12 videos against 12, 3 phrases" in err) == (0, True)
    lines = out.splitlines()
    assert lines[0] == "More of:"
    assert lines[1].split() == ["AUROC", "p", "source", "what", "video"]
    assert lines[2].split()[2:4] == ["seen", "red"]
    assert lines[2].endswith(".mp4 0:05.0")
    found = run.json(*common)
    assert (found["more"][0]["phrase"], found["more"][0]["significant"]) == ("red", True)
    assert found["more"][0]["examples"][0]["path"].startswith("/red/")
    assert found["less"][0]["phrase"] == "blue"
    page = (tmp_path / "page.html").read_text()
    assert "/red against /blue" in page
    assert '<h3>red</h3><p class="facts">seen, AUROC 1.000' in page
    assert 'class="map"' not in page


@pytest.mark.usefixtures("phrases")
def test_phrases_are_encoded_once(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run("describe", "/red", "--against", "/blue")
    run("info", "--diversity")
    sizes, encode = list[int](), ColourEncoder.encode_text

    def count(encoder: ColourEncoder, texts: Sequence[str]) -> list[TextEmbedding]:
        sizes.append(len(texts))
        return encode(encoder, texts)

    monkeypatch.setattr(ColourEncoder, "encode_text", count)
    assert run("describe", "/red", "--against", "/blue") == first
    run("info", "--diversity")
    assert max(sizes) < 100


def test_no_difference_is_said(run: Runner, phrases: tuple[str, Path], tmp_path: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": SAME, "b": SAME}, noise=0.8, seed=4)
    code, out, err = run("describe", "/a", *phrases, "--index", index, "--against", "/b")
    assert (code, out) == (0, "")
    assert "More of: no phrase beyond chance" in err
    run.check_refusal(("describe", "/none", "--index", index), 1, "/none: not in the index; index it first")


def test_a_folder_by_itself_gets_an_overview_and_a_page(run: Runner, phrases: tuple[str, Path], tmp_path: Path) -> None:
    common = ("describe", "/red", *phrases, "--clusters", 2)
    out = run.out(*common, "--html", tmp_path / "page.html")
    assert out.splitlines()[0].split() == ["videos", "12,", "1.2", "minutes,", "24", "segments"]
    assert "Clusters:" in out
    assert "More of:" in out
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="dot ') == 24
    assert "More than in the other videos of the index" in page
    assert "<script" not in page
    shown = re.findall(r"([^{}]*\.tip) {[^{}]*display: block", page)
    assert shown == ["\n.dot:hover .tip, .dot:focus .tip"]  # and no other frame of the map
    found = run.json(*common)
    assert (found["num_videos"], len(found["clusters"]), "map_points" in found) == (12, 2, False)
    assert found["differences"]["more"][0]["phrase"] == "red"
    run.check_refusal((*common, "--against", "/blue"), 2, "--clusters: needs a folder by itself, got --against")


def test_an_overview_needs_no_other_videos(run: Runner, phrases: tuple[str, Path], tmp_path: Path) -> None:
    options = (*phrases, "--index", write_colour_index(tmp_path / "index", {"a": ["red"] * 3}))
    assert run.json("describe", "/a", *options)["differences"] is None
    rule = "not compared with the rest of the index: /a: has all videos of the index"
    assert rule in run.err("describe", "/a", *options)
    run.check_refusal(("describe", "/none", *options), 1, "/none: not in the index; index it first")
    (tmp_path / "empty.txt").touch()
    empty = ("describe", "/a", *options, "--phrases", tmp_path / "empty.txt")
    run.check_refusal(empty, 1, "phrases must not be empty, got none")


@pytest.mark.usefixtures("phrases")
def test_diversity_in_text_and_json(run: Runner) -> None:
    out = run.out("info", "--diversity")
    assert "Vendi score" in out
    assert "by class names" in out
    found = run.json("info", "--diversity", "red")
    assert (found["prompt"], found["parts"]["by_text"] >= 1) == ("red", True)
    assert "beyond it" in run.out("info", "--diversity", "red")
    run.check_refusal("info red", 2, "PROMPT: needs --diversity, got none")
