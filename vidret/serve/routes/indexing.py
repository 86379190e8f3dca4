"""Routes to index from the page. A run is a separate process, so that searches do not wait for it."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.present.ffmpeg import find_ffmpeg
from vidret.serve.fields import MAX_PATH_LENGTH
from vidret.serve.problems import RefusedError, refusals
from vidret.serve.rights import CHANGE, GRANT, READ, Right
from vidret.store.identities.store import IdentityStore
from vidret.store.records import StoreInfo
from vidret.store.texts.store import TextCounts, TextStore
from vidret.text import map_texts, parse_json, sanitize, show_path
from vidret.video.scan import MANIFEST_SUFFIXES, VIDEO_SUFFIXES, is_junk_folder
from vidret.video.workers.process import NEW_GROUP


class IndexRequest(BaseModel, extra="forbid", json_schema_extra={"examples": [{"paths": ["/videos/new"]}]}):
    """Files and folders to index."""

    paths: list[str] = Field(min_length=1, max_length=1000, description="Absolute paths below an allowed folder.")
    retry_failed: bool = Field(False, description="Try failed files again, even unchanged ones.")


class ProgressRow(BaseModel):
    """Progress of a run."""

    share: float = Field(description="Share of the work that is done, from 0 to 1.")
    done: int = Field(description="Number of files done.")
    files: int = Field(description="Number of files to do, the done ones included.")
    failed: int = Field(description="Number of files that failed.")
    elapsed: float = Field(description="Time since the start in seconds.")
    left: float | None = Field(description="Estimated remaining time in seconds; null while unknown.")
    file: str = Field("", description="File that is being read; empty if none is.")


class FolderAnswer(BaseModel):
    """A folder whose videos may be indexed, and its subfolders; without a path, the allowed folders."""

    path: str
    parent: str | None = Field(description="Path of the parent folder; null if the folder itself is an allowed one.")
    folders: list[str] = Field(description="Paths of the subfolders, at most 1,000.")
    videos: int = Field(description="Number of video files in the folder itself.")


class FailureRow(BaseModel):
    """A file that could not be indexed."""

    path: str
    reason: str


class IndexAnswer(BaseModel):
    """Facts about the index, and the state of indexing."""

    info: StoreInfo
    words: list[TextCounts] = Field(description="Counts by source; empty in an index without words.")
    running: bool = Field(description="Whether a run is in progress.")
    stopping: bool = Field(description="Whether the run was interrupted, and finishes the segments in progress.")
    progress: ProgressRow | None = Field(description="Progress of the run; null if none is in progress.")
    last: dict[str, Any] | None = Field(description="Report or error of the last run; null before the first one ends.")
    failures: list[FailureRow] = Field(description="Files that could not be indexed.")
    missing: list[str] = Field(description="Paths of files that are gone.")
    no_clips: str = Field(description="Why this server cannot cut clips; empty if it can.")
    people: bool = Field(description="Whether the index has people, and the token may see them.")
    asks: bool = Field(description="Whether the server answers questions, at /api/ask.")
    may_change: bool = Field(description="Whether the token of the request has the right to change.")
    allow_index: bool = Field(description="Whether the token of the request may start runs on this server.")
    roots: list[str] = Field(description="Folders whose videos may be indexed.")


SHUTDOWN_S = 10.0  # time for an interrupted run to finish the segments in progress
MAX_FAILURES = 1000
MAX_FOLDERS = 1000
# Restores the interrupt handler, which the server's parent process may have disabled.
PROGRAM = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vidret.cli import main; main()"


def _interrupt(process: "subprocess.Popen[str]") -> None:
    """Interrupt a run, on Windows by Ctrl-Break; without a console to send that, kill the run."""
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
    except OSError:
        process.kill()


class Indexer:
    """Runs ``vidret index``, at most once at a time, and stores its progress and report."""

    def __init__(self, options: Sequence[str], roots: Sequence[Path] = (), *, program: str = PROGRAM) -> None:
        """Allow runs with options such as ``--index DIR`` on paths below the roots, after resolving links.

        The content of these folders is trusted, including links to files. Without roots, every run is refused.
        """
        self.roots = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100  keeps links
        self._command = [sys.executable, "-P", "-c", program]
        self._options = [*options, "--progress-json", "--json"]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.stopping = False
        self.progress: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        """Return whether a run is in progress."""
        return self._process is not None

    def start(self, paths: Sequence[str], *, retry_failed: bool = False) -> None:
        """Start a run.

        Raises:
            RefusedError: Indexing is not allowed, a path is not allowed, or a run is in progress.
        """
        if not self.roots:
            raise RefusedError(403, "indexing must be allowed by vidret serve --allow-index FOLDER, got none")
        checked = [self.check(path) for path in paths]
        flags = ["--retry-failed"] if retry_failed else []
        with self._lock:
            if self._process is not None:
                raise RefusedError(409, "a run is in progress")
            # The server's code.
            code_paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
            report = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  the reader closes it; a pipe could fill up
            self._process = subprocess.Popen(
                [*self._command, "index", *self._options, *flags, "--", *checked],
                stdout=report,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(code_paths)},
                process_group=0,  # the server handles Ctrl-C
                creationflags=NEW_GROUP,
            )
            self.progress, self.last, self.stopping = None, None, False
            self._reader = threading.Thread(target=self._read, args=(self._process, report), daemon=True)
            self._reader.start()

    def interrupt(self) -> None:
        """Stop the run after the segments in progress; a second call stops it at once.

        Raises:
            RefusedError: No run is in progress.
        """
        with self._lock:
            if self._process is None:
                raise RefusedError(409, "no run is in progress")
            self.stopping = True
            _interrupt(self._process)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the run, if there is one."""
        if self._reader is not None:
            self._reader.join(timeout)

    def close(self) -> None:
        """Interrupt the run, and kill it if that takes too long; committed segments are always kept."""
        process = self._process
        if process is not None:
            _interrupt(process)
            self.wait(SHUTDOWN_S)
            process.kill()
            self.wait()

    def check(self, path: str) -> str:
        """Return the absolute path of an allowed file or folder, without resolving links.

        Raises:
            RefusedError: There is no such file or folder, or it is not allowed.
        """
        shown = sanitize(path)
        try:
            name = Path(os.path.abspath(path))  # noqa: PTH100
            real = name.resolve(strict=True)
        except (OSError, ValueError):
            raise RefusedError(422, f"{shown}: no such file or folder") from None
        if not os.path.isabs(path) or not any(real.is_relative_to(root.resolve()) for root in self.roots):  # noqa: PTH117
            raise RefusedError(403, f"{shown}: must be in {' or '.join(map(str, self.roots))}")
        if real.suffix.lower() in MANIFEST_SUFFIXES or name.suffix.lower() in MANIFEST_SUFFIXES:
            raise RefusedError(403, f"{shown}: must be a folder or a video, got a manifest, which may list any path")
        return str(name)

    def _read(self, process: "subprocess.Popen[str]", report: IO[str]) -> None:
        """Read the output of a run until it ends."""
        last_message = ""
        assert process.stderr is not None
        with report, process.stderr:
            for line in process.stderr:
                progress = read_json(line)
                if progress is not None:
                    self.progress = progress
                elif line.strip():
                    last_message = line.strip().removeprefix("error: ")
            status = process.wait()
            report.seek(0)
            result = read_json(report.read())
        with self._lock:
            reason = sanitize(last_message) if status >= 0 else ""  # a killed process could not print a reason
            self.last = result or {"error": reason or f"it ended with status {status}"}
            self._process = None


class WordSummary:
    """Cached counts of the words in an index, updated only after a change, since counting reads all tracks."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self._state: tuple[int, ...] = ()
        self.counts: list[TextCounts] = []

    def update(self) -> None:
        """Count the words again if they have changed."""
        if not TextStore.exists(self._index):
            self.counts, self._state = [], ()
            return
        with TextStore.open(self._index) as texts:
            state = (*texts.store.place, texts.store.generation)
            if state != self._state:
                self.counts, self._state = texts.count(), state


def read_json(text: str) -> dict[str, Any] | None:
    """Return a JSON object with printable strings, or None for other text, such as a message that starts with "{"."""
    try:
        value = parse_json(text)
    except ValueError:
        return None
    return map_texts(sanitize, value) if isinstance(value, dict) else None  # file names may hold undecodable bytes


def list_folder(indexer: Indexer, path: str) -> FolderAnswer:
    """Return the folders in an allowed folder, sorted by name; for ``''`` the allowed folders.

    Raises:
        RefusedError: The path is not allowed, or is not a readable folder.
    """
    if not path:
        return FolderAnswer(path="", parent=None, folders=[sanitize(str(root)) for root in indexer.roots], videos=0)
    folder = indexer.check(path)
    try:
        with os.scandir(folder) as entries:
            sorted_entries = sorted(entries, key=lambda entry: entry.name)
            folders = [
                entry
                for entry in sorted_entries
                if entry.is_dir() and not is_junk_folder(entry.name) and entry.name[0] != "."
            ]
            videos = [entry for entry in sorted_entries if Path(entry.name).suffix.lower() in VIDEO_SUFFIXES]
    except OSError as error:
        raise RefusedError(422, f"{sanitize(path)}: {error.strerror}") from None
    above = str(Path(folder).parent)
    return FolderAnswer(
        path=sanitize(folder),
        parent=None if Path(folder) in indexer.roots else sanitize(above),
        folders=[sanitize(entry.path) for entry in folders[:MAX_FOLDERS]],
        videos=len(videos),
    )


def index_routes(engine: Engine, indexer: Indexer, *, asks: bool = False) -> APIRouter:
    """Return the routes under ``/api/index``; ``asks`` is whether the server answers questions."""
    router = APIRouter(prefix="/api/index", tags=["index"], dependencies=[READ])
    words, no_clips = WordSummary(engine.path), ""
    try:
        find_ffmpeg()
    except VidretError as error:
        no_clips = str(error)

    @router.get("")
    def describe_index(request: Request) -> IndexAnswer:
        """Describe the index and the state of indexing."""
        words.update()
        progress = indexer.progress if indexer.running else None
        may_change = request.scope[GRANT].right == "change"
        return IndexAnswer(
            info=engine.info(),
            words=words.counts,
            running=indexer.running,
            stopping=indexer.running and indexer.stopping,
            progress=None if progress is None else ProgressRow(**progress),
            last=indexer.last,
            failures=[
                FailureRow(path=show_path(path), reason=reason) for path, reason in engine.failed()[:MAX_FAILURES]
            ],
            missing=[show_path(path) for path in engine.missing()[:MAX_FAILURES]],
            no_clips=no_clips,
            asks=asks,
            may_change=may_change,
            allow_index=bool(indexer.roots) and may_change,
            people=may_change and IdentityStore.exists(engine.path),
            roots=[sanitize(str(root)) for root in indexer.roots],
        )

    @router.get("/folders", responses=refusals(403), dependencies=[Depends(Right("change", noted=False))])
    def browse_folders(path: Annotated[str, Query(max_length=MAX_PATH_LENGTH)] = "") -> FolderAnswer:
        """List the subfolders of a folder that may be indexed."""
        return list_folder(indexer, path)

    @router.post("", status_code=202, responses=refusals(400, 403, 409, 413), dependencies=[CHANGE])
    def start_run(request: Request, body: IndexRequest) -> IndexAnswer:
        """Start to index files and folders below the folders of ``--allow-index``."""
        indexer.start(body.paths, retry_failed=body.retry_failed)
        return describe_index(request)

    @router.delete("", status_code=202, responses=refusals(403, 409), dependencies=[CHANGE])
    def interrupt_run(request: Request) -> IndexAnswer:
        """Interrupt the run: it stops after the segments in progress, or at once on a second request."""
        indexer.interrupt()
        return describe_index(request)

    return router
