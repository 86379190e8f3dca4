"""Runs command lines in the process of the test."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from vidret import cli
from vidret.cli.app import COMMANDS, load_command

ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # signals, besides Ctrl-C


class Runner:
    """Runs ``vidret`` with arguments; returns the exit code, stdout, and stderr with its whitespace collapsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code, out, err = self.run_raw(*arguments)
        return code, out, " ".join(err.split())

    def out(self, *arguments: object) -> str:
        """Return the stdout of a command line that succeeds."""
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def err(self, *arguments: object) -> str:
        """Return the stderr of a command line that succeeds, with its whitespace collapsed."""
        code, _, err = self(*arguments)
        assert code == 0, err
        return err

    def json(self, *arguments: object) -> Any:
        """Return the value that a command line prints with ``--json``."""
        return json.loads(self.out(*arguments, "--json"))

    def check_refusal(self, command: str | Sequence[object], code: int, message: str) -> None:
        """Check that a command line fails with an exit code and a message, without a traceback or output."""
        actual, out, err = self(*(shlex.split(command) if isinstance(command, str) else command))
        assert (actual, out, message in err) == (code, "", True), f"{command}: {err}"
        assert "Traceback" not in err

    def run_raw(self, *arguments: object) -> tuple[int, str, str]:
        """Return the exit code, stdout and stderr as they are."""
        self.monkeypatch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        handlers = {ending: signal.getsignal(ending) for ending in ENDING}
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            for signal_number, handler in handlers.items():
                signal.signal(signal_number, handler)
        out, err = self.capsys.readouterr()
        return int(ended.value.code or 0), out, err


def run_without(modules: str, *arguments: object) -> str:
    """Run a command line in a process of its own, check that it imports none of some modules, return what it prints."""
    words = ["vidret", *map(str, arguments)]
    code = f"import sys; from vidret.cli.app import program; sys.argv = {words}; program(standalone_mode=False)"
    code += f"; sys.exit(' '.join({set(modules.split())} & sys.modules.keys()) or 0)"
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def load_commands() -> dict[str, Any]:
    """Import the modules of all commands; return the commands by name."""
    return {name: load_command(name) for name in COMMANDS}
