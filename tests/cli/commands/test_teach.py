"""Tests of the commands that learn from examples: teach, concepts, forget and classify."""

import json
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.fakes import paint
from vidret.cli.commands.teach import read_sound_path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Write images of colours, each in a folder of its own that is named after it."""
    for name in ("red", "blue"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(paint(name)).save(tmp_path / "images" / name / f"{name}.png")
    return tmp_path / "images"


@pytest.mark.usefixtures("index")
def test_a_concept_is_taught_listed_searched_and_forgotten(run: Runner, images: Path) -> None:
    code, out, err = run("teach", "mascot", "--yes", images / "red", "--no", images / "blue" / "blue.png")
    assert (code, out) == (0, "")
    assert "@mascot is taught from 1 yes, 1 no; its examples weigh 0.25" in err
    (row,) = run.json("concepts")
    assert (row["name"], row["text"], len(row["yes"]), len(row["no"])) == ("mascot", "mascot", 1, 1)
    assert row["yes"][0] == {"path": str(images / "red" / "red.png"), "start": None, "end": None}
    out = run.out("concepts")
    assert out.splitlines()[0].split() == ["name", "yes", "no", "examples'", "weight", "text"]
    assert "@mascot" in out
    assert "red.png" in out
    assert len(run.json("search", "@mascot")) == 2
    assert run("forget", "mascot") == (0, "", "@mascot is forgotten.")
    assert run.err("concepts").startswith("No concept is taught")
    run.check_refusal("search @mascot", 1, "@mascot: must be the name of a taught concept (none)")


@pytest.mark.usefixtures("index")
def test_examples_are_added_to_a_taught_concept_only(run: Runner, images: Path) -> None:
    run("teach", "mascot", "--yes", images / "red")
    assert len(run.json("teach", "@Mascot", "--yes", images / "blue", "--add")["yes"]) == 2
    refusal = "@mascto: must be the name of a taught concept (@mascot)"
    run.check_refusal(f"teach mascto --yes {images / 'red'} --add", 1, refusal)
    run.check_refusal(f"teach mascto --sound {images / 'red.wav'} --add", 1, refusal)
    assert [row["name"] for row in run.json("concepts")] == ["mascot"]


@pytest.mark.usefixtures("index")
def test_moments_are_examples(run: Runner, films: Path, tmp_path: Path) -> None:
    path = str(films / "red.mp4")
    moments, lines = tmp_path / "moments.json", tmp_path / "moments.jsonl"
    moments.write_text(run.out("locate", "red", path, "--json"))
    rows = [{"file": path, "relevant_windows": [[0, 1], [1, 2]]}, {"path": path, "start": 0, "end": 3}]
    lines.write_text("\n".join(map(json.dumps, rows)))
    yes = run.json("teach", "warm", "--yes", moments, "--yes", lines, "--yes", path)["yes"]
    assert [(row["start"], row["end"]) for row in yes[1:]] == [(0, 1), (1, 2), (0, 3), (None, None)]
    assert {row["path"] for row in yes} == {path}


@pytest.mark.usefixtures("index")
def test_wrong_examples_are_refused(run: Runner, films: Path, tmp_path: Path) -> None:
    empty, bad = tmp_path / "empty", tmp_path / "bad.json"
    empty.mkdir()
    bad.write_text('[{"path": "a.mp4"}]')
    (tmp_path / "no.jpg").write_text("no image")
    for name in ("pipe.png", "pipe.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 40 << 30)
    for path, message in (
        (tmp_path / "pipe.png", "pipe.png: cannot be read as an image: is not a regular file"),
        (tmp_path / "pipe.json", "pipe.json: cannot be read as a list of moments: is not a regular file"),
        (tmp_path / "sparse.png", "sparse.png: cannot be read as an image: must have at most 256 MiB, got 40960"),
        (empty, "empty: must hold an image or a video, got none"),
        (bad, "bad.json: cannot be read as a list of moments: each must be an object with path, start and end"),
        (tmp_path / "no.jpg", "no.jpg: cannot be read as an image"),
        (films / "bad.mp4", "bad.mp4: must be an image or a video of the index: index this video first"),
    ):
        run.check_refusal(("teach", "mascot", "--yes", path), 1, message)
    run.check_refusal("teach mascot", 2, "must name an example, got none")
    run.check_refusal("forget mascot", 1, "@mascot: must be the name of a taught concept (none)")
    assert "to teach it" not in run("forget", "mascot")[2]
    run.check_refusal("teach bark --sound a.wav --yes a.png", 2, "must be by itself")
    run.check_refusal(("teach", "bark", "--sound", tmp_path / "gone.wav"), 1, "gone.wav")


@pytest.mark.usefixtures("index")
def test_a_taught_sound_is_printed_as_json(run: Runner, tmp_path: Path) -> None:
    samples = 8000 * np.sin(np.arange(32_000) * 0.3)
    with wave.open(str(tmp_path / "beep.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    taught = run.json("teach", "beep", "--sound", tmp_path / "beep.wav")
    assert (taught["name"], [row["path"] for row in taught["yes"]]) == ("beep", [str(tmp_path / "beep.wav")])
    run.out("forget", "beep")


def test_a_sound_is_named_by_a_file_or_a_moment(tmp_path: Path) -> None:
    moment = read_sound_path(f"{tmp_path}/a.mp4@1:30")
    assert (moment.path, moment.start, moment.end) == (f"{tmp_path}/a.mp4", 90.0, 90.0)
    (tmp_path / "b@2.wav").touch()
    assert read_sound_path(f"{tmp_path}/b@2.wav").start is None


@pytest.mark.usefixtures("index")
def test_all_videos_are_tagged_and_classes_are_kept(run: Runner, images: Path) -> None:
    code, out, err = run("classify", images / "red", images / "blue", "--save", "@Kind")
    head, *lines = [line.split() for line in out.splitlines()]
    assert (code, head) == (0, ["tag", "probability", "video"])
    assert {Path(line[-1]).stem: line[0] for line in lines}["red"] == "red"
    assert "The classes are kept as @kind-red @kind-blue" in err
    assert Path(run.json("search", "@kind-red")[0]["path"]).stem == "red"
    assert [row["name"] for row in run.json("concepts")] == ["kind-blue", "kind-red"]


@pytest.mark.usefixtures("index")
def test_lines_name_examples_of_classes(run: Runner, films: Path, images: Path, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    by_lines = ("classify", "--examples", file)
    rows = [
        {"class": "red", "path": str(films / "red.mp4"), "start": 0, "end": 1},
        {"class": "other", "path": "images/blue/blue.png", "note": "a line\u2028that goes on"},
    ]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    tagged = run.json(*by_lines, images / "red")
    assert {"path", "tag", "probability"} <= tagged[0].keys()
    assert {row["tag"] for row in tagged if Path(row["path"]).stem == "red"} == {"red"}
    file.write_text('{"path": "films/red.mp4"}')
    run.check_refusal(by_lines, 1, "class must be the name of a class, got None")
    file.write_text("{}")
    run.check_refusal(by_lines, 1, "cannot be read as a list of moments")
    run.check_refusal(("classify", tmp_path / "gone"), 1, "gone: must be a folder with the examples")
    run.check_refusal("classify", 2, "FOLDER: must be given, or --examples, got neither")
    (tmp_path / "nameless.jsonl").write_text('{"class": "red"}\n')
    rule = "must be an object with path, and start and end or neither"
    run.check_refusal(("classify", "--examples", tmp_path / "nameless.jsonl"), 1, rule)
    run.check_refusal(("classify", images / "red"), 1, "classes must be two or more, got red")
