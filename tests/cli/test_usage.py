"""Tests of wrong use: exit codes, and one sentence on stderr."""

import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from vidret.store.store import Store


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("search", "red", "--index", "nowhere"), 1, "there is no index here; make one with"),
        (("index", "nowhere.mp4"), 1, "no such file"),
        (("search",), 2, "give a query, --image FILE, both, or --clip FILE or --queries FILE alone"),
        (
            ("search", "red", "--queries", "red.jsonl"),
            2,
            "give a query, --image FILE, both, or --clip FILE or --queries FILE alone",
        ),
        (("search", "--image", "nowhere.png"), 1, "nowhere.png: cannot be read as an image"),
        (("search", "red", "--after", "tomorrow"), 2, "--after"),
        (("locate", "red", "--min-seconds", "-1"), 2, "--min-seconds"),
        (("search", "red", "--server", "here:80"), 1, "url must be like http://127.0.0.1:8000, got here:80"),
        (("search", "red", "--token", "T"), 2, "needs --server URL, got none"),
        (
            ("search", "red", "--server", "http://here", "--index", "a"),
            2,
            "--index: needs a local index, got --server URL",
        ),
        (
            ("search", "red", "--server", "http://here", "--device", "cpu"),
            2,
            "--device: needs a local index, got --server URL",
        ),
        (
            ("search", "red", "--server", "http://here", "--sheet", "a.png"),
            2,
            "--sheet: needs a local index, got --server URL",
        ),
        (
            ("locate", "red", "--server", "http://here", "--head", "none"),
            2,
            "--head: needs a local index, got --server URL",
        ),
        (
            ("locate", "red", "--server", "http://here", "--export", "a"),
            2,
            "--export: needs a local index, got --server URL",
        ),
        (("index",), 2, "Missing argument"),
        (("index", ".", "--decoder", "magic"), 2, "must be auto, decord, pyav"),
        (("search", "red", "-k", "0"), 2, "-k"),
    ],
)
def test_wrong_use_exits_with_a_code_and_one_sentence(
    run: Runner, arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run.check_refusal(arguments, code, sentence)


def test_import_needs_no_torch() -> None:
    code = "import sys, vidret.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_version(run: Runner) -> None:
    assert run("--version") == (0, f"vidret {metadata.version('vidret')}\n", "")


def test_a_folder_without_videos_is_an_error_and_leaves_no_index(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run.check_refusal(
        ("index", tmp_path / "empty", "--index", tmp_path / "index"), 1, f"no videos found in {tmp_path / 'empty'}"
    )
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_traceback(
    run: Runner, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Store, "exists", lambda _path: os.kill(os.getpid(), number))
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a test run in the background, by nohup
    try:
        run.check_refusal(("search", "red", "--index", tmp_path), 130, "interrupted")
    finally:
        signal.signal(signal.SIGINT, ignored)
