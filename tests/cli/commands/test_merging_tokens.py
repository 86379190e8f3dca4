"""Tests of --merge: an index remembers it, queries follow it, and nothing mixes vectors of different merging."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.train.small import make_module
from vidret.cli.opening import choose_merge
from vidret.encode.clip.model import read_card
from vidret.encode.names import parse_model_name, resolve_name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "clip.safetensors"
    make_module("clip").export(path)
    return path


def test_an_index_remembers_how_its_tokens_merge(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, index = Runner(monkeypatch, capsys), tmp_path / "index"
    code, _, err = run("index", films, "--index", index, "--model", model, "--merge", "gentle")
    assert code == 0, err
    facts = json.loads(run("info", "--index", index, "--json")[1])
    assert facts["encoder_name"] == f"{model}#merge=gentle"
    assert run("search", "red", "--index", index)[0] == 0
    assert run("index", films, "--index", index, "--merge", "gentle")[0] == 0
    code, _, err = run("index", films, "--index", index, "--merge", "off")
    assert code == 1
    assert "merge must be gentle, which the index was built with, got off" in err
    assert "vidret reindex" in err
    assert run("index", films, "--index", index, "--model", model)[0] == 1
    assert run("reindex", "--index", index, "--merge", "off")[0] == 0
    assert json.loads(run("info", "--index", index, "--json")[1])["encoder_name"] == str(model)


def test_convert_writes_a_model_that_merges(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = Runner(monkeypatch, capsys), tmp_path / "merged.safetensors"
    assert run("convert", model, out, "--from", "vidret", "--merge", "gentle")[0] == 0
    card = read_card(out)
    assert card is not None
    assert card.merging is not None
    assert card.merging.layers == ()
    code, _, err = run("convert", model, out, "--from", "vidret", "--merge", "double")
    assert code == 2
    assert "must be one of off, gentle, half, got double" in err.replace("│ ", "")


def test_a_short_name_that_merges_can_do_without(tmp_path: Path) -> None:
    full = "ViT-B-32/laion2b_s34b_b79k"
    assert str(resolve_name(parse_model_name("small"))) == f"{full}#merge=gentle"
    assert str(resolve_name(parse_model_name("small#merge=half"))) == f"{full}#merge=half"
    assert choose_merge("off", "small", tmp_path / "index") == full
    assert choose_merge(None, full, tmp_path / "index") == full
