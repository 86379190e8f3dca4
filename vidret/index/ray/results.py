"""Store the words that workers send, each source of a content in the order in which it was read."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vidret.channels.texts.run import ContentWords, WordsRun
from vidret.encode.sentences import DIM
from vidret.errors import VidretError
from vidret.index.progress import FileJob
from vidret.index.ray.rows import (
    ContentFinished,
    ContentTask,
    EncodedRow,
    FileFailed,
    RunFailed,
    TextPosition,
    TextsRow,
)
from vidret.index.run_state import RunState
from vidret.store.records import NewSegment
from vidret.types import TextSource
from vidret.video.workers.messages import ReadTexts

Waiting = list[tuple[TextsRow, bytes]]


class TextsWriter:
    """Stores words that arrive in any order and with repetitions.

    A track remembers up to where it was read, and the next run goes on from there. So a message waits until all that
    come before it are stored: whenever the run is killed, nothing is left out. What is repeated changes nothing, since
    the store knows its texts.
    """

    def __init__(self, words: WordsRun | None, contents: Sequence[ContentTask]) -> None:
        """Expect words of these contents, which are numbered in order."""
        self._words, self._contents = words, contents
        self._reading: dict[int, ContentWords] = {}  # by content
        self._finished: set[int] = set()
        self._positions: dict[tuple[int, TextSource], TextPosition] = {}
        self._waiting: defaultdict[tuple[int, TextSource], Waiting] = defaultdict(list)

    def write(self, row: TextsRow, vectors: Any) -> bool:
        """Store a message, with all that waited for it; return whether it was the last one of its content."""
        if row.content_index in self._finished:
            return False
        key = row.content_index, row.message.source
        reading = self._begin(row)
        waiting = self._waiting[key]
        waiting.append((row, bytes(vectors)))
        waiting.sort(key=lambda each: (each[0].start, not isinstance(each[0].message, ReadTexts)))
        while waiting and waiting[0][0].start <= self._positions[key]:
            next_row, data = waiting.pop(0)
            self._store(reading, next_row, data)
        if reading.remaining:
            return False
        self._finished.add(row.content_index)
        del self._reading[row.content_index]
        return True

    def _begin(self, row: TextsRow) -> ContentWords:
        """Begin to store the words of a content, or go on."""
        content_index = row.content_index
        if content_index not in self._reading:
            task = self._contents[content_index].words
            assert self._words is not None
            assert task is not None
            self._reading[content_index] = self._words.begin(task.fingerprint, task.paths, row.duration_s)
            self._reading[content_index].request()
            for source, options in task.request.items():
                self._positions[content_index, source] = TextPosition(float(options["start_s"]))
        return self._reading[content_index]

    def _store(self, reading: ContentWords, row: TextsRow, data: bytes) -> None:
        message, key = row.message, (row.content_index, row.message.source)
        if message.source not in reading.remaining:
            return
        if isinstance(message, ReadTexts):
            reading.add(message, np.frombuffer(data, np.float32).reshape(-1, DIM))
            self._positions[key] = max(self._positions[key], row.start.advance(message.until_s))
        else:
            reading.finish(message.source, message.note)


class ResultWriter:
    """Writes the results of a run to the store; ``spent`` sums up the output and seconds of each stage."""

    def __init__(self, run_state: RunState, contents: Sequence[ContentTask]) -> None:
        """Expect results of these contents, which are numbered in order."""
        self._run_state, self._contents = run_state, contents
        self._video_ids: dict[int, int] = {}  # by content
        self._received: defaultdict[int, set[int]] = defaultdict(set)  # numbers of segments, by content
        self._finished: dict[int, ContentFinished] = {}
        self._failed_jobs: set[int] = set()
        self._ended_jobs: set[int] = set()  # of which only words were read, or could not be read
        self._texts = TextsWriter(run_state.words, contents)
        self._closed: set[int] = set()
        self.spent: defaultdict[str, float] = defaultdict(float)

    def write(self, rows: Iterable[tuple[Any, Any]]) -> None:
        """Store the results in rows, all segments in one transaction.

        Raises:
            VidretError: A worker reports that the run must end, or the index cannot be written.
        """
        since = time.monotonic()
        segments: list[tuple[FileJob, NewSegment]] = []
        touched = set()
        for value, payload in rows:
            match value:
                case EncodedRow(segment=segment):
                    content_index = segment.content_index
                    touched.add(content_index)
                    if content_index not in self._closed and segment.number not in self._received[content_index]:
                        segments.append(self._receive(value, bytes(payload)))
                case ContentFinished():
                    touched.add(value.content_index)
                    self._finished.setdefault(value.content_index, value)
                case TextsRow():
                    if self._texts.write(value, payload):
                        self._end_words(value.content_index)
                case FileFailed():
                    self._fail(value)
                case RunFailed():
                    raise VidretError(value.reason)
        if segments:
            self._run_state.add(segments)
        for content_index in sorted(touched - self._closed):
            self._close(content_index)
        self.spent["store"] += time.monotonic() - since

    def _receive(self, row: EncodedRow, packed: bytes) -> tuple[FileJob, NewSegment]:
        segment = row.segment
        self._received[segment.content_index].add(segment.number)
        self.spent["video"] += segment.end - segment.start
        self.spent["decode"] += segment.seconds
        self.spent["encode"] += row.seconds
        self.spent["segments"] += 1
        job = self._run_state.jobs[segment.job_index]
        if segment.content_index not in self._video_ids:
            fingerprint = self._contents[segment.content_index].fingerprint
            running_job = None if segment.job_index in self._failed_jobs else job
            self._video_ids[segment.content_index] = self._run_state.begin(running_job, fingerprint, segment.opened)
        video_id = self._video_ids[segment.content_index]
        return job, NewSegment(
            video_id, segment.number, segment.start, segment.end, row.embedding, packed, segment.shots
        )

    def _end_words(self, content_index: int) -> None:
        """Count the files of a content of which only words were read."""
        for job_index, _ in self._contents[content_index].files:
            if self._run_state.jobs[job_index].is_stored and job_index not in self._ended_jobs:
                self._ended_jobs.add(job_index)
                self._run_state.end_words(self._run_state.jobs[job_index])

    def _fail(self, failed: FileFailed) -> None:
        if failed.words_only:
            if failed.job_index not in self._ended_jobs:
                self._ended_jobs.add(failed.job_index)
                self._run_state.end_words(self._run_state.jobs[failed.job_index], failed.error)
            return
        if failed.job_index not in self._failed_jobs:
            self._failed_jobs.add(failed.job_index)
            job = self._run_state.jobs[failed.job_index]
            self._run_state.fail(job.path, failed.error, job)

    def _close(self, content_index: int) -> None:
        """Finish a content if all its segments have arrived, and link its files to it."""
        finished = self._finished.get(content_index)
        if finished is None or len(self._received[content_index]) < finished.num_segments:
            return
        self._closed.add(content_index)
        del self._received[content_index]
        jobs, content = self._run_state.jobs, self._contents[content_index]
        video_id = self._video_ids.get(content_index)
        if video_id is None:  # all segments were stored before
            video_id = self._run_state.begin(jobs[finished.job_index], content.fingerprint, finished.opened)
        self._run_state.store.writer.finish_video(video_id, salvaged=finished.salvaged)
        for job_index, _ in content.files:
            if job_index not in self._failed_jobs:
                self._run_state.link(jobs[job_index], video_id, encoded=job_index == finished.job_index)
