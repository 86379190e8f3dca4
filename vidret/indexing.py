"""From paths to stored segments: list the files, see what changed, decode, encode, store; stop and resume at any time.

Work runs in lanes, one a core. A lane takes a file, has a process of its own decode it ahead, encodes each segment on
one thread and commits it. Decoding and encoding so share the cores as the load of each asks for, and there is no queue
to tune. On a GPU the lanes take turns on the device.
"""

import logging
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError
from vidret.store.records import FileRecord, PruneReport
from vidret.store.store import Store
from vidret.types import SegmentEmbedding
from vidret.video.content import fingerprint, look_at
from vidret.video.decode import Decoder, Device
from vidret.video.pool import DecodedSegment, DecodePool, Finished, Opened

logger = logging.getLogger(__name__)

MAX_LANES = 16
POLL = 0.1  # seconds between looks at the progress


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: files, video seconds and segments encoded, and ``share`` (0..1) of the bytes to read."""

    num_files: int
    done: int
    failed: int
    num_segments: int
    seconds: float
    share: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a run did. ``linked`` files hold content that was stored already: moved, renamed or copied ones."""

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


@dataclass(frozen=True, slots=True)
class Job:
    """A file to look into, and what the file system says of it."""

    path: str
    num_bytes: int
    mtime_ns: int


class StopRun(Exception):  # noqa: N818  a request, not an error
    """Unwind a lane after a request to stop."""


def index_files(
    store: Store,
    encoder: Encoder,
    files: Sequence[str],
    *,
    pack: Callable[[SegmentEmbedding], bytes] | None = None,
    tokens: bool = True,
    lanes: int | None = None,
    decoder: Decoder = "auto",
    device: Device = "cpu",
    timeout: float = 120.0,
    retry_failed: bool = False,
    prune: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> IndexReport:
    """Bring an index up to date with files.

    A file that cannot be read is kept with its reason and costs the run nothing. An interrupt (Ctrl-C) ends the run
    after the segments in flight; however a run ends, what was committed stays, and the next run goes on from there.

    Args:
        store: The index, open for writing.
        encoder: The encoder that the index was made with.
        files: Absolute paths, each once, as ``scan`` lists them.
        pack: What makes of an embedding what is stored beside its vectors; nothing unless given.
        tokens: Have embeddings hold their tokens for ``pack``.
        lanes: Files worked on at once; the number of usable cores unless given.
        decoder: ``auto``, ``decord`` or ``pyav``.
        device: ``cuda`` decodes on the GPU where Decord was built for it.
        timeout: Seconds a decoder may stay silent before its file fails.
        retry_failed: Look again at files that failed and have not changed since.
        prune: Forget files that are gone, and their vectors.
        on_progress: Called from this thread a few times a second.

    Raises:
        VidretError: The index cannot be written. Files that fail raise nothing.
    """
    started = time.monotonic()
    run = IndexRun(store, encoder, pack=pack, tokens=tokens, retry_failed=retry_failed)
    run.triage(files)
    run.note_missing(set(files))
    lanes = max(1, min(lanes or count_cores(), MAX_LANES, len(run.jobs) or 1))
    sampling = encoder.sampling
    with DecodePool(
        lanes,
        decoder=decoder,
        device=device,
        resize=encoder.resize,
        num_frames=sampling.num_frames,
        fps=sampling.fps,
        whole=sampling.whole,
        timeout=timeout,
    ) as pool:
        run.work(pool, lanes, on_progress or (lambda _: None), started)
    pruned = store.prune() if prune and not run.interrupted else None
    store.save_vectors()
    return run.report(time.monotonic() - started, pruned)


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class IndexRun:
    """One run's jobs and counts; its lanes share it under one lock."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        *,
        pack: Callable[[SegmentEmbedding], bytes] | None,
        tokens: bool,
        retry_failed: bool,
    ) -> None:
        self.store, self.encoder, self.pack, self.retry_failed = store, encoder, pack, retry_failed
        self.tokens = tokens and pack is not None
        self.jobs: list[Job] = []
        self.interrupted = False
        self._stop = threading.Event()
        self._fatal: BaseException | None = None
        self._lock = threading.Lock()
        self._claims: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._counts: dict[str, int] = defaultdict(int)
        self._failed: list[tuple[str, str]] = []
        self._salvaged: list[tuple[str, str]] = []
        self._shares: dict[str, float] = {}
        self._seconds = 0.0

    # What is to be done

    def triage(self, files: Sequence[str]) -> None:
        """Sort the files into jobs and such that need none; the largest come first, so that the lanes end together."""
        known = {record.path: record for record in self.store.files()}
        for path in files:
            record = known.get(path)
            try:
                about = look_at(path)
            except DecodeError as error:
                self._fail(path, error.reason)
                continue
            job = Job(path, about.st_size, about.st_mtime_ns)
            if record is None or (record.num_bytes, record.mtime_ns) != (job.num_bytes, job.mtime_ns):
                self._plan(job)
            else:
                self._triage_unchanged(job, record)
        self.jobs.sort(key=lambda job: -job.num_bytes)

    def _triage_unchanged(self, job: Job, record: FileRecord) -> None:
        whole = record.video is not None and self.store.video(record.video).complete
        if record.state in ("done", "missing") and whole:
            self._counts["unchanged"] += 1
            if record.state == "missing":  # it came back
                self.store.set_file(job.path, state="done")
        elif record.state == "failed" and not self.retry_failed:
            self._failed.append((job.path, record.reason))
        else:
            self._plan(job)

    def _plan(self, job: Job) -> None:
        self.jobs.append(job)
        self.store.set_file(job.path, state="pending")

    def note_missing(self, listed: set[str]) -> None:
        """Mark the files that the index knows and the disk no longer has; one that is back is found by its scan."""
        for record in self.store.files():
            if record.path not in listed and not os.path.lexists(record.path):
                self._counts["missing"] += 1
                if record.state != "missing":
                    self.store.set_file(record.path, state="missing", reason="the file is gone")

    # Doing it

    def work(self, pool: DecodePool, lanes: int, on_progress: Callable[[Progress], None], started: float) -> None:
        """Run the lanes to their end, or to the end of their segments when interrupted; raise what broke one."""
        jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in self.jobs:
            jobs.put(job)
        threads_before = torch.get_num_threads()
        threads = [threading.Thread(target=self._lane, args=(jobs, pool), daemon=True) for _ in range(lanes)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                try:
                    time.sleep(POLL)
                    on_progress(self._progress(time.monotonic() - started))
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
                    self._stop.set()
        finally:
            self._stop.set()
            torch.set_num_threads(threads_before)
        if self._fatal is not None:
            raise self._fatal

    def _lane(self, jobs: "queue.SimpleQueue[Job]", pool: DecodePool) -> None:
        torch.set_num_threads(1)  # a lane a core: threads within would fight over the cores
        try:
            while not self._stop.is_set():
                try:
                    job = jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._index_file(job, pool)
                except DecodeError as error:
                    self._fail(job.path, error.reason, job)
        except StopRun:
            return
        except BaseException as error:  # the disk is full, the model broke: nothing that the next file would mend
            self._fatal = self._fatal or error
            self._stop.set()

    def _index_file(self, job: Job, pool: DecodePool) -> None:
        name = fingerprint(job.path)
        with self._claim(name):  # a copy of a file under way waits, and then finds everything stored
            video = self.store.is_complete(name)
            kind = "encoded" if video is None else "linked"
            if video is None:
                video = self._encode(job, pool)
            self.store.set_file(
                job.path, state="done", reason="", video=video, num_bytes=job.num_bytes, mtime_ns=job.mtime_ns
            )
        salvaged = self.store.video(video).salvaged
        with self._lock:
            self._counts[kind] += 1
            self._shares[job.path] = 1.0
            if salvaged:
                self._salvaged.append((job.path, salvaged))

    def _claim(self, name: str) -> threading.Lock:
        with self._lock:
            return self._claims[name]

    def _encode(self, job: Job, pool: DecodePool) -> int:
        video = -1

        def begin(opened: Opened) -> set[int]:
            nonlocal video
            facts: dict[str, Any] = {**opened.info_facts, "decoder": opened.decoder}
            video = self.store.begin_video(
                opened.fingerprint, duration=opened.duration, facts=facts, num_segments=len(opened.cuts)
            )
            self.store.set_file(job.path, state="running", video=video)
            return self.store.stored_segments(video)

        num_segments = 1
        for message in pool.stream(job.path, skip=begin):
            match message:
                case Opened():
                    num_segments = len(message.cuts)
                case DecodedSegment():
                    embedding = self.encoder.encode_frames([message.frames], tokens=self.tokens)[0]
                    tokens = b"" if self.pack is None else self.pack(embedding)
                    self.store.add_segment(video, message.number, message.start, message.end, embedding, tokens=tokens)
                    with self._lock:
                        self._counts["segments"] += 1
                        self._seconds += message.end - message.start
                        self._shares[job.path] = (message.number + 1) / num_segments
                case Finished():
                    self.store.finish_video(video, salvaged=message.salvaged)
            if self._stop.is_set() and not isinstance(message, Finished):
                raise StopRun
        return video

    def _fail(self, path: str, reason: str, job: Job | None = None) -> None:
        """Keep a file's failure, with what it looked like, so that it is tried again only once it changed."""
        num_bytes, mtime_ns = (job.num_bytes, job.mtime_ns) if job else (None, None)
        self.store.set_file(path, state="failed", reason=reason, num_bytes=num_bytes, mtime_ns=mtime_ns)
        with self._lock:
            self._failed.append((path, reason))
            self._shares[path] = 1.0

    # Telling it

    def _progress(self, elapsed: float) -> Progress:
        with self._lock:
            total = sum(job.num_bytes for job in self.jobs)
            read = sum(job.num_bytes * self._shares.get(job.path, 0.0) for job in self.jobs)
            return Progress(
                num_files=len(self.jobs),
                done=self._counts["encoded"] + self._counts["linked"],
                failed=len(self._failed),
                num_segments=self._counts["segments"],
                seconds=self._seconds,
                share=read / total if total else 1.0,
                elapsed=elapsed,
            )

    def report(self, elapsed: float, pruned: PruneReport | None) -> IndexReport:
        """Sum the run up."""
        return IndexReport(
            encoded=self._counts["encoded"],
            linked=self._counts["linked"],
            unchanged=self._counts["unchanged"],
            missing=self._counts["missing"],
            failed=sorted(self._failed),
            salvaged=sorted(self._salvaged),
            num_segments=self._counts["segments"],
            seconds=self._seconds,
            elapsed=elapsed,
            interrupted=self.interrupted,
            pruned=pruned,
        )
