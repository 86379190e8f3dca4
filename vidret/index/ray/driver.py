"""What the driver of a run does: plan what to read of each content, and store what the workers send."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vidret.channels.texts.run import ContentWords, WordsRun
from vidret.encode.sentences import DIM
from vidret.errors import VidretError
from vidret.index.options import FileJob
from vidret.index.ray.rows import (
    ContentFinished,
    ContentTask,
    EncodedRow,
    FileFailed,
    Fingerprinted,
    RunFailed,
    TextPosition,
    TextsRow,
    WordsTask,
)
from vidret.index.run_state import RunState
from vidret.store.records import NewSegment
from vidret.types import TextSource
from vidret.video.workers.messages import ReadTexts


def plan_contents(run_state: RunState, fingerprinted: Iterable[Fingerprinted]) -> list[ContentTask]:
    """Return the contents to read; link the files whose content is stored, and fail those that cannot be read."""
    jobs = run_state.jobs
    by_fingerprint: defaultdict[str, list[int]] = defaultdict(list)
    stamps: dict[int, tuple[int, ...]] = {}
    for row in fingerprinted:
        if row.identity is not None:
            by_fingerprint[row.identity.fingerprint].append(row.job_index)
            stamps[row.job_index] = row.identity.stamp
        elif row.error is not None and jobs[row.job_index].is_stored:
            run_state.end_words(jobs[row.job_index], row.error)
        elif row.error is not None:
            run_state.fail(jobs[row.job_index].path, row.error, jobs[row.job_index])
    contents: list[ContentTask] = []
    known = run_state.store.find_contents(by_fingerprint)
    intact = run_state.store.videos.find_intact(known.values())
    for fingerprint, indices in sorted(by_fingerprint.items(), key=lambda item: min(item[1])):
        indices.sort()
        stored_id = run_state.store.videos.find_complete(fingerprint)
        words = _plan_words(run_state, fingerprint if stored_id is None else stored_id, indices)
        if stored_id is not None:
            _link_stored(run_state, stored_id, indices, wants_words=words is not None)
            if words is None:
                continue
        content = ContentTask(
            content_index=len(contents),
            fingerprint=fingerprint,
            files=tuple((index, jobs[index].path) for index in indices),
            stamps=tuple(stamps[index] for index in indices),
            has_pictures=stored_id is not None,
            words=words,
        )
        contents.append(_resume(run_state, content, known[fingerprint] if known.get(fingerprint) in intact else None))
    return contents


def _plan_words(run_state: RunState, content: str | int, indices: Sequence[int]) -> WordsTask | None:
    """Return which words to read of files, given their fingerprint, or the id of their video if it is stored."""
    words, store = run_state.words, run_state.store
    if words is None:
        return None
    paths = {run_state.jobs[index].path for index in indices}
    if isinstance(content, int):
        paths.update(store.files.paths_of([content])[content])
        content = store.videos.get(content).fingerprint
    request = words.plan(content, sorted(paths))
    return WordsTask(content, tuple(sorted(paths)), request) if request else None


def _link_stored(run_state: RunState, video_id: int, indices: Sequence[int], *, wants_words: bool) -> None:
    """Link files whose pictures are stored, and count those of which nothing else is wanted."""
    for index in indices:
        job = run_state.jobs[index]
        if not job.is_stored:
            run_state.link(job, video_id, encoded=False)
        elif not wants_words:
            run_state.end_words(job)


def _resume(run_state: RunState, content: ContentTask, video_id: int | None) -> ContentTask:
    """Return a task without the segments that are stored."""
    if video_id is None or content.has_pictures:
        return content
    store = run_state.store
    num_stored, end_s = store.segments.resume_point(video_id)
    return replace(
        content,
        stored=frozenset(store.segments.stored_indices(video_id)),
        num_segments=store.videos.get(video_id).num_segments,
        start=None if end_s is None else (num_stored, end_s),
    )


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
        waiting.sort(key=lambda item: (item[0].start, not isinstance(item[0].message, ReadTexts)))
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
