"""Tests of the indexing process: start, progress, report and end, with programs in place of the real one."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import ColourEncoder
from tests.serve.conftest import Serve
from vidret.engine import Engine
from vidret.serve.routes.indexing import PROGRAM, Indexer

ECHO = "import json, sys; print(json.dumps({'argv': sys.argv[1:]}))"
# Prints progress, and stops when it is interrupted.
OBEDIENT = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    print(json.dumps({'share': 0.5}), file=sys.stderr, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print(json.dumps({'interrupted': True}))
"""
DEAF = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print('{}', file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def run(program: str, root: Path, **given: Any) -> dict[str, Any]:
    """Run a program to its end, and return its report."""
    indexer = Indexer(["--index", "here"], [root], program=program)
    indexer.start([str(root)], **given)
    indexer.wait()
    assert not indexer.running
    assert indexer.last is not None
    return indexer.last


def begin(program: str, root: Path) -> Indexer:
    """Start a program, and wait for its first progress."""
    indexer = Indexer([], [root], program=program)
    indexer.start([str(root)])
    while indexer.progress is None:
        indexer.wait(0.01)
        assert indexer.running
    return indexer


def test_a_run_has_its_command_line_and_imports_code(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--index", "here", "--progress-json", "--json"]
    assert run(ECHO, root) == {"argv": ["index", *options, "--", str(root)]}
    assert run(ECHO, root, retry_failed=True) == {"argv": ["index", *options, "--retry-failed", "--", str(root)]}
    (root / "vidret.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(root)
    program = "import json, vidret.cli; print(json.dumps({'file': vidret.cli.__file__}))"
    assert run(program, root) == {"file": sys.modules["vidret"].__path__[0] + "/cli/__init__.py"}


def test_paths_keep_symbolic_links(root: Path) -> None:
    (root.parent / "videos").symlink_to(root)
    (root / "film.mp4").touch()
    indexer = Indexer([], [root.parent / "videos"], program=ECHO)
    for path in ("videos/film.mp4", "root/film.mp4", "videos/../videos"):
        indexer.start([f"{root.parent}/{path}"])
        indexer.wait()
        assert indexer.last is not None
        assert indexer.last["argv"][-1] == str(root.parent / path.removeprefix("videos/../"))


def test_long_report_is_read(root: Path) -> None:
    program = "import json; print(json.dumps({'failed': [['/a/film.mp4', 'is not a video']] * 100_000}))"
    assert len(run(program, root)["failed"]) == 100_000


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (
            "import sys; print('WARNING: odd\\nerror: the disk is full', file=sys.stderr); sys.exit(1)",
            "the disk is full",
        ),
        (
            "import os, sys; print('Still loading.', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
            "it ended with status -9",
        ),
        ("import sys; sys.stderr.buffer.write(b'error: \\xff\\n'); sys.exit(1)", "\N{REPLACEMENT CHARACTER}"),
        ("import sys; print('{a}.mp4: is not a video', file=sys.stderr); sys.exit(1)", "{a}.mp4: is not a video"),
        *((f"print({report!r})", "it ended with status 0") for report in ('{"failed": [[', "[]", "12", "no report")),
    ],
)
def test_error_of_a_failed_run_or_of_an_invalid_report_is_stored(root: Path, program: str, error: str) -> None:
    assert run(program, root) == {"error": error}


def test_real_program_reports_its_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "catalog.sqlite").write_text("no catalog at all")
    indexer = Indexer(["--index", str(tmp_path / "here")], [root], program=PROGRAM)
    indexer.start([str(root)])
    indexer.wait()
    reason = "file is not a database; run vidret info --repair"
    assert indexer.last == {"error": f"{tmp_path}/here/catalog.sqlite: {reason}"}


def test_an_interrupted_or_closed_run_has_a_report(root: Path) -> None:
    for end in (Indexer.interrupt, Indexer.close):
        indexer = begin(OBEDIENT, root)
        end(indexer)
        indexer.wait()
        assert (indexer.running, indexer.last) == (False, {"interrupted": True})
        indexer.close()


def test_run_that_ignores_interrupts_is_killed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.serve.routes.indexing.SHUTDOWN_S", 0.1)
    indexer = begin(DEAF, root)
    indexer.close()
    assert indexer.last == {"error": "it ended with status -9"}


def test_progress_is_printed_as_json(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidret import cli

    monkeypatch.setattr("vidret.engine.load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    monkeypatch.setattr(sys, "argv", ["vidret", "index", str(root), "--index", str(root / "index"), "--progress-json"])
    (root / "bad.mp4").write_text("no film")
    with pytest.raises(SystemExit):
        cli.main()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert lines[0] == {**lines[0], "files": 1, "done": 0, "share": pytest.approx(lines[0]["share"])}
    assert set(lines[0]) == {"share", "done", "files", "file", "failed", "elapsed", "left"}
    assert Engine(root / "index", ColourEncoder()).failed() == [(str(root / "bad.mp4"), "is not a video")]


def test_paths_that_are_not_text_are_sanitized(root: Path, serve: Serve, engine: Engine) -> None:
    report = {"failed": [["/films/a\udcff\n.mp4", "is not a video"]], "encoded": 0}
    indexer = Indexer([], [root], program=f"import json; print(json.dumps({report!r}))")
    client = serve(engine, indexer)
    assert client.post("/api/index", json={"paths": [str(root)]}).status_code == 202
    indexer.wait()
    answer = client.get("/api/index")
    assert answer.status_code == 200
    assert answer.json()["last"] == {"failed": [["/films/a\ufffd\ufffd.mp4", "is not a video"]], "encoded": 0}
