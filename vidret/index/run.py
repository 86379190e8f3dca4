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
from vidret.index.progress import IndexReport, Progress
from vidret.index.run_state import (
    SEGMENTS_AT_ONCE,
    FileJob,
    Pack,
    RunState,
    encode_segments,
    open_decoders,
)
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding
from vidret.video.decode import Decoder
from vidret.video.identity import Identity, check_unchanged, identify
from vidret.video.pool import DecodedSegment, DecodePool, Finished, OpenedVideo

MAX_WORKERS = 16
AHEAD = 2  # segments of a worker that may wait for an accelerator while its file is decoded further

Encode = Callable[[Sequence[Frames]], list[SegmentEmbedding]]


class StopRun(Exception):  # noqa: N818  a request, not an error
    """Unwind a worker after a request to stop."""


def index_files(
    store: Store,
    encoder: Encoder,
    files: Sequence[str],
    *,
    pack: Pack | None = None,
    tokens: bool = True,
    workers: int | None = None,
    decoder: Decoder = "auto",
    device: str = CPU,
    timeout: float = 120.0,
    retry_failed: bool = False,
    prune_below: Sequence[str] | None = None,
    check: Callable[[], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexReport:
    """Bring an index up to date with files.

    A file that cannot be read is kept with its reason and costs the run nothing. An interrupt (Ctrl-C) ends the run
    after the segments in flight; however a run ends, what was committed stays, and the next run goes on from there.

    Args:
        store: The index, open for writing.
        encoder: The encoder that the index was made with.
        files: Absolute paths and addresses, each once, as ``scan`` lists them.
        pack: What makes of an embedding what is stored beside its vectors; nothing unless given.
        tokens: Have embeddings hold their tokens for ``pack``.
        workers: Files worked on at once; the number of usable cores unless given.
        decoder: ``auto``, ``decord`` or ``pyav``.
        device: Where the encoder runs: on any but the CPU it is given several segments at once. With ``cuda:N`` that
            GPU decodes, too; see ``DecodePool``.
        timeout: Seconds a decoder may stay silent before its file fails.
        retry_failed: Look again at files that failed and have not changed since.
        prune_below: Forget files that are gone and lay in one of these folders, and their vectors; none unless given.
        check: Called before the first file is read, and not where there is none to read; what it raises ends the run.
        on_progress: Called from this thread a few times a second.

    Raises:
        VidretError: The index cannot be written, or the decoder fails at each of several files for the same unforeseen
            reason, and at none it works. Files that fail raise nothing.
    """
    run_state = RunState(store, retry_failed=retry_failed)
    run_state.plan(files)
    if not run_state.jobs:
        return run_state.close(prune_below=prune_below)
    if check is not None:
        check()
    workers = max(1, min(workers or count_cores(), MAX_WORKERS, len(run_state.jobs)))
    encode: Encode = partial(encode_segments, encoder, pack=pack, tokens=tokens)
    threads_before = torch.get_num_threads()
    with (
        open_decoders(
            workers, encoder.resize, encoder.sampling, decoder=decoder, device=device, timeout=timeout
        ) as pool,
        EncodingThread(encode) if device != CPU else contextlib.nullcontext() as encoding,
    ):
        try:
            run_state.watch(
                WorkerThreads(run_state, encode, pool, pack=pack, encoding=encoding).threads(workers), on_progress
            )
        finally:
            torch.set_num_threads(threads_before)
    return run_state.close(prune_below=prune_below)


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class EncodingThread:
    """Encode segments of several threads together: all that wait, up to ``SEGMENTS_AT_ONCE``. Use as a context."""

    def __init__(self, encode: Encode) -> None:
        """Take what encodes a batch."""
        self._encode = encode
        self._waiting: queue.SimpleQueue[tuple[Frames, Future[SegmentEmbedding]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def submit(self, frames: Frames) -> Future[SegmentEmbedding]:
        """Return what will hold the segment's embedding, or what went wrong."""
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
        while batch := self._take():
            try:
                embeddings = self._encode([frames for frames, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), embedding in zip(batch, embeddings, strict=True):
                    future.set_result(embedding)

    def _take(self) -> list[tuple[Frames, Future[SegmentEmbedding]]]:
        """Wait for a segment and return it with those that wait, too; nothing at the end."""
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
    """Threads that take jobs until none is left."""

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
        self._claims: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[FileJob] = queue.SimpleQueue()
        for job in run_state.jobs:
            self._jobs.put(job)

    def threads(self, num: int) -> list[threading.Thread]:
        """Give threads to start."""
        return [threading.Thread(target=self._run, daemon=True) for _ in range(num)]

    def _run(self) -> None:
        torch.set_num_threads(1)  # a worker a core: threads within would fight over the cores
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
        seen = identify(job.path, heartbeat=self._go_on)
        job = replace(job, num_bytes=seen.num_bytes, mtime_ns=seen.mtime_ns)
        with self._claim(seen.fingerprint):  # a copy of a file under way waits, and then finds everything stored
            known = self._run_state.find_stored(job, seen.fingerprint)
            video = self._index_content(job, seen) if known is None else known
            self._run_state.link(job, video, encoded=known is None)

    def _go_on(self) -> None:
        if self._run_state.stop.is_set():
            raise StopRun

    def _claim(self, name: str) -> threading.Lock:
        with self._lock:
            return self._claims[name]

    def _index_content(self, job: FileJob, seen: Identity) -> int:
        """Decode and store a file; before anything is stored, its content must still be what was seen."""
        run_state, video = self._run_state, -1
        waiting: deque[tuple[DecodedSegment, Future[SegmentEmbedding]]] = deque()

        def begin(opened: OpenedVideo) -> set[int]:
            nonlocal seen, video
            seen = check_unchanged(job.path, seen)
            video = run_state.begin(job, seen.fingerprint, opened)
            return run_state.store.stored_segments(video)

        def store(num_left: int) -> None:
            while len(waiting) > num_left:
                decoded, future = waiting.popleft()
                embedding = future.result()
                packed = b"" if self._pack is None else self._pack(embedding)
                segment = NewSegment(video, decoded.number, decoded.start, decoded.end, embedding, packed)
                run_state.add([(job, segment)])

        try:
            for message in self._pool.stream(job.path, skip=begin):
                if not isinstance(message, OpenedVideo):
                    seen = check_unchanged(job.path, seen)
                if isinstance(message, DecodedSegment):
                    waiting.append((message, self._submit(message.frames)))
                    store(0 if self._encoding is None else AHEAD)
                elif isinstance(message, Finished):
                    store(0)
                    run_state.store.finish_video(video, salvaged=message.salvaged)
                if not isinstance(message, Finished):
                    self._go_on()
        except (DecodeError, StopRun):
            store(0)  # what was decoded before stays
            raise
        return video

    def _submit(self, frames: Frames) -> Future[SegmentEmbedding]:
        if self._encoding is not None:
            return self._encoding.submit(frames)
        future: Future[SegmentEmbedding] = Future()
        future.set_result(self._encode([frames])[0])
        return future
