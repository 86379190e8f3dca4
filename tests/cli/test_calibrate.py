"""Tests of vidret calibrate."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import PatchEncoder


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
    assert "temperature 0.2" in run("calibrate", "--bank", lines, "--index", patched, "--temperature", "0.2")[2]
    assert ask() not in (found[0], before)
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
