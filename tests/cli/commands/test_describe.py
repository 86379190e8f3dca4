"""Tests of vidret describe and vidret info --diversity."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.evaluate.colour_index import write_colour_index

SAME = ["green", "yellow"] * 6


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "phrases.txt").write_text("red\nblue\ngreen\n")
    return write_colour_index(folder / "index", {"red": ["red"] * 12, "blue": ["blue"] * 12})


def test_a_folder_is_described_in_text_and_json(run: Runner, coloured: Path) -> None:
    common = ("describe", "/red", "--against", "/blue", "--phrases", coloured.parent / "phrases.txt")
    code, out, err = run(*common, "--index", coloured)
    assert code == 0, err
    assert "12 videos against 12, 3 phrases" in err
    lines = out.splitlines()
    assert lines[0] == "More of:"
    assert lines[1].split() == ["AUROC", "p", "source", "what", "video"]
    assert lines[2].split()[2:4] == ["seen", "red"]
    assert lines[2].endswith(".mp4 0:05.0")
    found = json.loads(run(*common, "--index", coloured, "--json")[1])
    assert found["more"][0]["phrase"] == "red"
    assert found["more"][0]["examples"][0]["path"].startswith("/red/")
    assert found["less"][0]["phrase"] == "blue"


def test_phrases_are_encoded_once(run: Runner, coloured: Path) -> None:
    common = ("describe", "/red", "--against", "/blue", "--index", coloured)
    first, second = run(*common), run(*common)
    assert "phrases, which the index keeps for the next time" in first[2]
    assert "phrases, which" not in second[2]
    assert first[1] == second[1]
    assert "phrases, which" not in run("info", "--diversity", "--index", coloured)[2]  # class names are among them


def test_no_difference_is_said(run: Runner, tmp_path: Path, coloured: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": SAME, "b": SAME}, noise=0.8, seed=4)
    common = ("describe", "/a", "--phrases", coloured.parent / "phrases.txt", "--index", index)
    code, out, err = run(*common, "--against", "/b")
    assert (code, out) == (0, "")
    assert "More of: no phrase beyond chance" in err
    run.check_refusal(("describe", "/none", "--index", index), 1, "/none: not in the index; index it first")


def test_a_folder_by_itself_gets_an_overview_and_a_page(run: Runner, coloured: Path, tmp_path: Path) -> None:
    common = ("describe", "/red", "--phrases", coloured.parent / "phrases.txt", "--index", coloured, "--clusters", 2)
    code, out, err = run(*common, "--html", tmp_path / "page.html")
    assert code == 0, err
    assert out.splitlines()[0].split() == ["videos", "12,", "1.2", "minutes,", "24", "segments"]
    assert "Clusters:" in out
    assert "More of:" in out
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="dot ') == 24
    assert "More than in the other videos of the index" in page
    assert "<script" not in page
    shown = re.findall(r"([^{}]*\.tip) {[^{}]*display: block", page)
    assert shown == ["\n.dot:hover .tip, .dot:focus .tip"]  # and no other frame of the map
    found = json.loads(run(*common, "--json")[1])
    assert (found["num_videos"], len(found["clusters"])) == (12, 2)
    assert found["differences"]["more"][0]["phrase"] == "red"
    run.check_refusal((*common, "--against", "/blue"), 2, "--clusters: needs a folder by itself, got --against")


def test_a_comparison_has_a_page(run: Runner, coloured: Path, tmp_path: Path) -> None:
    common = ("describe", "/red", "--against", "/blue", "--phrases", coloured.parent / "phrases.txt")
    assert run(*common, "--index", coloured, "--html", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "/red against /blue" in page
    assert '<h3>red</h3><p class="facts">seen, AUROC 1.000' in page
    assert 'class="map"' not in page


def test_an_overview_needs_no_other_videos(run: Runner, tmp_path: Path, coloured: Path) -> None:
    index = write_colour_index(tmp_path / "index", {"a": ["red"] * 3})
    common = ("describe", "/a", "--phrases", coloured.parent / "phrases.txt", "--index", index)
    code, out, err = run(*common, "--json")
    assert code == 0, err
    assert "not compared with the rest of the index: /a: has all videos of the index" in err
    assert json.loads(out)["differences"] is None
    run.check_refusal((*common[:1], "/none", *common[2:]), 1, "/none: not in the index; index it first")
    (tmp_path / "empty.txt").touch()
    run.check_refusal((*common, "--phrases", tmp_path / "empty.txt"), 1, "phrases must not be empty, got none")


def test_diversity_in_text_and_json(run: Runner, coloured: Path) -> None:
    code, out, err = run("info", "--diversity", "--index", coloured)
    assert code == 0, err
    assert "the Vendi score" in out
    assert "by class names" in out
    found = json.loads(run("info", "--diversity", "red", "--json", "--index", coloured)[1])
    assert found["prompt"] == "red"
    assert found["parts"]["by_text"] >= 1
    run.check_refusal(("info", "red", "--index", coloured), 2, "PROMPT: needs --diversity, got none")
