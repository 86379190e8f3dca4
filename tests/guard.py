"""Processes that may look up and reach nothing but this machine: what they try is refused and reported.

The guard stands before the C library: unlike a hook in Python, it sees native code; unlike a network namespace, it
needs no privileges.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = Path(__file__).with_suffix(".c")
SILENCING = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK", "DISABLE_TELEMETRY")
ELSEWHERE = ("VIDRET_WORDS", "XDG_CACHE_HOME", "HF_HOME")


def build_guard(folder: Path) -> Path:
    """Compile the library that guards processes; skip the test where that is impossible."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("guarding connections takes Linux and a C compiler")
    library = folder / "guard.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Guard:
    """Runs Python with a home of its own, and keeps what it tried to reach."""

    def __init__(self, folder: Path) -> None:
        self.home, self.report = folder / "home", folder / "report.txt"
        self.home.mkdir()
        kept = {name: value for name, value in os.environ.items() if name not in SILENCING + ELSEWHERE}
        self.environment = kept | {
            "HOME": str(self.home),
            "LD_PRELOAD": str(build_guard(folder)),
            "GUARD_REPORT": str(self.report),
            "PYTHONPATH": str(ROOT),
            "VIDRET_LLM_KEY": "",
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start Python under the guard, in the home."""
        command = [sys.executable, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, cwd=self.home, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: object) -> str:
        """Run Python under the guard; return what it printed to stdout."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out

    def attempts(self) -> list[str]:
        """Return what was tried."""
        return self.report.read_text().splitlines() if self.report.exists() else []
