"""Runs command lines in the process of the test."""

import sys

import pytest

from vidret import cli


class Runner:
    """Runs ``vidret`` with arguments; returns the exit code, stdout, and stderr with its whitespace collapsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code, out, err = self.run_raw(*arguments)
        return code, out, " ".join(err.split())

    def run_raw(self, *arguments: object) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr as they are."""
        self.monkeypatch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self.capsys.readouterr()
        return int(ended.value.code or 0), out, err
