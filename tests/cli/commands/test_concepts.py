"""The commands that teach, list and forget concepts, and search by images with words."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.fakes import COLOURS


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("red", "deep/red", "blue"):
        pixels = np.full((40, 40, 3), COLOURS[Path(name).name], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def test_a_concept_is_taught_listed_searched_and_forgotten(run: Runner, index: Path, images: Path, films: Path) -> None:
    where = ("--index", index)
    code, out, err = run("teach", "mascot", "--yes", images / "deep", "--no", images / "blue.png", *where)
    assert (code, out) == (0, "")
    assert "@mascot is taught from 1 yes, 1 no; its examples weigh 0.25" in err
    code, out, _ = run("concepts", "--json", *where)
    (row,) = json.loads(out)
    assert (row["name"], row["text"], len(row["yes"]), len(row["no"])) == ("mascot", "mascot", 1, 1)
    assert row["yes"][0] == {"path": str(images / "deep" / "red.png"), "start": None, "end": None}
    _, out, _ = run("concepts", *where)
    assert out.splitlines()[0].split() == ["name", "yes", "no", "examples'", "weight", "text"]
    assert "@mascot" in out
    assert "red.png" in out
    code, out, _ = run("search", "@mascot", "--json", *where)
    assert (code, len(json.loads(out))) == (0, 2)
    assert run("forget", "mascot", *where) == (0, "", "@mascot is forgotten.")
    assert run("concepts", *where)[2].startswith("No concept is taught")
    run.check_refusal(("search", "@mascot", *where), 1, "@mascot: must be the name of a taught concept (none)")


def test_moments_are_examples(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    path = str(films / "red.mp4")
    moments = tmp_path / "moments.json"
    _, found, _ = run("locate", "red", path, "--json", "--index", index)
    moments.write_text(found)
    rows = [{"file": "films/red.mp4", "relevant_windows": [[0, 1], [1, 2]]}, {"path": path, "start": 0, "end": 3}]
    lines = tmp_path / "moments.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run("teach", "warm", "--yes", moments, "--yes", lines, "--yes", path, "--json", "--index", index)
    assert code == 0
    yes = json.loads(out)["yes"]
    assert [(row["start"], row["end"]) for row in yes[1:]] == [(0, 1), (1, 2), (0, 3), (None, None)]
    assert {row["path"] for row in yes} == {path}


def test_wrong_examples_are_refused(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    empty, bad = tmp_path / "empty", tmp_path / "bad.json"
    empty.mkdir()
    bad.write_text('[{"path": "a.mp4"}]')
    (tmp_path / "no.jpg").write_text("no image")
    for name in ("pipe.png", "pipe.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 40 << 30)
    cases = {
        tmp_path / "pipe.png": "pipe.png: cannot be read as an image: is not a regular file",
        tmp_path / "pipe.json": "pipe.json: cannot be read as a list of moments: is not a regular file",
        tmp_path / "sparse.png": "sparse.png: cannot be read as an image: must have at most 256 MiB, got 40960",
        empty: "empty: must hold an image or a video, got none",
        bad: "bad.json: cannot be read as a list of moments: each must be an object with path, start and end",
        tmp_path / "no.jpg": "no.jpg: cannot be read as an image",
        films / "bad.mp4": "bad.mp4: must be an image or a video of the index: index this video first",
    }
    for path, message in cases.items():
        run.check_refusal(("teach", "mascot", "--yes", path, "--index", index), 1, message)
    run.check_refusal(("teach", "mascot", "--index", index), 2, "must name an example, got none")
    run.check_refusal(("forget", "mascot", "--index", index), 1, "@mascot: must be the name of a taught concept")


def test_images_are_searched_with_words(run: Runner, index: Path, images: Path) -> None:
    where = ("--json", "--index", index)
    red = run("search", "--image", images / "red.png", *where)
    assert red[0] == 0
    both = run("search", "--image", images / "red.png", "--image", images / "blue.png", *where)
    words = run("search", "blue -red", "--image", images / "red.png", *where)
    assert len({json.dumps([row["score"] for row in json.loads(out)]) for _, out, _ in (red, both, words)}) == 3
    (images.parent / "queries.jsonl").write_text('{"query": "red"}\n')
    wrong = ("search", "--image", images / "red.png", "--queries", images.parent / "queries.jsonl", *where)
    run.check_refusal(wrong, 2, "give a query, --image FILE, both, or only --clip FILE")
    run.check_refusal(("search", *where), 2, "give a query, --image FILE, both, or only --clip FILE")


def test_a_sound_is_named_by_a_file_or_a_moment(run: Runner, index: Path, tmp_path: Path) -> None:
    from vidret.cli.commands.teach import read_sound_path

    moment = read_sound_path(f"{tmp_path}/a.mp4@1:30")
    assert (moment.path, moment.start, moment.end) == (f"{tmp_path}/a.mp4", 90.0, 90.0)
    (tmp_path / "b@2.wav").touch()
    assert read_sound_path(f"{tmp_path}/b@2.wav").start is None
    code, _, err = run("teach", "bark", "--sound", "a.wav", "--yes", "a.png", "--index", index)
    assert code == 2
    assert "must be by itself" in err
    code, _, err = run("teach", "bark", "--sound", tmp_path / "gone.wav", "--index", index)
    assert (code, "gone.wav" in err) == (1, True)
