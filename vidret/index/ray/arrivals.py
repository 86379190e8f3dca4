"""What comes back from the workers, in any order and some of it twice, becomes the index: each segment once."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from vidret.errors import VidretError
from vidret.index.ray.rows import Broken, Content, Encoded, Ended, Failed
from vidret.index.run_state import FileJob, RunState
from vidret.store.records import NewSegment


class Arrivals:
    """The contents of one run, of each what arrived; ``spent`` sums up what each stage did and how long it took."""

    def __init__(self, run_state: RunState, contents: Sequence[Content]) -> None:
        """Expect contents, numbered in their order."""
        self._run_state, self._contents = run_state, contents
        self._videos: dict[int, int] = {}  # of a content
        self._numbers: defaultdict[int, set[int]] = defaultdict(set)  # of its segments that arrived
        self._ended: dict[int, Ended] = {}
        self._failed: set[int] = set()
        self._closed: set[int] = set()
        self.spent: defaultdict[str, float] = defaultdict(float)

    def take(self, rows: Iterable[tuple[Any, Any]]) -> None:
        """Store what rows say, their segments in one transaction.

        Raises:
            VidretError: A worker cannot go on, or the index cannot be written.
        """
        since = time.monotonic()
        segments: list[tuple[FileJob, NewSegment]] = []
        touched = set()
        for about, payload in rows:
            match about:
                case Encoded(part=part):
                    touched.add(part.content)
                    if part.content not in self._closed and part.number not in self._numbers[part.content]:
                        segments.append(self._unpack(about, bytes(payload)))
                case Ended():
                    touched.add(about.content)
                    self._ended.setdefault(about.content, about)
                case Failed():
                    self._fail(about)
                case Broken():
                    raise VidretError(about.reason)
        if segments:
            self._run_state.add(segments)
        for number in sorted(touched - self._closed):
            self._close(number)
        self.spent["store"] += time.monotonic() - since

    def _unpack(self, encoded: Encoded, packed: bytes) -> tuple[FileJob, NewSegment]:
        part = encoded.part
        self._numbers[part.content].add(part.number)
        self.spent["video"] += part.end - part.start
        self.spent["decode"] += part.seconds
        self.spent["encode"] += encoded.seconds
        self.spent["segments"] += 1
        job = self._run_state.jobs[part.file]
        if part.content not in self._videos:
            alive = None if part.file in self._failed else job
            self._videos[part.content] = self._run_state.begin(
                alive, self._contents[part.content].fingerprint, part.opened
            )
        video = self._videos[part.content]
        segment = NewSegment(video, part.number, part.start, part.end, encoded.embedding, packed)
        return job, segment

    def _fail(self, failed: Failed) -> None:
        if failed.file not in self._failed:
            self._failed.add(failed.file)
            job = self._run_state.jobs[failed.file]
            self._run_state.fail(job.path, failed.error, job)

    def _close(self, number: int) -> None:
        """Finish a content of which everything arrived, and link its copies to it."""
        ended = self._ended.get(number)
        if ended is None or len(self._numbers[number]) < ended.num_parts:
            return
        self._closed.add(number)
        del self._numbers[number]
        jobs = self._run_state.jobs
        video = self._videos.get(number)
        if video is None:  # all of it was stored before
            video = self._run_state.begin(jobs[ended.file], self._contents[number].fingerprint, ended.opened)
        self._run_state.store.finish_video(video, salvaged=ended.salvaged)
        for file, _ in self._contents[number].files:
            if file not in self._failed:
                self._run_state.link(jobs[file], video, encoded=file == ended.file)
