"""The command that tags all videos of an index."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.runner import Runner
from tests.fakes import COLOURS


@pytest.fixture
def classes(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "red", tmp_path / "blue"]
    for folder in folders:
        folder.mkdir()
        Image.fromarray(np.full((40, 40, 3), COLOURS[folder.name], np.uint8)).save(folder / "example.png")
    return folders


def test_all_videos_are_tagged_and_classes_are_kept(run: Runner, index: Path, classes: list[Path]) -> None:
    code, out, err = run("classify", *classes, "--save", "@Kind", "--index", index)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["tag", "probability", "video"]
    tags = {Path(line[-1]).stem: line[0] for line in lines[1:]}
    assert tags["red"] == "red"
    assert "The classes are kept as @kind-red @kind-blue" in err
    _, out, _ = run("search", "@kind-red", "--json", "--index", index)
    assert Path(json.loads(out)[0]["path"]).stem == "red"
    assert [row["name"] for row in json.loads(run("concepts", "--json", "--index", index)[1])] == [
        "kind-blue",
        "kind-red",
    ]


def test_lines_name_examples_of_classes(
    run: Runner, index: Path, films: Path, classes: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "examples.jsonl"
    rows = [
        {"class": "red", "path": "films/red.mp4", "start": 0, "end": 1},
        {"class": "other", "path": "blue/example.png"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = run("classify", classes[0], "--examples", file, "--json", "--index", index)
    assert code == 0
    tagged = json.loads(out)
    assert {"path", "tag", "probability"} <= tagged[0].keys()
    assert {row["tag"] for row in tagged if Path(row["path"]).stem == "red"} == {"red"}
    file.write_text('{"path": "films/red.mp4"}')
    run.check_refusal(
        ("classify", "--examples", file, "--index", index), 1, "class must be the name of a class, got None"
    )
    file.write_text("{}")
    run.check_refusal(("classify", "--examples", file, "--index", index), 1, "cannot be read as a list of moments")
    run.check_refusal(("classify", tmp_path / "gone", "--index", index), 1, "gone: must be a folder with the examples")
    run.check_refusal(("classify", classes[0], "--index", index), 1, "classes must be two or more, got red")
