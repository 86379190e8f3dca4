"""Tests of vidret info --recall."""

import json
from pathlib import Path

import pytest

import vidret.engine
from tests.cli.runner import Runner
from vidret.channels.picture.query_bank import SENTENCES
from vidret.errors import EncoderError
from vidret.store.store import Store


def test_recall_in_a_table(run: Runner, index: Path) -> None:
    code, out, err = run("info", "--recall", "--index", index)
    lines = out.splitlines()
    assert code == 0
    assert [line.split() for line in lines[:3]] == [["index", str(index)], ["vectors", "flat"], ["segments", "3"]]
    assert lines[3].split("  ")[-4:] == ["number", "recall@10", "top 10 only", "among all 200 candidates"]
    assert lines[4].startswith("its own vectors ")
    assert lines[4].split()[-4:] == ["3", "1.000", "1.000", "1.000"]
    assert lines[5].split()[-4:] == [str(len(SENTENCES)), "1.000", "1.000", "1.000"]
    assert "Low" not in err


def test_recall_of_given_queries_in_json(run: Runner, index: Path, tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("red\nblue\n")
    row = json.loads(run("info", "--recall", "--queries", tmp_path / "bank.txt", "--index", index, "--json")[1])
    assert (row["index"], row["vectors"], row["seed"]) == (str(index), "flat", 0)
    assert row["recall"]["queries in words"]["num_queries"] == 2
    assert row["recall"]["its own vectors"]["searched"] == 1.0
    assert row["recall"]["its own vectors"]["low"] is False


def test_low_recall_is_reported_with_what_to_do(run: Runner, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Store.search

    def search_badly(self: Store, *arguments: object) -> object:
        scores, ids = search(self, *arguments)  # type: ignore[arg-type]
        ids[:, 1:] = -1
        return scores, ids

    monkeypatch.setattr(Store, "search", search_badly)
    code, out, err = run("info", "--recall", "--index", index)
    assert code == 0
    assert out.splitlines()[5].split()[-3:] == ["0.333", "0.333", "0.333"]
    assert "Low for its own vectors and queries in words: 67% of the nearest segments are missed" in err
    assert "higher memory limit" in err


def test_missing_encoder_skips_text_queries_with_a_message(
    run: Runner, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise EncoderError("its file is gone")

    monkeypatch.setattr(vidret.engine, "load_encoder", refuse)
    code, out, err = run("info", "--recall", "--index", index)
    assert code == 0
    assert len(out.splitlines()) == 5
    assert "queries in words are not measured: its file is gone" in err
    (tmp_path / "bank.txt").write_text("red\n")
    assert run("info", "--recall", "--queries", tmp_path / "bank.txt", "--index", index)[0] == 1, (
        "given queries must be measured"
    )


def test_wrong_use_is_refused(run: Runner, index: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    for arguments, code, message in (
        (("--queries", tmp_path / "empty.txt"), 2, "needs --recall"),
        (("--recall", "--queries", tmp_path / "empty.txt"), 1, "queries must not be empty, got none"),
        (("--recall", "--queries", tmp_path / "nowhere.txt"), 1, "nowhere.txt: cannot be read"),
    ):
        exit_code, _, err = run("info", "--index", index, *arguments)
        assert exit_code == code
        assert message in err
