"""Tests of vidret calibrate."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import Runner
from tests.fakes import PatchEncoder
from vidret.cli.commands.calibrate import read_answers
from vidret.cli.values import read_bank
from vidret.errors import VidretError


@pytest.mark.usefixtures("patched")
def test_calibration_changes_scores(run: Runner, encoder: PatchEncoder, tmp_path: Path) -> None:
    def ask() -> list[float]:
        return [hit["score"] for hit in run.json("search", "rain")]

    before = ask()
    lines, rows = tmp_path / "bank.txt", tmp_path / "bank.jsonl"
    lines.write_text("\ufeffa dog\n\n  a cat \nthe sea\u2028at night\n" + "cartoon\n" * 7, encoding="utf-8")
    rows.write_text(
        '{"query": "a dog"}\n\n{"caption": "a cat", "video": 3}\n{"captions": ["the sea\u2028at night", "cartoon"]}\n'
        + '{"query": "cartoon"}\n' * 6,
        encoding="utf-8",
    )
    found = []
    for bank in (lines, rows):
        encoder.encoded_texts.clear()
        code, out, err = run("calibrate", "--bank", bank)
        assert (code, out) == (0, "")
        assert f"calibrated 3 segments with 10 queries of {bank.name}, temperature 0.05" in err
        assert encoder.encoded_texts[:4] == ["a dog", "a cat", "the sea\u2028at night", "cartoon"]
        found.append(ask())
    assert found[0] == found[1] != before
    assert "not corrected" in run.err("calibrate", "--bank", "none")
    assert ask() == before


@pytest.mark.usefixtures("patched")
def test_limit_samples_queries_evenly(run: Runner, encoder: PatchEncoder, tmp_path: Path) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(f"query {query_index}" for query_index in range(10)))
    for limit, taken in ((1, [0]), (4, [0, 2, 5, 7]), (10, list(range(10)))):
        encoder.encoded_texts.clear()
        err = run.err("calibrate", "--bank", bank, "--limit", limit)
        assert encoder.encoded_texts[: len(taken)] == [f"query {query_index}" for query_index in taken]
        queries = "1 query" if limit == 1 else f"{limit} queries"
        assert (f"with {queries} (of 10; --limit sets how many) of" in err) == (limit < 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"query": "red"}\n\n{"text": "blue"}\n', 'line 3 must have "query", "caption" or "captions", got {"text": '),
        ('\n{"query": "red"\n', 'line 2 must have "query", "caption" or "captions", got {"query": "red"'),
        *((f"{line}\n", "line 1 must have") for line in ('["red"]', '{"query": 3}', '{"captions": ["red", 3]}')),
        ('{"captions": []}\n', "line 1 must have"),
        ("", "a bank must hold at least 10 queries, got 0"),
        ('{"query": " "}\n' * 20, "a bank must hold at least 10 queries, got 0"),
        ('{"query": "a dog"}\n{"query": "a cat"}\n', "a bank must hold at least 10 queries, got 2"),
    ],
)
def test_bank_line_without_a_query_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bank.jsonl").write_text(text)
    with pytest.raises(VidretError, match=re.escape(sentence)):
        read_bank(tmp_path / "bank.jsonl")


def test_a_table_is_no_bank(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("video,caption\n" + "a.mp4,a dog\n" * 20)
    with pytest.raises(VidretError, match=r"captions\.csv: queries must be lines of text or \.jsonl, got \.csv"):
        read_bank(tmp_path / "captions.csv")


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def list_rows(times: int) -> list[dict[str, Any]]:
    """Return queries for colours that films show, and for others."""
    shown: dict[str, dict[str, Any]] = {"red": {"file": "red.mp4"}, "blue": {"files": ["films/blue.mp4"]}}
    rows: list[dict[str, Any]] = []
    for repeat in range(times):
        rows += [{"query": f"{colour}{' film' * repeat}"} | answer for colour, answer in shown.items()]
        rows += [{"query": f"thing {repeat} {letter}", "file": None} for letter in "ab"]
    return rows


@pytest.mark.usefixtures("index")
def test_answers_change_probabilities_and_no_ranking(run: Runner, tmp_path: Path) -> None:
    before = run.json("search", "red")
    code, out, err = run("calibrate", "--answers", write_rows(tmp_path / "answers.jsonl", list_rows(40)))
    assert (code, out) == (0, "")
    assert "160 queries of answers.jsonl, 80 of them without an answer" in err
    losses = re.findall(r"log loss ([\d.]+) to ([\d.]+), calibration error ([\d.]+) to ([\d.]+)", err)
    assert len(losses) == 2
    assert any(float(after) < float(old) for old, after, *_ in losses)
    assert "Stored what helps." in err
    after = run.json("search", "red")
    assert [hit["probability"] for hit in after] != [hit["probability"] for hit in before]
    assert [(hit["path"], hit["score"]) for hit in after] == [(hit["path"], hit["score"]) for hit in before]
    run.out("calibrate", "--answers", "none")
    assert run.json("search", "red") == before


@pytest.mark.usefixtures("index")
def test_fit_that_does_not_help_is_not_stored(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.search.probability_fitting.fit_probabilities", lambda _queries, default: default)
    err = run.err("calibrate", "--answers", write_rows(tmp_path / "a.jsonl", list_rows(5)))
    assert (err.count("which does not help"), "Nothing was stored" in err) == (2, True)


def test_lines_of_one_query_count_together(tmp_path: Path) -> None:
    reds = [{"query": "red", "file": "a.mp4"}, {"query": "red", "files": ["b.mp4", "a.mp4"]}]
    answers = read_answers(write_rows(tmp_path / "a.jsonl", [*reds, {"query": "x", "file": None}]))
    assert answers == {"red": {"a.mp4", "b.mp4"}, "x": set()}


@pytest.mark.usefixtures("index")
def test_answers_that_cannot_be_used_are_refused(run: Runner, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    for row, sentence in (
        ({"query": "red"}, 'must have "query", and "file" or "files", got'),
        ({"query": "red", "file": None, "files": []}, 'must have "query", and "file" or "files", got'),
        ({"events": ["red", "blue"], "file": None}, 'must have "query", and "file" or "files", got'),
        ({"file": None}, 'line 21 must be an object with "query", got'),
        (["red"], 'line 21 must be an object with "query", got'),
        ({"query": "red", "file": ""}, '"file" must be a path or null, "files" a list of paths, got'),
        ({"query": "red", "file": 3}, '"file" must be a path or null'),
        ({"query": "red", "files": "red.mp4"}, '"files" a list of paths, got'),
        ({"query": "red", "files": [None]}, '"files" a list of paths, got'),
        ({"query": "red", "file": None}, "a query must have an answer or none, got both for red"),
        ({"query": "x", "file": "gone.mp4"}, "gone.mp4: not in the index"),
        ({"query": "-dog", "file": None}, "line 21: query must contain a positive word"),
    ):
        run.check_refusal(("calibrate", "--answers", write_rows(answers, [*list_rows(5), row])), 1, sentence)
    write_rows(answers, [row for row in list_rows(5) if "thing" not in row["query"]])
    rule = "at least 5 queries that a video answers and 5 that none does, got 10 and 0"
    run.check_refusal(("calibrate", "--answers", answers), 1, rule)
    run.check_refusal(("calibrate", "--answers", tmp_path / "no.jsonl"), 1, "no.jsonl: cannot be read")


@pytest.mark.usefixtures("index")
def test_options_that_do_not_go_together_are_refused(run: Runner) -> None:
    for options, sentence in (
        ("", "exactly one of them must be given"),
        ("--answers a.jsonl --bank b.txt", "exactly one of them must be given"),
        ("--answers a.jsonl --limit 3", "needs --bank, got --answers"),
        ("--answers none --rerank none", "needs --bank, got --answers"),
    ):
        run.check_refusal(f"calibrate {options}", 2, sentence)
