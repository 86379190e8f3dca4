"""Runs command lines in the process of the test."""

import signal
import sys
from collections.abc import Sequence

import pytest

from vidret import cli


class Runner:
    """Runs ``vidret`` with arguments; returns the exit code, stdout, and stderr with its whitespace collapsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code, out, err = self.run_raw(*arguments)
        return code, out, " ".join(err.split())

    def check_refusal(self, arguments: Sequence[object], code: int, message: str) -> None:
        """Check that a command fails with an exit code and a message, without a traceback or output."""
        actual, out, err = self(*arguments)
        assert (actual, out) == (code, "")
        assert message in err
        assert "Traceback" not in err

    def run_raw(self, *arguments: object) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr as they are."""
        self.monkeypatch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = self.capsys.readouterr()
        return int(ended.value.code or 0), out, err
