"""The progress of an indexing run while it works, and the report at its end."""

from dataclasses import dataclass, field

from vidret.store.records import PruneReport
from vidret.types import TextSource


@dataclass(frozen=True, slots=True)
class FileJob:
    """A file to index, with its size and modification time; ``disk_bytes`` is less than the size if it is sparse.

    ``is_stored`` marks an unchanged file of which only words are missing.
    """

    path: str
    num_bytes: int
    mtime_ns: int
    disk_bytes: int = 0
    is_stored: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        num_files: Files that are new or changed, and so have to be read.
        done: Those of them that are finished.
        failed: Those of them that failed.
        num_segments: Segments encoded so far.
        seconds: Seconds of video in these segments.
        share: The fraction of the work that is done, by segments; see ``Workload``. It never falls.
        elapsed: Seconds since the run started.
        interrupted: Whether the run only finishes what is in progress.
    """

    num_files: int
    done: int
    failed: int
    num_segments: int
    seconds: float
    share: float
    elapsed: float
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The result of a run.

    Attributes:
        encoded: Number of files that were encoded.
        linked: Number of files whose content was stored already, because they were moved, renamed or copied.
        unchanged: Number of files that are as they were at the last run.
        moved: Old and new paths of the files that were moved or renamed since the last run.
        missing: Number of files in the index that no longer exist, and whose content is not elsewhere.
        gone: Their paths.
        failed: Paths of files that cannot be read, with reasons.
        salvaged: Paths of files that could be read in part, with descriptions of the damage.
        num_segments: Number of segments that were encoded.
        seconds: Seconds of video in these segments.
        elapsed: Seconds that the run took.
        interrupted: Whether the run was interrupted.
        pruned: What was removed from the index; None if ``prune`` was not requested.
        unpruned: Missing files that were not removed although ``prune`` was requested, because no listed folder with
            any video contains them: their drive may be unmounted.
        texts: Number of texts that were read, by source of words; empty if none was read.
        speeds: Throughput of each stage of a run on Ray, by a description of its unit.
    """

    encoded: int = 0
    linked: int = 0
    unchanged: int = 0
    moved: list[tuple[str, str]] = field(default_factory=list)
    missing: int = 0
    gone: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    salvaged: list[tuple[str, str]] = field(default_factory=list)
    num_segments: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    interrupted: bool = False
    pruned: PruneReport | None = None
    unpruned: list[str] = field(default_factory=list)
    texts: dict[TextSource, int] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)


class Workload:
    """The work of a run, in segments of equal length: done and remaining.

    The work on a file is known once the file is opened. Until then it is estimated from the file's bytes on disk at the
    rate of the opened files, and is at least one. A file that needs no encoding or fails counts as one.
    """

    def __init__(self) -> None:
        """Start without any file."""
        self._unopened: dict[str, int] = {}  # bytes on disk
        self._remaining: dict[str, float] = {}  # segments of opened files
        self._unopened_bytes = self._opened_bytes = self._opened_segments = 0
        self._done = self._known = 0.0  # segments
        self._share = 0.0

    def add(self, path: str, disk_bytes: int) -> None:
        """Add a file that has to be read."""
        self._unopened[path] = disk_bytes
        self._unopened_bytes += disk_bytes

    def open(self, path: str, num_segments: int, num_remaining: float) -> None:
        """Set the number of segments of an added file, and of those that have to be encoded."""
        if path not in self._unopened:
            return
        disk_bytes = self._unopened.pop(path)
        self._unopened_bytes -= disk_bytes
        self._opened_bytes += disk_bytes
        self._opened_segments += num_segments
        self._remaining[path] = num_remaining
        self._known += num_remaining

    def advance(self, path: str, num_segments: float = 1.0) -> None:
        """Count segments of a file as encoded."""
        done = min(self._remaining.get(path, 0.0), num_segments)
        if done > 0:
            self._remaining[path] -= done
            self._done += done

    def finish(self, path: str) -> None:
        """Count all remaining work on a file as done."""
        if path in self._unopened:
            self._unopened_bytes -= self._unopened.pop(path)
            self._known += 1
            self._done += 1
        self._done += self._remaining.pop(path, 0)

    def share(self) -> float:
        """Return the fraction of the work that is done, 0..1; it never falls."""
        rate = self._opened_segments / self._opened_bytes if self._opened_bytes else 0.0
        total = self._known + max(len(self._unopened), self._unopened_bytes * rate)
        self._share = max(self._share, self._done / total if total else 1.0)
        return self._share
