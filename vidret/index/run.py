"""Index files with threads of this process: see what changed, decode, encode, store; stop and resume at any time.

There is one worker per core. A worker takes a file, has a process of its own decode it ahead, encodes each segment on
one thread and commits it. So decoding and encoding share the cores as their loads require, and there is no queue to
tune. An accelerator is faster with many segments at once: one thread encodes the segments that all workers have ready.
"""

import contextlib
import os
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import torch

from vidret.devices import CPU
from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError
from vidret.index.options import IndexOptions, Pack
from vidret.index.progress import IndexReport
from vidret.index.run_state import FileJob, RunState
from vidret.index.stages import SEGMENTS_AT_ONCE, encode_segments, open_decoders
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding
from vidret.video.identity import Identity, check_unchanged, identify
from vidret.video.pool import DecodedSegment, DecodePool, Finished, OpenedVideo

MAX_WORKERS = 16
MAX_PENDING = 2  # segments of a worker that may wait for an accelerator while it decodes ahead

Encode = Callable[[Sequence[Frames]], list[SegmentEmbedding]]


class StopRun(Exception):  # noqa: N818  a request, not an error
    """Raised in a worker to unwind it after a request to stop."""


def index_files(store: Store, encoder: Encoder, files: Sequence[str], options: IndexOptions) -> IndexReport:
    """Index the files that are new or changed.

    A file that cannot be read is recorded with its reason and does not stop the run. An interrupt (Ctrl-C) ends the run
    after the segments in progress. However a run ends, committed segments stay, and the next run continues from there.

    Args:
        store: The index, open for writing.
        encoder: The encoder of the index.
        files: Absolute paths and URLs without duplicates, as returned by ``scan``.
        options: The options of the run.

    Raises:
        VidretError: The index cannot be written, or the decoder fails on each of several files for the same unexpected
            reason. Single files that fail raise nothing.
    """
    run_state = RunState(store, retry_failed=options.retry_failed)
    run_state.plan(files)
    if not run_state.jobs:
        return run_state.close(prune_below=options.prune_below)
    if options.check is not None:
        options.check()
    num_workers = max(1, min(options.workers or count_cores(), MAX_WORKERS, len(run_state.jobs)))
    encode: Encode = partial(encode_segments, encoder, pack=options.pack, tokens=options.tokens)
    num_threads = torch.get_num_threads()
    with (
        open_decoders(
            num_workers,
            encoder.resize,
            encoder.sampling,
            decoder=options.decoder,
            device=options.device,
            timeout=options.timeout,
        ) as pool,
        EncodingThread(encode) if options.device != CPU else contextlib.nullcontext() as encoding,
    ):
        try:
            workers = WorkerThreads(run_state, encode, pool, pack=options.pack, encoding=encoding)
            run_state.watch(workers.make(num_workers), options.on_progress)
        finally:
            torch.set_num_threads(num_threads)
    return run_state.close(prune_below=options.prune_below)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EncodingThread:
    """A thread that encodes the waiting segments of all workers together, up to ``SEGMENTS_AT_ONCE``.

    Use it as a context manager.
    """

    def __init__(self, encode: Encode) -> None:
        """Set the function that encodes a batch."""
        self._encode = encode
        self._waiting: queue.SimpleQueue[tuple[Frames, Future[SegmentEmbedding]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def submit(self, frames: Frames) -> Future[SegmentEmbedding]:
        """Return a future for the embedding of a segment."""
        future: Future[SegmentEmbedding] = Future()
        self._waiting.put((frames, future))
        return future

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)

    def _run(self) -> None:
        torch.set_num_threads(1)
        while batch := self._next_batch():
            try:
                embeddings = self._encode([frames for frames, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), embedding in zip(batch, embeddings, strict=True):
                    future.set_result(embedding)

    def _next_batch(self) -> list[tuple[Frames, Future[SegmentEmbedding]]]:
        """Wait for a segment, and return it with the others that are waiting; an empty batch ends the thread."""
        batch: list[tuple[Frames, Future[SegmentEmbedding]]] = []
        while not batch or (len(batch) < SEGMENTS_AT_ONCE and not self._waiting.empty()):
            segment = self._waiting.get()
            if segment is None:
                if batch:
                    self._waiting.put(None)  # for the next call
                break
            batch.append(segment)
        return batch


class WorkerThreads:
    """Threads that process the jobs of a run until none is left."""

    def __init__(
        self,
        run_state: RunState,
        encode: Encode,
        pool: DecodePool,
        *,
        pack: Pack | None,
        encoding: EncodingThread | None = None,
    ) -> None:
        self._run_state, self._encode, self._pool, self._pack, self._encoding = run_state, encode, pool, pack, encoding
        self._content_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[FileJob] = queue.SimpleQueue()
        for job in run_state.jobs:
            self._jobs.put(job)

    def make(self, num_threads: int) -> list[threading.Thread]:
        """Return threads that are not started yet."""
        return [threading.Thread(target=self._run, daemon=True) for _ in range(num_threads)]

    def _run(self) -> None:
        torch.set_num_threads(1)  # there is a worker for each core
        try:
            while not self._run_state.stop.is_set():
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._index_file(job)
                except DecodeError as error:
                    self._run_state.fail(job.path, error, job)
        except StopRun:
            return
        except BaseException as error:
            self._run_state.end(error)

    def _index_file(self, job: FileJob) -> None:
        identity = identify(job.path, heartbeat=self._check_stop)
        job = replace(job, num_bytes=identity.num_bytes, mtime_ns=identity.mtime_ns)
        with self._lock_content(identity.fingerprint):  # a copy waits, and then finds its content stored
            stored_id = self._run_state.find_stored(job, identity.fingerprint)
            video_id = self._index_content(job, identity) if stored_id is None else stored_id
            self._run_state.link(job, video_id, encoded=stored_id is None)

    def _check_stop(self) -> None:
        if self._run_state.stop.is_set():
            raise StopRun

    def _lock_content(self, fingerprint: str) -> threading.Lock:
        with self._lock:
            return self._content_locks[fingerprint]

    def _index_content(self, job: FileJob, identity: Identity) -> int:
        """Decode, encode and store a file, and return the id of its video.

        Raises:
            ChangedError: The file changed while it was read.
        """
        run_state, video_id = self._run_state, -1
        pending: deque[tuple[DecodedSegment, Future[SegmentEmbedding]]] = deque()

        def begin(opened: OpenedVideo) -> set[int]:
            nonlocal identity, video_id
            identity = check_unchanged(job.path, identity)
            video_id = run_state.begin(job, identity.fingerprint, opened)
            return run_state.store.stored_segments(video_id)

        def store(max_pending: int) -> None:
            while len(pending) > max_pending:
                decoded, future = pending.popleft()
                embedding = future.result()
                packed = b"" if self._pack is None else self._pack(embedding)
                segment = NewSegment(video_id, decoded.number, decoded.start, decoded.end, embedding, packed)
                run_state.add([(job, segment)])

        try:
            for message in self._pool.stream(job.path, skip=begin):
                if not isinstance(message, OpenedVideo):
                    identity = check_unchanged(job.path, identity)
                if isinstance(message, DecodedSegment):
                    pending.append((message, self._submit(message.frames)))
                    store(0 if self._encoding is None else MAX_PENDING)
                elif isinstance(message, Finished):
                    store(0)
                    run_state.store.finish_video(video_id, salvaged=message.salvaged)
                if not isinstance(message, Finished):
                    self._check_stop()
        except (DecodeError, StopRun):
            store(0)  # keep the segments that were decoded before
            raise
        return video_id

    def _submit(self, frames: Frames) -> Future[SegmentEmbedding]:
        if self._encoding is not None:
            return self._encoding.submit(frames)
        future: Future[SegmentEmbedding] = Future()
        future.set_result(self._encode([frames])[0])
        return future
