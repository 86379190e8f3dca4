"""Forked processes behave as those of a new interpreter."""

import os
import signal
from pathlib import Path

import pytest

from tests.forking import popen_code, run_code, start_code

TELL = """
import os, sys
from pathlib import Path
print(sys.argv[1:], Path.cwd(), os.environ["VIDRET_MADE"], os.getpgid(0) == os.getpid(), sys.stdin.read())
"""


@pytest.mark.parametrize("is_forked", [True, False])
def test_what_a_process_is_told_and_how_it_ends(
    is_forked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIDRET_MADE", "set later")
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe()
    with open(read) as text, popen_code(TELL, 1, "two", is_forked=is_forked, stdin=text, process_group=0) as process:  # noqa: PTH123
        os.write(write, b"typed")
        os.close(write)
    assert (process.returncode, capfd.readouterr().out) == (0, f"['1', 'two'] {tmp_path} set later True typed\n")
    ended = run_code("import sys; sys.exit(3)", is_forked=is_forked)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")
    failed = run_code("1 / 0", is_forked=is_forked)
    assert (failed.returncode, failed.stderr.splitlines()[-1]) == (1, "ZeroDivisionError: division by zero")
    with start_code("print('ready', flush=True); input()", is_forked=is_forked) as (waiting, _, _):
        assert waiting.poll() is None
        waiting.kill()
    assert waiting.returncode == -signal.SIGKILL
