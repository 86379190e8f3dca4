"""Indexing from the page: a process of its own does it, so that searches never wait for it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter

from vidret.engine import Engine
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.schemas import FailureRow, IndexAnswer, IndexRequest, ProgressRow
from vidret.text import sanitize
from vidret.video.scan import MANIFEST_SUFFIXES

PATIENCE = 10.0  # seconds that an interrupted run has for the segments in flight
MOST_FAILURES = 1000
# An interrupt must reach it, also where whoever started the server had it ignored.
PROGRAM = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vidret.cli import main; main()"


class Indexer:
    """At most one run of ``vidret index`` at a time, its progress and its report."""

    def __init__(self, options: Sequence[str], roots: Sequence[Path] = (), *, program: str = PROGRAM) -> None:
        """Allow runs over what lies under the roots; without any there is nothing to run.

        Args:
            options: Of the command line, such as ``--index DIR``.
            roots: Folders. What is asked for must lie under them, links followed; what lies in a folder is as its owner
                put it there, links to files included.
            program: Python that runs the command line.
        """
        self.roots = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100  as files are named: links stay
        self._command = [sys.executable, "-P", "-c", program]
        self._options = [*options, "--progress-json", "--json"]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.progress: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Say whether a run is under way."""
        return self._process is not None

    def start(self, paths: Sequence[str], *, retry_failed: bool = False) -> None:
        """Begin a run.

        Raises:
            RefusedError: Nothing may be indexed, not this, or not now.
        """
        if not self.roots:
            raise RefusedError(403, "indexing must be allowed by vidret serve --allow-index FOLDER, got none")
        checked = [self._check(path) for path in paths]
        flags = ["--retry-failed"] if retry_failed else []
        with self._lock:
            if self._process is not None:
                raise RefusedError(409, "a run is under way already")
            report = tempfile.TemporaryFile("w+")  # noqa: SIM115  the reader closes it; a pipe could fill up
            self._process = subprocess.Popen(
                [*self._command, "index", *self._options, *flags, "--", *checked],
                stdout=report,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=os.environ | {"PYTHONPATH": _search_path()},
                process_group=0,  # Ctrl-C is the server's business
            )
            self.progress = self.last = None
            self._reader = threading.Thread(target=self._read, args=(self._process, report), daemon=True)
            self._reader.start()

    def interrupt(self) -> None:
        """Have the run end after the segments in flight; asked again, at once.

        Raises:
            RefusedError: There is none.
        """
        with self._lock:
            if self._process is None:
                raise RefusedError(409, "no run is under way")
            self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the run to end, if there is one."""
        if self._reader is not None:
            self._reader.join(timeout)

    def close(self) -> None:
        """Interrupt the run, and end it where that takes too long: what was committed stays in any case."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGINT)
            self.wait(PATIENCE)
            process.kill()
            self.wait()

    def _check(self, path: str) -> str:
        """Give the path as the index will name it.

        Raises:
            RefusedError: It is not there, or it is not, links followed, under one of the roots.
        """
        shown = sanitize(path)
        try:
            name = Path(os.path.abspath(path))  # noqa: PTH100
            real = name.resolve(strict=True)
        except (OSError, ValueError):
            raise RefusedError(422, f"{shown}: no such file or folder") from None
        if not os.path.isabs(path) or not any(real.is_relative_to(root.resolve()) for root in self.roots):  # noqa: PTH117
            raise RefusedError(403, f"{shown}: must lie under {' or '.join(map(str, self.roots))}")
        if real.suffix.lower() in MANIFEST_SUFFIXES or name.suffix.lower() in MANIFEST_SUFFIXES:
            raise RefusedError(403, f"{shown}: must be a folder or a video, got a list, which may lead anywhere")
        return str(name)

    def _read(self, process: "subprocess.Popen[str]", report: IO[str]) -> None:
        """Follow a run to its end."""
        said = ""
        assert process.stderr is not None
        with report, process.stderr:
            for line in process.stderr:
                progress = read_json(line)
                if progress is not None:
                    self.progress = progress
                elif line.strip():
                    said = line.strip().removeprefix("error: ")
            status = process.wait()
            report.seek(0)
            told = read_json(report.read())
        with self._lock:
            self.last = told or {"error": sanitize(said) or f"it ended with status {status}"}
            self._process = None


def read_json(text: str) -> dict[str, Any] | None:
    """Return a JSON object with its strings made printable, None for any other text: a message may begin with "{"."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return as_printable(found) if isinstance(found, dict) else None


def as_printable(value: Any) -> Any:
    """Return what JSON holds with all names of files fit to be sent: they may hold bytes that are no text."""
    match value:
        case str():
            return sanitize(value)
        case list():
            return [as_printable(each) for each in value]
        case dict():
            return {key: as_printable(each) for key, each in value.items()}
    return value


def index_routes(engine: Engine, indexer: Indexer) -> APIRouter:
    """Make the routes under ``/api/index``."""
    router = APIRouter(prefix="/api/index", tags=["index"])

    @router.get("")
    def describe_index() -> IndexAnswer:
        """Describe the index, and the run that changes it."""
        progress = indexer.progress if indexer.running else None
        return IndexAnswer(
            info=engine.info(),
            running=indexer.running,
            progress=None if progress is None else ProgressRow(**progress),
            last=indexer.last,
            failures=[
                FailureRow(path=sanitize(path), reason=reason) for path, reason in engine.failed()[:MOST_FAILURES]
            ],
            allow_index=bool(indexer.roots),
            roots=[sanitize(str(root)) for root in indexer.roots],
        )

    @router.post("", status_code=202, responses=refusals(400, 403, 409, 413))
    def start_run(asked: IndexRequest) -> IndexAnswer:
        """Begin to index files and folders, where ``--allow-index`` allows it."""
        indexer.start(asked.paths, retry_failed=asked.retry_failed)
        return describe_index()

    @router.delete("", status_code=202, responses=refusals(403, 409))
    def interrupt_run() -> IndexAnswer:
        """Interrupt the run: it ends after the segments in flight, asked again at once. The index stays good."""
        indexer.interrupt()
        return describe_index()

    return router


def _search_path() -> str:
    """Have the process import this same code, wherever it was found."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
