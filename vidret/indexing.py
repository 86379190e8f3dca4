"""From paths to stored segments: list the files, see what changed, decode, encode, store; stop and resume at any time.

Work runs in lanes, one a core. A lane takes a file, has a process of its own decode it ahead, encodes each segment on
one thread and commits it. Decoding and encoding so share the cores as the load of each asks for, and there is no queue
to tune. On a GPU the lanes take turns on the device.
"""

import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError
from vidret.ledger import IndexReport, Job, Ledger, Pack, Progress, encode_segments, open_decoders
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.video.content import Identity, check_unchanged, identify
from vidret.video.decode import Decoder, Device
from vidret.video.pool import DecodedSegment, DecodePool, Finished, Opened

__all__ = ["IndexReport", "Progress", "count_cores", "index_files"]

MAX_LANES = 16


class StopRun(Exception):  # noqa: N818  a request, not an error
    """Unwind a lane after a request to stop."""


def index_files(
    store: Store,
    encoder: Encoder,
    files: Sequence[str],
    *,
    pack: Pack | None = None,
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
        files: Absolute paths and addresses, each once, as ``scan`` lists them.
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
    ledger = Ledger(store, retry_failed=retry_failed)
    ledger.plan(files)
    lanes = max(1, min(lanes or count_cores(), MAX_LANES, len(ledger.jobs) or 1))
    threads_before = torch.get_num_threads()
    with open_decoders(
        lanes, encoder.resize, encoder.sampling, decoder=decoder, device=device, timeout=timeout
    ) as pool:
        try:
            ledger.watch(Lanes(ledger, encoder, pool, pack=pack, tokens=tokens).threads(lanes), on_progress)
        finally:
            torch.set_num_threads(threads_before)
    return ledger.close(prune=prune)


def count_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Lanes:
    """Threads that take jobs until none is left."""

    def __init__(self, ledger: Ledger, encoder: Encoder, pool: DecodePool, *, pack: Pack | None, tokens: bool) -> None:
        self._ledger, self._encoder, self._pool, self._pack, self._tokens = ledger, encoder, pool, pack, tokens
        self._claims: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in ledger.jobs:
            self._jobs.put(job)

    def threads(self, num: int) -> list[threading.Thread]:
        """Give threads to start."""
        return [threading.Thread(target=self._run, daemon=True) for _ in range(num)]

    def _run(self) -> None:
        torch.set_num_threads(1)  # a lane a core: threads within would fight over the cores
        try:
            while not self._ledger.stop.is_set():
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    return
                try:
                    self._index_file(job)
                except DecodeError as error:
                    self._ledger.fail(job.path, error, job)
        except StopRun:
            return
        except BaseException as error:
            self._ledger.end(error)

    def _index_file(self, job: Job) -> None:
        seen = identify(job.path, alive=self._go_on)
        job = replace(job, num_bytes=seen.num_bytes, mtime_ns=seen.mtime_ns)
        with self._claim(seen.fingerprint):  # a copy of a file under way waits, and then finds everything stored
            known = self._ledger.find_stored(job, seen.fingerprint)
            video = self._index_content(job, seen) if known is None else known
            self._ledger.link(job, video, encoded=known is None)

    def _go_on(self) -> None:
        if self._ledger.stop.is_set():
            raise StopRun

    def _claim(self, name: str) -> threading.Lock:
        with self._lock:
            return self._claims[name]

    def _index_content(self, job: Job, seen: Identity) -> int:
        """Decode and store a file; before anything is stored, its content must still be what was seen."""
        ledger, video, num_segments = self._ledger, -1, 1

        def begin(opened: Opened) -> set[int]:
            nonlocal seen, video
            seen = check_unchanged(job.path, seen)
            video = ledger.begin(job, seen.fingerprint, opened)
            return ledger.store.stored_segments(video)

        for message in self._pool.stream(job.path, skip=begin):
            match message:
                case Opened():
                    num_segments = len(message.cuts)
                case DecodedSegment():
                    seen = check_unchanged(job.path, seen)
                    frames = [message.frames]
                    [(embedding, packed)] = encode_segments(self._encoder, frames, pack=self._pack, tokens=self._tokens)
                    segment = NewSegment(video, message.number, message.start, message.end, embedding, packed)
                    ledger.add([(job, num_segments, segment)])
                case Finished():
                    seen = check_unchanged(job.path, seen)
                    ledger.store.finish_video(video, salvaged=message.salvaged)
            if not isinstance(message, Finished):
                self._go_on()
        return video
