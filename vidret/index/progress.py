"""What an indexing run says of itself: how far it is while it works, and a report at its end."""

from dataclasses import dataclass, field

from vidret.store.records import PruneReport


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: of the ``num_files`` that it looks into those ``done`` and ``failed``, and what was encoded.

    ``share`` (0..1) is that of the work, by segments; see ``Workload``. It never falls.
    """

    num_files: int
    done: int
    failed: int
    num_segments: int
    seconds: float
    share: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a run did. ``linked`` files hold content that was stored already: moved, renamed or copied ones.

    ``unpruned`` are files that are gone and were not forgotten though ``prune`` was asked for: no folder that the run
    listed holds them and any other video, so that their drive may be away.

    ``speeds`` are what a run on Ray measured of its stages, by what is counted.
    """

    encoded: int = 0
    linked: int = 0
    unchanged: int = 0
    missing: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    salvaged: list[tuple[str, str]] = field(default_factory=list)
    num_segments: int = 0
    seconds: float = 0.0
    elapsed: float = 0.0
    interrupted: bool = False
    pruned: PruneReport | None = None
    unpruned: list[str] = field(default_factory=list)
    speeds: dict[str, float] = field(default_factory=dict)


class Workload:
    """The segments that a run has to encode, done and left; each takes about as long as another.

    A file's number of segments is known once it is opened. Until then it is guessed from the file's bytes on disk, by
    the files that were opened, and at least one. Of a file that needs no encoding or fails, one segment is counted.
    """

    def __init__(self) -> None:
        """Begin without any file."""
        self._unopened: dict[str, int] = {}  # bytes on disk
        self._left: dict[str, int] = {}  # segments of opened files
        self._unopened_bytes = self._opened_bytes = self._opened_segments = 0
        self._done = self._known = 0  # segments
        self._share = 0.0

    def add(self, path: str, disk_bytes: int) -> None:
        """Expect a file."""
        self._unopened[path] = disk_bytes
        self._unopened_bytes += disk_bytes

    def open(self, path: str, num_segments: int, num_left: int) -> None:
        """Note how many segments an expected file has, and how many of them are to be encoded."""
        if path not in self._unopened:
            return
        disk_bytes = self._unopened.pop(path)
        self._unopened_bytes -= disk_bytes
        self._opened_bytes += disk_bytes
        self._opened_segments += num_segments
        self._left[path] = num_left
        self._known += num_left

    def advance(self, path: str) -> None:
        """Note that a segment of a file is encoded."""
        if self._left.get(path):
            self._left[path] -= 1
            self._done += 1

    def finish(self, path: str) -> None:
        """Note that nothing is left to do of a file."""
        if path in self._unopened:
            self._unopened_bytes -= self._unopened.pop(path)
            self._known += 1
            self._done += 1
        self._done += self._left.pop(path, 0)

    def share(self) -> float:
        """Return the share of the work that is done, 0..1; what was returned once is the least."""
        rate = self._opened_segments / self._opened_bytes if self._opened_bytes else 0.0
        total = self._known + max(len(self._unopened), self._unopened_bytes * rate)
        self._share = max(self._share, self._done / total if total else 1.0)
        return self._share
