"""Indexing on threads of this process: find changed files, decode, encode, store. It can be stopped and resumed.

There is one worker per core. A worker takes a file, lets its own process decode it ahead, and commits its segments,
which one thread per core encodes one at a time. So decoding and encoding share the cores according to their loads, even
with few files. An accelerator is faster with many segments at once: one thread per device encodes the segments that all
workers have ready.
"""

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from vidret.channels.registry import KINDS
from vidret.channels.texts.run import ContentWords
from vidret.encode.encoder import Encoder
from vidret.errors import ChangedError, DecodeError, UnreachableError, VidretError
from vidret.index.options import FileJob, IndexOptions, IndexReport, MomentRecorder
from vidret.index.run_state import RunState, open_run
from vidret.index.stages import LocalStages, Stages, WorkerLostError, count_cores, make_segment
from vidret.index.tracks import ContentTracks
from vidret.store.identities.tracks import IdentityKind
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, TextSource
from vidret.video.identity import Identity
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import (
    Finished,
    FinishedSource,
    OpenedVideo,
    ReadPlan,
    ReadRequest,
    ReadTexts,
    ReadTracks,
)


def index_files(store: Store, encoder: Encoder, files: Sequence[str], options: IndexOptions) -> IndexReport:
    """Index the new and changed files among these absolute paths and URLs.

    A file that cannot be read is recorded with the reason and does not stop the run. An interrupt (Ctrl-C) ends the run
    after the segments in progress. Committed segments always stay, and the next run continues from there.

    Raises:
        VidretError: The index cannot be written, or the decoder fails on each of several files for the same unexpected
            reason. Single files that fail raise nothing.
    """
    with open_run(store, options) as run_state:
        if run_state.prepare(files, options.check):
            num_workers, run_state.workers = choose_workers(options.workers, len(run_state.jobs))
            with LocalStages(encoder, options, num_workers) as stages:
                run_workers(run_state, stages, num_workers, options)
        return run_state.close(prune_below=options.prune_below)


def run_workers(run_state: RunState, stages: Stages, num_workers: int, options: IndexOptions) -> None:
    """Process a run's jobs on ``num_workers`` threads; see ``RunState.watch``."""
    import torch  # not above: a run without new files does not need it, and decoders start during the import

    num_threads = torch.get_num_threads()
    try:
        workers = WorkerThreads(run_state, stages, moments=options.moments)
        run_state.watch(workers.make(num_workers), options.on_progress)
    finally:
        torch.set_num_threads(num_threads)


def choose_workers(wanted: int | None, num_jobs: int) -> tuple[int, str]:
    """Return the number of files to read at once, and a sentence with the reason."""
    num_cores = count_cores()
    num_workers = min(wanted or num_cores, num_jobs)
    if num_workers == num_jobs:
        reason = "all that there are to read"
    else:
        reason = "as requested" if wanted else f"one for each of {num_cores} cores"
    return num_workers, f"{num_workers} {'file' if num_workers == 1 else 'files'} at once: {reason}"


MAX_PENDING = 2  # segments per worker that may wait for encoding while it decodes ahead
MAX_LOSSES = 10  # lost workers in a row before a segment of the file is stored
LOSS_PAUSE_S = 1.0


class StopRun(Exception):  # noqa: N818  a request, not an error
    """A request to stop, raised to unwind a worker."""


class WorkerThreads:
    """Threads that process the jobs of a run until none is left."""

    def __init__(self, run_state: RunState, stages: Stages, *, moments: MomentRecorder | None = None) -> None:
        self._run_state, self._stages, self._moments = run_state, stages, moments
        self._content_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._num_workers = self._num_busy = 0
        self._jobs: queue.SimpleQueue[FileJob] = queue.SimpleQueue()
        for job in run_state.jobs:
            self._jobs.put(job)

    def make(self, num_workers: int) -> list[threading.Thread]:
        """Return the threads, not yet started."""
        self._num_workers = num_workers
        return [threading.Thread(target=self._run, name="worker", daemon=True) for _ in range(num_workers)]

    def _count_threads(self) -> int:
        """Return the number of decoding threads for the next file: its share of the cores among files in progress."""
        num_files = min(self._num_workers, self._num_busy + self._jobs.qsize())
        return max(1, count_cores() // max(1, num_files))

    def _run(self) -> None:
        import torch

        torch.set_num_threads(1)  # one worker per core
        try:
            while not self._run_state.stop.is_set():
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
                with self._lock:
                    self._num_busy += 1
                try:
                    self._index_file(job)
                except DecodeError as error:
                    if job.is_stored:
                        self._run_state.end_words(job, error)
                    else:
                        self._run_state.fail(job.path, error, job)
                with self._lock:
                    self._num_busy -= 1
        except StopRun:
            return
        except BaseException as error:
            self._run_state.end(error)

    def _index_file(self, job: FileJob) -> None:
        run_state, identity = self._run_state, self._stages.identify(job.path, self._check_stop)
        job = replace(job, num_bytes=identity.num_bytes, mtime_ns=identity.mtime_ns)
        with self._lock_content(identity.fingerprint):  # a copy of the file waits, and then finds its content stored
            video_id = run_state.store.videos.find_complete(identity.fingerprint)
            if video_id is None:
                reading = _Reading(replace(job, is_stored=False), identity)
                self._read_file(reading)
                run_state.link(job, reading.video_id, encoded=True)
                return
            if not job.is_stored:
                run_state.link(job, video_id, encoded=False)
            if run_state.is_more_wanted(identity.fingerprint, self._list_paths(job, video_id)):
                self._read_words(job, identity, video_id)
            if job.is_stored:
                run_state.end_words(job)

    def _read_words(self, job: FileJob, identity: Identity, video_id: int) -> None:
        """Read only the words, faces and voices of a file; the next run retries any that cannot be read."""
        try:
            self._read_file(_Reading(job, identity, video_id, has_pictures=True))
        except DecodeError as error:
            if job.is_stored:
                raise
            self._run_state.end_words(job, error)

    def _list_paths(self, job: FileJob, video_id: int) -> Iterator[str]:
        """Yield the paths of a video, looked up lazily; a path that is still to be read may hold other content."""
        files = self._run_state.store.files.of_video(video_id)
        yield from sorted({job.path} | {record.path for record in files if record.state == "done"})

    def _check_stop(self) -> None:
        if self._run_state.stop.is_set():
            raise StopRun

    def _lock_content(self, fingerprint: str) -> threading.Lock:
        with self._lock:
            return self._content_locks[fingerprint]

    def _read_file(self, reading: "_Reading") -> None:
        """Decode, encode and store a file with its words; retry without a source that makes the decoder fail."""
        while True:
            try:
                self._decode(reading)
                return
            except WorkerLostError as error:  # stored segments stay
                reading.num_losses += 1
                if reading.num_losses > MAX_LOSSES:
                    raise VidretError(f"the workers of the run are gone: {error}") from error
                if self._run_state.stop.wait(LOSS_PAUSE_S):
                    raise StopRun from error
            except ChangedError:
                raise
            except UnreachableError as error:
                if reading.job.is_stored or not reading.has_pictures:
                    raise
                self._run_state.end_words(reading.job, error)
                return
            except DecodeError as error:
                if not reading.give_up_words(error.reason):
                    raise
                if reading.has_pictures and not reading.is_more_wanted:
                    return

    def _decode(self, reading: "_Reading") -> None:
        run_state, job = self._run_state, reading.job
        pending: deque[tuple[DecodedSegment, Future[SegmentEmbedding]]] = deque()

        def store(max_pending: int) -> None:
            while len(pending) > max_pending:
                decoded, future = pending.popleft()
                segment = make_segment(
                    reading.video_id,
                    decoded,
                    future.result(),
                    content=reading.identity.fingerprint,
                    start_s=reading.start_s,
                    pack=self._stages.pack,
                    moments=self._moments,
                )
                run_state.add(job, segment)
                reading.num_losses = 0

        reading.is_decoding, plan = True, partial(self._plan, reading)
        try:
            for message in self._stages.stream(job.path, reading.identity, plan, self._count_threads()):
                match message:
                    case OpenedVideo() if not reading.has_pictures:
                        reading.start_s = message.start
                        reading.video_id = run_state.begin(job, reading.identity.fingerprint, message)
                    case DecodedSegment():
                        pending.append((message, self._stages.encode(message.frames)))
                        store(MAX_PENDING)
                    case Finished():
                        store(0)
                        reading.is_decoding = False
                        if not reading.has_pictures:
                            self._finish_moments(reading)
                            run_state.store.writer.finish_video(reading.video_id, salvaged=message.salvaged)
                            reading.has_pictures = True
                    case ReadTexts() if reading.words is not None:
                        reading.words.add(message, self._stages.embed(message, reading.words.space))
                    case ReadTracks() if reading.tracks is not None:
                        reading.tracks.add(message)
                    case FinishedSource(("face" | "voice") as kind, note) if reading.tracks is not None:
                        reading.tracks.finish(kind, note)
                    case FinishedSource(source, note) if reading.words is not None:
                        reading.words.finish(cast(TextSource, source), note)
                if run_state.stop.is_set() and not isinstance(message, Finished):
                    if reading.has_pictures:
                        break  # the next run reads the other words
                    raise StopRun
        except (DecodeError, StopRun):
            store(0)  # keep the segments that were decoded before
            raise

    def _finish_moments(self, reading: "_Reading") -> None:
        """Join the features for a grounding head; the video is not complete yet, so that the next run can repeat it."""
        if self._moments is not None:
            store = self._run_state.store
            segments = store.segments.get(store.segments.ids_of_video(reading.video_id))
            content = reading.identity.fingerprint
            self._moments.finish(reading.job.path, content, segments, first=reading.start_s)

    def _plan(self, reading: "_Reading", opened: OpenedVideo) -> ReadPlan:
        """Return the plan for an opened file: the segments that are not stored, and its words."""
        words, segments = self._request_words(reading, opened), self._run_state.store.segments
        if reading.has_pictures:
            return ReadPlan({segment_index for segment_index, _, _ in opened.cuts}, None, words)
        num_stored, end_s = segments.resume_point(reading.video_id)
        start = num_stored, opened.start if end_s is None else end_s
        return ReadPlan(segments.stored_indices(reading.video_id) if opened.cuts else (), start, words)

    def _request_words(self, reading: "_Reading", opened: OpenedVideo) -> ReadRequest:
        """Return which words to read of an opened file, and whether to read its faces and voices."""
        words, tracks, request = self._run_state.words, self._run_state.tracks, dict[Any, Mapping[str, Any]]()
        fingerprint = reading.identity.fingerprint
        if tracks is not None:
            reading.tracks = reading.tracks or ContentTracks(tracks, fingerprint, reading.job.path)
            request |= reading.tracks.request(opened.start)
        if words is None:
            return request
        if reading.words is None:
            paths = self._list_paths(reading.job, reading.video_id)
            reading.words = words.begin(fingerprint, paths, opened.duration)
        request |= reading.words.request()
        for source in [name for name in reading.words.remaining if KINDS[name].load_frame_reader is not None]:
            # The sampled frames of a segment follow from its start.
            store, start_s = self._run_state.store, request[source]["start_s"]
            stored = store.segments.get(store.segments.ids_of_video(reading.video_id))
            first = max(
                ((segment.number, segment.start) for segment in stored if segment.start <= start_s), default=None
            )
            request[source] = {**request[source], "segment": first}
        return request


@dataclass(slots=True)
class _Reading:
    """The state of reading one file: its video, its words, and its faces and voices, each once begun.

    ``num_losses`` counts the workers lost since the last segment was stored. A video that ``has_pictures`` lacks only
    words; while frames are decoded, texts are read from them, too.
    """

    job: FileJob
    identity: Identity
    video_id: int = -1
    start_s: float = 0.0
    num_losses: int = 0
    has_pictures: bool = False
    is_decoding: bool = False
    words: ContentWords | None = None
    tracks: ContentTracks | None = None

    @property
    def is_more_wanted(self) -> bool:
        """Whether words, faces or voices remain to be read."""
        return any(pending is not None and pending.remaining for pending in (self.words, self.tracks))

    def give_up_words(self, reason: str) -> bool:
        """Abandon the source that was being read when the decoder failed; return False if there is none."""
        words = self.words
        if words is not None:
            for source in words.remaining:  # in reading order
                if (KINDS[source].load_frame_reader is not None) == self.is_decoding:
                    words.finish(source, reason)
                    return True
        kind: IdentityKind = "face" if self.is_decoding else "voice"
        if self.tracks is None or kind not in self.tracks.remaining:
            return False
        self.tracks.finish(kind, reason)
        return True
