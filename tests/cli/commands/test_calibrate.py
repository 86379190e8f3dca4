"""Tests of vidret calibrate."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import PatchEncoder
from vidret.cli.commands.calibrate import read_answers
from vidret.search.judging import DEFAULT_JUDGE


def test_calibration_changes_scores(run: Runner, encoder: PatchEncoder, patched: Path, tmp_path: Path) -> None:
    def ask() -> list[float]:
        return [hit["score"] for hit in json.loads(run("search", "rain", "--index", patched, "--json")[1])]

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
        code, out, err = run("calibrate", "--bank", bank, "--index", patched)
        assert (code, out) == (0, "")
        assert f"calibrated 3 segments with 10 queries of {bank.name}, temperature 0.05" in err
        assert encoder.encoded_texts[:4] == ["a dog", "a cat", "the sea\u2028at night", "cartoon"]
        found.append(ask())
    assert found[0] == found[1] != before
    assert "not corrected" in run("calibrate", "--bank", "none", "--index", patched)[2]
    assert ask() == before


@pytest.mark.parametrize(("limit", "taken"), [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, list(range(10)))])
def test_limit_samples_queries_evenly(
    run: Runner, encoder: PatchEncoder, patched: Path, tmp_path: Path, limit: int, taken: list[int]
) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(f"query {number}" for number in range(10)))
    encoder.encoded_texts.clear()
    _, _, err = run("calibrate", "--bank", bank, "--index", patched, "--limit", limit)
    assert encoder.encoded_texts[: len(taken)] == [f"query {number}" for number in taken]
    assert (f"with {limit} queries (of 10; --limit sets how many) of" in err) == (limit < 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"query": "red"}\n\n{"text": "blue"}\n', 'line 3 must have "query", "caption" or "captions", got {"text": '),
        ('\n{"query": "red"\n', 'line 2 must have "query", "caption" or "captions", got {"query": "red"'),
        ('["red"]\n', "line 1 must have"),
        ('{"query": 3}\n', "line 1 must have"),
        ('{"captions": ["red", 3]}\n', "line 1 must have"),
        ('{"captions": []}\n', "line 1 must have"),
        ("", "a bank must hold at least 10 queries, got 0"),
        ('{"query": " "}\n' * 20, "a bank must hold at least 10 queries, got 0"),
        ('{"query": "a dog"}\n{"query": "a cat"}\n', "a bank must hold at least 10 queries, got 2"),
    ],
)
def test_bank_line_without_a_query_is_named(
    run: Runner, patched: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    bank = tmp_path / "bank.jsonl"
    bank.write_text(text)
    code, out, err = run("calibrate", "--bank", bank, "--index", patched)
    assert (code, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err


# Known answers


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def list_rows(times: int) -> list[object]:
    """Return queries for colours that films show, and for others."""
    shown: dict[str, dict[str, object]] = {"red": {"file": "red.mp4"}, "blue": {"files": ["films/blue.mp4"]}}
    rows: list[object] = []
    for number in range(times):
        rows += [{"query": f"{colour}{' film' * number}"} | answer for colour, answer in shown.items()]
        rows += [{"query": f"thing {number} {letter}", "file": None} for letter in "ab"]
    return rows


def test_answers_change_probabilities_and_no_ranking(run: Runner, index: Path, tmp_path: Path) -> None:
    def ask() -> list[dict[str, object]]:
        hits: list[dict[str, object]] = json.loads(run("search", "red", "--index", index, "--json")[1])
        return hits

    before = ask()
    answers = write_rows(tmp_path / "answers.jsonl", list_rows(40))
    code, out, err = run("calibrate", "--answers", answers, "--index", index)
    assert (code, out) == (0, "")
    assert "160 queries of answers.jsonl, 80 of them without an answer" in err
    losses = re.findall(r"log loss ([\d.]+) to ([\d.]+), calibration error ([\d.]+) to ([\d.]+)", err)
    assert len(losses) == 2
    assert any(float(after) < float(old) for old, after, *_ in losses)
    assert "Stored what helps." in err
    after = ask()
    assert [hit["probability"] for hit in after] != [hit["probability"] for hit in before]
    assert [(hit["path"], hit["score"]) for hit in after] == [(hit["path"], hit["score"]) for hit in before]
    assert run("calibrate", "--answers", "none", "--index", index)[0] == 0
    assert ask() == before


def test_fit_that_does_not_help_is_not_stored(
    run: Runner, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidret.search.judge_fitting.fit_judge", lambda _: DEFAULT_JUDGE)
    code, _, err = run("calibrate", "--answers", write_rows(tmp_path / "a.jsonl", list_rows(5)), "--index", index)
    assert (code, err.count("which does not help"), "Nothing was stored" in err) == (0, 2, True)


def test_lines_of_one_query_count_together(run: Runner, tmp_path: Path) -> None:
    rows = [
        {"query": "red", "file": "a.mp4"},
        {"query": "red", "files": ["b.mp4", "a.mp4"]},
        {"query": "x", "file": None},
    ]
    assert read_answers(write_rows(tmp_path / "a.jsonl", rows)) == {"red": {"a.mp4", "b.mp4"}, "x": set()}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
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
        ({"query": "-dog", "file": None}, "-dog: "),
    ],
)
def test_answers_that_cannot_be_used_are_refused(
    run: Runner, index: Path, tmp_path: Path, row: object, sentence: str
) -> None:
    answers = write_rows(tmp_path / "answers.jsonl", [*list_rows(5), row])
    run.check_refusal(("calibrate", "--answers", answers, "--index", index), 1, sentence)


def test_answers_of_one_kind_and_missing_files_are_refused(run: Runner, index: Path, tmp_path: Path) -> None:
    answers = write_rows(tmp_path / "answers.jsonl", [row for row in list_rows(5) if "thing" not in str(row)])
    command = ("calibrate", "--index", index, "--answers")
    run.check_refusal(
        (*command, answers), 1, "at least 5 queries that a video answers and 5 that none does, got 10 and 0"
    )
    run.check_refusal((*command, tmp_path / "no.jsonl"), 1, "no.jsonl: cannot be read")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "exactly one of them must be given"),
        (("--answers", "a.jsonl", "--bank", "b.txt"), "exactly one of them must be given"),
        (("--answers", "a.jsonl", "--limit", 3), "needs --bank, got --answers"),
        (("--answers", "a.jsonl", "--limit", 1), "needs --bank, got --answers"),
        (("--answers", "none", "--rerank", "none"), "needs --bank, got --answers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Runner, index: Path, options: tuple[object, ...], sentence: str
) -> None:
    run.check_refusal(("calibrate", "--index", index, *options), 2, sentence)
